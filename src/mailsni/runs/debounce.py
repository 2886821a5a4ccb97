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
from mailsni.host.commands import parent

HOOK = "MAILSNI_HOOK"
"""In the environment: the number of the process of the hook that calls."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)
GRACE = 1.0
"""Seconds from the end of the client to the first program that we start: systemd(1) sends SIGTERM to every process in
the control group of a service that ends, until it finds no new one, and would hit a postmap(1) of ours."""
_POLL = 0.25
"""Seconds between two looks whether the client has ended."""
_WORDS_WITH_THE_PROGRAM = 3


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
    calling = None if client is None else ancestor(client, hook=os.environ.get(HOOK))
    if client is not None and calling is None:
        return Debounced.RUN_NOW
    forget_inherited()
    ended = None if calling is None else handle(calling)
    try:
        with lock_module.locked(lock.with_name(f"{lock.name}.waiting")):
            # The background process waits for these signals; they are no reason to end.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            if not go_on_in_background():
                return Debounced.ALREADY_PENDING
            _wait_for_end(ended, time.monotonic() + seconds)
            for number in _ENDING:
                signal.signal(number, lambda *_: None)  # unlike SIG_IGN the programs that are started do not inherit it
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            time.sleep(GRACE)
            return Debounced.RUN_IN_BACKGROUND
    except LockedError:
        return Debounced.ALREADY_PENDING


def _wait_for_end(client: int | None, deadline: float) -> None:
    """Wait until the process of a :func:`handle` has ended, a signal of :data:`_ENDING` comes, or time is up."""
    while (left := deadline - time.monotonic()) > 0:
        if client is not None and select.select([client], [], [], 0)[0]:
            return
        if signal.sigtimedwait(_ENDING, min(left, _POLL)) is not None:
            return


def ancestor(name: str, *, hook: str | None = None) -> int | None:
    """The outermost of the processes above this one that runs a program of this name; None when there is none.

    The process with the number ``hook`` is none of them: it is a script of ours, which may be called like its client.

    The name stands in a command line as the program (``lego run``), after its interpreter
    (``python3 /usr/bin/certbot``, ``sh /root/.acme.sh/acme.sh``) or after one that starts it (``sudo certbot``).
    """
    found = None
    number = os.getppid()
    while number > 0:
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[:_WORDS_WITH_THE_PROGRAM]
            if str(number) != hook and any(word.rpartition(b"/")[2] == name.encode() for word in words):
                found = number
            number = parent(number)
        except (OSError, ValueError):
            break
    return found


def handle(number: int) -> int | None:
    """A descriptor that becomes readable when a process that is not ours has ended; None when nothing can tell."""
    try:
        return os.pidfd_open(number)
    except OSError:  # a kernel or a container that does not know pidfd_open(2)
        return None


def forget_inherited() -> None:
    """Close every descriptor but the standard ones: what a caller left open is not ours."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def go_on_in_background() -> bool:
    """Return twice: False in the process that was called, True in a new process that the caller does not know.

    The new process has its own session and working directory, no terminal, and null devices as standard streams: a
    caller that reads those to their end (certbot does) does not wait for it.
    """
    if child := os.fork():
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    return True
