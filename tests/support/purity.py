"""Notices processes, connections and waits, so that the quick tests stay quick."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PURE = ("unit", "property", "golden")
"""Directories of tests that start no process, open no port and do not wait."""
_PROCESSES_AND_WAITS = frozenset(
    {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "time.sleep", "socket.getaddrinfo"}
)
_SOCKETS = frozenset({"socket.bind", "socket.connect"})
_recorders: list[list[str]] = []


@contextmanager
def impure_events() -> Iterator[list[str]]:
    """The audit events (PEP 578) of this block that a pure test must not cause; complete at its end."""
    events: list[str] = []
    _recorders.append(events)
    try:
        yield events
    finally:
        _recorders.remove(events)


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _recorders and (
        event in _PROCESSES_AND_WAITS or (event in _SOCKETS and isinstance(arguments[1], tuple))  # not of AF_UNIX
    ):
        for events in _recorders:
            events.append(event)


sys.addaudithook(_record)
