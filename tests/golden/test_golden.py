"""What the program writes and prints, compared with the files in this directory.

``MAILSNI_WRITE_GOLDEN=1 pytest tests/golden`` writes them anew. Read the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mailsni.cli import main
from mailsni.config.settings import Settings, StateSettings
from mailsni.core.model import Certificate, Reason
from mailsni.core.selection import explain
from mailsni.deploy.snapshot import Snapshot
from mailsni.metrics import MetricsInput
from mailsni.output import prometheus, text
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation
from mailsni.probes.model import ProbeResult, Problem
from mailsni.runs.history import EMPTY_HISTORY, Run
from mailsni.setup.autostart import startup_files
from mailsni.verify.model import UNKNOWN_NAME, Assessment, Audit
from tests.support import command_line
from tests.support.builders import (
    EVERYTHING,
    MAIL,
    NOW,
    PINS,
    artifacts,
    certificate,
    deployment,
    inventory,
    kept,
    mixture,
    selection,
    skipped,
    snapshot,
)

HERE = Path(__file__).parent
WRITE = os.environ.get("MAILSNI_WRITE_GOLDEN") == "1"
MANY = ("mail", "imap", "mx", "pop", "smtp")
ONE = (certificate("example.com", "mail.example.com", "imap.example.com", "www.example.com"),)


def compare(name: str, content: bytes) -> None:
    path = HERE / name
    if WRITE:
        path.write_bytes(content)
    assert content.decode() == path.read_bytes().decode()


@pytest.mark.parametrize(
    ("name", "certificates", "live"),
    [("one", ONE, False), ("mixture", mixture(), False), ("mixture-live", mixture(), True), ("none", (), False)],
)
def test_the_artifacts_are_the_committed_ones(name: str, certificates: tuple[Certificate, ...], live: bool) -> None:  # noqa: FBT001
    winners = selection(*certificates, patterns=MAIL if certificates is ONE else EVERYTHING)
    for server, content in artifacts(winners, live=live).items():
        compare(f"{name}.{server}", content)


def before() -> tuple[Certificate, ...]:
    """What is deployed."""
    return (
        certificate("a.test", "mail.a.test", "imap.a.test"),
        certificate("gone.test", "mail.gone.test", left=3),
        certificate("npm-7", "mail.npm.test", age=85, left=5),
        certificate("x.test", "mail.x.test", age=20),
        kept(certificate("old.test", "smtp.old.test", age=70, left=1)),
    )


def seen() -> Snapshot:
    """A renewal, one with a new key, a lineage more, one fewer, a broken one, and what is of no interest."""
    rekeyed = replace(certificate("a.test", "mail.a.test", "imap.a.test", age=1), spki="0" * 64)
    return snapshot(
        rekeyed,
        certificate("a.test-rsa", "mail.a.test", algorithm="rsa"),
        certificate("npm-7", "mail.npm.test", age=0.5, left=89.5),
        certificate("x.test", "mail.x.test", age=20),
        certificate("wild.test", "*.wild.test"),
        certificate("web.test", "web.test", "www.web.test"),
        certificate("staging.test", "mail.staging.test", staging=True),
        before()[-1],
        skipped=[
            skipped("old.test", Reason.KEY_MISMATCH, "smtp.old.test", "old.test"),
            skipped("torn.test", Reason.BAD_PEM, *(f"{name}.torn.test" for name in MANY)),
        ],
        deployed=deployment(*before()),
    )


RIVALS = inventory(
    certificate("best", "mail.a.test", age=1),
    certificate("second", "mail.a.test", age=2),
    certificate("only-rsa", "mail.a.test", algorithm="rsa"),
    certificate("wild", "*.a.test", age=0.5),
    certificate("late", "mail.a.test", left=-1),
    certificate("own", "mail.a.test", self_signed=True),
)
REFUSED = skipped("refused", Reason.REFUSED_BY_OPENSSL, "mail.a.test")


GOOD = Run(NOW, NOW, 4, "published, 3 names changed, 9 names served, 1 problem: /x: expired", "certbot-post", 9)
FAILED = Run(NOW, NOW + timedelta(hours=1), 5, "dovecot: mail.a.test: cut off", "timer")
HISTORY = EMPTY_HISTORY.after(GOOD)


def explained(name: str) -> None:
    text.explanation(name, explain(name, RIVALS, MAIL, NOW), [REFUSED] if name in REFUSED.names else [])


def metrics() -> MetricsInput:
    """A run that failed after a good one, a renewal that is pending, a broken lineage, and four answers."""
    seen = snapshot(
        certificate("a.test", "mail.a.test"),
        skipped=[skipped("b.test", Reason.BAD_PEM, "mail.b.test")],
        deployed=deployment(certificate("a.test", "mail.a.test", age=60, left=30)),
    )
    imaps, smtp = Endpoint("imaps", "127.0.0.1", 993), Endpoint("smtp", "::1", 25)
    answers = (
        (imaps, "mail.a.test", (Problem.UNTRUSTED,)),
        (smtp, "mail.a.test", (Problem.EXPIRED, Problem.UNTRUSTED)),
        (imaps, None, ()),
        (smtp, UNKNOWN_NAME, (Problem.HANDSHAKE_FAILED,)),
    )
    assessments = (
        Assessment(Expectation(name), ProbeResult(endpoint, name, None, "0" * 64, "TLSv1.3"), problems)
        for endpoint, name, problems in answers
    )
    return MetricsInput(
        HISTORY.after(FAILED), seen, Audit(tuple(assessments)), wire=True, starts={"postfix": True, "dovecot": False}
    )


TEXTS: dict[str, Callable[[], None]] = {
    "plan": lambda: text.plan(seen()),
    "plan-nothing": lambda: text.plan(snapshot(*ONE, deployed=deployment(*ONE))),
    "status": lambda: text.status(seen(), HISTORY, skipped=False),
    "status-skipped": lambda: text.status(seen(), HISTORY.after(FAILED), skipped=True),
    "status-nothing": lambda: text.status(snapshot(), EMPTY_HISTORY, skipped=True),
    "status-failed": lambda: text.status(snapshot(), EMPTY_HISTORY.after(FAILED), skipped=False),
    "explain": lambda: explained("mail.a.test"),
    "explain-unasked": lambda: explained("www.a.test"),
    "explain-unknown": lambda: explained("mail.b.test"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_command_prints_is_the_committed_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    TEXTS[name]()
    printed, talk = capsys.readouterr()
    assert talk == ""
    compare(f"{name}.txt", printed.encode())


def test_the_metrics_are_the_committed_ones() -> None:
    compare("metrics.txt", prometheus.exposition(metrics()))


def test_warnings_go_to_standard_error_and_are_the_committed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    text.problems(seen().selection.problems)
    printed, talk = capsys.readouterr()
    assert printed == ""
    compare("problems.txt", talk.encode())


PROGRAM = Path("/usr/local/bin/mailsni")
ELSEWHERE = Settings(state=StateSettings(Path("/srv/mailsni/state"), Path("/srv/mailsni/lock")))
NAMED = Path("/srv/mailsni/config.toml")
STARTS: dict[str, bytes] = {
    **{file.path.name: file.text for file in startup_files("systemd", "timer", PROGRAM, None, Settings())},
    **{file.path.name: file.text for file in startup_files("systemd", "watch", PROGRAM, NAMED, ELSEWHERE)},
    "mailsni.cron": startup_files("cron", "timer", PROGRAM, None, Settings())[0].text,
    "mailsni-elsewhere.cron": startup_files("cron", "timer", PROGRAM, NAMED, Settings())[0].text,
    "mailsni.openrc": startup_files("openrc", "watch", PROGRAM, NAMED, Settings())[0].text,
}


@pytest.mark.parametrize("name", STARTS)
def test_what_starts_the_program(name: str) -> None:
    compare(name, STARTS[name])


def test_no_file_is_left_over() -> None:
    servers = list(artifacts(selection()))
    known = {f"{name}.{server}" for name in ("one", "mixture", "mixture-live", "none") for server in servers}
    found = {path.name for path in HERE.iterdir() if path.is_file() and path.suffix != ".py"}
    assert found == known | set(STARTS) | {f"{name}.txt" for name in (*TEXTS, "metrics", "problems", "help")}
    assert str(PINS.path) in (HERE / "one.postfix-sni").read_text()


def test_the_help_at_80_columns() -> None:
    texts = []
    for words in ((), *((name,) for name in main.MODULES)):
        done = command_line.invoke(*words, "--help", COLUMNS="80")
        assert (done.exit_code, done.stderr) == (0, "")
        texts.append(f"$ {' '.join(('mailsni', *words, '--help'))}\n{done.stdout}")
    compare("help.txt", "\n".join(texts).encode())
