"""Finds the ACME client that calls, and goes on in the background."""

from __future__ import annotations

import os
from pathlib import Path

from mailsni.host.commands import parent

_WORDS_WITH_THE_PROGRAM = 3


def ancestor(name: str) -> int | None:
    """The outermost of the processes above this one that runs a program of this name; None when there is none.

    The name stands in a command line as the program (``lego run``), after its interpreter
    (``python3 /usr/bin/certbot``, ``sh /root/.acme.sh/acme.sh``) or after one that starts it (``sudo certbot``).
    """
    found = None
    number = os.getppid()
    while number > 0:
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[:_WORDS_WITH_THE_PROGRAM]
            if any(word.rpartition(b"/")[2] == name.encode() for word in words):
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
