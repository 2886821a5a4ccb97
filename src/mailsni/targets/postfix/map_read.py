"""Reads compiled maps, and compares them with what they should hold."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import io
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from mailsni.core.selection import Selection
from mailsni.core.text import printable_name
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.host.commands import Completed
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix.lines import split_words
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.postconf import Installation
from mailsni.targets.postfix.rendering import postfix_key
from mailsni.targets.rendering import Naming

_BATCH = 500
"""Keys asked for in one run of postmap -q: their values are held in memory."""
_LISTED = 64 << 20
"""Bytes of a map that postmap -s may list: its output is held in memory."""
_CDB_HEAD = 2048
_OPEN_TIMEOUT = 15.0
_READ_TIMEOUT = 300.0
_HARMLESS = re.compile(r"\bdeprecated\b|\bmain\.cf\b|\bcompatibility_level\b")
"""Warnings about the configuration, or about Berkeley DB's age (Debian forky), which say nothing of the entries."""
_MAGIC: tuple[tuple[int, int, str], ...] = (
    (12, 0x061561, "hash"),
    (12, 0x053162, "btree"),
    (16, 0xBEEFC0DE, "lmdb"),
)
"""Where which number stands in a table (magic(5)), in the byte order of the host that made it."""

MapRecord = tuple[bytes, bytes]
"""A key, and what is stored for it."""


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A key of the map, and the pinned files whose content it must hold."""

    key: str
    pins: tuple[Path, ...]
    digests: tuple[str, ...]
    """SHA-256 of each, hexadecimal, or the first digits of it."""


class Difference(enum.StrEnum):
    """How an entry of a map is not what it should be."""

    MISSING = "missing"
    ADDITIONAL = "additional"
    OTHER = "other"
    """It holds another certificate, key or chain."""
    UNUSABLE = "unusable"
    """It holds no PEM, as without ``postmap -F``: Postfix aborts the handshake of a client that asks for it."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An entry of a map that is not what it should be."""

    key: str
    difference: Difference
    leaf: bytes | None = None
    """The first certificate that it holds, in DER."""
    digests: tuple[str, ...] = ()
    """SHA-256 of what it holds, as one file, and as two where it may be two."""


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def map_entries(selection: Selection, pins: PinDirectory) -> tuple[MapEntry, ...]:
    """The entries that a map of a selection must hold, ordered by name."""
    return tuple(
        MapEntry(
            postfix_key(winner.name),
            tuple(pins.path_of(certificate) for certificate in winner.certificates),
            tuple(certificate.digest for certificate in winner.certificates),
        )
        for winner in selection.winners
    )


def verify_map(postfix: Installation, table: PostfixMap, file: Path, entries: Iterable[MapEntry]) -> None:
    """Make sure that a map holds exactly what it should; see :func:`discrepancies`.

    Raises:
        HostError: it does not, or cannot be read.
    """
    missing = []
    for discrepancy in discrepancies(postfix, table, file, entries):
        if discrepancy.difference is Difference.ADDITIONAL:
            raise HostError(f"{table}: holds an entry that was not asked for", path=file)
        if discrepancy.difference is not Difference.MISSING:
            raise HostError(f"{table}: {discrepancy.key}: does not hold the intended key and chain", path=file)
        missing.append(discrepancy.key)
    if missing:
        raise HostError(f"{table}: lacks {len(missing)} of the entries, the first of them {missing[0]}", path=file)


def discrepancies(
    postfix: Installation, table: PostfixMap, file: Path, entries: Iterable[MapEntry]
) -> Iterator[Discrepancy]:
    """Compare a map with what it should hold, entry by entry, as :func:`records` reads it. No value is kept."""
    missing = {entry.key.encode(): entry for entry in entries}
    naming = postfix.executor.inside
    differs = partial(_path_discrepancy, naming) if table.map_type == "texthash" else _discrepancy
    for key, value in records(postfix, table, file, list(missing)):
        entry = missing.pop(key, None)
        if entry is None:
            yield Discrepancy(printable_name(key), Difference.ADDITIONAL)
        elif (discrepancy := differs(printable_name(key), value, entry)) is not None:
            yield discrepancy
    yield from (Discrepancy(entry.key, Difference.MISSING) for entry in missing.values())


