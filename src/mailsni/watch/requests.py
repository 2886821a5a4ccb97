"""What reaches the watch from outside its loop: signals, and file events. Each wakes the loop."""

from __future__ import annotations

import enum
import os
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK = 1 << 12


class Request(enum.Enum):
    """What signal handlers and watchdog's threads ask of the loop."""

    STOP = enum.auto()
    """End. The second time: and do not wait for the apply that runs."""
    RELOAD = enum.auto()
    """Read the configuration again."""
    SCAN = enum.auto()
    """Something happened in or above a store: the next scan decides whether there is a change."""
    APPLY = enum.auto()
    """A file with a key or a chain was changed."""


class Requests:
    """A queue from any thread or signal handler to the loop.

    Attributes:
        reader: a descriptor that becomes readable with each request.
        writer: the other end of it, for :func:`signal.set_wakeup_fd`.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def add(self, request: Request) -> None:
        """Ask for something."""
        self._queue.put(request)
        with suppress(OSError):  # full: the loop wakes anyway
            os.write(self.writer, b"\0")

    def pending(self) -> bool:
        """Whether there are requests that were not taken."""
        return not self._queue.empty()

    def take(self) -> list[Request]:
        """The requests so far; :attr:`reader` waits for the next one."""
        with suppress(BlockingIOError):
            while len(os.read(self.reader, _CHUNK)) == _CHUNK:
                pass
        return [self._queue.get() for _ in range(self._queue.qsize())]

    def close(self) -> None:
        """Give back the descriptors."""
        os.close(self.reader)
        os.close(self.writer)


@contextmanager
def signals(requests: Requests) -> Iterator[None]:
    """SIGTERM and SIGINT stop the loop, SIGHUP makes it read its configuration: for the main thread."""
    wanted = {signal.SIGTERM: Request.STOP, signal.SIGINT: Request.STOP, signal.SIGHUP: Request.RELOAD}
    before = {
        number: signal.signal(number, lambda got, _: requests.add(wanted[signal.Signals(got)])) for number in wanted
    }
    # A signal just before the loop goes to sleep wakes it too: Python's own handlers run only between two steps.
    wakeup = signal.set_wakeup_fd(requests.writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
