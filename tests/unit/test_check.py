"""What the looks of a check add up to: thresholds, verdicts, the order of findings."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.check import runner, wire
from mailsni.check.gather import CheckContext, gather
from mailsni.check.model import DAMAGE_CODES, CheckResult, Code, Expiry, Finding, Level, Thresholds
from mailsni.check.records import check_records, check_runs, failed_run
from mailsni.check.runner import expiry_findings, run_checks
from mailsni.core import x509
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.deploy.host_facts import HostFacts
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host.records import RecordFormat
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, Question
from mailsni.probes.model import ProbeResult, Problem
from mailsni.runs import history
from mailsni.runs.history import Run
from mailsni.targets.dovecot.live_include import blocks_of
from mailsni.targets.dovecot.rendering import render_dovecot
from mailsni.verify.model import Assessment, Audit
from tests.support.authority import Authority
from tests.support.builders import EVERYTHING, NOW, PINS, certificate, deployment, mixture, selection, without_servers

DAYS = st.floats(0.1, 4000)


def day(number: float) -> timedelta:
    return timedelta(days=number)


# ── thresholds ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lifetime", "warning", "critical"),
    [(90, 14, 7), (64, 14, 7), (56, 14, 7), (45, 11.25, 5.625), (160 / 24, 160 / 96, 160 / 192), (398, 14, 7)],
)
def test_what_the_lifetime_says(lifetime: float, warning: float, critical: float) -> None:
    """A certificate is renewed with a third or (below 10 days) a half of its lifetime left: no alarm before that."""
    one = Thresholds().expiry("a.test", NOW - day(1), NOW - day(1) + day(lifetime))
    assert (one.warning, one.critical) == pytest.approx((warning, critical))
    assert one.warning < lifetime / 3
    assert one.name == "a.test"


@pytest.mark.parametrize(
    ("given", "expected"),
    [((30, None), (30, 7)), ((None, 3), (14, 3)), ((3, None), (3, 3)), ((None, 20), (20, 20)), ((2, 1), (2, 1))],
)
def test_what_is_given_counts_in_days(given: tuple[float | None, float | None], expected: tuple[float, float]) -> None:
    one = Thresholds(*given).expiry("a.test", NOW, NOW + day(90))
    assert (one.warning, one.critical) == expected


def test_without_the_begin_of_a_certificate_it_is_taken_for_a_long_one() -> None:
    one = Thresholds().expiry("a.test", None, NOW + day(1))
    assert (one.warning, one.critical) == (14, 7)


@given(st.none() | DAYS, st.none() | DAYS, DAYS, DAYS)
def test_a_warning_never_comes_after_what_is_critical(
    warning: float | None, critical: float | None, lifetime: float, age: float
) -> None:
    begin = NOW - day(age)
    one = Thresholds(warning, critical).expiry("a.test", begin, begin + day(lifetime))
    assert 0 < one.critical <= one.warning
    levels = [one.level(begin + day(lifetime * share / 50)) for share in range(52)]
    assert levels == sorted(levels)
    assert levels[-1] is Level.CRITICAL


def expiry(name: str, left: float) -> Expiry:
    return Expiry(name, NOW + day(left), 14, 7)


def test_names_that_expire_are_said_together() -> None:
    names = [expiry(f"mail.{at}.test", 10) for at in range(9)]
    found = expiry_findings([*names, expiry("b.test", 20), expiry("c.test", 6.5), expiry("d.test", -3)], NOW)
    assert [(one.level, one.code) for one in found] == [
        (Level.CRITICAL, "expired"),
        (Level.CRITICAL, "expires"),
        (Level.WARNING, "expires"),
    ]
    assert found[0].text == "d.test: the deployed certificate expired 3.0 days ago (2026-02-26 12:00 UTC)"
    assert found[2].text == (
        "mail.0.test, mail.1.test, mail.2.test and 6 more: "
        "the deployed certificate expires in 10.0 days (2026-03-11 12:00 UTC)"
    )
    assert found[2].names == tuple(one.name for one in names)
    two = expiry_findings([expiry("a.test", 2), expiry("b.test", 1)], NOW)
    assert two[0].text.startswith("b.test, a.test: the deployed certificate expires, the first of them in 1.0 days")
    assert expiry_findings([expiry("a.test", 0)], NOW)[0].code == "expired"
    assert expiry_findings([expiry("a.test", 14.01)], NOW) == []


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


GOOD = Run(NOW, NOW, 0, "nothing to do", "timer", 3)


@pytest.mark.parametrize(
    ("code", "by", "level", "said"),
    [
        (1, "certbot-post", Level.WARNING, "the hook certbot-post failed, on 2026-03-01 12:00 UTC: why (exit code 1)"),
        (1, "timer", Level.WARNING, "the last run failed, started by timer, on"),
        (78, "cron", Level.WARNING, "the last run failed, started by cron with a wrong configuration, on"),
        (143, "watch", Level.WARNING, "started by watch"),
        (5, "lego", Level.CRITICAL, "the hook lego failed, on"),
        (6, "terminal", Level.CRITICAL, "(exit code 6)"),
    ],
)
def test_a_run_that_failed(code: int, by: str, level: Level, said: str) -> None:
    found = failed_run(replace(GOOD, exit_code=code, trigger=by, summary="why"))
    assert found.level is level
    assert said in found.text


def test_a_clock_that_went_back_since_the_last_run_is_named(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path)
    history.record(settings.state.directory, replace(GOOD, ended_at=NOW + timedelta(hours=5)))
    (found,) = (one for one in check_runs(gather(settings, Thresholds(), NOW)) if isinstance(one, Finding))
    assert (found.level, found.code) == (Level.WARNING, "clock_went_back")
    assert "the clock went back: the last run ended on " in found.text


@pytest.mark.parametrize("last", [None, GOOD, replace(GOOD, exit_code=4)])
def test_a_run_that_did_its_work_is_nothing_to_say(tmp_path: Path, last: Run | None) -> None:
    settings = without_servers(tmp_path, tmp_path)
    settings.state.directory.mkdir()
    if last is not None:
        history.record(settings.state.directory, last)
    assert list(check_runs(gather(settings, Thresholds(), NOW))) == []


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "deployment.json",
            '{"schema": "mailsni.deployment/0"}',
            "is of another version of mailsni (mailsni.deployment/0 instead of mailsni.deployment/2)",
        ),
        ("deployment.json", '{"schema": ', "deployment.json is cut off or damaged"),
        ("deployment.json", '{"schema": "mailsni.deployment/2"}', "deployment.json is damaged: its checksum"),
        ("deployment.json", "[]", "is not a record of mailsni"),
        ("deployment.json", None, "deployment.json is no regular file"),
        ("runs.json", "{", "runs.json is cut off or damaged"),
        ("runs.json", "[" * 100_000, "runs.json is cut off or damaged"),
        ("runs.json", None, "runs.json is no regular file"),
        ("readings.json", '{"schema":"mailsni.readings/2"', "readings.json is cut off or damaged"),
        ("retired.json", '{"schema":"mailsni.retired/1","sha256":"","content":{}}', "retired.json is damaged: its"),
        ("setup.json", '{"schema":"mailsni.setup-record/1","sha256":"","content":{}}', "setup.json is damaged: its"),
        ("setup.json", None, "setup.json is no regular file"),
    ],
)
def test_a_damaged_record_is_a_warning(tmp_path: Path, file: str, content: str | None, said: str) -> None:
    settings = without_servers(tmp_path, tmp_path)
    directory = settings.state.directory
    State(directory).commit(deployment(certificate("a.test", "mail.a.test")))
    history.record(directory, GOOD)
    path = directory / file
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_text(content)
    context = gather(settings, Thresholds(), NOW)
    (found,) = (one for one in (*check_records(context), *check_runs(context)) if isinstance(one, Finding))
    assert found.level is Level.WARNING
    assert said in found.text


def test_a_sound_record_of_whichever_version_is_nothing_to_say(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path)
    state = State(settings.state.directory)
    state.commit(deployment(certificate("a.test", "mail.a.test")))
    for version, path in enumerate((state.readings, state.retired, state.setup)):
        RecordFormat(f"mailsni.any-kind/{version}", dict, dict).write(path, {"a": "b"})
    assert list(check_records(gather(settings, Thresholds(), NOW))) == []


@pytest.mark.parametrize("content", [None, "{"])
def test_a_journal_is_a_warning_whatever_it_holds(tmp_path: Path, content: str | None) -> None:
    settings = without_servers(tmp_path, tmp_path)
    state = State(settings.state.directory)
    state.commit(deployment(certificate("a.test", "mail.a.test")))
    state.begin_journal(deployment())
    if content is not None:
        (state.directory / "journal.json").write_text(content)
    texts = [one.text for one in check_records(gather(settings, Thresholds(), NOW)) if isinstance(one, Finding)]
    assert len(texts) == (1 if content is None else 2)
    assert "a run was cut off while it published, on 20" in texts[-1]
    assert ("journal.json is cut off or damaged" in texts[0]) is (content is not None)


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────────────


def assessment(name: str | None, port: int, *problems: Problem) -> Assessment:
    endpoint = Endpoint.parse(f"imaps://127.0.0.1:{port}")
    result = ProbeResult(endpoint, name, None, "a" * 64, "TLSv1.3")
    expectation = Expectation(name, "a" * 64 if name else None)
    return Assessment(expectation, result, problems, "why" if problems else "")


def test_what_the_servers_show() -> None:
    answers = (
        assessment("a.test", 1),
        assessment("b.test", 1, Problem.WRONG_CERTIFICATE, Problem.UNTRUSTED),
        assessment("b.test", 2, Problem.WRONG_CERTIFICATE),
        assessment("c.test", 1, Problem.WRONG_CERTIFICATE),
        assessment(None, 2, Problem.UNTRUSTED),
        assessment(None, 2, Problem.EXPIRED),
        assessment("a.test", 3, Problem.NOT_LISTENING),
    )
    found = list(wire.wire_findings(Audit(answers, ("postfix: nobody knows where",)), Deployment()))
    assert [(one.level, one.code, one.names) for one in found] == [
        (Level.UNKNOWN, "wire_not_probed", ()),
        (Level.CRITICAL, "wire_wrong_certificate", ("b.test", "c.test")),
        (Level.CRITICAL, "wire_expired", ("(no name)",)),
        (Level.CRITICAL, "wire_not_listening", ("a.test",)),
    ]
    where = "imaps://127.0.0.1:1, imaps://127.0.0.1:2"
    assert found[1].text == f"dovecot on the wire: b.test, c.test at {where}: wrong certificate (why)"
    assert found[3].text == "dovecot on the wire: imaps://127.0.0.1:3: not listening (why)"


def test_time_that_does_not_suffice_for_each_name_somewhere_is_unknown() -> None:
    right, elsewhere = assessment("a.test", 1), assessment("b.test", 2)
    again = tuple(Question(right.expectation, endpoint) for endpoint in (right.endpoint, elsewhere.endpoint))
    assert not list(wire.wire_findings(Audit((right, elsewhere), not_asked=again), Deployment()))
    never = Question(Expectation("c.test"), right.endpoint)
    (gap,) = wire.wire_findings(Audit((right, elsewhere), not_asked=(*again, never)), Deployment())
    assert (gap.level, gap.code) == (Level.UNKNOWN, "wire_not_asked")
    why = "3 of 5 probes were not made for lack of time: --max-time sets the limit"
    assert gap.text == f"on the wire: {why}; nothing is known of c.test"
    assert Audit((right,), not_asked=again).unseen == ("imaps://127.0.0.1:2",)


@pytest.mark.parametrize("public", [True, False])
def test_an_authority_of_ones_own_need_not_be_known_to_this_system(public: bool) -> None:  # noqa: FBT001
    """Only that of a public one tells something: an intermediate that is missing, a staging certificate, a fraud."""
    issued = Authority().issue(["a.test"], issuer_address=public)
    chain = (ssl.PEM_cert_to_DER_cert(issued.leaf_pem.decode()),)
    answer = assessment("a.test", 1, Problem.UNTRUSTED)
    answer = replace(answer, leaf=x509.parse_leaf(chain[0]))
    found = wire.wire_findings(Audit((answer,)), Deployment())
    assert [one.code for one in found] == (["wire_untrusted"] if public else [])


def test_that_what_is_deployed_is_served_on_is_no_fault_of_the_servers() -> None:
    """The store has a newer one: that it waits is a warning of another look."""
    old = certificate("a.test", "mail.a.test")
    answer = assessment("mail.a.test", 1, Problem.WRONG_CERTIFICATE)
    answer = replace(answer, result=replace(answer.result, fingerprint=old.fingerprint))
    assert not list(wire.wire_findings(Audit((answer,)), deployment(old)))
    assert [one.level for one in wire.wire_findings(Audit((answer,)), Deployment())] == [Level.CRITICAL]


@pytest.mark.parametrize(
    ("outcome", "level", "said"),
    [
        (Audit((assessment("a.test", 1),)), None, "1"),
        (Audit((assessment("a.test", 1, Problem.EXPIRED),)), Level.CRITICAL, "a.test at imaps://127.0.0.1:1: expired"),
        (HostError("nobody says where"), Level.UNKNOWN, "the servers were not probed: nobody says where"),
        (PermissionMissingError("no"), Level.UNKNOWN, "the servers were not probed: no"),
    ],
)
def test_the_servers_are_asked_only_if_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: object, level: Level | None, said: str
) -> None:
    def answer(*_words: object, **_more: object) -> Audit:
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, Audit)
        return outcome

    monkeypatch.setattr(wire, "audit", answer)
    settings = without_servers(tmp_path, tmp_path)
    offline = runner.check(settings, Thresholds(), NOW)
    found = runner.check(settings, Thresholds(), NOW, wire=True)
    assert offline.probed is None
    more = [one for one in found.findings if one not in offline.findings]
    assert [one.level for one in more] == [one for one in (level,) if one is not None]
    assert said in "".join(one.text for one in more) + str(found.probed)


def test_a_host_with_nothing_is_a_clear_line(tmp_path: Path) -> None:
    found = runner.check(without_servers(tmp_path, tmp_path), Thresholds(), NOW)
    assert [(one.level, one.code) for one in found.findings] == [
        (Level.CRITICAL, "not_deployed"),
        (Level.UNKNOWN, "server_not_found"),
    ]
    (tmp_path / "state").write_text("no directory")
    assert runner.check(without_servers(tmp_path, tmp_path), Thresholds(), NOW).level is Level.CRITICAL


def test_a_configuration_without_any_store_is_checked_too(tmp_path: Path) -> None:
    found = runner.check(replace(without_servers(tmp_path, tmp_path), sources=()), Thresholds(), NOW)
    assert {one.code for one in found.findings} == {"not_deployed", "server_not_found"}


# ── what follows from what ───────────────────────────────────────────────────────────────────────────────────────────


def context(tmp_path: Path, record: DeploymentRecord | None, *problems: Finding) -> CheckContext:
    """Of a host without servers, where gathering found these problems."""
    settings = without_servers(tmp_path, tmp_path)
    return CheckContext(HostFacts(settings, NOW), Thresholds(), record, running=False, problems=problems)


WAITING = Finding(Level.WARNING, Code.REWRITE_PENDING, "postfix: the map waits")


@pytest.mark.parametrize(("code", "told"), [(code, code not in DAMAGE_CODES) for code in Code])
def test_that_a_damaged_file_waits_to_be_written_again_is_no_news(tmp_path: Path, code: Code, *, told: bool) -> None:
    record = DeploymentRecord(Deployment(), trusted=True)
    result = run_checks(context(tmp_path, record, Finding(Level.CRITICAL, code, "x"), WAITING))
    assert (WAITING in result.findings) is told


def test_a_record_that_this_user_may_not_read_is_unreadable_and_no_fault(tmp_path: Path) -> None:
    result = run_checks(context(tmp_path, None))
    assert result.unreadable == ("the pinned files",)
    assert [one.code for one in result.findings] == [Code.NOTHING_READABLE]


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("levels", "worst"),
    [
        ((), Level.OK),
        ((Level.UNKNOWN,), Level.UNKNOWN),
        ((Level.UNKNOWN, Level.WARNING), Level.WARNING),
        ((Level.UNKNOWN, Level.CRITICAL, Level.WARNING), Level.CRITICAL),
    ],
)
def test_the_worst_of_all_counts(levels: Sequence[Level], worst: Level) -> None:
    assert CheckResult(NOW, tuple(Finding(level, "x", "x") for level in levels)).level is worst


# ── what an include says ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_an_include_is_read_as_it_was_written(version: Literal["2.3", "2.4"]) -> None:
    chosen = selection(*mixture(), patterns=EVERYTHING)
    text = render_dovecot(chosen, PINS, version, None).decode()
    found = {name: block for block in blocks_of(text) for name in block.names}
    assert set(found) == {winner.name for winner in chosen.winners}
    for winner in chosen.winners:
        block = found[winner.name]
        assert [one.fingerprint for one in block.certificates] == [one.fingerprint for one in winner.certificates]
        assert [one.not_after for one in block.certificates] == [one.not_after for one in winner.certificates]
        assert set(block.paths) == {PINS.path_of(one) for one in winner.certificates}


@given(st.text(alphabet='local_name {}"\n# SHA-256 valid until :.01a<=/ssl_cert', max_size=300))
def test_whatever_else_lies_there_is_read_without_an_error(text: str) -> None:
    for block in blocks_of(text):
        assert block.names


def test_of_an_include_with_an_impossible_date_nothing_is_believed() -> None:
    text = "# /a: RSA, valid until 2026-02-31 10:00 UTC\n# SHA-256 " + "a" * 64 + "\nlocal_name a.test {\n}\n"
    (block,) = blocks_of(text)
    assert (block.names, block.paths, block.certificates) == (("a.test",), (), ())
