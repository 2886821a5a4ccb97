"""The line of a monitoring plugin: its form, whatever is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.check.model import CheckResult, Expiry, Finding, Level, unknown
from mailsni.output import documents, nagios
from tests.support.builders import NOW

VALUE = r"'[a-z]+'=-?[0-9]+(\.[0-9]+)?(;[0-9.e+-]*:?(;[0-9.e+-]*:?(;0)?)?)?"
FIRST = re.compile(rf"MAILSNI (OK|WARNING|CRITICAL|UNKNOWN) - ([ -{{}}~]+?)(?: \| ({VALUE}(?: {VALUE})*))?")
FINDINGS = st.lists(st.builds(Finding, st.sampled_from(list(Level)[1:]), st.just("code"), st.text(max_size=900)))


def expiry(name: str, left: float) -> Expiry:
    return Expiry(name, NOW + timedelta(days=left), 14, 7)


def test_ok_says_how_many_names_and_which_expires_first() -> None:
    found = CheckResult(NOW, (), (expiry("a.test", 45.5), expiry("b.test", 60)), 12, 0)
    assert nagios.output(found, verbose=True) == (
        "MAILSNI OK - 12 names, the first (a.test) expires in 45 days | "
        "'expiry'=45.50;14:;7: 'names'=12;;;0 'pending'=0;;;0 'warning'=0;;;0 'critical'=0;;;0"
    )


def test_what_this_user_may_not_read_is_named() -> None:
    found = CheckResult(NOW, (), (expiry("a.test", 1.5),), 1, None, ("the map", "the record"))
    text = nagios.output(found).partition(" | ")[0]
    assert text == "MAILSNI OK - 1 name, expires in 1 day; public parts only, not readable: the map, the record"
    assert "'pending'" not in nagios.output(found)


def test_the_worst_come_first_and_the_rest_is_counted() -> None:
    findings = [Finding(Level.CRITICAL, "x", f"{at}: {'bad ' * 20}") for at in range(20)]
    line = nagios.output(CheckResult(NOW, tuple(findings), (), 3, 2, (), 40))
    assert line.startswith("MAILSNI CRITICAL - 0: bad bad")
    assert re.search(r"; \.\.\. and 1[0-9] more \| 'names'=3", line)
    assert "'answers'=40;;;0 'warning'=0;;;0 'critical'=20;;;0" in line


def test_v_adds_a_line_for_each_finding() -> None:
    findings = (Finding(Level.CRITICAL, "x", "one | two\nthree"), Finding(Level.WARNING, "y", "four"))
    first, *further = nagios.output(CheckResult(NOW, findings), verbose=True).split("\n")
    assert first.startswith("MAILSNI CRITICAL - one / two three; four | ")
    assert further == ["CRITICAL: one / two three", "WARNING: four"]
    many = CheckResult(NOW, tuple(Finding(Level.WARNING, "x", str(at)) for at in range(1000)))
    assert nagios.output(many, verbose=True).split("\n")[-1].startswith("and 900 more")


def test_a_check_that_was_not_made_has_no_figures() -> None:
    found = unknown(NOW, "/etc/mailsni/config.toml: line 3: unknown key")
    assert nagios.output(found) == "MAILSNI UNKNOWN - /etc/mailsni/config.toml: line 3: unknown key"


@given(FINDINGS, st.lists(st.text(max_size=40), max_size=5), st.integers(0, 10**6))
def test_whatever_a_text_holds_the_form_is_kept(
    findings: Sequence[Finding], unreadable: Sequence[str], names: int
) -> None:
    found = CheckResult(NOW, tuple(findings), (expiry("a.test", -1e5),), names, names, tuple(unreadable))
    first, *further = nagios.output(found, verbose=True).split("\n")
    match = FIRST.fullmatch(first)
    assert match
    assert "|" not in match[2]
    assert len(first) < 1024
    assert len(further) == len(findings)
    assert all(re.fullmatch(r"[ -{}~]{1,500}", line) for line in further)
    assert nagios.text(found) == match[2]
    assert json.loads(json.dumps(documents.check(found)))["exit_code"] == int(found.level)


@given(st.text())
def test_nor_does_an_error_break_it(why: str) -> None:
    assert re.fullmatch(r"MAILSNI UNKNOWN - [ -{}~]{0,700}", nagios.unknown(why))


@pytest.mark.parametrize("error", [RuntimeError("secret"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_of_its_own_is_unknown(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    from mailsni.check import runner
    from tests.support import command_line

    def fail(*_words: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(runner, "check", fail)
    done = command_line.invoke("check")
    assert done.exit_code == 3
    assert re.fullmatch(r"MAILSNI UNKNOWN - [ -{}~]+\n", done.stdout)
    assert "secret" not in done.stdout
