"""The tables of ``tls_server_sni_maps``: how they are written, which files they have, and what those are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.targets.postfix.lines import split_tables, split_unbraced

SUFFIX_OF: Mapping[str, str] = {
    "hash": ".db",
    "btree": ".db",
    "lmdb": ".lmdb",
    "cdb": ".cdb",
    "texthash": "",
    "dbm": ".pag",
    "sdbm": ".pag",
}
"""What the file of a table is called beside its name (DATABASE_README); tables of other types are no files of keys."""
_SUFFIXES = (".db", ".lmdb", ".cdb")
"""Of the types that mailsni makes; texthash has none."""
_BERKELEY_DB = ("hash", "btree")
_PROXY = "proxy:"


@dataclass(frozen=True, slots=True)
class PostfixMap:
    """A table of files, ``TYPE:SOURCE``."""

    map_type: str
    """A key of :data:`SUFFIX_OF`."""
    source: Path
    """The text that it is compiled from."""

    def __str__(self) -> str:
        return f"{self.map_type}:{self.source}"

    @property
    def file(self) -> Path:
        """The file that Postfix opens, unless it redirects Berkeley DB."""
        return self.source.with_name(self.source.name + SUFFIX_OF[self.map_type])

    @property
    def other_files(self) -> tuple[Path, ...]:
        """The compiled files of other types that are there."""
        return tuple(path for path in map_files(self.source) if path != self.file and path.is_file())

    def existing_file(self, *, redirected: bool) -> Path | None:
        """The file that Postfix opens; None when it is not there.

        Args:
            redirected: whether this Postfix may open another type in place of Berkeley DB: since 3.11
                (NON_BERKELEYDB_README) ``hash:/x`` can mean ``/x.lmdb`` or ``/x.cdb``.
        """
        if self.file.is_file():
            return self.file
        others = self.other_files if redirected and self.map_type in _BERKELEY_DB else ()
        return next(iter(others), None)


@dataclass(frozen=True, slots=True)
class TableReference:
    """A table as a parameter names it: of files, inline, or anything else."""

    written: str
    """``proxy:hash:/etc/postfix/sni``."""
    map_type: str
    """``hash``; empty when none is written."""
    source: Path | None
    """``/etc/postfix/sni``; None when it is no file."""

    @classmethod
    def parse(cls, written: str) -> TableReference:
        """A table from how it is written."""
        first, *rest = split_unbraced(written.removeprefix(_PROXY), ":")
        map_type, name = (first, ":".join(rest)) if rest else ("", first)
        return cls(written, map_type, Path(name) if name.startswith("/") else None)

    @property
    def proxied(self) -> bool:
        """Whether proxymap(8) opens it."""
        return self.written.startswith(_PROXY)

    @property
    def map(self) -> PostfixMap | None:
        """Its files; None when it is no table of files."""
        if self.source is None or self.map_type not in SUFFIX_OF:
            return None
        return PostfixMap(self.map_type, self.source)


def parse_tables(value: str) -> tuple[TableReference, ...]:
    """The tables in the value of a parameter, in order."""
    return tuple(TableReference.parse(written) for written in split_tables(value))


def map_files(source: Path) -> tuple[Path, ...]:
    """The names that a map compiled from a source may have."""
    return tuple(source.with_name(source.name + suffix) for suffix in _SUFFIXES)