def _path_discrepancy(naming: Naming, key: str, value: bytes, entry: MapEntry) -> Discrepancy | None:
    """For a table that stores the names of files."""
    named = split_words(value.decode("utf-8", "replace"))
    return None if named == [str(naming(pin)) for pin in entry.pins] else Discrepancy(key, Difference.OTHER)


def _discrepancy(key: str, value: bytes, entry: MapEntry) -> Discrepancy | None:
    """For a table that stores what files hold. Their known digests decide: they are not read again."""
    content = decoded(value)
    digests = _digests(content, len(entry.digests))
    if len(digests) == len(entry.digests) and all(map(str.startswith, digests, entry.digests)):
        return None
    if b"-----BEGIN " not in content:
        return Discrepancy(key, Difference.UNUSABLE)
    several = dict.fromkeys((*_digests(content, 1), *_digests(content, 2)))
    return Discrepancy(key, Difference.OTHER, first_leaf(content), tuple(several))


def decoded(value: bytes) -> bytes:
    """The files behind a stored value, with newlines between them; empty when it is no base64."""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def _digests(content: bytes, number: int) -> list[str]:
    """SHA-256 of each of so many pinned files: none has an empty line, and there is one newline between them."""
    parts = content.split(b"\n\n") if number > 1 else [content]
    whole = [*(part + b"\n" for part in parts[:-1]), parts[-1]]
    return [hashlib.sha256(part).hexdigest() for part in whole]


def first_leaf(content: bytes) -> bytes | None:
    """The first certificate in PEM text, in DER; None when there is none."""
    pem = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", content, re.DOTALL)
    try:
        return base64.b64decode(pem[1]) if pem is not None else None
    except binascii.Error:
        return None


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_error(postfix: Installation, table: PostfixMap) -> str | None:
    """Why Postfix cannot open a table, in its own words; None when it can.

    Raises:
        HostError: postmap(1) is not there, or does not end.
    """
    done = postfix.run("postmap", "-q", "-", postfix.name_of(table), stdin=b"mailsni.invalid\n", timeout=_OPEN_TIMEOUT)
    messages = messages_of(done)
    if done.returncode in (0, 1) and not messages:
        return None
    return messages[-1] if messages else f"postmap: exit status {done.returncode}"


def type_of(path: Path) -> str | None:
    """The type that a compiled table says it is; None for one that does not say.

    Raises:
        HostError: it cannot be read.
    """
    with files.host_errors(path, "cannot be read"), path.open("rb") as file:
        head = file.read(20)
    numbers = ((head[at : at + 4], number.to_bytes(4, sys.byteorder), kind) for at, number, kind in _MAGIC)
    return next((kind for stored, number, kind in numbers if stored == number), None)


def messages_of(done: Completed) -> list[str]:
    """What postmap(1) printed that matters."""
    printed = [line for line in done.stderr.splitlines() if line.strip()]
    return [line for line in printed if "fatal:" in line or not _HARMLESS.search(line)]


def records(postfix: Installation, table: PostfixMap, file: Path, keys: Sequence[bytes]) -> Iterator[MapRecord]:
    """What a map holds, read in the quickest way there is; that of a Postfix in a container by that Postfix alone.

    Args:
        postfix: what reads it where nothing here can.
        table: the map.
        file: what a server opens for it.
        keys: the only ones looked up in a map that nothing but postmap(1) reads, and that it cannot list.

    Raises:
        HostError: the map cannot be read.
    """
    match file.name.removeprefix(table.source.name):
        case ".cdb" if postfix.executor.container:
            return look_up(postfix, table, keys)  # before 3.10 postmap(1) cannot list it
        case _ if postfix.executor.container:
            pass
        case ".cdb":
            return _read_cdb(file)
        case ".db" if _is_installed("berkeleydb.db"):
            return _read_berkeleydb(file)
        case ".lmdb" if _is_installed("lmdb"):
            return _read_lmdb(file)
        case _:
            pass
    listed = _list(postfix, table) if file.stat().st_size <= _LISTED else None
    return listed if listed is not None else look_up(postfix, table, keys)


