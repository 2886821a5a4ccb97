"""File events of the stores: a hint that something may have changed, never more.

They come from inotify through watchdog, and are not reliable: queues overflow, watches run out, network file systems
and mounts send none, a link's watch stays with what the link led to. So each scan compares the watched directories with
those that should be watched, by their identity, and renews the watches where they differ.

Only changes are asked for: opening and reading files, as this program does, makes no event.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from mailsni.sources.base import WatchPath
from mailsni.watch.requests import Request

CHANGES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
RETRY = 3600.0
"""Seconds between two attempts to get events: limits of the kernel do not change by the minute."""

_TURNS = 3
"""How often the watches are renewed at once because the directories changed meanwhile: no event tells of that."""

OnEvent = Callable[[Request], None]
"""Called for each event, from a thread of its own."""


@dataclass(frozen=True, slots=True)
class WatchedDirectory:
    """A directory of a store, with all below it, or one above, which tells when a tree or a file comes or goes."""

    path: str
    identity: tuple[int, int]
    """Its device and its inode."""
    is_tree: bool
    """Whether it is a directory of a store."""
    names: frozenset[str]
    """Of a store: the patterns of key and chain files. Above: the names that matter."""


def to_watch(paths: Iterable[WatchPath]) -> tuple[WatchedDirectory, ...]:
    """The directories to watch for some stores, as they are now."""
    contents: defaultdict[str, set[str]] = defaultdict(set)
    names: defaultdict[str, set[str]] = defaultdict(set)
    for place in paths:
        # A watch does not follow links: the tree is where they lead to, and their own parents are watched too.
        tree = os.path.realpath(place.path)
        contents[tree].add(place.content)
        for path in dict.fromkeys((place.path, Path(tree))):
            _add_parents(path, names)
    return tuple(
        WatchedDirectory(path, identity, is_tree, frozenset(words))
        for is_tree, directories in ((True, contents), (False, names))
        for path, words in sorted(directories.items())
        if (identity := _directory(path)) is not None
    )


def _add_parents(path: Path, names: defaultdict[str, set[str]]) -> None:
    """The two directories above a path, and the nearest one that is there, with the name that leads on to the path."""
    for level, (child, parent) in enumerate(zip((path, *path.parents), path.parents, strict=False)):
        real = os.path.realpath(parent)
        there = _directory(real) is not None
        if there:
            names[real].add(child.name)
        if there and level > 0:
            break


def _directory(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if os.path.isdir(path) else None  # noqa: PTH112


def _names(event: FileSystemEvent) -> list[str]:
    return [os.path.basename(os.fsdecode(path)) for path in (event.src_path, event.dest_path)]  # noqa: PTH119


class _Handler(FileSystemEventHandler):
    def __init__(self, on_event: OnEvent, directory: WatchedDirectory) -> None:
        self._on_event = on_event
        self._directory = directory

    def on_any_event(self, event: FileSystemEvent) -> None:
        names, wanted = _names(event), self._directory.names
        if self._directory.is_tree:
            matches = any(fnmatchcase(name, pattern) for name in names for pattern in wanted)
            self._on_event(Request.APPLY if matches else Request.SCAN)
        elif not wanted.isdisjoint(names):
            self._on_event(Request.SCAN)


class _OverflowHandler(logging.Handler):
    """watchdog tells its log alone when the kernel's queue has overflowed: events are lost, so a scan is due."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__(logging.WARNING)
        self._on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self._on_event(Request.SCAN)


class StoreEvents:
    """Keeps the watches in step with the stores.

    Args:
        on_event: called for each event.
        unavailable: called once with the reason why there are no events.
        observer: makes the watcher.
    """

    def __init__(
        self,
        on_event: OnEvent,
        unavailable: Callable[[str], None],
        observer: Callable[[], BaseObserver] = Observer,
    ) -> None:
        self._on_event = on_event
        self._unavailable = unavailable
        self._make = observer
        self._observer: BaseObserver | None = None
        self._watched: tuple[WatchedDirectory, ...] | None = None
        self._retry_at = 0.0
        self._reported = False
        log = logging.getLogger("watchdog")
        log.propagate = False
        log.handlers = [_OverflowHandler(on_event)]

    def arm(self, paths: Iterable[WatchPath], now: float, *, anew: bool = False) -> None:
        """Watch some paths; nothing happens when they are watched already.

        What changes after this call makes an event, so it comes before a scan, not after it.

        Args:
            paths: of the stores.
            now: a moment of a clock that never goes back.
            anew: renew the watches even then: something happened that no event told.
        """
        places = tuple(paths)
        wanted = to_watch(places)
        if wanted == self._watched and not anew:
            return
        if self._observer is None and now < self._retry_at:
            return
        for _ in range(_TURNS):
            self._arm(wanted, now)
            before, wanted = wanted, to_watch(places)
            if wanted == before:
                return
        self._on_event(Request.SCAN)  # they come and go all the time: scan again soon

    def _arm(self, wanted: tuple[WatchedDirectory, ...], now: float) -> None:
        self.disarm()
        try:
            self._observer = self._make()
            self._observer.start()
            for directory in wanted:
                # A tree and a directory above another one at the same place are told apart through `recursive`.
                handler = _Handler(self._on_event, directory)
                self._observer.schedule(handler, directory.path, recursive=directory.is_tree, event_filter=CHANGES)
        except (FileNotFoundError, NotADirectoryError):
            self.disarm()
            self._on_event(Request.SCAN)  # it went in this very moment: scan again soon
        except (OSError, RuntimeError) as error:
            self.disarm()
            self._retry_at = now + RETRY
            if not self._reported:
                self._reported = True
                self._unavailable(getattr(error, "strerror", None) or str(error))
        else:
            self._watched = wanted
            self._reported = False

    def disarm(self) -> None:
        """Watch nothing."""
        if self._observer is not None:
            with suppress(OSError, RuntimeError):
                self._observer.stop()
                self._observer.join(5)
        self._observer = self._watched = None
