"""Many runs at once: one at a time, nothing lost, few publishes; a lock whose holder died, or that was replaced."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mailsni.sandbox.authority import Issued
from tests.support.mail_host import Gate, MailHost
from tests.support.processes import LIMIT, start_mailsni, until

pytestmark = [pytest.mark.shared, pytest.mark.lasting_logins]

FIRST, SECOND = "mail.first.test", "mail.second.test"
WAIT = ("--wait", "200")


@pytest.fixture
def deployed(mail_host: MailHost) -> dict[str, Issued]:
    """Two names that are served."""
    issued = {name: mail_host.issue(name) for name in (FIRST, SECOND)}
    mail_host.apply()
    return issued


def start(mail_host: MailHost, *arguments: str) -> subprocess.Popen[str]:
    """Start the program and do not wait for it."""
    return start_mailsni(mail_host.config, *arguments)


def ended(*runs: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and talk of runs, at their end."""
    results = []
    for one in runs:
        output, talk = one.communicate(timeout=LIMIT)
        results.append((one.returncode, output, talk))
    return results


def assert_in_order(mail_host: MailHost, wanted: dict[str, Issued]) -> None:
    """What lies there and what is served is what one run alone would have left."""
    for name, issued in wanted.items():
        mail_host.assert_served(name, issued)
    assert mail_host.map.read_text() == mail_host.mailsni("render", "postfix").stdout
    assert mail_host.include_file.read_text() == mail_host.mailsni("render", "dovecot").stdout
    pins = {path.name.partition("-")[0] for path in mail_host.pin_directory.iterdir()}
    assert pins >= {issued.fingerprint for issued in wanted.values()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in mail_host.pin_directory.iterdir()} == {0o600}
    places = (mail_host.postfix.config_directory, mail_host.dovecot.config_directory)
    assert [path for place in places for path in place.rglob(".mailsni*")] == []
    kept = {path.name for path in (mail_host.directory / "state").iterdir()}
    assert kept - {"retired.json"} == {"deployment.json", "readings.json", "runs.json"}
    mail_host.dovecot.assert_can_start()
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0


@pytest.mark.on_both
@pytest.mark.parametrize("waits", [False, True], ids=["at once or never", "waiting"])
def test_of_runs_at_once_one_publishes_and_the_others_wait_or_give_up(
    mail_host: MailHost, deployed: dict[str, Issued], *, waits: bool
) -> None:
    """One publishes; the others find the lock held (75), or nothing left to do (0)."""
    renewed = mail_host.renew(FIRST)
    before = mail_host.reloads()
    results = ended(*(start(mail_host, "apply", "--json", *(WAIT if waits else ())) for _ in range(10)))
    codes = [code for code, _, _ in results]
    assert set(codes) <= ({0} if waits else {0, 75}), results
    assert 0 in codes
    documents = [json.loads(output) for code, output, _ in results if code == 0]
    assert sum(bool(one["published"]) for one in documents) == 1
    assert mail_host.reloads() - before == 1
    for code, _, talk in results:
        assert ("another run holds the lock" in talk) == (code == 75), talk
    assert_in_order(mail_host, {**deployed, FIRST: renewed})


