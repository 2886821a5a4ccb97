"""One fault is one cause, whatever it concerns: a thousand names at twelve endpoints are no thousand faults."""

from __future__ import annotations

import pytest

from mailsni.check import records
from mailsni.core.model import Reason
from mailsni.deploy.confirm import Confirmation
from mailsni.output import text, verify
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, Question
from mailsni.probes.model import ProbeResult, Problem
from mailsni.verify.causes import Cause, causes_of
from mailsni.verify.model import Assessment, Audit, Client
from tests.support.builders import skipped

NAMES = [f"mail.d{number}.test" for number in range(1000)]
IMAPS = [Endpoint("imaps", "127.0.0.1", port) for port in range(1, 11)]
SMTP = [Endpoint("smtp", "127.0.0.1", port) for port in range(11, 13)]


def failed(name: str | None, endpoint: Endpoint, problem: Problem, detail: str = "why") -> Assessment:
    return Assessment(Expectation(name), ProbeResult(endpoint, name, problem, None, detail), (problem,), detail)


def served(
    name: str | None, endpoint: Endpoint, *problems: Problem, fingerprint: str = "a" * 64, outdated: bool = False
) -> Assessment:
    result = ProbeResult(endpoint, name, None, fingerprint, "TLSv1.3")
    detail = f"{name} gets {fingerprint[0]}" if problems else ""
    return Assessment(Expectation(name, "0" * 64), result, problems, detail, outdated=outdated)


def test_a_server_that_does_not_listen_is_one_cause_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    down = Problem.NOT_LISTENING
    answers = [failed(name, endpoint, down, "connection refused") for name in (*NAMES, None) for endpoint in IMAPS]
    answers += [served(name, endpoint) for name in (*NAMES, None) for endpoint in SMTP]
    (cause,) = causes_of(answers)
    assert (cause.problem, cause.wrong, cause.servers, cause.endpoints) == (down, True, ("dovecot",), tuple(IMAPS))
    assert cause.names == tuple(NAMES)
    assert cause.clients == (Client.NAMED, Client.WITHOUT_SNI)
    assert len(cause.assessments) == 1001 * 10
    verify.show(Audit(tuple(answers)), verbose=False, quiet=True)
    assert capsys.readouterr().out == (
        "wrong: every client at imaps://127.0.0.1:1, imaps://127.0.0.1:2, imaps://127.0.0.1:3 and 7 more: "
        "not_listening: connection refused\n"
    )
    verify.show(Audit(tuple(answers)), verbose=False)
    assert len(capsys.readouterr().out.splitlines()) < 12, "the table has no row for each name either"
    document = verify.document(Audit(tuple(answers)))
    assert [(each["names"], each["answers"]) for each in document["causes"]] == [(NAMES, 10010)]


def test_what_both_servers_do_wrong_alike_is_one_cause() -> None:
    """Another certificate with one fingerprint; a certificate that has expired."""
    wrong = [served(name, endpoint, Problem.WRONG_CERTIFICATE) for name in NAMES for endpoint in (*IMAPS, *SMTP)]
    (cause,) = causes_of(wrong)
    assert (cause.servers, cause.identical, cause.nobody_served) == (("dovecot", "postfix"), False, False)
    expired = [served(name, SMTP[0], Problem.EXPIRED, fingerprint=name[6] * 64) for name in NAMES]
    assert [len(cause.assessments) for cause in causes_of(expired)] == [1000]


def problems_of(causes: tuple[Cause, ...]) -> list[Problem]:
    return [cause.problem for cause in causes]


