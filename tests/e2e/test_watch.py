"""``mailsni watch`` beside real servers: what it sees, when it applies, how it is steered and how it ends.

Times are printed, and never concluded from: the limits here only tell a thing that hangs.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Issued
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ONE_EACH, Gate, MailHost
from tests.support.processes import LIMIT, mailsni_command, running, until

pytestmark = [pytest.mark.shared, pytest.mark.lasting_logins]

FIRST, SECOND = "mail.first.test", "mail.second.test"
NO_LOOKS = {"scan": 3600.0}
"""Only events tell."""


class Watching:
    """A watch that runs, with all that it says."""

    def __init__(self, mail_host: MailHost, process: subprocess.Popen[bytes], talk: Path) -> None:
        self._mail_host = mail_host
        self.process = process
        self._talk = talk

    def talk(self) -> str:
        """What it has said so far."""
        return self._talk.read_text()

    def until(self, true: Callable[[], bool], what: str) -> float:
        """Wait for something; returns how many seconds it took."""
        return until(true, lambda: f"{what}\n{self.talk()}", beside=self.process)

    def applies(self) -> int:
        """How many applies have come to a good end; with -v each of them says so."""
        return sum(self.talk().count(f"mailsni: {word}: ") for word in ("nothing to do", "published"))

    def until_applied(self, count: int) -> None:
        """Wait for so many applies in all."""
        self.until(lambda: self.applies() >= count, f"{count} applies")

    def until_served(self, name: str, issued: Issued) -> float:
        """Wait until both servers serve a certificate; returns how many seconds that took."""
        served = self._mail_host.served
        return self.until(
            lambda: all(served(service, name) == issued.fingerprint for service in ONE_EACH), f"{name} on the wire"
        )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """SIGTERM; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(LIMIT)


@contextmanager
def watching(mail_host: MailHost, *options: str, also: dict[str, str] | None = None) -> Iterator[Watching]:
    """Start a watch, with -v if no other options are given; killed at the end if it still runs."""
    talk = mail_host.directory / "talk"
    with running(mailsni_command(mail_host.config, "watch", *(options or ("-v",))), talk, also) as process:
        yield Watching(mail_host, process, talk)