def look_up(postfix: Installation, table: PostfixMap, keys: Sequence[bytes]) -> Iterator[MapRecord]:
    """Those of some keys that a map has, asked of postmap(1).

    Raises:
        HostError: it cannot read the map.
    """
    for at in range(0, len(keys), _BATCH):
        batch = b"".join(key + b"\n" for key in keys[at : at + _BATCH])
        done = postfix.run("postmap", "-q", "-", postfix.name_of(table), stdin=batch, timeout=_READ_TIMEOUT)
        _require_read(done, table)
        yield from _lines(done)


def _list(postfix: Installation, table: PostfixMap) -> Iterator[MapRecord] | None:
    """Everything in a map; None when postmap(1) cannot list this type."""
    done = postfix.run("postmap", "-s", postfix.name_of(table), timeout=_READ_TIMEOUT)
    if done.returncode != 0 and "not supported" in done.stderr:
        return None
    _require_read(done, table)
    return _lines(done)


def _require_read(done: Completed, table: PostfixMap) -> None:
    """Status 1 without a message means that nothing was found; with one, that postmap(1) could not look."""
    messages = messages_of(done)
    if done.returncode not in (0, 1) or (done.returncode == 1 and messages):
        why = "\n".join(messages) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {table}: cannot be read back: {why}", path=table.file)


def _lines(done: Completed) -> Iterator[MapRecord]:
    for line in io.BytesIO(done.stdout):
        key, _, value = line.rstrip(b"\n").partition(b"\t")
        yield key, value


def _read_cdb(path: Path) -> Iterator[MapRecord]:
    """The records of a constant database (cdb(5)): they lie one after the other between its two indices."""
    damaged = HostError(f"{path}: cannot be read back: it is no constant database, or a damaged one", path=path)
    with files.host_errors(path, "cannot be read back"), path.open("rb") as file:
        head = file.read(_CDB_HEAD)
        if len(head) != _CDB_HEAD:
            raise damaged
        end, at = min(struct.unpack("<512I", head)[::2]), _CDB_HEAD
        while at < end:
            sizes = file.read(8)
            key_size, size = struct.unpack("<2I", sizes) if len(sizes) == 8 else (end, end)
            at += 8 + key_size + size
            if at > end:
                raise damaged
            key, value = file.read(key_size), file.read(size)
            if len(key) != key_size or len(value) != size:
                raise damaged
            yield _without_nul(key), _without_nul(value)


def _read_berkeleydb(path: Path) -> Iterator[MapRecord]:
    from berkeleydb import db

    try:
        with closing(db.DB()) as table:
            table.open(str(path), None, db.DB_UNKNOWN, db.DB_RDONLY)
            with closing(table.cursor()) as cursor:
                record = cursor.first()
                while record is not None:
                    yield _without_nul(record[0]), _without_nul(record[1])
                    record = cursor.next()
    except db.DBError as error:
        raise HostError(f"{path}: cannot be read back: {error}", path=path) from None


def _read_lmdb(path: Path) -> Iterator[MapRecord]:
    import lmdb

    try:
        with (
            closing(lmdb.open(str(path), subdir=False, readonly=True, lock=False)) as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            for key, value in cursor:
                yield _without_nul(key), _without_nul(value)
    except lmdb.Error as error:
        raise HostError(f"{path}: cannot be read back: {error}", path=path) from None


def _is_installed(module: str) -> bool:
    """Whether a module of an optional package, and the library that it needs, is here."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def _without_nul(data: bytes) -> bytes:
    """Postfix ends keys and values of Berkeley DB tables with NUL."""
    return data[:-1] if data.endswith(b"\0") else data
