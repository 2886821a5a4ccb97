"""One run for many calls: an ACME client that calls a hook for each certificate causes one publish, not three hundred.

The first call leaves a process behind that waits until the client ends, or for some time. Calls in that time find its
lock and do nothing. The waiting process releases the lock before it reads the stores: either it reads a renewal, or the
renewal's call finds the lock free and leaves the next process behind. No renewal is lost.
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


class _WaitOverError(Exception):
    """The wait is over."""


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