def test_different_faults_are_different_causes_and_warnings_come_last() -> None:
    answers = [
        served("a.test", SMTP[0], Problem.UNTRUSTED),
        served("b.test", SMTP[0], Problem.WRONG_CERTIFICATE, Problem.UNTRUSTED),
        served("c.test", SMTP[0], Problem.UNTRUSTED, Problem.SERVERS_DISAGREE),
        served("d.test", SMTP[0], Problem.WRONG_CERTIFICATE, fingerprint="b" * 64),
        failed("e.test", SMTP[0], Problem.HANDSHAKE_FAILED, "closed in the handshake"),
        failed("e.test", IMAPS[0], Problem.HANDSHAKE_FAILED, "closed in the handshake"),
        failed("f.test", SMTP[0], Problem.HANDSHAKE_FAILED, "closed in the handshake"),
        failed("g.test", SMTP[0], Problem.HANDSHAKE_FAILED, "TLS: no shared cipher"),
        served("h.test", SMTP[0]),
    ]
    assert problems_of(causes_of(answers)) == [
        Problem.WRONG_CERTIFICATE,
        Problem.SERVERS_DISAGREE,
        Problem.WRONG_CERTIFICATE,
        Problem.HANDSHAKE_FAILED,
        Problem.HANDSHAKE_FAILED,
        Problem.HANDSHAKE_FAILED,
        Problem.UNTRUSTED,
    ]
    silent = [failed("a.test", endpoint, Problem.NO_ANSWER, f"in stage {endpoint.port}") for endpoint in IMAPS]
    assert len(causes_of(silent)) == 1, "a server that hangs does so at different stages"
    assert causes_of(answers)[3].names == ("e.test", "f.test")
    assert causes_of([answers[0]])[0].wrong is False


def test_certificates_that_wait_for_the_next_apply_are_one_cause() -> None:
    answers = [
        served(name, SMTP[0], Problem.WRONG_CERTIFICATE, fingerprint=f"{at:064}", outdated=True)
        for at, name in enumerate(NAMES)
    ]
    assert problems_of(causes_of(answers)) == [Problem.WRONG_CERTIFICATE]


def test_many_causes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    answers = tuple(
        served(name, SMTP[0], Problem.WRONG_CERTIFICATE, fingerprint=f"{at:064}") for at, name in enumerate(NAMES)
    )
    verify.show(Audit(answers), verbose=False)
    assert "(950 names more: -v shows them)" in capsys.readouterr().out
    verify.show(Audit(answers), verbose=False, quiet=True)
    assert capsys.readouterr().out.splitlines()[19:] == [
        "wrong: mail.d19.test at smtp://127.0.0.1:11: wrong_certificate: mail.d19.test gets 0",
        "(980 more causes: --json has all)",
    ]


def test_what_was_not_asked_is_neither_right_nor_wrong() -> None:
    rest = (Question(Expectation("a.test"), SMTP[1]),) * 11
    audit = Audit((served("a.test", SMTP[0]),), not_asked=rest)
    assert verify.exit_code(audit) == 1
    assert verify.document(audit)["not_asked"] == 11
    assert audit.gap == "11 of 12 probes were not made for lack of time: --max-time sets the limit"
    wrong = Audit((served("a.test", SMTP[0], Problem.EXPIRED),), not_asked=rest)
    assert verify.exit_code(wrong) == 5


def test_apply_says_once_what_is_wrong_with_many_names(capsys: pytest.CaptureFixture[str]) -> None:
    old = [served(name, SMTP[0], fingerprint=f"{at:064x}") for at, name in enumerate(NAMES, start=1)]
    gone = [failed(name, SMTP[0], Problem.HANDSHAKE_FAILED, "closed in the handshake") for name in NAMES]
    confirmed = Confirmation("postfix", (*old, *gone), 2000, 2000)
    text.confirmation(confirmed, verbose=False)
    about = "mail.d0.test, mail.d1.test, mail.d2.test and 997 more at smtp://127.0.0.1:11"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  wrong_certificate: {about}: {'0' * 63}1",
        f"  handshake_failed: {about}: closed in the handshake",
    ]
    text.confirmation(confirmed, verbose=True)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2000


def test_many_certificates_that_are_skipped_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text.problems([skipped(f"d{number}.test", Reason.EXPIRED) for number in range(1000)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mailsni: warning: 1000 certificates: expired: /etc/letsencrypt/live/d0.test, ")
    many = [skipped(f"d{number}.test", Reason.EXPIRED, f"mail.d{number}.test") for number in range(1000)]
    (finding,) = records.skipped_findings(many)
    assert finding.text.startswith("1000 certificates: expired: /etc/letsencrypt/live/d0.test, ")
    assert finding.names == tuple(NAMES)
    text.problems(many[:10])
    assert len(capsys.readouterr().err.splitlines()) == len(list(records.skipped_findings(many[:10]))) == 10
