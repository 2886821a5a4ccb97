"""One run for many calls: an ACME client that calls a hook for each certificate causes one publish, not three hundred.

The first call leaves a process behind that waits until the client ends, or for some time. Calls in that time find its
lock and do nothing. The waiting process releases the lock before it reads the stores: either it reads a renewal, or the
renewal's call finds the lock free and leaves the next process behind. No renewal is lost.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import time
from pathlib import Path

from mailsni.errors import LockedError
from mailsni.host import lock as lock_module
from mailsni.runs import daemonize

_ENDING = (signal.SIGTERM, signal.SIGHUP)
GRACE = 1.0
"""Seconds from the end of the client to the first program that we start: systemd(1) sends SIGTERM to every process in
the control group of a service that ends, until it finds no new one, and would hit a postmap(1) of ours."""


class Debounced(enum.Enum):
    """What to do after the wait."""

    RUN_NOW = enum.auto()
    """Run; the caller waits for the result."""
    RUN_IN_BACKGROUND = enum.auto()
    """Run; nobody waits for the result or sees a message."""
    ALREADY_PENDING = enum.auto()
    """Do nothing: another process will run."""


def wait(lock: Path, seconds: float, client: str | None) -> Debounced:
    """Wait in the background for the end of the ACME client that calls.

    Returns twice, see :class:`Debounced`: in the background when ``client`` has ended, after ``seconds`` at the latest.
    If no ancestor process is ``client``, a person called: it returns at once.

    SIGTERM and SIGHUP end the wait, and are ignored from then on: when a service ends (certbot's unit, on Debian),
    systemd ends what it left behind, and gives it time to finish (``TimeoutStopSec``, 90 s).

    Args:
        lock: of the program; the one of the waiting process lies beside it.
        seconds: at most.
        client: name of the calling program; None waits for ``seconds``.

    Raises:
        MailsniError: the lock cannot be opened.
    """
    calling = None if client is None else daemonize.ancestor(client)
    if client is not None and calling is None:
        return Debounced.RUN_NOW
    daemonize.forget_inherited()
    handle = None if calling is None else daemonize.handle(calling)
    signalled, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with lock_module.locked(lock.with_name(f"{lock.name}.waiting")):
            # A signal that comes before the process is ready for it waits until it is.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            if not daemonize.go_on_in_background():
                return Debounced.ALREADY_PENDING
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
            for number in _ENDING:
                signal.signal(number, lambda *_: None)  # unlike SIG_IGN the programs that are started do not inherit it
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            select.select([signalled] if handle is None else [signalled, handle], [], [], seconds)
            time.sleep(GRACE)
            return Debounced.RUN_IN_BACKGROUND
    except LockedError:
        return Debounced.ALREADY_PENDING
