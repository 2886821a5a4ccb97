"""Directories that this host and a container share, and what a file in them is called on each side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mounts:
    """The directories: for each its path on this host, and its path inside the container."""

    pairs: tuple[tuple[Path, Path], ...] = ()

    def inside(self, path: Path) -> Path | None:
        """What a path of this host is called inside, by the longest directory above it; None when none is."""
        return _moved(path, self.pairs)

    def outside(self, path: Path) -> Path | None:
        """What a path inside is called on this host, by the longest directory above it; None when none is."""
        return _moved(path, ((inside, outside) for outside, inside in self.pairs))

    def on_host(self, path: Path) -> Path | None:
        """The path on this host of a file that is named by either path; None when it lies in none of the directories.

        The longest directory above it decides which path it is; when both are as long, it is the path inside.
        """
        sides = (side for outside, inside in self.pairs for side in ((inside, outside), (outside, outside)))
        return _moved(path, sides)


def _moved(path: Path, directories: Iterable[tuple[Path, Path]]) -> Path | None:
    above = [(old, new) for old, new in directories if path.is_relative_to(old)]
    if not above:
        return None
    old, new = max(above, key=lambda pair: len(pair[0].parts))
    return new / path.relative_to(old)
