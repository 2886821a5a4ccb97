"""Checks one table of ``tls_server_sni_maps``: whether it exists, what it holds, how old it is, who can read it.

What each mistake does was measured with Postfix 3.7 and 3.10: the facts are those of mailsni's own map too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mailsni.core.text import printable_name, summarize, summarize_names
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding
from mailsni.doctor.helpers import (
    KEYS_EXPOSED,
    PEM_LIMIT,
    Checks,
    attempt,
    chmod,
    grouped,
    quoted,
    run_each,
    world_readable,
    writable_by_others,
)
from mailsni.doctor.pairs import ARCHIVED, Fault, PairFault, judge, live_path, live_script
from mailsni.errors import HostError
from mailsni.host import files, permissions, trust
from mailsni.targets.postfix import map_read, map_source
from mailsni.targets.postfix.authorities import authorities
from mailsni.targets.postfix.map_source import Mistake, PemLabels, SourceLine
from mailsni.targets.postfix.map_types import PostfixMap, TableReference, map_files
from mailsni.targets.postfix.postconf import SNI_MAPS, Configuration, Installation, redirects_berkeley_db

LIVE = "/etc/letsencrypt/live/NAME"
"""A lineage, for people to put theirs in."""
_LEFTOVERS = {
    "vmail_ssl.map": "CyberPanel and aaPanel write it",
    "sni_map": "Virtualmin writes it",
    "sni": "YunoHost and a HowtoForge tutorial write it",
    "sni.map": "mailcow writes it",
    "sni_maps": "Hermes SEG writes it",
    "sni_cert_map": "scripts for docker-mailserver write it",
}
"""Sources of tables (measured, or read in the code of those programs)."""
_READ_AT_START = ("texthash", "inline")
"""Types of tables that are not compiled: Postfix reads the files that their entries name."""
_TABLE_UNUSABLE = "smtpd cannot use the table at all: every client that sends a name (SNI) is cut off"
_MAKEABLE = ("lmdb", "cdb", "hash", "btree")
_SLACK = 2.0
"""Seconds between a table and what it was made of that say nothing: file systems and copies round times."""
_MISTAKES = {
    Mistake.CERTIFICATE_FIRST: ("map_certificate_first", "name the key first: {right}"),
    Mistake.KEY_MISSING: ("map_key_missing", "name the key, before the certificate: {right}"),
    Mistake.NO_CONTENT: ("map_without_keys", None),
    Mistake.EMPTY: ("map_empty_value", "name files with a key and a certificate in them"),
}
"""The code for each mistake of an entry, and what to edit; ``{right}`` is the line as it should be."""
_FAULTS = {
    Fault.UNUSABLE: ("map_certificate_unusable", "name a certificate and its own key, which has no password"),
    Fault.EXPIRED: ("map_expired", "renew the certificate (certbot renew)"),
    Fault.NOT_YET_VALID: ("map_certificate_not_yet_valid", "name a certificate that is valid"),
    Fault.EXPIRES: ("map_certificate_expires", "renew the certificate (certbot renew)"),
    Fault.LEAF_ALONE: ("map_chain_incomplete", "name the file with the whole chain (certbot: fullchain.pem)"),
    Fault.OTHER_NAMES: ("map_certificate_name_mismatch", "name the certificate of that name, or remove the line"),
}
"""The code for each fault of a key and its chain, and what to edit."""
_FindFaults = Callable[[str, bytes], tuple[PairFault, ...]]
"""Judges what Postfix takes for a key."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """What is wrong with what Postfix takes for a key."""

    mistake: Mistake | None
    faults: tuple[PairFault, ...] = ()


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table that Postfix asks for names, and what is in it."""

    reference: TableReference
    where: str
    """The line that names it."""
    configuration: Configuration
    own: bool
    """Whether it is mailsni's."""
    file: Path | None = None
    """The file that Postfix opens; None when there is none."""
    source: tuple[SourceLine, ...] = ()
    """Empty when mailsni rendered it just so: then there is nothing to check in it."""
    labels: Mapping[Path, PemLabels | str] = field(default_factory=dict)
    """Of the files that the source names."""
    stored: Mapping[str, StoredEntry] = field(default_factory=dict)
    """What Postfix takes for each key: what is compiled, or what the files hold that it reads itself."""
    open_error: str | None = None
    """Why Postfix cannot use the file."""

    @property
    def keys(self) -> set[str]:
        """What it has entries for, as far as that is known."""
        return {*self.stored, *(line.key for line in self.source)}

    @property
    def rebuild(self) -> str:
        """The command that compiles it again and makes Postfix read it."""
        if self.own:
            return "mailsni apply --force"
        if self.reference.map_type in _READ_AT_START:
            return command(self.configuration, "postfix", "reload")
        return then_reload(self.configuration, command(self.configuration, "postmap", "-F", str(self.reference.map)))

    def place_of(self, key: str, otherwise: str) -> str:
        """The line of its source with a key."""
        return next((self.place(line.number) for line in self.source if line.key == key), otherwise)

    def place(self, number: int) -> str:
        """A line of its source; where it is named, when it has none."""
        return f"{self.reference.source}:{number}" if number else self.where


