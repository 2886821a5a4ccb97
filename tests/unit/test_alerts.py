"""Who is told of what, and how often; and the command that tells."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.settings import Settings, StateSettings
from mailsni.deploy import transaction
from mailsni.deploy.transaction import Options
from mailsni.errors import (
    Exit,
    HostError,
    LockedError,
    PermissionMissingError,
    RolledBackError,
)
from mailsni.output import documents
from mailsni.runs import alerts, runner
from mailsni.runs import history as runs
from mailsni.runs.history import EMPTY_HISTORY, History, Run
from mailsni.runs.runner import Reporting, Trigger

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def run(code: int, at: datetime = NOW, summary: str = "what happened") -> Run:
    return Run(at, at, code, summary, "timer")


def told(history: History, code: int, at: datetime, failure: str = "x") -> tuple[History, str | None]:
    """What is remembered after a run, and what somebody was told."""
    after = history.after(run(code, at))
    alert = alerts.due(after, failure, "host")
    return (after, None) if alert is None else (replace(after, alerted=alert.told), alert.summary)


@pytest.mark.parametrize("code", [1, 4, 5, 6, 77, 78])
def test_a_failure_that_a_person_should_know_of_alerts(code: int) -> None:
    alert = alerts.due(EMPTY_HISTORY.after(run(code)), "x", "mx1")
    assert alert is not None
    what = "needs a look" if code == Exit.SKIPPED else "failed"
    assert alert.summary == f"mailsni: mx1: {what} (exit code {code}): what happened"


@pytest.mark.parametrize("code", [0, 2, 75, 130, 143])
def test_exit_codes_that_are_no_failure_alert_nobody(code: int) -> None:
    assert alerts.due(EMPTY_HISTORY.after(run(code)), "x", "mx1") is None


def test_the_same_failure_is_told_once_a_day_and_another_one_at_once() -> None:
    history, at = EMPTY_HISTORY, NOW
    said = []
    for hours, failure in ((0, "a"), (1, "a"), (2, "b"), (3, "a"), (23, "a"), (24, "a"), (25, "b"), (26, "b")):
        history, summary = told(history, 1, at + timedelta(hours=hours), failure)
        said += [(hours, failure)] if summary else []
    assert said == [(0, "a"), (2, "b"), (24, "a"), (26, "b")]


def test_the_same_words_with_another_exit_code_are_another_failure() -> None:
    history, _ = told(EMPTY_HISTORY, 5, NOW)
    assert told(history, 6, NOW)[1] is not None


def test_that_it_works_again_is_told_once() -> None:
    history, _ = told(EMPTY_HISTORY, 1, NOW)
    history, _ = told(history, 4, NOW + timedelta(hours=1), "y")
    history, summary = told(history, 0, NOW + timedelta(days=9))
    assert summary == "mailsni: host: works again: what happened"
    assert told(history, 0, NOW + timedelta(days=9))[1] is None
    assert told(history, 1, NOW + timedelta(days=9))[1] is not None, "and a failure after it is new"


def test_a_clock_that_was_wrong_hides_nothing() -> None:
    history, _ = told(EMPTY_HISTORY, 1, NOW + timedelta(days=9000))
    assert told(history, 1, NOW)[1] is not None


def test_what_is_remembered_has_a_limit() -> None:
    history = EMPTY_HISTORY
    for number in range(100):
        history, summary = told(history, 1, NOW + timedelta(seconds=number), str(number))
        assert summary is not None
    assert len(history.alerted) == 32
    assert told(history, 1, NOW + timedelta(seconds=100), "99")[1] is None


@pytest.mark.parametrize(
    "summary", ["two\nlines\r\n", "a \x1b[31mcolour", "-----BEGIN X-----\nkey", "long " * 999, "\u00e4"]
)
def test_a_summary_is_one_line_for_any_subject(summary: str) -> None:
    alert = alerts.due(EMPTY_HISTORY.after(run(1, summary=summary)), "x", "host")
    assert alert is not None
    assert alert.summary.isprintable()
    assert len(alert.summary) <= 210
    assert "key" not in alert.summary


# ── how a run ends ────────────────────────────────────────────────────────────────────────────────────────────────────


ENDS: dict[str, tuple[BaseException, int | None, str]] = {
    "refused": (HostError("x: y: z"), 1, "x: y: z"),
    "rolled back": (RolledBackError("x"), 5, "x"),
    "not permitted": (PermissionMissingError("x"), 77, "x"),
    "a system call": (OSError(28, "No space left on device", "/x"), 1, "/x: No space left on device"),
    "an error of its own": (TypeError("a key"), 1, "mailsni: an error of its own: TypeError"),
    "SIGTERM": (SystemExit(143), 143, "ended by a signal"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "ended by a signal"),
    "held lock": (LockedError("x"), None, ""),
    "output gone": (BrokenPipeError(), None, ""),
}


@pytest.mark.parametrize(("ending", "code", "summary"), ENDS.values(), ids=ENDS)
def test_every_end_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: BaseException, code: int | None, summary: str
) -> None:
    settings = Settings(state=StateSettings(tmp_path, tmp_path / "lock"))

    def end(*_: object, **__: object) -> None:
        raise ending

    monkeypatch.setattr(transaction, "run", end)
    expected = HostError if type(ending) is OSError else type(ending)
    with pytest.raises(expected):
        runner.run_apply(settings, Options(), Reporting(Trigger("timer"), lambda *_: None, documents.run))
    last = runs.load(settings.state.directory).last
    if code is None:
        assert last is None
    else:
        assert last is not None
        assert (last.exit_code, last.summary, last.trigger, last.names) == (code, summary, "timer", None)


# ── a configuration that is wrong ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_known_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert parser.parse_partial(tmp_path / "none") is None


# ── who started it ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("certbot-post", "certbot-post"),
        ("acme.sh", "acme.sh"),
        ("", "unattended"),
        ("x" * 33, "unattended"),
        ("a b", "unattended"),
        ("-x", "unattended"),
        ("a\n", "unattended"),
    ],
)
def test_the_trigger_is_a_word_of_the_environment_or_unattended(
    monkeypatch: pytest.MonkeyPatch, word: str, expected: str
) -> None:
    monkeypatch.setenv("MAILSNI_STARTED_BY", word)
    with open(os.devnull, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stream)
        assert Trigger.from_environment() == Trigger(expected)


def test_a_hook_on_a_terminal_is_not_attended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("MAILSNI_STARTED_BY", raising=False)
    assert Trigger.from_environment() == Trigger("terminal", attended=True)
    monkeypatch.setenv("MAILSNI_STARTED_BY", "dehydrated")
    assert Trigger.from_environment() == Trigger("dehydrated")
