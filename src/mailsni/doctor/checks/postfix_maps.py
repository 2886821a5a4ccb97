"""Checks one table of ``tls_server_sni_maps``: whether it exists, what it holds, how old it is, who can read it.

What each mistake does was measured with Postfix 3.7 and 3.10: the facts are those of mailsni's own map too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailsni.core.text import printable_name, summarize, summarize_names
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding
from mailsni.doctor.helpers import (
    KEYS_EXPOSED,
    Checks,
    chmod,
    grouped,
    quoted,
    run_each,
    world_readable,
    writable_by_others,
)
from mailsni.doctor.pairs import Fault, renewal
from mailsni.doctor.postfix_facts import TableFacts, archive_finding, command, then_reload
from mailsni.host import permissions, trust
from mailsni.targets.postfix import map_source
from mailsni.targets.postfix.map_source import Mistake, SourceLine
from mailsni.targets.postfix.map_types import TableReference, map_files
from mailsni.targets.postfix.postconf import SNI_MAPS

_LEFTOVERS = {
    "vmail_ssl.map": "CyberPanel and aaPanel write it",
    "sni_map": "Virtualmin writes it",
    "sni": "YunoHost and a HowtoForge tutorial write it",
    "sni.map": "mailcow writes it",
    "sni_maps": "Hermes SEG writes it",
    "sni_cert_map": "scripts for docker-mailserver write it",
}
"""Sources of tables (measured, or read in the code of those programs)."""
_TABLE_UNUSABLE = "smtpd cannot use the table at all: every client that sends a name (SNI) is cut off"
_MAKEABLE = ("lmdb", "cdb", "hash", "btree")
_SLACK = 2.0
"""Seconds between a table and what it was made of that say nothing: file systems and copies round times."""
_MISTAKES = {
    Mistake.CERTIFICATE_FIRST: ("map_certificate_first", "name the key first: {right}"),
    Mistake.KEY_MISSING: ("map_key_missing", "name the key, before the certificate: {right}"),
    Mistake.NO_CONTENT: ("map_without_keys", "name files with a key and its chain in them: {right}"),
    Mistake.EMPTY: ("map_empty_value", "name files with a key and a certificate in them"),
}
"""The code for each mistake of an entry, and what to edit; ``{right}`` is the line as it should be."""
_FAULTS = {
    Fault.UNUSABLE: ("map_certificate_unusable", "name a certificate and its own key, which has no password"),
    Fault.EXPIRED: ("map_expired", "{renewal}"),
    Fault.NOT_YET_VALID: ("map_certificate_not_yet_valid", "name a certificate that is valid"),
    Fault.EXPIRES: ("map_certificate_expires", "{renewal}"),
    Fault.LEAF_ALONE: ("map_chain_incomplete", "name the file with the whole chain (certbot: fullchain.pem)"),
    Fault.OTHER_NAMES: ("map_certificate_name_mismatch", "name the certificate of that name, or remove the entry"),
}
"""The code for each fault of a key and its chain, and what to edit; ``{renewal}`` says who renews the file."""


def findings(table: TableFacts) -> Iterator[Finding]:
    """Everything that is wrong with a table."""
    yield from run_each([(f"{about} the table {table.reference.written}", check) for about, check in _CHECKS], table)


def _check_type(table: TableFacts) -> Iterator[Finding]:
    written, configuration = table.reference.written, table.configuration
    default = configuration.value("default_database_type")
    if not table.reference.map_type:
        fix = Fix(edit=f"write its type before it: {default}:{written}")
        yield finding("map_type_missing", f"{written}: a table without a type", table.where, fix)
    elif table.reference.map_type not in configuration.types:
        known = [map_type for map_type in _MAKEABLE if map_type in configuration.types]
        map_type = default if default in known else next(iter(known), "texthash")
        has = f"it has {', '.join(known) or 'none'}"
        what = f"{written}: this Postfix has no tables of type {table.reference.map_type} ({has})"
        yield finding("map_type_unsupported", what, table.where, _change_type(table, map_type))


def _change_type(table: TableFacts, map_type: str) -> Fix:
    configuration, replacement = table.configuration, f"{map_type}:{table.reference.source}"
    others = _other_tables(table)
    value = ", ".join([*others, replacement] if table.own else [replacement, *others])
    name_it = command(configuration, "postconf", "-e", f"{SNI_MAPS}={value}")
    compile_it = table.rebuild if table.own else command(configuration, "postmap", "-F", replacement)
    packaged = table.reference.map_type in ("lmdb", "cdb")
    return Fix(
        then_reload(configuration, f"{name_it} && {compile_it}"),
        note=f"or install the package postfix-{table.reference.map_type}" if packaged else None,
    )


def _other_tables(table: TableFacts) -> list[str]:
    """The tables that main.cf names beside this one."""
    return [other.written for other in table.configuration.tables if other != table.reference]


def _check_exists(table: TableFacts) -> Iterator[Finding]:
    expected = table.reference.map
    if expected is None or table.file is not None or expected.map_type not in table.configuration.types:
        return
    rest = f"{SNI_MAPS}={', '.join(_other_tables(table))}"
    remove_it = then_reload(table.configuration, command(table.configuration, "postconf", "-e", rest))
    what = f"{table.reference.written}: {expected.file} does not exist"
    rebuild = table.own or expected.source.is_file()
    yield finding("map_missing", what, table.where, Fix(table.rebuild if rebuild else remove_it))


def _check_proxied(table: TableFacts) -> Iterator[Finding]:
    if table.reference.proxied and table.reference.map_type in table.configuration.types:
        written = table.reference.written
        edit = f"write {written.removeprefix('proxy:')} instead of {written}"
        fix = Fix(edit=edit, note="smtpd opens the table as root, before it drops that privilege")
        yield finding("map_proxied", f"{written}: asked through proxymap(8)", table.where, fix)


def _check_wildcards(table: TableFacts) -> Iterator[Finding]:
    literal = [line for line in table.source if line.key.startswith("*.")]
    if literal:
        key = printable_name(literal[0].key)
        fix = Fix(table.rebuild, edit=f"write {key[1:]} instead of {key}")
        what = f"{_keys(literal)}: a key that Postfix never looks up"
        yield finding("map_literal_wildcard", what, table.place(literal[0].number), fix)


def _check_duplicates(table: TableFacts) -> Iterator[Finding]:
    if table.reference.map is None:
        return
    first = {line.key: line for line in reversed(table.source)}
    repeated = [line for line in table.source if first[line.key] != line]
    if repeated:
        texthash = table.reference.map_type == "texthash"
        severity = Severity.ERROR if texthash else None
        why = _TABLE_UNUSABLE if texthash else None
        what, place = f"{_keys(repeated)}: in the source more than once", table.place(repeated[0].number)
        fix = Fix(table.rebuild, edit="remove the line")
        yield finding("map_duplicate_key", what, place, fix, severity=severity, why=why)


def _check_named_files(table: TableFacts) -> Iterator[Finding]:
    problems = ((line, map_source.file_problem(line, table.labels)) for line in table.source)
    missing = [(line, why) for line, why in problems if why is not None]
    if os.geteuid() != 0:  # this user cannot tell a file that postmap cannot read
        gone = {path for path, labels in table.labels.items() if labels == map_source.NO_SUCH_FILE}
        missing = [(line, why) for line, why in missing if gone.intersection(line.files)]
    if missing:
        line, problem = missing[0]
        what = f"{_keys([line for line, _ in missing])}: {problem}"
        fix = Fix(table.rebuild, edit="name files that exist, or remove the entry")
        inline = table.reference.map is None
        severity, why = (Severity.ERROR, _TABLE_UNUSABLE) if inline else (None, None)
        yield finding("map_file_missing", what, table.place(line.number), fix, severity=severity, why=why)


def _check_source_content(table: TableFacts) -> Iterator[Finding]:
    mistakes = {line: map_source.file_mistake(line.files, table.labels) for line in table.source}
    for mistake in (Mistake.CERTIFICATE_FIRST, Mistake.KEY_MISSING, Mistake.NO_CONTENT):
        lines = sorted((line for line in mistakes if mistakes[line] is mistake), key=lambda line: line.key)
        if lines:
            yield _mistaken(table, mistake, [line.key for line in lines], table.place(lines[0].number))


def _check_usable(table: TableFacts) -> Iterator[Finding]:
    if table.open_error is not None and table.file is not None:
        written = table.reference.written
        fix = Fix(edit=f"remove {written} from {SNI_MAPS} ({table.where})")
        if table.source or table.own:
            fix = Fix(table.rebuild)
        if (made := _made_instead(table)) is not None:
            fix = Fix(edit=f"write {made.written} instead of {written} ({table.where}): they are the same file")
        yield finding("map_unusable", f"{written}: {table.open_error}", table.file, fix)


def _made_instead(table: TableFacts) -> TableReference | None:
    """The table of mailsni's that is made at the same path: ``hash:`` and ``btree:`` have the same file."""
    file = table.reference.map.file if table.own and table.reference.map is not None else None
    named = table.configuration.named_tables() if file is not None else ()
    same = [reference for reference in named if reference.map is not None and reference.map.file == file]
    return same[0] if same and same[0].map != table.reference.map else None


