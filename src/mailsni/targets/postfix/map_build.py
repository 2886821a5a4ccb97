"""Builds the compiled map beside the live one and verifies it entry by entry."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from mailsni.errors import HostError
from mailsni.host import files
from mailsni.targets.postfix.map_read import MapEntry, messages_of, verify_map
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.postconf import Installation

_TIMEOUT = 300.0


def compile_map(
    postfix: Installation, source: Path, entries: Sequence[MapEntry], map_types: Sequence[str]
) -> tuple[str, Path]:
    """Compile a staged source beside itself, and verify that the result holds exactly the entries.

    Args:
        postfix: what compiles it; where that is not installed, the berkeleydb package writes the map.
        source: the text, in a private directory; the files it names must be in their places.
        entries: what the map must hold.
        map_types: the types to try, in this order.

    Returns:
        The type, and the file that the server will read: the compiled map, or for texthash the source itself.

    Raises:
        HostError: it cannot be compiled, or does not hold the entries.
    """
    failures = []
    for map_type in map_types:
        table = PostfixMap(map_type, source)
        try:
            compiled = _postmap(postfix, table) if postfix.installed else _write_berkeley_db(table, entries)
        except _UnsupportedTypeError as error:
            failures.append(f"{map_type}: {error}")
            continue
        verify_map(postfix, table, compiled, entries)
        return map_type, compiled
    raise HostError(
        f"postmap: no map type works here: {'; '.join(failures)}",
        hint="[postfix] map_type in the configuration says which one to use; `postconf -m` lists them",
    )


class _UnsupportedTypeError(Exception):
    """The Postfix of this host cannot make tables of a type."""


def _postmap(postfix: Installation, table: PostfixMap) -> Path:
    if table.map_type == "texthash":
        return table.source
    done = postfix.run("postmap", "-F", postfix.name_of(table), timeout=_TIMEOUT)
    if done.returncode != 0 and re.search(r"unsupported (dictionary|map) type|is not available", done.stderr):
        raise _UnsupportedTypeError(done.complaint)
    messages = messages_of(done)
    if done.returncode != 0 or messages:
        what = "\n".join(messages) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {table}: {what}")
    file = table.existing_file(redirected=True)
    if file is None:
        raise HostError(f"postmap: {table}: no map was written, and nothing was said about it")
    files.set_mode(file, files.PRIVATE)
    return file


def _write_berkeley_db(table: PostfixMap, entries: Iterable[MapEntry]) -> Path:
    if table.map_type not in ("hash", "btree"):
        raise HostError(f"{table}: only Postfix itself can make this type, and it is not installed")
    try:
        from berkeleydb import db
    except ImportError:
        raise HostError(
            f"{table}: cannot be made: neither Postfix nor the berkeleydb package is installed",
            hint="pip install 'mailsni[berkeleydb]' (it needs the headers of Berkeley DB: libdb-dev on Debian)",
        ) from None
    files.create(table.file, b"")
    try:
        with closing(db.DB()) as database:
            kind = db.DB_HASH if table.map_type == "hash" else db.DB_BTREE
            database.open(str(table.file), None, kind, db.DB_CREATE | db.DB_TRUNCATE, files.PRIVATE)
            for entry in entries:
                # `postmap -F` stores the files with a newline between them, as base64 (measured).
                content = b"\n".join(files.read_private(pin) or b"" for pin in entry.pins)
                database.put(entry.key.encode() + b"\0", base64.b64encode(content) + b"\0")
    except db.DBError as error:
        raise HostError(f"{table}: cannot be written: {error}") from None
    return table.file


def empty_map(postfix: Installation, directory: Path, map_type: str) -> Path:
    """A map without entries, to go back to when there was none before: a missing one cuts off clients that send SNI."""
    source = directory / "empty"
    files.create(source, b"# no names\n")
    if map_type == "texthash":
        return source
    return compile_map(postfix, source, (), (map_type,))[1]
