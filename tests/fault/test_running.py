"""A smaller campaign beside running servers: whatever happens to ``apply``, their clients are answered.

Only the faults from the first file on that a server can see; those before it are the same with servers and without
(test_injected.py). ``MAILSNI_FAULTS=all`` tries every call and every error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mailsni.host.files import STAGING_NAME
from tests.support.fault_host import ALL, ERRORS, MUTATING, OPENING, Call, Fault, FaultHost, Runner
from tests.support.processes import until
from tests.support.release_split import share

pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600 if ALL else 900)]
_STEPS = ("rename", "fsync", "unlink", "rmdir")
"""Calls at which SIGKILL is tried by default: what a server could see is the same between two of them."""


def _restored(host: FaultHost) -> None:
    """Put the old deployment back under the running servers, and wait until they serve it."""
    host.restore()
    host.mail_host.postfix.reload()
    host.mail_host.dovecot.reload()
    old = host.certificates.answers(new=False)
    until(lambda: host.answers() == old, "the servers do not go back to the old deployment")


def _faults(calls: list[Call]) -> Iterator[Fault]:
    renames = (at for at, call in enumerate(calls) if call.name == "rename")
    first = next(at for at in renames if f"{STAGING_NAME}/mailsni" in calls[at].what)
    for call in calls[first:]:
        if call.mutating and (ALL or call.name.startswith(_STEPS)):
            yield Fault(call, "signal=SIGKILL")
        errors = ERRORS if ALL else ERRORS[:1] if call.name == "rename" else ()
        yield from (Fault(call, f"error={error}") for error in errors)


def _wrong_answers(host: FaultHost) -> Iterator[str]:
    old, new = (host.certificates.answers(new=new) for new in (False, True))
    for service, names in host.answers().items():
        for name, answer in names.items():
            if answer not in (old[service][name], new[service][name]):
                yield f"{service}: {name} is answered with {answer}, which is neither the old nor the new"


def test_the_clients_of_running_servers_are_answered_whatever_happens(host: FaultHost, figures: list[str]) -> None:
    lab = host.mail_host
    wrong, begun = [], time.monotonic()
    with lab.postfix, lab.dovecot, Runner(host) as runner:
        faults = share(_faults(runner.calls((*MUTATING, *OPENING))))
        for number, fault in enumerate(faults):
            _restored(host)
            ended = runner.hit(fault, restored=True)
            found = [*host.complaints(ended), *_wrong_answers(host)]
            if number % 8 == 0:
                lab.postfix.restart()
                lab.dovecot.restart()
                found += [f"restarted: {one}" for one in _wrong_answers(host)]
            found += host.convergence()
            if host.answers() != host.certificates.answers(new=True):
                found.append(f"after the next run not everything new is served: {host.answers()}")
            wrong += [f"{fault} (exit {ended.status}): {one}" for one in found]
    seconds = time.monotonic() - begun
    figures.append(f"running servers: {len(faults)} faults in {seconds:.0f} s; {len(wrong)} complaints")
    assert len(faults) >= 10
    assert not wrong, "\n".join(wrong)
