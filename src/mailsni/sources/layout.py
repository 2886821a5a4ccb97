"""How stores that are directories keep their certificates: layouts as data, and the places that they lead to.

A tool that writes ``NAME/privkey.pem`` and ``NAME/fullchain.pem`` needs a few words in :mod:`mailsni.sources.layouts`,
and no code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol


class Layout(Protocol):
    """Where a kind of store keeps what."""

    @property
    def beyond(self) -> tuple[str, ...]:
        """Directories, relative to the store's, into which its links lead, and that are watched too."""

    @property
    def contents(self) -> tuple[str, ...]:
        """Patterns for the names of files with keys and chains."""

    def places(self, root: Path) -> Iterator[Place]:
        """The certificates of a store, also of those that are broken; and, cheaper, what may turn out to be none.

        Raises:
            OSError: the store cannot be listed.
        """


@dataclass(frozen=True, slots=True)
class Files:
    """One way in which certificates lie in a store.

    In a file's name, ``*`` stands for the same text in each name of one certificate, and ``{}`` for the directory's
    name.
    """

    key: str
    chain: tuple[str, ...]
    """See :attr:`Place.chain`."""
    directory: str = "*"
    """The directories with the files, relative to the base; ``*`` stands for any name that begins with no dot."""
    bases: tuple[str, ...] = ("",)
    """Where in the store to begin: the first directory that is there."""
    others: tuple[str, ...] = ()
    in_progress: tuple[str, ...] = ()
    commit: str = ""
    authority: str = ""
    """Relative to the directory."""
    links: bool = True
    """Whether files that are links count, where ``*`` is in the key's name."""
    through: str = ""
    """A link in the directory to the directory with the files, replaced as a whole; it need not be there."""

    def places(self, root: Path) -> Iterator[Place]:
        """See :meth:`Layout.places`."""
        base = next((path for path in (root / name for name in self.bases) if path.is_dir()), None)
        if base is None:
            return
        for directory in _directories(str(base), tuple(part for part in self.directory.split("/") if part)):
            inside = f"{directory}/{self.through}"
            files = os.path.realpath(inside) if self.through and os.path.isdir(inside) else directory
            if "*" not in self.key:
                yield self._place(directory, files, "")
                continue
            for stem in sorted(self._stems(files)):
                yield self._place(directory, files, stem)

    def _place(self, directory: str, files: str, stem: str) -> Place:
        name = directory.rpartition("/")[2]
        return Place(
            f"{directory}/{stem}" if stem not in ("", name) else directory,
            f"{files}/{_filled(self.key, stem, name)}",
            tuple([f"{files}/{_filled(pattern, stem, name)}" for pattern in self.chain]),
            self,
            name,
            stem,
        )

    def _stems(self, directory: str) -> set[str]:
        """What ``*`` stands for in the names of keys and chains. A name belongs to the longest pattern that fits."""
        counted = (self.key, self.chain[0])
        patterns = sorted({*counted, *self.chain}, key=len, reverse=True)
        stems = set()
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or (entry.is_symlink() and not self.links):
                    continue
                pattern = next((each for each in patterns if fnmatchcase(entry.name, each)), None)
                if pattern in counted:
                    before, _, after = pattern.partition("*")
                    stems.add(entry.name[len(before) : len(entry.name) - len(after)])
        return stems


NO_FILES = Files("", ())


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one certificate, as absolute paths. None of them need be there."""

    origin: str
    key: str
    chain: tuple[str, ...]
    """The contents of those that are there make the chain; in any order, and the leaf may be in several."""
    files: Files = NO_FILES
    """What else lies beside the key; a pattern for its names."""
    name: str = ""
    """Of the directory: what ``{}`` stands for."""
    stem: str = ""
    """What ``*`` stands for."""
    staging: bool = False
    """A staging authority issued it, as its place tells."""

    @property
    def directory(self) -> str:
        """Where its key lies."""
        return os.path.dirname(self.key)

    @property
    def others(self) -> tuple[str, ...]:
        """Files that belong to it and are not read."""
        return tuple(map(self._at, self.files.others))

    @property
    def in_progress(self) -> tuple[str, ...]:
        """Files that are there only while it is replaced."""
        return tuple(map(self._at, self.files.in_progress))

    @property
    def commit(self) -> str:
        """The file that is written last; empty: there is none."""
        return self._at(self.files.commit) if self.files.commit else ""

    @property
    def authority(self) -> str:
        """The file that holds the address of the authority which issued it; empty: there is none."""
        return self._at(self.files.authority) if self.files.authority else ""

    def _at(self, pattern: str) -> str:
        return f"{self.directory}/{_filled(pattern, self.stem, self.name)}"


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A :class:`Layout` that is only data."""

    files: tuple[Files, ...]
    ignored: tuple[str, ...] = ()
    """Patterns for directories, relative to the store, that hold no certificates to serve."""
    staging: tuple[str, ...] = ()
    """Patterns for directories, relative to the store, whose certificates a staging authority issued."""
    beyond: tuple[str, ...] = ()
    contents: tuple[str, ...] = ("*.pem", "*.key", "*.crt", "*.cer")

    def places(self, root: Path) -> Iterator[Place]:
        """See :class:`Layout`."""
        for files in self.files:
            for place in files.places(root):
                relative = place.origin[len(str(root)) + 1 :]
                if not _fits(relative, self.ignored):
                    yield replace(place, staging=True) if _fits(relative, self.staging) else place


def _filled(pattern: str, stem: str, name: str) -> str:
    return pattern.replace("*", stem).replace("{}", name)


def _fits(relative: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(relative, pattern) or fnmatchcase(relative, f"{pattern}/*") for pattern in patterns)


def _directories(base: str, parts: tuple[str, ...]) -> Iterator[str]:
    """The directories that a pattern leads to, sorted, and links, wherever these lead."""
    if not parts:
        yield base
        return
    first, *rest = parts
    if "*" not in first:
        if os.path.isdir(f"{base}/{first}"):
            yield from _directories(f"{base}/{first}", tuple(rest))
        return
    with os.scandir(base) as entries:
        # A link first: to follow one that leads to itself is an error, and not one of the whole store.
        names = sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir())
    for name in names:
        if not name.startswith(".") and fnmatchcase(name, first):
            inner = f"{base}/{name}"
            if not rest:
                yield inner
            elif os.path.isdir(inner):
                yield from _directories(inner, tuple(rest))