def test_many_hooks_in_a_row_make_at_most_two_publishes(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Certbot calls a deploy hook for each lineage: here twelve are started, and a renewal comes in the middle."""
    before = mail_host.reloads()
    wanted = {**deployed, FIRST: mail_host.renew(FIRST)}
    runs = [start(mail_host, "apply", "--quiet", *WAIT) for _ in range(6)]
    wanted[SECOND] = mail_host.renew(SECOND)
    runs += [start(mail_host, "apply", "--quiet", *WAIT) for _ in range(6)]
    assert [(code, output) for code, output, _ in ended(*runs)] == [(0, "")] * len(runs)
    assert 1 <= mail_host.reloads() - before <= 2
    assert_in_order(mail_host, wanted)


@contextmanager
def held_run(mail_host: MailHost) -> Iterator[tuple[subprocess.Popen[str], Gate, int]]:
    """A run that is in the middle of it, from a moment at which it has published; the process id of its child."""
    gate = Gate(mail_host)
    process = start(mail_host, "apply")
    try:
        until(gate.reached, "the middle of a run")
        yield process, gate, gate.child()
    finally:
        gate.open()
        process.kill()
        process.communicate()


@pytest.mark.on_both
def test_a_killed_holder_frees_the_lock_at_once(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Also when a command that it started lives on: no child inherits the lock."""
    renewed = mail_host.renew(FIRST)
    with held_run(mail_host) as (process, gate, child):
        mail_host.apply(code=75)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        os.kill(child, 0)
        mail_host.configure(dovecot={"action": "reload"})
        mail_host.apply()
        os.kill(child, 0)
        gate.open()
    assert_in_order(mail_host, {**deployed, FIRST: renewed})


def test_who_waits_is_served_when_the_holder_is_killed(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    renewed = mail_host.renew(FIRST)
    with held_run(mail_host) as (process, gate, _):
        waiting = start(mail_host, "apply", *WAIT)
        time.sleep(1)
        assert waiting.poll() is None
        process.kill()
        gate.open()
        assert [code for code, _, _ in ended(waiting)] == [0]
    assert_in_order(mail_host, {**deployed, FIRST: renewed})


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_is_taken_away_while_it_is_held(
    mail_host: MailHost, deployed: dict[str, Issued], *, replaced: bool
) -> None:
    """Somebody tidied up /run. Whatever the two runs do to each other, no server is hurt, and the next run mends it."""
    held = mail_host.renew(FIRST)
    with held_run(mail_host) as (process, gate, _):
        lock = mail_host.directory / "mailsni.lock"
        lock.unlink()
        if replaced:
            lock.touch(mode=0o600)
        later = mail_host.renew(SECOND)
        other = start(mail_host, "apply")
        time.sleep(3)
        mail_host.dovecot.assert_can_start()
        gate.open()
        results = ended(process, other)
    for code, _, talk in results:
        assert code in (0, 1, 5, 75), talk
        assert "Traceback" not in talk
    for name, options in ((FIRST, (deployed[FIRST], held)), (SECOND, (deployed[SECOND], later))):
        served = set(mail_host.served_everywhere(name).values())
        assert served <= {one.fingerprint for one in options}, results
    mail_host.apply()
    assert_in_order(mail_host, {FIRST: held, SECOND: later})


def test_looking_on_during_a_run(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """In the very middle of one: status, plan and the others need no lock, and tell both names."""
    renewed = mail_host.renew(FIRST)
    with held_run(mail_host) as (process, gate, _):
        for words in (("status",), ("plan",), ("explain", FIRST), ("render", "postfix"), ("render", "dovecot")):
            done = mail_host.mailsni(*words)
            assert (done.returncode, done.stderr) == (0, ""), words
        state = json.loads(mail_host.mailsni("status", "--json").stdout)
        assert {one["name"] for one in state["names"]} == {FIRST, SECOND}
        gate.open()
        assert [code for code, _, _ in ended(process)] == [0]
    assert_in_order(mail_host, {**deployed, FIRST: renewed})


def test_looking_on_while_everything_changes(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Runs with renewals, a new name and a deletion, one after the other, beside an endless look."""
    over = threading.Event()
    looks: list[subprocess.CompletedProcess[str]] = []

    def look() -> None:
        while not over.is_set():
            looks.extend(mail_host.mailsni(word) for word in ("status", "plan"))

    onlooker = threading.Thread(target=look)
    onlooker.start()
    try:
        wanted = dict(deployed)
        for turn in range(6):
            wanted[FIRST] = mail_host.renew(FIRST)
            name = f"mail.turn{turn}.test"
            wanted[name] = mail_host.issue(name)
            if turn:
                gone = f"mail.turn{turn - 1}.test"
                mail_host.store.delete(gone)
                del wanted[gone]
            mail_host.apply()
    finally:
        over.set()
        onlooker.join()
    assert len(looks) > 2
    assert [(done.returncode, done.stderr) for done in looks if done.returncode or done.stderr] == []
    assert_in_order(mail_host, wanted)
