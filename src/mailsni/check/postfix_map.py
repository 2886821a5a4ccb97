"""Checks the compiled map of Postfix: is it there, of the right type, and does each entry hold what is deployed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mailsni.check.files import check_published, is_absent
from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result, Unreadable
from mailsni.core.names import RefusedNameError
from mailsni.core.text import summarize_names
from mailsni.core.x509 import parse_leaf
from mailsni.errors import MailsniError
from mailsni.host import file_identity, files
from mailsni.targets.postfix import map_read
from mailsni.targets.postfix.map_read import Difference, Discrepancy, MapEntry
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.rendering import postfix_key
from mailsni.targets.postfix.target import Postfix

_CUT_OFF = "clients that send a name are cut off"
_EFFECTS = {
    Difference.UNUSABLE: (Code.MAP_ENTRY_UNUSABLE, "holds no key and chain for {names}: their handshakes are aborted"),
    Difference.OTHER: (Code.MAP_STALE, "holds another certificate than the deployed one for {names}"),
    Difference.MISSING: (Code.MAP_NAMES_MISSING, "lacks {names}: they get the default certificate"),
    Difference.ADDITIONAL: (Code.MAP_NAMES_UNKNOWN, "has entries that nobody deployed: {names}"),
}
"""The finding for the entries of the map that differ in the same way."""
_WITHOUT_KEYS = (Code.MAP_WITHOUT_KEYS, "was compiled without `postmap -F`: the handshakes of {names} are aborted")
"""The finding where no entry at all holds a key and a chain."""


def check_map(context: CheckContext) -> Iterator[Result]:
    """The map and everything around it."""
    server = context.host.postfix
    if server is None:
        return
    source = server.path
    yield from check_published(server.artifacts, files.PRIVATE, context.owner)
    references = server.installation.sni_tables() if server.installed else ()
    for table in (reference.map for reference in references):
        if table is not None and table.source != source and is_absent(table.file) and not table.other_files:
            yield _missing(table, server.settings.main_cf)
    named = {table: use.place for table, use in server.uses.tables().items()}
    if not server.is_configured and not context.nothing_deployed:
        memory = context.deployment.memories.get(server.name, {})
        map_type = server.recorded_map_type(memory) or server.types.maps[0][0]
        named.setdefault(PostfixMap(map_type, source), str(server.settings.main_cf))
        if server.installed:
            reason = server.not_configured_reason(memory) or "postfix: not configured"
            yield Finding(Level.CRITICAL, Code.NOT_CONFIGURED, reason)
    for table, place in named.items():
        yield from _check_table(context, server, table, place)


def _check_table(context: CheckContext, server: Postfix, table: PostfixMap, place: str) -> Iterator[Result]:
    file = _file_of(table, server)
    if file is None:
        yield _missing(table, place)
    elif not os.access(file, os.R_OK):
        yield Unreadable("the entries of the map")
    else:
        yield from _check_file(context, server, table, file, place)


def _check_file(context: CheckContext, server: Postfix, table: PostfixMap, file: Path, place: str) -> Iterator[Result]:
    if not file.is_file():
        yield Finding(Level.CRITICAL, Code.MAP_UNREADABLE, f"postfix: {file} is no regular file: {_CUT_OFF}")
        return
    if not context.nothing_deployed and file_identity.of_file(table.source) is None:
        text = f"postfix: {table.source} is gone, or is no regular file"
        yield Finding(Level.CRITICAL, Code.MAP_SOURCE_MISSING, text)
    map_type = map_read.type_of(file)
    if map_type is not None and file == table.file and map_type != table.map_type:
        text = f"postfix: {file} is of type {map_type}, and {place} says {table}: {_CUT_OFF}"
        yield Finding(Level.CRITICAL, Code.MAP_WRONG_TYPE, text)
        return
    # Reading the entries opens a texthash anyway, and slowly while it is new (Postfix waits for the next second).
    if server.installed and table.map_type != "texthash":
        error = map_read.open_error(server.installation, table)
        if error is not None:
            text = f"postfix: {table} cannot be opened, so {_CUT_OFF}: {error}"
            yield Finding(Level.CRITICAL, Code.MAP_UNREADABLE, text)
            return
    yield from _check_entries(context, server, table, file)


def _check_entries(context: CheckContext, server: Postfix, table: PostfixMap, file: Path) -> Iterator[Result]:
    if context.names is None:
        return
    differing: dict[Difference, list[str]] = defaultdict(list)
    entries = _expected_entries(context, table)
    try:
        for entry in map_read.discrepancies(server.installation, table, file, entries):
            if _is_expected_during_publish(context, entry):
                continue
            name = f"*{entry.key}" if entry.key.startswith(".") else entry.key
            differing[entry.difference].append(name)
            leaf = parse_leaf(entry.leaf) if entry.leaf is not None else None
            if leaf is not None:
                yield context.thresholds.expiry(name, leaf.not_before, leaf.not_after)
    except MailsniError as problem:
        yield Finding(Level.CRITICAL, Code.MAP_UNREADABLE, f"postfix: {problem.message}")
    lacking = (*differing.get(Difference.MISSING, ()), *differing.get(Difference.UNUSABLE, ()))
    without_keys = len(lacking) >= len(context.names)
    for difference, unsorted_names in differing.items():
        names = tuple(sorted(unsorted_names))
        code, text = _EFFECTS[difference]
        if difference is Difference.UNUSABLE and without_keys:
            code, text = _WITHOUT_KEYS
        yield Finding(Level.CRITICAL, code, f"postfix: {file} {text.format(names=summarize_names(names))}", names)


def _expected_entries(context: CheckContext, table: PostfixMap) -> Iterator[MapEntry]:
    """What the map should hold. The files behind an entry matter only where the map itself names them."""
    for name, idents in (context.names or {}).items():
        try:
            key = postfix_key(name)
        except RefusedNameError:
            continue  # of a record that somebody damaged
        paths = (context.pin_directory / f"{ident}.pem" for ident in idents if table.map_type == "texthash")
        yield MapEntry(key, tuple(paths), tuple(ident.partition("-")[2] for ident in idents))


def _is_expected_during_publish(context: CheckContext, entry: Discrepancy) -> bool:
    """Whether an entry is as it may be while a run publishes, or after a run was cut off: the old or the new one."""
    if not context.publish_in_progress:
        return False
    if entry.difference in (Difference.MISSING, Difference.ADDITIONAL):
        return True
    known = {ident.partition("-")[2] for ident in context.deployment.certificates}
    recognized = not entry.digests or any(digest[:16] in known for digest in entry.digests)
    return entry.difference is Difference.OTHER and recognized


def _file_of(table: PostfixMap, server: Postfix) -> Path | None:
    """What the server opens for a table; None when there is nothing."""
    if not is_absent(table.file):
        return table.file
    return table.existing_file(redirected=server.redirected)


def _missing(table: PostfixMap, place: Path | str) -> Finding:
    others = table.other_files
    there = f" (there is {others[0].name}, of another type)" if others else ""
    text = f"postfix: {place} names {table}, and there is no {table.file}{there}: {_CUT_OFF}"
    return Finding(Level.CRITICAL, Code.MAP_MISSING, text)