def _check_stored_content(table: TableFacts) -> Iterator[Finding]:
    empty = {line.key for line in table.source if map_source.file_mistake(line.files, table.labels) is not None}
    for mistake in Mistake:
        keys = sorted(key for key, entry in table.stored.items() if entry.mistake is mistake)
        if mistake is Mistake.NO_CONTENT and (keys := [key for key in keys if key not in empty]):
            what = f"{summarize_names(keys)}: the entry {mistake.value}"
            fix = Fix(table.rebuild, note="-F stores what the files hold")
            yield finding("map_compiled_without_f", what, str(table.file), fix)
        elif keys:
            yield _mistaken(table, mistake, keys, table.place_of(keys[0], str(table.file)))


def _mistaken(table: TableFacts, mistake: Mistake, keys: Sequence[str], where: str) -> Finding:
    code, edit = _MISTAKES[mistake]
    edit = edit.format(right=f"{printable_name(keys[0])} KEY,CHAIN")
    what = f"{summarize_names(keys)}: the entry {mistake.value}"
    return finding(code, what, where, Fix(table.rebuild, edit=edit))


def _check_pairs(table: TableFacts) -> Iterator[Finding]:
    faults = [(fault, key) for key, entry in sorted(table.stored.items()) for fault in entry.faults]
    for same in grouped(faults, lambda each: (each[0].fault, each[0].text)):
        fault, first = same[0]
        code, edit = _FAULTS[fault.fault]
        keys = dict.fromkeys(key for _, key in same)
        place = table.place_of(first, str(table.file or table.where))
        named = [line.files[-1] for line in table.source if line.key == first and line.files]
        due = renewal(table.sources, named[0]) if named else "renew the certificate, and name it in the source"
        fix = Fix(table.rebuild, edit=edit.format(renewal=due))
        yield finding(code, f"{summarize_names(keys)}: {fault.text}", place, fix, severity=fault.severity)


