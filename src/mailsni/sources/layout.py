"""How stores that are directories keep their certificates: layouts as data, and the places that they lead to.

A tool that writes ``NAME/privkey.pem`` and ``NAME/fullchain.pem`` needs a few words in :mod:`mailsni.sources.layouts`,
and no code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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

    def elsewhere(self, root: Path) -> tuple[Path, ...]:
        """Files that are watched one by one, because they lie outside, or in a directory too large to watch.

        It never raises.
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
    """The directories with the files, relative to the base; ``*`` stands for any name that begins with no dot. Empty:
    the base itself, where it has any of the files."""
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
    ignored: tuple[str, ...] = ()
    """Patterns for directories or file stems, relative to the base, that hold no certificates to serve."""
    staging: tuple[str, ...] = ()
    """Patterns for directories, relative to the base, of authorities that no client trusts."""

    def places(self, root: Path) -> Iterator[Place]:
        """See :meth:`Layout.places`."""
        base = next((str(path) for path in (root / name for name in self.bases) if path.is_dir()), None)
        if base is None:
            return
        for directory in _directories(base, tuple(part for part in self.directory.split("/") if part)):
            inside = f"{directory}/{self.through}"
            files = os.path.realpath(inside) if self.through and os.path.isdir(inside) else directory
            stems = sorted(self._stems(files, nested=directory != base)) if "*" in self.key else [""]
            for place in (self._place(base, directory, files, stem) for stem in stems):
                if self.ignored and _fits(place.origin[len(base) + 1 :], self.ignored):
                    continue
                if directory == base and not any(map(os.path.lexists, (place.key, *place.chain))):
                    continue
                yield place

    def _place(self, base: str, directory: str, files: str, stem: str) -> Place:
        name = directory.rpartition("/")[2]
        origin = f"{directory}/{stem}" if stem not in ("", name) else directory
        return Place(
            origin,
            f"{files}/{_filled(self.key, stem, name)}",
            tuple([f"{files}/{_filled(pattern, stem, name)}" for pattern in self.chain]),
            self,
            name,
            stem,
            staging=bool(self.staging) and _fits(origin[len(base) + 1 :], self.staging),
            entrance=directory if files is not directory else "",
        )

    def _stems(self, directory: str, *, nested: bool) -> set[str]:
        """What ``*`` stands for in the names of keys and chains. A name belongs to the longest pattern that fits.

        The empty text where a nested directory is none: it just went, or a link leads to a file, to nothing or to
        itself.
        """
        if nested and not os.path.isdir(directory):
            return {""}
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if self.links or not entry.is_symlink()]
        except FileNotFoundError:
            if nested:
                return {""}
            raise
        counted = (self.key, self.chain[0])
        patterns = sorted({*counted, *self.chain}, key=len, reverse=True)
        stems = set()
        for name in names:
            pattern = next((each for each in patterns if fnmatchcase(name, each)), None)
            if pattern in counted and not name.startswith("."):
                before, _, after = pattern.partition("*")
                stems.add(name[len(before) : len(name) - len(after)])
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
    """An authority that no client trusts issued it, as its place tells."""
    entrance: str = ""
    """The directory in which servers find its key and chain, whatever replaces them; empty: that of the key."""
    roots: tuple[str, ...] = ()
    """Files and directories outside of the store in which its key and chain may lie too."""

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
    beyond: tuple[str, ...] = ()
    contents: tuple[str, ...] = ("*.pem", "*.key", "*.crt", "*.cer")

    def places(self, root: Path) -> Iterator[Place]:
        """See :class:`Layout`."""
        os.scandir(root).close()
        bases = list(dict.fromkeys(base for files in self.files for base in files.bases))
        if not any((root / base).is_dir() for base in bases):
            raise FileNotFoundError(errno.ENOENT, f"there is no {', '.join(bases)} in it", str(root))
        for files in self.files:
            yield from files.places(root)

    def elsewhere(self, root: Path) -> tuple[Path, ...]:
        """Nothing."""
        del root
        return ()


def _filled(pattern: str, stem: str, name: str) -> str:
    return pattern.replace("*", stem).replace("{}", name)


def _fits(relative: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or a directory above it, matches a pattern; ``*`` does not go across slashes."""
    parts = relative.split("/")
    return any(
        len(parts) >= len(words) and all(map(fnmatchcase, parts, words))
        for words in (pattern.split("/") for pattern in patterns)
    )


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
                with suppress(FileNotFoundError):  # it went in this very moment
                    yield from _directories(inner, tuple(rest))
