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
from collections.abc import Callable, Iterable, Mapping
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

OnEvent = Callable[[bool], None]
"""Called for each event, from a thread of its own; with True when a key or a chain was certainly changed."""


@dataclass(frozen=True, slots=True)
class WatchedDirectories:
    """Directories to watch.

    Attributes:
        trees: those of the stores, with all below them: path, device, inode, and the patterns of key and chain files.
        parents: those above, which tell when a tree or a file comes, goes or is replaced, and the names that matter.
    """

    trees: tuple[tuple[str, int, int, frozenset[str]], ...]
    parents: tuple[tuple[str, int, int, frozenset[str]], ...]


def to_watch(paths: Iterable[WatchPath]) -> WatchedDirectories:
    """The directories to watch for some stores, as they are now."""
    contents: defaultdict[str, set[str]] = defaultdict(set)
    names: defaultdict[str, set[str]] = defaultdict(set)
    for place in paths:
        # A watch does not follow links: the tree is where they lead to, and their own parents are watched too.
        tree = os.path.realpath(place.path)
        contents[tree].add(place.content)
        for path in dict.fromkeys((place.path, Path(tree))):
            _add_parents(path, names)
    return WatchedDirectories(_existing(contents), _existing(names))


def _existing(directories: Mapping[str, set[str]]) -> tuple[tuple[str, int, int, frozenset[str]], ...]:
    identified = ((path, _directory(path), words) for path, words in sorted(directories.items()))
    return tuple((path, *which, frozenset(words)) for path, which, words in identified if which is not None)


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


class _TreeHandler(FileSystemEventHandler):
    def __init__(self, on_event: OnEvent, patterns: frozenset[str]) -> None:
        self._on_event = on_event
        self._patterns = patterns

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._on_event(any(fnmatchcase(name, pattern) for name in _names(event) for pattern in self._patterns))


class _ParentHandler(FileSystemEventHandler):
    def __init__(self, on_event: OnEvent, names: frozenset[str]) -> None:
        self._on_event = on_event
        self._names = names

    def on_any_event(self, event: FileSystemEvent) -> None:
        if not self._names.isdisjoint(_names(event)):
            self._on_event(False)  # noqa: FBT003


class _OverflowHandler(logging.Handler):
    """watchdog tells its log alone when the kernel's queue has overflowed: events are lost, so a scan is due."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__(logging.WARNING)
        self._on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self._on_event(False)  # noqa: FBT003


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
        self._watched: WatchedDirectories | None = None
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
        self._on_event(False)  # they come and go all the time: scan again soon  # noqa: FBT003

    def _arm(self, wanted: WatchedDirectories, now: float) -> None:
        self.disarm()
        try:
            self._observer = self._armed(wanted)
        except (FileNotFoundError, NotADirectoryError):
            self._on_event(False)  # it went in this very moment: scan again soon  # noqa: FBT003
        except (OSError, RuntimeError) as error:
            self._retry_at = now + RETRY
            if not self._reported:
                self._reported = True
                self._unavailable(getattr(error, "strerror", None) or str(error))
        else:
            self._watched = wanted
            self._reported = False

    def _armed(self, wanted: WatchedDirectories) -> BaseObserver:
        observer = self._make()
        try:
            observer.start()
            for path, _, _, patterns in wanted.trees:
                observer.schedule(_TreeHandler(self._on_event, patterns), path, recursive=True, event_filter=CHANGES)
            for path, _, _, names in wanted.parents:
                # One with a tree at the same place is told apart by watchdog through `recursive`.
                above = _ParentHandler(self._on_event, names)
                observer.schedule(above, path, recursive=False, event_filter=CHANGES)
        except BaseException:
            _stop(observer)
            raise
        return observer

    def disarm(self) -> None:
        """Watch nothing."""
        if self._observer is not None:
            _stop(self._observer)
        self._observer = self._watched = None


def _stop(observer: BaseObserver) -> None:
    with suppress(OSError, RuntimeError):
        observer.stop()
        observer.join(5)
