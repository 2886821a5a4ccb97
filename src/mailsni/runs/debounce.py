"""Once for many calls: an ACME client that calls a hook for each certificate makes one publish, not three hundred.

The first call leaves a process behind that waits until the client has ended, or for some time; the calls of that time
see its lock and have nothing to do. The waiting process frees the lock before it looks at the stores, so a renewal is
either seen by it, or its call finds the lock free and leaves the next process behind: none is lost.
"""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from mailsni.errors import LockedError
from mailsni.host import lock as lock_module
from mailsni.runs import daemonize

_ENDING = (signal.SIGTERM, signal.SIGHUP)


GRACE = 1.0
"""Seconds from the end of the client to the first program that is started: systemd(1) sends SIGTERM to all that is in
the control group of a service that ends, until a look finds nothing new, and a postmap(1) of ours would be hit too."""


class Debounced(enum.Enum):
    """What to do after the wait."""

    RUN_NOW = enum.auto()
    """It is time, and the caller waits for the result."""
    RUN_IN_BACKGROUND = enum.auto()
    """It is time; nobody waits for the result or sees what is said."""
    ALREADY_PENDING = enum.auto()
    """Nothing: another process does it, later."""


class _WaitOverError(Exception):
    """The wait is over."""


def wait(lock: Path, seconds: float, client: str | None) -> Debounced:
    """Wait in the background until something should be done that many ask for.

    Returns twice, see :class:`Debounced`: in the background when ``client`` has ended, after ``seconds`` at the latest.
    Where no process above this one is ``client``, a person called, and it is time at once.

    SIGTERM and SIGHUP end the wait too, and nothing else from then on: systemd ends what a service left behind when the
    service has ended (the unit of certbot, on Debian), and gives it time to finish (``TimeoutStopSec``, 90 s).

    Args:
        lock: of the program; the one of the waiting process lies beside it.
        seconds: at most.
        client: the name of the calling program; None waits for ``seconds``.

    Raises:
        MailsniError: the lock cannot be opened.
    """
    calling = None if client is None else daemonize.ancestor(client)
    if client is not None and calling is None:
        return Debounced.RUN_NOW
    daemonize.forget_inherited()
    handle = None if calling is None else daemonize.handle(calling)
    try:
        with lock_module.locked(lock.with_name(f"{lock.name}.waiting")):
            # A signal that comes before the process is ready for it waits until it is.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            if not daemonize.go_on_in_background():
                return Debounced.ALREADY_PENDING
            try:
                _take_signals(_now)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
                daemonize.wait_for_end(handle, seconds)
            except _WaitOverError:
                pass
            _take_signals(_later)
            time.sleep(GRACE)
            return Debounced.RUN_IN_BACKGROUND
    except LockedError:
        return Debounced.ALREADY_PENDING


def _take_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _ENDING:
        signal.signal(number, handler)


def _now(number: int, frame: FrameType | None) -> None:
    del number, frame
    _take_signals(_later)
    raise _WaitOverError


def _later(number: int, frame: FrameType | None) -> None:
    """Go on; unlike SIG_IGN this is not inherited by the programs that are started."""
    del number, frame