def command(configuration: Configuration, program: str, *words: str | Path) -> str:
    """A command line for this Postfix, whether it is the host's own or another instance."""
    directory = configuration.directory
    own = ("-c", directory) if directory != Path("/etc/postfix") else ()
    return quoted(program, *own, *words)


def then_reload(configuration: Configuration, first: str) -> str:
    """A command line, and after it a reload of Postfix."""
    return f"{first} && {command(configuration, 'postfix', 'reload')}"


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_table(
    reference: TableReference, where: str, host: HostFacts, configuration: Configuration
) -> tuple[TableFacts, list[Finding]]:
    """Read a table, its source and the files that it names; also gives a finding for each that cannot be read."""
    problems: list[Finding] = []
    own = reference.source == host.settings.postfix.map
    about, read_source = f"the source of the table {reference.written}", partial(_read_source, reference, host, own=own)
    lines, labels = attempt(problems, about, read_source) or ((), None)
    facts = TableFacts(reference, where, configuration, own, None, () if labels is None else lines, labels or {})
    find_faults = partial(_faults, now=host.now, issuers=authorities(configuration), own=own)
    if reference.map_type in _READ_AT_START:
        facts = replace(facts, stored=_read_named(facts, find_faults))
    table = reference.map
    if table is None:
        return facts, problems
    facts = replace(facts, file=table.existing_file(redirected=redirects_berkeley_db(configuration.values)))
    if facts.file is not None and table.map_type != "texthash" and table.map_type in configuration.types:
        installation = Installation(configuration.directory)
        read_stored = partial(_read_stored, table, facts.file, lines, installation, find_faults)
        about = f"the content of the table {reference.written}"
        if (content := attempt(problems, about, read_stored)) is not None:
            facts = replace(facts, stored=content[0], open_error=content[1])
    return facts, problems


def _read_source(
    reference: TableReference, host: HostFacts, *, own: bool
) -> tuple[tuple[SourceLine, ...], Mapping[Path, PemLabels | str] | None]:
    """The entries, and the labels of the files that they name: None when mailsni rendered the source just so."""
    if reference.map is not None:
        lines = tuple(map_source.source_lines(files.read_text(reference.map.source) or ""))
    else:
        lines = tuple(map_source.inline_lines(reference.written)) if reference.map_type == "inline" else ()
    rendered = host.snapshot.texts.get("postfix") if own and host.snapshot is not None else None
    if rendered is not None and reference.source is not None and files.read_private(reference.source) == rendered:
        return lines, None
    return lines, map_source.read_labels(path for line in lines for path in line.files)


def _read_named(table: TableFacts, find_faults: _FindFaults) -> dict[str, StoredEntry]:
    """The entries of a table for which Postfix reads the named files itself, as far as they are of the right form."""
    stored = {}
    for line in table.source:
        unusable = map_source.file_problem(line, table.labels) or map_source.file_mistake(line.files, table.labels)
        if unusable is None:
            content = b"\n".join(files.read_untrusted(path, PEM_LIMIT) or b"" for path in line.files)
            stored[line.key] = StoredEntry(None, find_faults(line.key, content))
    return stored


