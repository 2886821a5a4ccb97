"""Reads compiled maps and compares them with what they should hold."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import io
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import MapType
from mailsni.core.text import printable_name
from mailsni.errors import HostError
from mailsni.host.commands import Completed, require_tool, run
from mailsni.targets.base import MapEntry
from mailsni.targets.postfix.map_types import Table, map_files

_TIMEOUT = 300.0


_BATCH = 500
"""Keys asked for in one run of postmap -q: their values are held in memory."""


_LISTED = 64 << 20
"""Bytes of a map that postmap -s may list: its output is held in memory."""


_CDB_HEAD = 2048


_TRIAL = 15.0


_HARMLESS = re.compile(r"\bdeprecated\b|\bmain\.cf\b|\bcompatibility_level\b")
"""Warnings about the configuration, or about Berkeley DB's age (Debian forky), which say nothing of the entries."""


def holds(value: bytes, entry: MapEntry) -> bool:
    """Whether a stored value is that of an entry. The known digests of its files decide: they are not read again."""
    try:
        found = _digests(base64.b64decode(value, validate=True), len(entry.digests))
    except binascii.Error:
        return False
    return len(found) == len(entry.digests) and all(
        one.startswith(wanted) for one, wanted in zip(found, entry.digests, strict=True)
    )


def _digests(content: bytes, number: int) -> list[str]:
    """SHA-256 of each of so many pinned files: none has an empty line, and there is one newline between them."""
    parts = content.split(b"\n\n") if number > 1 else [content]
    whole = [*(part + b"\n" for part in parts[:-1]), parts[-1]]
    return [hashlib.sha256(part).hexdigest() for part in whole]


_MAGIC: tuple[tuple[int, int, MapType], ...] = (
    (12, 0x061561, "hash"),
    (12, 0x053162, "btree"),
    (16, 0xBEEFC0DE, "lmdb"),
)
"""Where which number stands in a table (magic(5)), in the byte order of the host that made it."""


def complaint_of(table: Table, config_directory: Path) -> str | None:
    """Why Postfix cannot open a table, in its own words; None when it can.

    Raises:
        HostError: postmap(1) is not there, or does not end.
    """
    done = run(
        [require_tool("postmap"), "-c", config_directory, "-q", "-", str(table)],
        stdin=b"mailsni.invalid\n",
        timeout=_TRIAL,
    )
    talk = _talk(done)
    if done.returncode in (0, 1) and not talk:
        return None
    return talk[-1] if talk else f"postmap: exit status {done.returncode}"


def type_of(path: Path) -> MapType | None:
    """The type that a compiled table says it is; None for one that does not say.

    Raises:
        HostError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror}") from None
    numbers = ((head[at : at + 4], number.to_bytes(4, sys.byteorder), kind) for at, number, kind in _MAGIC)
    return next((kind for found, number, kind in numbers if found == number), None)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A proven map, still in the staging directory."""

    map_type: MapType
    path: Path
    """The file that the server will read: the compiled map, or for texthash the source itself."""
    suffix: str
    """What its name has more than that of the source."""


def _talk(done: Completed) -> list[str]:
    """What postmap said that matters."""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return [line for line in said if "fatal:" in line or not _HARMLESS.search(line)]


