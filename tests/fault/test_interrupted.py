"""Runs that are told to stop, runs with too little of something, and what a power cut leaves behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailsni.host.files import STAGING_NAME
from tests.support import records
from tests.support.fault_host import Ended, Fault, FaultHost, Runner, traced
from tests.support.processes import run_mailsni, start_mailsni, until

pytestmark = pytest.mark.shared

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HELD = 60.0
"""Seconds for which a command is held; a run that is told to stop must not wait for it."""
_PROMPT = 10.0


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_while_a_server_is_told_to_reload_takes_everything_back(
    host: FaultHost, number: signal.Signals
) -> None:
    """Both servers' files are published then, and the command of the second is under way."""
    flag = host.mail_host.directory / "reloading"
    command = ["/bin/sh", "-c", f"test -e {flag} && exit; touch {flag}; sleep {_HELD:.0f}"]
    host.mail_host.configure(dovecot={"action": command})
    before = host.listing()
    with start_mailsni(host.mail_host.config, "apply") as process:
        until(flag.exists, "the command was never run", beside=process)
        assert host.served() == (host.certificates.new, host.certificates.new)
        process.send_signal(number)
        begun = time.monotonic()
        ended = Ended(process.wait(_HELD), "".join(process.communicate()))
        assert time.monotonic() - begun < _PROMPT, "it took its time to stop"
    assert ended.status == 128 + number, ended.talk
    assert host.complaints(ended) == []
    assert host.served() == (host.certificates.old, host.certificates.old)
    after = host.listing()
    pins = {path for path in after.keys() - before.keys() if Path(path).parent.name == "mailsni"}
    assert len(pins) == 3, "a server that read the new configuration may be about to open the new keys"
    assert {path: mode for path, mode in after.items() if path not in pins} == before, "something lies about"
    assert host.convergence() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *(("rename", number) for number in _SIGNALS),
        ("mkdir", signal.SIGTERM),
        ("fsync", signal.SIGTERM),
        ("unlinkat", signal.SIGINT),
    ],
)
def test_a_signal_at_any_call_leaves_old_or_new_and_no_debris(
    host: FaultHost, moment: str, number: signal.Signals, figures: list[str]
) -> None:
    """The signal comes on entry of a call, as often as there are such calls."""
    with Runner(host) as runner:
        faults = [Fault(call, f"signal={number.name}") for call in runner.calls([moment])]
        wrong = [line for fault in faults for line in _signalled(host, runner, fault, number)]
    figures.append(f"{number.name} on entry of {moment}: {len(faults)} faults; {len(wrong)} complaints")
    assert faults
    assert not wrong, "\n".join(wrong)


def _signalled(host: FaultHost, runner: Runner, fault: Fault, number: signal.Signals) -> Iterator[str]:
    ended = runner.hit(fault)
    if ended.status != 128 + number:
        yield f"{fault}: exit {ended.status}: {ended.talk}"
    debris = [path for path in host.listing() if STAGING_NAME in path or path.endswith(".new")]
    for one in [*host.complaints(ended), *(f"debris: {path}" for path in debris), *host.convergence()]:
        yield f"{fault} (exit {ended.status}): {one}"


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_second_signal_on_the_way_back_loses_no_key(host: FaultHost, number: signal.Signals) -> None:
    """The way back is cut off half-way: some of the live files name the new pinned files, which must stay then."""
    with Runner(host) as runner:
        calls = runner.calls(["rename", "fsync"])
        live = [at for at, call in enumerate(calls) if STAGING_NAME in call.what and "pem" not in call.what]
        renames = [calls[at] for at in live if calls[at].name == "rename"]
        after = next(call for call in calls[calls.index(renames[-1]) :] if call.name == "fsync")
        for second in range(renames[-1].number + 1, renames[-1].number + 1 + len(renames)):
            host.restore()
            # Once all is published the directory cannot be made durable: each rename of the way back is hit in turn.
            failing = ["-e", f"inject=fsync:error=EIO:when={after.number}"]
            cut_off = ["-e", f"inject=rename:signal={number.name}:when={second}"]
            ended = runner.apply(["-e", "trace=rename,fsync", *failing, *cut_off])
            log = runner.log.read_text()
            assert "INJECTED" in log
            assert f"--- {number.name}" in log, f"it was not hit at rename {second}: {log}"
            assert (host.state / "journal.json").exists()
            assert host.complaints(ended) == []
            assert host.convergence() == []
    assert len(renames) == 3


