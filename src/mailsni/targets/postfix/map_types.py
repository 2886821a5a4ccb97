"""The types of table that Postfix reads from files, and what their files are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import MapType

SUFFIXES = (".db", ".lmdb", ".cdb")
"""What postmap(1) appends to the name of a map; texthash has none."""


def map_files(source: Path) -> tuple[Path, ...]:
    """The names that a map compiled from a source may have."""
    return tuple(source.with_name(source.name + suffix) for suffix in SUFFIXES)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of files as main.cf names it."""

    map_type: MapType
    source: Path
    """What stands behind the type."""

    def __str__(self) -> str:
        return f"{self.map_type}:{self.source}"

    @property
    def file(self) -> Path:
        """What a server opens for it, unless its Berkeley DB is redirected to another type."""
        return self.source.with_name(self.source.name + SUFFIX_OF[self.map_type])


SUFFIX_OF: Mapping[MapType, str] = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}
"""What the file of a table is called beside its name (DATABASE_README)."""