@pytest.fixture
def deployed(mail_host: MailHost) -> dict[str, Issued]:
    """Two names, not yet served; only events tell of changes."""
    mail_host.configure(watch=NO_LOOKS)
    return {name: mail_host.issue(name) for name in (FIRST, SECOND)}


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.on_both
def test_a_renewal_reaches_both_wires(
    mail_host: MailHost, deployed: dict[str, Issued], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the watch's own reads, and a file that is no certificate's, make no further apply."""
    with watching(mail_host) as watch:
        for name, issued in deployed.items():
            watch.until_served(name, issued)
        watch.until_applied(1)
        took = [watch.until_served(FIRST, mail_host.renew(FIRST)) for _ in range(3)]
        watch.until_applied(4)
        (mail_host.store.live / "README").write_text("another text\n")
        time.sleep(4)
        assert watch.applies() == 4, watch.talk()
        assert watch.talk().count("1 name changed (mail.first.test); postfix reloaded, dovecot reloaded; ") == 3
        assert watch.end() == 0
    with capsys.disabled():
        sys.stdout.write(f"\n  renewal to both wires: {', '.join(f'{one:.2f}' for one in took)} s\n")


def test_a_deleted_lineage_leaves(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    with watching(mail_host) as watch:
        watch.until_served(SECOND, deployed[SECOND])
        mail_host.store.delete(SECOND)
        watch.until(lambda: SECOND not in mail_host.map.read_text(), "deleted")
        watch.until_served(SECOND, mail_host.default)
        watch.until_served(FIRST, deployed[FIRST])


@pytest.mark.on_both
def test_a_burst_is_one_publish(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Three hundred renewals: two in each of a hundred and fifty lineages."""
    mail_host.configure(watch={"quiet": 1.5})  # a busy machine may pause in the middle of it
    names = [f"mail.burst{number}.test" for number in range(150)]
    issued = {name: mail_host.issue(name) for name in names}
    renewals = {name: mail_host.authority.issue([name]) for name in names}
    with watching(mail_host) as watch:
        watch.until_served(names[-1], issued[names[-1]])
        watch.until_applied(1)
        before = mail_host.reloads()
        for _ in range(2):
            for name in names:
                mail_host.store.renew(name, renewals[name])
        watch.until_served(names[-1], renewals[names[-1]])
        watch.until_served(names[0], renewals[names[0]])
        assert 1 <= mail_host.reloads() - before <= 2, watch.talk()
        watch.until_served(FIRST, deployed[FIRST])


def test_a_trickle_starves_nobody(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Changes that never pause for as long as the quiet period: published while they go on."""
    mail_host.configure(watch={"quiet": 30.0, "max_wait": 2.0})
    with watching(mail_host) as watch:
        watch.until_served(SECOND, deployed[SECOND])
        watch.until_applied(1)
        issued = mail_host.renew(FIRST)
        begin, before = time.monotonic(), mail_host.reloads()
        while mail_host.reloads() == before:
            assert time.monotonic() - begin < LIMIT, watch.talk()
            mail_host.store.renew(SECOND, deployed[SECOND])
            time.sleep(0.2)
        watch.until_served(FIRST, issued)


# ── stores that come and go ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_that_is_not_there_yet(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    away = mail_host.directory / "away"
    mail_host.store.root.rename(away)
    with watching(mail_host) as watch:
        watch.until(lambda: "No such file or directory" in watch.talk(), "complaint")
        watch.until(lambda: "next try in 60 seconds" in watch.talk(), "next try")
        away.rename(mail_host.store.root)
        watch.until_served(FIRST, deployed[FIRST])


def test_a_store_that_is_replaced(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Renamed away and another put there: what then happens in the new one is seen too, in the old one not."""
    with watching(mail_host) as watch:
        watch.until_served(FIRST, deployed[FIRST])
        watch.until_applied(1)
        mail_host.store.root.rename(mail_host.directory / "old")
        new = CertbotDirectory(mail_host.store.root)
        third = mail_host.authority.issue([FIRST])
        new.add(FIRST, third)
        watch.until_served(FIRST, third)
        fourth = mail_host.authority.issue([FIRST])
        new.renew(FIRST, fourth)
        watch.until_served(FIRST, fourth)
        watch.until_served(SECOND, mail_host.default)


def test_a_store_that_is_unmounted_and_mounted(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Mounts send no events: the looks find them. What was deployed stays while the store is away."""
    mail_host.configure(watch={"scan": 1.0})
    mount, umount = require_tool("mount"), require_tool("umount")
    place = mail_host.store.root
    place.rename(mail_host.directory / "aside")
    place.mkdir()
    assert run([mount, "-t", "tmpfs", "store", place]).returncode == 0
    try:
        store = CertbotDirectory(place)
        store.add(FIRST, deployed[FIRST])
        with watching(mail_host) as watch:
            watch.until_served(FIRST, deployed[FIRST])
            assert run([umount, place]).returncode == 0
            watch.until(lambda: "No such file or directory" in watch.talk(), "complaint")
            assert mail_host.served("imaps", FIRST) == deployed[FIRST].fingerprint
            assert run([mount, "-t", "tmpfs", "store", place]).returncode == 0
            again = mail_host.authority.issue([FIRST])
            CertbotDirectory(place).add(FIRST, again)
            watch.until_served(FIRST, again)
            assert watch.end() == 0
    finally:
        run([umount, place])


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sighup_reads_the_configuration_and_refuses_a_broken_one(
    mail_host: MailHost, deployed: dict[str, Issued]
) -> None:
    other = mail_host.issue("web.other.test")
    with watching(mail_host) as watch:
        watch.until_served(FIRST, deployed[FIRST])
        good = mail_host.config.read_text()
        mail_host.config.write_text(good + "\n[postfx]\n")
        watch.signal(signal.SIGHUP)
        watch.until(lambda: "configuration refused, keeping the old one" in watch.talk(), "refusal")
        assert "postfx" in watch.talk()
        watch.until_served(FIRST, mail_host.renew(FIRST))  # by the old one, though the file is broken
        mail_host.configure(names={"include": ["mail.*", "web.*"]})
        watch.signal(signal.SIGHUP)
        watch.until_served("web.other.test", other)
        assert watch.end() == 0


def test_sigterm_lets_an_apply_end(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """It has published, and is held in the middle of telling Dovecot."""
    gate = Gate(mail_host)
    with watching(mail_host) as watch:
        watch.until(gate.reached, "the middle of an apply")
        watch.signal(signal.SIGTERM)
        watch.until(lambda: "stopping" in watch.talk(), "stopping")
        time.sleep(1)
        assert watch.process.poll() is None
        gate.open()
        assert watch.process.wait(LIMIT) == 0
        assert "published" in watch.talk()
    for name, issued in deployed.items():
        assert mail_host.served("imaps", name) == issued.fingerprint
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0


def test_a_second_sigterm_has_the_apply_take_back_what_it_did(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    mail_host.apply()
    entered = mail_host.directory / "entered"
    script = f"[ -e {entered} ] && exit 0; echo > {entered}; sleep 300"
    mail_host.configure(dovecot={"action": ["/bin/sh", "-c", script]})
    mail_host.renew(FIRST)
    with watching(mail_host) as watch:
        watch.until(entered.exists, "the middle of an apply")
        watch.signal(signal.SIGTERM)
        watch.until(lambda: "stopping" in watch.talk(), "stopping")
        watch.signal(signal.SIGTERM)
        assert watch.process.wait(LIMIT) == 0
        assert "the running apply is out of time: sending SIGTERM" in watch.talk()
    assert mail_host.served("smtp", FIRST) == deployed[FIRST].fingerprint
    mail_host.configure(dovecot={"action": "reload"})
    mail_host.apply()


# ── the service manager ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_service_manager_is_told(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    address = mail_host.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(LIMIT)
        also = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"}
        with watching(mail_host, also=also) as watch:
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=")
            watch.until_served(FIRST, deployed[FIRST])
            watch.signal(signal.SIGHUP)
            said = [manager.recv(4096)]
            while not said[-1].startswith(b"RELOADING=1\nMONOTONIC_USEC="):
                said.append(manager.recv(4096))
            assert b"WATCHDOG=1" in said
            assert any(one.startswith(b"STATUS=applying") for one in said)
            while not said[-1].startswith(b"READY=1"):
                said.append(manager.recv(4096))
            watch.signal(signal.SIGTERM)
            while not said[-1].startswith(b"STOPPING=1"):
                said.append(manager.recv(4096))
            assert watch.process.wait(LIMIT) == 0


def test_lines_have_levels_where_the_journal_reads_them(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    talk = mail_host.directory / "talk"
    talk.touch()
    status = talk.stat()
    (mail_host.store.live / SECOND / "privkey.pem").unlink()
    with watching(mail_host, also={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}) as watch:
        watch.until_served(FIRST, deployed[FIRST])
        watch.until_applied(0)
        watch.until(lambda: "key_missing" in watch.talk(), "the warning")
        assert watch.end() == 0
        lines = watch.talk().splitlines()
    assert {line[:12] for line in lines} == {"<6>mailsni: ", "<4>mailsni: "}
    assert [line[:30] for line in lines if "key_missing" in line] == ["<4>mailsni: warning: " + str(talk.parent)[:9]]


def test_nothing_is_said_where_nothing_changed(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Three applies, one publish, and a line for each thing that happened."""
    with watching(mail_host, "--config", str(mail_host.config)) as watch:
        watch.until_served(FIRST, deployed[FIRST])
        watch.until(lambda: "published" in watch.talk(), "the first apply")
        mail_host.store.renew(SECOND, deployed[SECOND])  # the same certificate in other files
        time.sleep(3)
        watch.signal(signal.SIGHUP)
        watch.until(lambda: "configuration reloaded" in watch.talk(), "the reload")
        time.sleep(3)
        assert watch.end() == 0
        lines = watch.talk().splitlines()
    live = mail_host.store.live
    assert [line.partition(";")[0] for line in lines] == [
        f"mailsni: watching {live}",
        f"mailsni: published: 2 names changed ({FIRST}, {SECOND})",
        f"mailsni: configuration reloaded, watching {live}",
        "mailsni: stopped",
    ]


# ── it goes on and on ────────────────────────────────────────────────────────────────────────────────────────────────


def test_neither_descriptors_nor_threads_nor_memory_grow(
    mail_host: MailHost, deployed: dict[str, Issued], capsys: pytest.CaptureFixture[str]
) -> None:
    """Renewals, and stores that go and come back: no descriptor, no thread and hardly any memory stays."""
    mail_host.configure(watch={"quiet": 0.05, "max_wait": 0.1})
    with watching(mail_host) as watch:
        watch.until_served(FIRST, deployed[FIRST])

        def turn(number: int) -> None:
            wanted = watch.applies() + 1
            if number % 5 == 4:
                away = mail_host.directory / f"away{number}"
                mail_host.store.root.rename(away)
                away.rename(mail_host.store.root)
            mail_host.renew(FIRST)
            watch.until_applied(wanted)

        for number in range(10):
            turn(number)
        before = resources(watch.process.pid)
        for number in range(30):
            turn(number)
        after = resources(watch.process.pid)
        assert watch.end() == 0
    with capsys.disabled():
        sys.stdout.write(f"\n  descriptors, threads, KiB: {before} after 10 applies, {after} after 40\n")
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 4096, (before, after)


def resources(pid: int) -> tuple[int, int, int]:
    """Descriptors and threads of a process that is at rest, and its resident memory in KiB."""
    time.sleep(2)
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(line.split(":\t", 1) for line in status.splitlines())
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(values["Threads"]), int(values["VmRSS"].split()[0])