def test_a_run_that_is_killed_leaves_no_helper_behind_that_writes_later(host: FaultHost) -> None:
    """The helpers of a killed run may live on for a moment; the next run must not be disturbed by them."""
    with Runner(host) as runner:
        for call in runner.calls(["vfork", "clone", "clone3"]):
            ended = runner.hit(Fault(call, "signal=SIGKILL"))
            assert host.complaints(ended) == []
            assert host.convergence() == []


# ── too little of something ──────────────────────────────────────────────────────────────────────────────────────────


def _limited(host: FaultHost, limit: str) -> Ended:
    """Run with a limit that its children inherit, as prlimit(1) takes it."""
    return Ended.of(run_mailsni(host.mail_host.config, "apply", before=("prlimit", limit)))


def test_files_may_not_be_large_enough(host: FaultHost, figures: list[str]) -> None:
    """RLIMIT_FSIZE: the kernel sends SIGXFSZ, which Python ignores and its children do not."""
    wrong, failed = [], 0
    limits = (0, 1000, 1400, 2000, 2800, 3200, 4000, 4600, 10_000, 19_000, 30_000, 2_000_000)
    for limit in limits:
        host.restore()
        ended = _limited(host, f"--fsize={limit}")
        failed += ended.status != 0
        found = host.complaints(ended) + host.convergence()
        wrong += [f"{limit} bytes, exit {ended.status}: {one}" for one in found]
    figures.append(f"RLIMIT_FSIZE: {len(limits)} limits, {failed} of them too small; {len(wrong)} complaints")
    assert not wrong, "\n".join(wrong)
    assert 0 < failed < len(limits)


def test_there_may_be_too_few_descriptors(host: FaultHost, figures: list[str]) -> None:
    """RLIMIT_NOFILE, from what the interpreter needs to start upwards."""
    wrong, statuses = [], []
    limits = range(5, 24)
    for limit in limits:
        host.restore()
        ended = _limited(host, f"--nofile={limit}")
        statuses.append(ended.status)
        if "mailsni" not in ended.talk.replace("No module named", ""):
            continue  # Python did not get as far as the program
        found = host.complaints(ended) + host.convergence()
        wrong += [f"{limit} descriptors, exit {ended.status}: {one}\n  {ended.talk[-300:]}" for one in found]
    figures.append(f"RLIMIT_NOFILE: {len(limits)} limits, exits {statuses}; {len(wrong)} complaints")
    assert not wrong, "\n".join(wrong)
    assert statuses[-1] == 0


# ── what a power cut leaves ──────────────────────────────────────────────────────────────────────────────────────────


def _pins(host: FaultHost) -> list[Path]:
    return sorted(host.mail_host.pin_directory.glob("*.pem"))


def _no_state(host: FaultHost) -> None:
    for path in host.state.iterdir():
        path.unlink()


def _journal_of_what_never_came(host: FaultHost) -> None:
    def with_another(content: dict[str, Any]) -> object:
        return {**content, "names": {**content["names"], "mail.never.test": ["0" * 64 + "-" + "0" * 16]}}

    records.rewrite(host.state / "deployment.json", with_another, host.state / "journal.json")


def _journal_and_half_the_files(host: FaultHost) -> None:
    """Postfix's side was published, Dovecot's not yet."""
    journal = (host.state / "deployment.json").read_bytes()
    (host.state / "journal.json").write_bytes(journal)
    lab = host.mail_host
    include, content = lab.include_file, lab.include_file.read_bytes()
    pins = {path: path.read_bytes() for path in _pins(host)}
    host.apply()
    include.write_bytes(content)
    for path, material in pins.items():
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(material)
    (host.state / "journal.json").write_bytes(journal)
    (host.state / "deployment.json").write_bytes(journal)


