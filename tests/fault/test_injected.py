"""The fault campaign: ``apply`` is killed, or refused a system call, at every place where it changes something.

The calls of a run without a fault are counted first, from the opening of the lock file on; then a fault is put at each
of them. By default:

* at each call of the program that changes a file system, SIGKILL, one error once, and one error from then on (or only
  one of these two, in turn, where the releases share the faults);
* at each such call of postmap, SIGKILL and one error, once and from then on in turn;
* at every third of the other calls (reading files, pipes, processes, ``close``), one error once.

The errors take turns. With ``MAILSNI_FAULTS=all`` every error is tried at every call, once and from then on; with
``MAILSNI_SHARED=1``, which is for every CI run, the two releases of the lab share the faults.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, product
from pathlib import Path

import pytest

from mailsni.host.files import STAGING_NAME
from tests.support.fault_host import (
    ALL,
    ERRORS,
    MUTATING,
    OPENING,
    OTHERS,
    Call,
    Fault,
    FaultCertificates,
    FaultHost,
    Runner,
)
from tests.support.release_split import own_part, share

WORKERS = max(2, min(8, os.cpu_count() or 2))
THOROUGH = own_part() is None
"""Both errors at each call of the program; where the releases share the faults out, they take turns."""
START_EVERY = 500 if ALL else 60
"""After one fault in so many the servers are really started and asked."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600 if ALL else 900)]
_VARYING = ("clone", "clone3")
"""A pool starts a thread only when none of its others is idle, so the last ones may not come."""
_MAP_TYPES = ("cdb", "lmdb", "hash", "btree")


def _campaign(
    what: str,
    directory: Path,
    certificates: FaultCertificates,
    map_type: str,
    figures: list[str],
    chosen: Callable[[Runner], Iterable[Fault]],
) -> None:
    """Try faults side by side, on hosts with the same certificates. Fails when something wrong follows one of them."""
    with ExitStack() as stack:
        hosts = [FaultHost.build(directory / f"{map_type}{at}", certificates, map_type) for at in range(WORKERS)]
        runners = [stack.enter_context(Runner(host)) for host in hosts]
        begun = time.monotonic()
        faults = share(chosen(runners[0]))
        wrong = _tried(runners, faults)
    kinds = ", ".join(sorted({fault.call.name for fault in faults}))
    seconds = time.monotonic() - begun
    figures.append(f"{what}: {len(faults)} faults in {seconds:.0f} s at {kinds}; {len(wrong)} went wrong")
    if wrong:
        pytest.fail("\n".join([f"{what}: {len(wrong)} of {len(faults)} faults:", *wrong]), pytrace=False)


def _tried(runners: Sequence[Runner], faults: Sequence[Fault]) -> list[str]:
    """What is wrong after faults, one text for each that is followed by something wrong."""
    free: queue.SimpleQueue[Runner] = queue.SimpleQueue()
    for runner in runners:
        free.put(runner)

    def attempt(numbered: tuple[int, Fault]) -> str | None:
        number, fault = numbered
        runner = free.get()
        try:
            return _attempt(runner, fault, start=number % START_EVERY == START_EVERY // 2)
        finally:
            free.put(runner)

    with ThreadPoolExecutor(len(runners)) as pool:
        return [text for text in pool.map(attempt, enumerate(faults)) if text is not None]


def _attempt(runner: Runner, fault: Fault, *, start: bool) -> str | None:
    ended = runner.hit(fault)
    host = runner.host
    wrong = host.complaints(ended)
    if not ended.hit and fault.call.name not in _VARYING:
        wrong.append("the fault did not happen")
    if start:
        wrong += _started(host)
    wrong += host.convergence()
    if not wrong:
        return None
    return "\n    ".join([f"{fault} (exit {ended.status})", *wrong, *ended.talk.strip().splitlines()[-2:]])


def _started(host: FaultHost) -> list[str]:
    """Start both servers and ask for every name: old for all of them, or new for all of them."""
    with host.mail_host.postfix, host.mail_host.dovecot:
        answers = host.answers()
    old, new = (host.certificates.answers(new=new) for new in (False, True))
    return [
        f"{service} serves neither the old nor the new: {names}"
        for service, names in answers.items()
        if names not in (old[service], new[service])
    ]


def _faults(calls: Iterable[Call], only: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Which faults are tried: see the head of this file."""
    errors, later_errors = cycle(ERRORS), cycle(ERRORS[::-1])
    harmless = 0
    for call in calls:
        kill = [Fault(call, "signal=SIGKILL", only=only)] if call.mutating else []
        if ALL:
            yield from kill
            for error, persistent in product(ERRORS, (False, True)):
                yield Fault(call, f"error={error}", persistent, only)
        elif call.mutating:
            once = Fault(call, f"error={next(errors)}", only=only)
            later = Fault(call, f"error={next(later_errors)}", persistent=True, only=only)
            all_of_them = THOROUGH and not only
            yield from (*kill, once, later) if all_of_them else (*kill, (once, later)[call.number % 2])
        else:
            harmless += 1
            if harmless % 3 == 0:
                yield Fault(call, f"error={next(errors)}", only=only)


def test_at_no_call_of_the_program_can_a_fault_hurt(
    shared_tmp: Path, certificates: FaultCertificates, figures: list[str]
) -> None:
    def chosen(runner: Runner) -> list[Fault]:
        calls = runner.calls((*MUTATING, *OPENING, *OTHERS))
        lock = next(at for at, call in enumerate(calls) if "mailsni.lock" in call.what)
        faults = list(_faults(calls[lock:]))
        assert len({fault.call.name for fault in faults if fault.deadly}) >= 6, "too few kinds of calls were seen"
        return faults

    _campaign("the program itself", shared_tmp, certificates, "cdb", figures, chosen)


@pytest.mark.parametrize("map_type", _MAP_TYPES)
def test_at_no_call_of_postmap_can_a_fault_hurt(
    shared_tmp: Path, certificates: FaultCertificates, figures: list[str], map_type: str
) -> None:
    """Killed, failing, and failing without a word: what postmap leaves behind then is never published."""
    suffix = {"hash": "db", "btree": "db"}.get(map_type, map_type)
    made = (f"mailsni.{suffix}", f"mailsni.{suffix}.tmp", f"mailsni.{suffix}-lock", f"__db.mailsni.{suffix}")
    only = tuple(f"postfix/etc/{STAGING_NAME}/{name}" for name in made)

    def chosen(runner: Runner) -> Iterator[Fault]:
        calls = runner.calls((*MUTATING, *OPENING, "close", "fcntl"), only)
        first = next(call.process for call in calls if call.mutating)
        assert first != 0, "postmap was not followed"
        return _faults([call for call in calls if call.process == first], only)

    _campaign(f"postmap, {map_type}", shared_tmp, certificates, map_type, figures, chosen)
