"""Builds the compiled map beside the live one and proves it entry by entry."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from mailsni.config.settings import MapType
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.host.commands import require_tool, run
from mailsni.targets.base import MapEntry
from mailsni.targets.postfix.map_read import _TIMEOUT, Compiled, _stored, _talk, holds
from mailsni.targets.postfix.map_types import map_files


def stored_value(entry: MapEntry) -> bytes:
    """What ``postmap -F`` stores: the files with a newline between them, as base64 (measured)."""
    return base64.b64encode(b"\n".join(files.read_private(pin) or b"" for pin in entry.pins))


def compile_map(
    source: Path, entries: Sequence[MapEntry], *, map_types: Sequence[MapType], config_directory: Path, installed: bool
) -> Compiled:
    """Compile a staged source beside itself, and prove that the result holds exactly the entries.

    Args:
        source: the text, in a private directory; the files it names must be in their places.
        entries: what the map must hold.
        map_types: the types to try, in this order.
        config_directory: of the Postfix to compile for.
        installed: whether Postfix is on this host; else the berkeleydb package writes the map.

    Raises:
        HostError: it cannot be compiled, or does not hold the entries.
    """
    if not installed:
        return _write_with_berkeleydb(source, entries, map_types[0], config_directory)
    failures = []
    for map_type in map_types:
        try:
            compiled = _postmap(map_type, source, config_directory)
        except _UnsupportedTypeError as error:
            failures.append(f"{map_type}: {error}")
            continue
        prove(compiled, entries, config_directory)
        return compiled
    raise HostError(
        f"postmap: no map type works here: {'; '.join(failures)}",
        hint="[postfix] map_type in the configuration says which one to use; `postconf -m` lists them",
    )


class _UnsupportedTypeError(Exception):
    """The Postfix of this host cannot make tables of a type."""


def _postmap(map_type: MapType, source: Path, config_directory: Path) -> Compiled:
    if map_type == "texthash":
        return Compiled(map_type, source, "")
    done = run(
        [require_tool("postmap"), "-c", config_directory, "-F", f"{map_type}:{source}"],
        timeout=_TIMEOUT,
    )
    if done.returncode != 0 and re.search(r"unsupported (dictionary|map) type|is not available", done.stderr):
        raise _UnsupportedTypeError(done.stderr.splitlines()[-1])
    talk = _talk(done)
    if done.returncode != 0 or talk:
        what = "\n".join(talk) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {map_type}:{source}: {what}")
    # A build with Berkeley DB redirected to another type writes another suffix (NON_BERKELEYDB_README).
    for compiled in map_files(source):
        if compiled.is_file():
            files.set_mode(compiled, files.PRIVATE)
            return Compiled(map_type, compiled, compiled.suffix)
    raise HostError(f"postmap: {map_type}:{source}: no map was written, and nothing was said about it")


def _write_with_berkeleydb(
    source: Path, entries: Iterable[MapEntry], map_type: MapType, config_directory: Path
) -> Compiled:
    if map_type not in ("hash", "btree"):
        raise HostError(f"{map_type}:{source}: only Postfix itself can make this type, and it is not installed")
    try:
        from berkeleydb import db
    except ImportError:
        raise HostError(
            f"{map_type}:{source}: cannot be made: neither Postfix nor the berkeleydb package is installed",
            hint="pip install 'mailsni[berkeleydb]' (it needs the headers of Berkeley DB: libdb-dev on Debian)",
        ) from None
    path = source.with_name(source.name + ".db")
    files.create(path, b"")
    try:
        with closing(db.DB()) as table:
            kind = db.DB_HASH if map_type == "hash" else db.DB_BTREE
            table.open(str(path), None, kind, db.DB_CREATE | db.DB_TRUNCATE, files.PRIVATE)
            for entry in entries:
                table.put(entry.key.encode() + b"\0", stored_value(entry) + b"\0")
    except db.DBError as error:
        raise HostError(f"{map_type}:{source}: cannot be written: {error}") from None
    compiled = Compiled(map_type, path, ".db")
    prove(compiled, entries, config_directory)
    return compiled


def prove(compiled: Compiled, entries: Iterable[MapEntry], config_directory: Path) -> None:
    """Read a map back, entry by entry.

    Raises:
        HostError: it lacks an entry, has one too many, or holds other bytes than were meant.
    """
    where = f"{compiled.map_type}:{compiled.path}"
    missing = {entry.key.encode(): entry for entry in entries}
    for key, value in _stored(compiled, list(missing), config_directory):
        entry = missing.pop(key, None)
        if entry is None:
            raise HostError(f"{where}: holds an entry that was not asked for")
        if compiled.map_type != "texthash" and not holds(value, entry):
            raise HostError(f"{where}: {entry.key}: does not hold the key and the chain that were meant")
    if missing:
        first = next(iter(missing.values())).key
        raise HostError(f"{where}: lacks {len(missing)} of the entries, the first of them {first}")


def empty_map(directory: Path, *, map_type: MapType, config_directory: Path, installed: bool) -> Path:
    """A map without entries, to go back to when there was none before: a missing one cuts off clients that send SNI."""
    source = directory / "empty"
    files.create(source, b"# no names\n")
    if map_type == "texthash":
        return source
    compiled = compile_map(source, (), map_types=(map_type,), config_directory=config_directory, installed=installed)
    return compiled.path
