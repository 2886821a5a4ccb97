"""The lines of ``mailsni watch``: their levels, and the journal that reads them."""

from __future__ import annotations

import os

import pytest

from mailsni.core.log import Level, parse, prefixed
from mailsni.watch.log import Journal


@pytest.mark.parametrize("level", Level)
def test_the_level_of_a_line_is_in_its_prefix(level: Level) -> None:
    assert parse(prefixed(level, "mailsni: hm")) == (level, "mailsni: hm")


@pytest.mark.parametrize("line", ["mailsni: error: no", "<9>text", "<>", ""])
def test_a_line_without_a_prefix_is_information(line: str) -> None:
    assert parse(line) == (Level.INFO, line)


def test_levels_are_written_for_the_journal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Journal(prefixed=True).say(Level.ERROR, "one\ntwo")
    Journal().say(Level.WARNING, "three")
    Journal(Level.WARNING).say(Level.INFO, "not said")
    Journal(Level.WARNING, prefixed=True).pass_on(Level.NOTICE, "mailsni: hint: not said either")
    assert capsys.readouterr().err == "<3>mailsni: error: one two\nmailsni: warning: three\n"


def test_standard_error_that_is_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert Journal.listens()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    assert not Journal.listens()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not Journal.listens()
