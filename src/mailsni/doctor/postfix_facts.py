"""What the checks of Postfix's tables judge, and the fixes that several checks of Postfix use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mailsni.config.settings import PostfixSettings
from mailsni.core.text import printable_name
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.finding import Finding, Fix, finding
from mailsni.doctor.helpers import PEM_LIMIT, attempt, quoted
from mailsni.doctor.pairs import ARCHIVED, Fault, PairFault, judge, live_path, live_script
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.sources.kinds import SourceSettings
from mailsni.targets.postfix import map_read, map_source
from mailsni.targets.postfix.authorities import authorities
from mailsni.targets.postfix.map_source import Mistake, PemLabels, SourceLine
from mailsni.targets.postfix.map_types import PostfixMap, TableReference
from mailsni.targets.postfix.postconf import Configuration, Installation, redirects_berkeley_db

READ_AT_START = ("texthash", "inline")
"""Types of tables that are not compiled: Postfix reads the files that their entries name."""
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
    sources: tuple[SourceSettings, ...] = ()
    """The stores, whose clients renew files that it may name."""

    @property
    def keys(self) -> set[str]:
        """What it has entries for, as far as that is known."""
        return {*self.stored, *(line.key for line in self.source)}

    @property
    def rebuild(self) -> str:
        """The command that compiles it again and makes Postfix read it."""
        if self.own:
            return "mailsni apply --force"
        if self.reference.map_type in READ_AT_START:
            return command(self.configuration, "postfix", "reload")
        return then_reload(self.configuration, command(self.configuration, "postmap", "-F", str(self.reference.map)))

    def place_of(self, key: str, otherwise: str) -> str:
        """The line of its source with a key."""
        return next((self.place(line.number) for line in self.source if line.key == key), otherwise)

    def place(self, number: int) -> str:
        """A line of its source; where it is named, when it has none."""
        return f"{self.reference.source}:{number}" if number else self.where


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_table(
    reference: TableReference, where: str, host: HostFacts, configuration: Configuration
) -> tuple[TableFacts, list[Finding]]:
    """Read a table, its source and the files that it names; also gives a finding for each that cannot be read."""
    problems: list[Finding] = []
    own = reference.source == host.settings.postfix.map
    about, read_source = f"the source of the table {reference.written}", partial(_read_source, reference, host, own=own)
    lines, labels = attempt(problems, about, read_source) or ((), None)
    source, sources = () if labels is None else lines, host.settings.sources
    facts = TableFacts(reference, where, configuration, own, None, source, labels or {}, sources=sources)
    find_faults = partial(_faults, now=host.now, issuers=authorities(configuration), own=own)
    if reference.map_type in READ_AT_START:
        about = f"the files named in the table {reference.written}"
        facts = replace(facts, stored=attempt(problems, about, partial(_read_named, facts, find_faults)) or {})
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


# ── fixes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def command(configuration: Configuration, program: str, *words: str | Path) -> str:
    """A command line for this Postfix, whether it is the host's own or another instance."""
    return command_in(configuration.directory, program, *words)


def command_in(directory: Path, program: str, *words: str | Path) -> str:
    """A command line for the Postfix of a configuration directory."""
    own = ("-c", directory) if directory != PostfixSettings().config_directory else ()
    return quoted(program, *own, *words)


def then_reload(configuration: Configuration, first: str) -> str:
    """A command line, and after it a reload of Postfix."""
    return f"{first} && {command(configuration, 'postfix', 'reload')}"


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
