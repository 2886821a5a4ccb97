"""Notices processes and connections, so that the quick tests stay quick."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PURE = ("unit", "property", "golden")
"""Directories of tests that start no process and open no port."""
_ALWAYS = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "socket.getaddrinfo"})
_UNLESS_LOCAL = frozenset({"socket.bind", "socket.connect"})
_recorders: list[list[str]] = []


@contextmanager
def impure_events() -> Iterator[list[str]]:
    """The audit events (PEP 578) of this block that a pure test must not cause; complete at its end."""
    events: list[str] = []
    _recorders.append(events)
    try:
        yield events
    finally:
        _recorders.pop()


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _recorders and (
        event in _ALWAYS or (event in _UNLESS_LOCAL and isinstance(arguments[1], tuple))  # AF_UNIX has a path
    ):
        for events in _recorders:
            events.append(event)


sys.addaudithook(_record)