def _staging_with_keys(host: FaultHost) -> None:
    for place in (host.mail_host.map.parent, host.mail_host.pin_directory, host.mail_host.include_file.parent):
        staging = place / STAGING_NAME
        (staging / "deeper").mkdir(mode=0o700, parents=True)
        staging.chmod(0o700)
        for path in (staging / "mailsni.cdb", staging / "deeper" / "key.pem"):
            path.touch(mode=0o600)
            path.write_bytes(host.certificates.before["stays"].key_pem)


def _staged_state(host: FaultHost) -> None:
    for name in (".journal.json.new", ".deployment.json.new", ".readings.json.new"):
        (host.state / name).write_bytes(b"{")


def _damaged_pins(host: FaultHost) -> None:
    """The right names, and in them: nothing, half, another certificate's material."""
    before = host.listing()
    names = [path.name for path in _pins(host)]
    host.apply()
    new = [path for path in _pins(host) if path.name not in names]
    contents = [path.read_bytes() for path in new]
    host.restore()
    for number, (path, content) in enumerate(zip(new, contents, strict=True)):
        path.touch(mode=0o600)
        path.write_bytes([b"", content[: len(content) // 2], contents[0]][number % 3])
    assert len(host.listing()) == len(before) + len(new)


def _damaged_live_pin(host: FaultHost) -> None:
    """The disk lost what both servers read: the one thing that only a new run can mend."""
    for path in _pins(host):
        path.write_bytes(path.read_bytes()[:100])


_LEFTOVERS: dict[str, Callable[[FaultHost], object]] = {
    "empty record": lambda host: (host.state / "deployment.json").write_bytes(b""),
    "cut record": lambda host: os.truncate(host.state / "deployment.json", 200),
    "no state": _no_state,
    "empty journal": lambda host: (host.state / "journal.json").write_bytes(b""),
    "journal of what never came": _journal_of_what_never_came,
    "journal and half the files": _journal_and_half_the_files,
    "staging with keys": _staging_with_keys,
    "staged state": _staged_state,
    "damaged pins": _damaged_pins,
    "damaged live pin": _damaged_live_pin,
    "emptied map": lambda host: host.mail_host.map.with_name("mailsni.cdb").write_bytes(b""),
}


@pytest.mark.parametrize("left", _LEFTOVERS)
def test_the_next_run_mends_what_a_power_cut_left(host: FaultHost, left: str) -> None:
    _LEFTOVERS[left](host)
    assert host.convergence() == []


@pytest.mark.parametrize("left", ["staging with keys", "no state", "empty journal", "damaged live pin"])
def test_the_next_run_mends_it_when_nothing_else_is_to_do(host: FaultHost, left: str) -> None:
    """The same after a run that published everything: nothing has changed in the store since."""
    host.apply()
    _LEFTOVERS[left](host)
    assert host.convergence() == []


def test_a_run_that_fails_after_one_that_was_cut_off_does_not_end_its_journal(host: FaultHost) -> None:
    """What the killed run published and the failing one did not undo must not be believed afterwards."""
    with Runner(host) as runner:
        renames = [call for call in runner.calls(["rename"]) if STAGING_NAME in call.what and "pem" not in call.what]
        include = next(call for call in renames if "99-mailsni.conf" in call.what)
        ended = runner.hit(Fault(include, "signal=SIGKILL"))
        assert ended.killed == signal.SIGKILL
        assert host.served() == (host.certificates.new, host.certificates.old)
        failing = runner.apply(traced("mkdir", "error=ENOSPC", 1))
        assert failing.status == 1, failing.talk
        assert (host.state / "journal.json").exists()
        assert host.served() == (host.certificates.new, host.certificates.old)
        assert host.convergence() == []