def _stored(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    """What a map holds, by the quickest way there is; asking postmap for every key always works."""
    readers: Mapping[str, Callable[[Path], Iterator[tuple[bytes, bytes]] | None]] = {
        ".db": _read_berkeleydb,
        ".lmdb": _read_lmdb,
    }
    reader = readers.get(compiled.suffix)
    direct = reader(compiled.path) if reader else None
    return direct if direct is not None else _ask_postmap(compiled, keys, config_directory)


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
    """An entry of a live map that is not what it should be."""

    key: str
    difference: Difference
    leaf: bytes | None = None
    """The first certificate that it holds, in DER."""
    digests: tuple[str, ...] = ()
    """SHA-256 of what it holds, as one file, and as two where it may be two."""


def discrepancies(
    table: Table, file: Path, entries: Iterable[MapEntry], config_directory: Path
) -> Iterator[Discrepancy]:
    """Hold a live map against what it should hold, entry by entry. Its values are not kept in memory.

    Args:
        table: the map.
        file: what a server opens for it.
        entries: what it should hold.
        config_directory: of Postfix, where it is installed.

    Raises:
        HostError: the map cannot be read.
    """
    missing = {entry.key.encode(): entry for entry in entries}
    compiled = Compiled(table.map_type, file, file.name.removeprefix(table.source.name))
    for key, value in _everything(compiled, list(missing), config_directory):
        entry = missing.pop(key, None)
        found = _discrepancy(printable_name(key), value, entry, of_paths=table.map_type == "texthash")
        if found is not None:
            yield found
    yield from (Discrepancy(entry.key, Difference.MISSING) for entry in missing.values())


def _discrepancy(key: str, value: bytes, entry: MapEntry | None, *, of_paths: bool) -> Discrepancy | None:
    if of_paths:
        named = [word for word in re.split(rb"[,\s]+", value) if word]
        if entry is None:
            return Discrepancy(key, Difference.ADDITIONAL)
        same = named == [str(pin).encode() for pin in entry.pins]
        return None if same else Discrepancy(key, Difference.OTHER)
    if entry is not None and holds(value, entry):
        return None
    try:
        content = base64.b64decode(value, validate=True)
    except binascii.Error:
        content = b""
    if entry is None:
        return Discrepancy(key, Difference.ADDITIONAL)
    if b"-----BEGIN " not in content:
        return Discrepancy(key, Difference.UNUSABLE)
    digests = dict.fromkeys((*_digests(content, 1), *_digests(content, 2)))
    return Discrepancy(key, Difference.OTHER, _first_leaf(content), tuple(digests))


def _first_leaf(content: bytes) -> bytes | None:
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", content, re.DOTALL)
    try:
        return base64.b64decode(found[1]) if found is not None else None
    except binascii.Error:
        return None


def _everything(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    """All that a map holds; only the keys asked for where nothing but postmap reads it, and it is large."""
    if compiled.suffix == ".cdb":
        return _read_cdb(compiled.path)
    readers = {".db": _read_berkeleydb, ".lmdb": _read_lmdb}
    direct = readers[compiled.suffix](compiled.path) if compiled.suffix in readers else None
    if direct is not None:
        return direct
    if compiled.path.stat().st_size > _LISTED:
        return _ask_postmap(compiled, keys, config_directory)
    return _list_with_postmap(compiled, config_directory)


def _list_with_postmap(compiled: Compiled, config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    table = f"{compiled.map_type}:{str(compiled.path).removesuffix(compiled.suffix)}"
    done = run([require_tool("postmap"), "-c", config_directory, "-s", table], timeout=_TRIAL)
    if done.returncode != 0:
        why = "\n".join(_talk(done)) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {table}: cannot be listed: {why}")
    for line in io.BytesIO(done.stdout):
        key, _, value = line.rstrip(b"\n").partition(b"\t")
        yield key, value


def _read_cdb(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The records of a constant database (cdb(5)): they lie one after the other between its two indices."""
    damaged = HostError(f"{path}: cannot be read back: it is no constant database, or a damaged one")
    try:
        with path.open("rb") as file:
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
    except OSError as error:
        raise HostError(f"{path}: cannot be read back: {error.strerror}") from None


def served_by_map(map_type: MapType, source: Path, keys: Sequence[str], config_directory: Path) -> dict[str, str]:
    """Which certificate a live map holds for each key: SHA-256 of the first leaf's DER, hexadecimal.

    Args:
        map_type: of the map.
        source: its name without the suffix.
        keys: as Postfix looks them up; those that are not in the map are not in the result.
        config_directory: of Postfix, where it is installed.

    Raises:
        HostError: the map cannot be read.
    """
    path = next((one for one in map_files(source) if one.is_file()), source)
    compiled = Compiled(map_type, path, path.name.removeprefix(source.name))
    found = {}
    for key, value in _stored(compiled, [key.encode() for key in keys], config_directory):
        leaf = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", base64.b64decode(value), re.DOTALL)
        if leaf is not None:
            found[key.decode()] = hashlib.sha256(base64.b64decode(leaf[1])).hexdigest()
    return found


def _read_berkeleydb(path: Path) -> Iterator[tuple[bytes, bytes]] | None:
    try:
        from berkeleydb import db
    except ImportError:
        return None

    def read() -> Iterator[tuple[bytes, bytes]]:
        try:
            with closing(db.DB()) as table:
                table.open(str(path), None, db.DB_UNKNOWN, db.DB_RDONLY)
                with closing(table.cursor()) as cursor:
                    record = cursor.first()
                    while record is not None:
                        yield _without_nul(record[0]), _without_nul(record[1])
                        record = cursor.next()
        except db.DBError as error:
            raise HostError(f"{path}: cannot be read back: {error}") from None

    return read()


def _read_lmdb(path: Path) -> Iterator[tuple[bytes, bytes]] | None:
    try:
        import lmdb
    except ImportError:
        return None

    def read() -> Iterator[tuple[bytes, bytes]]:
        try:
            with (
                closing(lmdb.open(str(path), subdir=False, readonly=True, lock=False)) as environment,
                environment.begin() as transaction,
                transaction.cursor() as cursor,
            ):
                for key, value in cursor:
                    yield _without_nul(key), _without_nul(value)
        except lmdb.Error as error:
            raise HostError(f"{path}: cannot be read back: {error}") from None

    return read()


def _without_nul(data: bytes) -> bytes:
    """Postfix ends keys and values of Berkeley DB tables with NUL."""
    return data[:-1] if data.endswith(b"\0") else data


def _ask_postmap(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    source = str(compiled.path).removesuffix(compiled.suffix)
    postmap = require_tool("postmap")
    for at in range(0, len(keys), _BATCH):
        batch = b"".join(key + b"\n" for key in keys[at : at + _BATCH])
        table = f"{compiled.map_type}:{source}"
        done = run([postmap, "-c", config_directory, "-q", "-", table], stdin=batch, timeout=_TIMEOUT)
        # Status 1 without a word means that none of the keys was found, with one that it could not look.
        if done.returncode not in (0, 1) or (done.returncode == 1 and _talk(done)):
            why = "\n".join(_talk(done)) or f"exit status {done.returncode}"
            raise HostError(f"postmap: {table}: cannot be read back: {why}")
        for line in done.stdout.splitlines():
            key, _, value = line.partition(b"\t")
            yield key, value
