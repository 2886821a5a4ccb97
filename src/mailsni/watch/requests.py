"""What reaches the watch from outside its loop: signals, and file events. Each wakes the loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

_CHUNK = 1 << 12


@dataclass
class EventCount:
    """How many file events there were. Only watchdog's threads count; the loop compares, so that none gets lost."""

    all: int = 0
    certain: int = 0
    """Those of files with keys or chains."""


class Requests:
    """What signal handlers and other threads ask of the loop.

    Attributes:
        stops: how often it was asked to stop.
        reader: a descriptor that becomes readable with each request.
        writer: the other end of it, for :func:`signal.set_wakeup_fd`.
    """

    def __init__(self) -> None:
        self.stops = 0
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reload = False
        self._events = EventCount()

    def stop(self) -> None:
        """End. The second time: and do not wait for the apply that runs."""
        self.stops += 1
        self._wake()

    def reload(self) -> None:
        """Read the configuration again."""
        self._reload = True
        self._wake()

    def count_event(self, certain: bool) -> None:  # noqa: FBT001  # watchdog's threads call it
        """Count a file event."""
        if certain:
            self._events.certain += 1
        self._events.all += 1
        self._wake()

    def take_reload(self) -> bool:
        """Whether the configuration is to be read again; the request counts as served."""
        wanted, self._reload = self._reload, False
        return wanted

    @property
    def events(self) -> EventCount:
        """A copy of the count."""
        return replace(self._events)

    def drain(self) -> None:
        """Make :attr:`reader` wait for the next request."""
        with suppress(BlockingIOError):
            while len(os.read(self.reader, _CHUNK)) == _CHUNK:
                pass

    def close(self) -> None:
        """Give back the descriptors."""
        os.close(self.reader)
        os.close(self.writer)

    def _wake(self) -> None:
        with suppress(OSError):  # full: the loop wakes anyway
            os.write(self.writer, b"\0")


@contextmanager
def signals(requests: Requests) -> Iterator[None]:
    """SIGTERM and SIGINT stop the loop, SIGHUP makes it read its configuration: for the main thread."""
    handlers = {
        signal.SIGTERM: lambda *_: requests.stop(),
        signal.SIGINT: lambda *_: requests.stop(),
        signal.SIGHUP: lambda *_: requests.reload(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    # A signal just before the loop goes to sleep wakes it too: Python's own handlers run only between two steps.
    wakeup = signal.set_wakeup_fd(requests.writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