def _check_archive(table: TableFacts) -> Iterator[Finding]:
    for line in table.source:
        yield from archive_finding(
            line.files, line.key, table.place(line.number), table.reference.source, table.rebuild
        )


def _check_age(table: TableFacts) -> Iterator[Finding]:
    file, source = table.file, table.reference.source
    if file is None or source is None or file == source or table.own:
        return
    compiled = file.stat().st_mtime
    if source.is_file() and source.stat().st_mtime > compiled + _SLACK:
        yield finding("map_older_than_source", f"{file} is older than its source {source}", source, Fix(table.rebuild))
    changes = map_source.newest_changes(table.source)
    late = [line for line, time in changes.items() if time > compiled + _SLACK]
    if late:
        what = f"{_keys(late)}: renewed after {file} was compiled"
        fix = Fix(table.rebuild, note="mailsni does this by itself for the names in its own map")
        yield finding("map_older_than_certificates", what, table.place(late[0].number), fix)


def _check_readers(table: TableFacts) -> Iterator[Finding]:
    source, file = table.reference.source, table.file
    if source is None or file is None or file == source:
        return
    paths = _files(table)
    if mode := permissions.world_readable(file):
        what = f"{file} can be read by every user of this host ({mode})"
        why = f"it holds the private key of every name in it: `postmap -F -s {table.reference.map}` prints them all"
        yield finding("map_world_readable", what, file, chmod("600", paths, KEYS_EXPOSED), why=why)
    elif permissions.world_readable(source):
        what = f"{source} can be read by others"
        yield finding("map_source_world_readable", what, source, chmod("600", paths))


def _check_writers(table: TableFacts) -> Iterator[Finding]:
    if table.reference.map is None:
        return
    source, paths = table.reference.map.source, _files(table)
    for path in paths:
        status = path.stat()
        if trust.others_can_write(status):
            what = f"{path} can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})"
            yield finding("map_writable", what, path, chmod("600", paths))
        if status.st_uid not in (0, os.geteuid()):
            what, fix = f"{path} belongs to user {status.st_uid}", Fix(quoted("chown", "root", *paths))
            severity = Severity.ERROR if path == source else None
            yield finding("map_wrong_owner", what, path, fix, severity=severity)
    yield from writable_by_others("map_writable", [source.parent])


def _files(table: TableFacts) -> list[Path]:
    """The source and the compiled file, as far as they exist."""
    paths = dict.fromkeys((table.reference.source, table.file))
    return [path for path in paths if path is not None and path.exists()]


def _keys(lines: Sequence[SourceLine]) -> str:
    return summarize_names(line.key for line in lines)


def leftovers(facts: Facts) -> Iterator[Finding]:
    """Check for tables that panels and tutorials are known to make, and that no parameter names."""
    if facts.postfix_configuration is None:
        return
    own = facts.host.settings.postfix
    for name, author in _LEFTOVERS.items():
        source = own.config_directory / name
        if str(source) in facts.postfix_tables or source == own.map:
            continue
        paths = [path for path in (source, *map_files(source)) if path.is_file()]
        exposed = world_readable(path for path in paths if path != source)
        if paths:
            what = f"{summarize([str(path) for path in paths])}: {author}, and {SNI_MAPS} does not name it"
            what += f"; every user of this host can read it ({exposed[0][1]})" if exposed else ""
            fix = Fix(quoted("rm", *paths), edit="switch SNI off where it comes from")
            severity = Severity.ERROR if exposed else None
            yield finding("leftover_map", what, paths[0], fix, severity=severity)


_CHECKS: Checks[TableFacts] = (
    ("the type of", _check_type),
    ("the existence of", _check_exists),
    ("the way to", _check_proxied),
    ("wildcards in", _check_wildcards),
    ("duplicates in", _check_duplicates),
    ("the files named in", _check_named_files),
    ("the source of", _check_source_content),
    ("the format of", _check_usable),
    ("the content of", _check_stored_content),
    ("the certificates in", _check_pairs),
    ("paths into certbot's archive in", _check_archive),
    ("the age of", _check_age),
    ("the readers of", _check_readers),
    ("the writers of", _check_writers),
)