def _read_stored(
    table: PostfixMap, file: Path, source: Sequence[SourceLine], postfix: Installation, find_faults: _FindFaults
) -> tuple[dict[str, StoredEntry], str | None]:
    """What is stored for each key, and why Postfix cannot use the file at all."""
    if not os.access(file, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    stored: dict[str, StoredEntry] = {}
    problem = map_read.open_error(postfix, table)
    if problem is not None:
        return stored, problem
    keys = [line.key.encode("utf-8", "surrogateescape") for line in source]
    try:
        for raw_key, value in map_read.records(postfix, table, file, keys):
            key, content = raw_key.decode("ascii", "replace").lower(), value.strip()
            mistake = map_source.stored_mistake(content)
            faults = find_faults(key, map_read.decoded(content)) if mistake is None else ()
            stored[key] = StoredEntry(mistake, faults)
    except HostError as error:
        return {}, error.message
    return stored, None


def _faults(key: str, content: bytes, *, now: datetime, issuers: bytes, own: bool) -> tuple[PairFault, ...]:
    """What is wrong with the pairs of an entry. Of mailsni's own map other checks tell all but that they expired."""
    names = [f"*{key}" if key.startswith(".") else key]
    pairs = map_source.stored_pairs(content)
    faults = [fault for pair in pairs for fault in judge(pair, pair, names, now, issuers=issuers)]
    return tuple(fault for fault in faults if fault.fault is Fault.EXPIRED or not own)


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        fix = Fix(table.rebuild, edit="name files that exist, or remove the line")
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
    for mistake in Mistake:
        keys = sorted(key for key, entry in table.stored.items() if entry.mistake is mistake)
        if keys and mistake is Mistake.NO_CONTENT:
            yield replace(_mistaken(table, mistake, keys, str(table.file)), code="map_compiled_without_f")
        elif keys:
            yield _mistaken(table, mistake, keys, table.place_of(keys[0], str(table.file)))


def _mistaken(table: TableFacts, mistake: Mistake, keys: Sequence[str], where: str) -> Finding:
    code, edit = _MISTAKES[mistake]
    if edit is not None:
        edit = edit.format(right=f"{printable_name(keys[0])} {LIVE}/privkey.pem,{LIVE}/fullchain.pem")
    note = "-F stores what the files hold" if mistake is Mistake.NO_CONTENT else None
    what = f"{summarize_names(keys)}: the entry {mistake.value}"
    return finding(code, what, where, Fix(table.rebuild, edit=edit, note=note))


def _check_pairs(table: TableFacts) -> Iterator[Finding]:
    faults = [(fault, key) for key, entry in sorted(table.stored.items()) for fault in entry.faults]
    for same in grouped(faults, lambda each: (each[0].fault, each[0].text)):
        fault, first = same[0]
        code, edit = _FAULTS[fault.fault]
        keys = dict.fromkeys(key for _, key in same)
        place = table.place_of(first, str(table.file or table.where))
        fix = Fix(table.rebuild, edit=edit)
        yield finding(code, f"{summarize_names(keys)}: {fault.text}", place, fix, severity=fault.severity)


def _check_archive(table: TableFacts) -> Iterator[Finding]:
    for line in table.source:
        yield from archive_finding(
            line.files, line.key, table.place(line.number), table.reference.source, table.rebuild
        )


def archive_finding(paths: Iterable[Path], title: str, where: str, file: Path | None, then: str) -> Iterator[Finding]:
    """The finding that something names files of certbot's archive.

    Args:
        paths: what it names.
        title: what it is.
        where: the line that names them.
        file: the one to change by command; None where a person must.
        then: the command after that.
    """
    archived = [match for path in paths if (match := ARCHIVED.fullmatch(str(path)))]
    if archived:
        edit = "name the files of live/ in place of those of archive/"
        script = "; ".join(dict.fromkeys(f"{live_script(match)}g" for match in archived))
        by_command = file is not None and all(live_path(match).exists() for match in archived)
        fix = Fix(f"{quoted('sed', '-i', script, str(file))} && {then}") if by_command else Fix(then, edit=edit)
        what = f"{printable_name(title)}: {archived[0][0]} is a file of certbot's archive"
        yield finding("postfix_archive_path", what, where, fix)


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
    yield from writable_by_others("map_writable", source.parent)


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
