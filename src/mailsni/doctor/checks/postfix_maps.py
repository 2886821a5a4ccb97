"""Looks at one table of ``tls_server_sni_maps``: whether it is there, what it holds, how old it is, who can read it.

What each mistake does was measured with Postfix 3.7 and 3.10: the facts are those of mailsni's own map too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mailsni.core.text import printable_name, summarize
from mailsni.doctor import helpers
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.helpers import KEYS_EXPOSED, quoted
from mailsni.host import files
from mailsni.targets.postfix import map_source, postconf
from mailsni.targets.postfix.map_source import Mistake, SourceLine, Table
from mailsni.targets.postfix.postconf import PARAMETER, Configuration

LIVE = "/etc/letsencrypt/live/NAME"
"""A lineage, for people to put theirs in."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_SLACK = 2.0
"""Seconds between a table and what it was made of that say nothing: file systems and copies round times."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of this Postfix, to be shown."""

    directory: Path

    def __call__(self, program: str, *words: str | Path) -> str:
        """A command line that asks this Postfix, whether it is the host's own or another instance."""
        own = ("-c", self.directory) if self.directory != Path("/etc/postfix") else ()
        return quoted(program, *own, *words)


@dataclass(slots=True)
class TableLooks:
    """The looks at one table."""

    _facts: Facts
    _configuration: Configuration
    _command: Commands
    table: Table
    where: str
    _lines: tuple[SourceLine, ...] | None = None
    _keys: Mapping[str, Mistake | None] = field(default_factory=dict)

    @property
    def _ours(self) -> bool:
        return self.table.path == self._facts.settings.postfix.map

    @property
    def _existing(self) -> Path | None:
        """The file of the table, if it is there."""
        path = self.table.compiled
        if path is None or self.table.path is None or path.is_file():
            return path if path is not None and path.is_file() else None
        # A build with Berkeley DB redirected to another type writes another suffix (NON_BERKELEYDB_README).
        if self.table.kind in ("hash", "btree") and "redirect" in self._configuration.value("non_bdb_migration_level"):
            other = (self.table.path.with_name(self.table.path.name + suffix) for suffix in (".lmdb", ".cdb"))
            return next((one for one in other if one.is_file()), None)
        return None

    def keys(self) -> set[str]:
        """What it has entries for, as far as that is known."""
        return {*self._keys, *(line.key for line in self._lines or ())}

    def place_of(self, key: str) -> str:
        """The line of its source with a key, else where the table is named."""
        found = next((line.number for line in self._lines or () if line.key == key), None)
        return f"{self.table.path}:{found}" if found is not None else self.where

    def _rebuild(self) -> str:
        if self.table.kind == "texthash" and not self._ours:
            return self._command("postfix", "reload")
        if self._ours:
            return "mailsni apply --force"
        return f"{self._command('postmap', '-F', self.table.name)} && {self._command('postfix', 'reload')}"

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with the table."""
        about = f"the table {self.table.written}"
        yield from helpers.each(
            (f"whether {about} is there", self._is_there),
            (f"the source of {about}", self._source),
            (f"what is stored in {about}", self._content),
            (f"whether {about} is up to date", self._age),
            (f"who can read {about}", self._modes),
        )

    def _is_there(self) -> Iterator[Finding]:
        found, types = self.table, self._configuration.types
        cut_off = "every client that sends a name (SNI) is cut off, for every name; those that send none are served"
        if not found.kind:
            kind = self._configuration.value("default_database_type")
            fix = Fix(edit=f"write its type before it: {kind}:{found.written}")
            yield Finding(
                "map_without_type", Severity.ERROR, f"{found.written}: a table without a type", self.where, cut_off, fix
            )
            return
        if found.kind not in types:
            known = [one for one in ("lmdb", "cdb", "hash", "btree") if one in types]
            kind = self._configuration.value("default_database_type")
            kind = kind if kind in known else known[0] if known else "texthash"
            others = [one for one in postconf.tables(self._configuration.value(PARAMETER)) if one != found.written]
            value = (
                ", ".join([*others, f"{kind}:{found.path}"])
                if self._ours
                else ", ".join([f"{kind}:{found.path}", *others])
            )
            compiled = "mailsni apply --force" if self._ours else self._command("postmap", "-F", f"{kind}:{found.path}")
            yield Finding(
                "map_type_unsupported",
                Severity.ERROR,
                f"{found.written}: this Postfix has no tables of type {found.kind} (it has "
                f"{', '.join(known) or 'none'})",
                self.where,
                cut_off,
                Fix(
                    f"{self._command('postconf', '-e', f'{PARAMETER}={value}')} && {compiled}"
                    f" && {self._command('postfix', 'reload')}",
                    note=f"or install the package postfix-{found.kind}" if found.kind in ("lmdb", "cdb") else None,
                ),
            )
            return
        if found.compiled is not None and self._existing is None:
            source = found.path is not None and found.path.is_file()
            rest = [one for one in postconf.tables(self._configuration.value(PARAMETER)) if one != found.written]
            take_out = self._command("postconf", "-e", f"{PARAMETER}={', '.join(rest)}")
            yield Finding(
                "map_missing",
                Severity.ERROR,
                f"{found.written}: {found.compiled} does not exist",
                self.where,
                cut_off,
                Fix(self._rebuild() if source or self._ours else f"{take_out} && {self._command('postfix', 'reload')}"),
            )
        if found.proxied:
            yield Finding(
                "map_proxied",
                Severity.WARNING,
                f"{found.written}: asked through proxymap(8)",
                self.where,
                "proxymap runs as the user postfix, which then must be able to read every private key",
                Fix(
                    edit=f"write {found.name} instead of {found.written}",
                    note="smtpd opens the table as root, before it drops that privilege",
                ),
            )

    def _source(self) -> Iterator[Finding]:
        path = self.table.path
        if path is None or self.table.compiled is None:
            return
        self._lines = map_source.read_source(path)
        if self._lines is None or (self._ours and self._is_as_rendered()):
            return
        yield from self._wildcards(path, self._lines)
        yield from self._duplicates(path, self._lines)
        seen = map_source.Files({})
        yield from self._missing_files(path, self._lines, seen)
        for mistake in (Mistake.CERTIFICATE_FIRST, Mistake.KEY_MISSING, Mistake.NO_CONTENT):
            found = [line for line in self._lines if seen.mistake(line) is mistake]
            if found:
                found.sort(key=lambda line: line.key)
                yield self._mistaken(mistake, [line.key for line in found], f"{path}:{found[0].number}")

    def _is_as_rendered(self) -> bool:
        snapshot = self._facts.snapshot
        return (
            snapshot is not None
            and self._ours
            and files.read_private(self._facts.settings.postfix.map) == snapshot.texts.get("postfix")
        )

    def _wildcards(self, path: Path, lines: Sequence[SourceLine]) -> Iterator[Finding]:
        found = [line for line in lines if line.key.startswith("*.")]
        if found:
            key = printable_name(found[0].key)
            yield Finding(
                "map_literal_wildcard",
                Severity.WARNING,
                f"{summarize([printable_name(line.key) for line in found])}: a key that Postfix never looks up",
                f"{path}:{found[0].number}",
                "clients that ask for such a name get the default certificate",
                Fix(self._rebuild(), edit=f"write {key[1:]} instead of {key}"),
            )

    def _duplicates(self, path: Path, lines: Sequence[SourceLine]) -> Iterator[Finding]:
        known: set[str] = set()
        twice = []
        for line in lines:
            if line.key in known:
                twice.append(line)
            known.add(line.key)
        if twice:
            whole = self.table.kind == "texthash"
            yield Finding(
                "map_duplicate_key",
                Severity.ERROR if whole else Severity.WARNING,
                f"{summarize([printable_name(line.key) for line in twice])}: in the source more than once",
                f"{path}:{twice[0].number}",
                "smtpd cannot use the table at all: every client that sends a name (SNI) is cut off"
                if whole
                else "the first line wins, so this one does nothing; Dovecot takes the last of two blocks for a name",
                Fix(self._rebuild(), edit="remove the line"),
            )

    def _missing_files(self, path: Path, lines: Sequence[SourceLine], seen: map_source.Files) -> Iterator[Finding]:
        problems = ((line, seen.problem(line)) for line in lines)
        missing = [(line, why) for line, why in problems if why is not None]
        if os.geteuid() != 0:  # this user cannot tell a file that postmap cannot read
            missing = [(line, why) for line, why in missing if why.endswith("no such file")]
        if missing:
            line, why = missing[0]
            yield Finding(
                "map_file_missing",
                Severity.WARNING,
                f"{summarize([printable_name(one.key) for one, _ in missing])}: {why}",
                f"{path}:{line.number}",
                "postmap leaves such a line out and exits 0: clients that ask for the name get the default certificate",
                Fix(self._rebuild(), edit="name files that exist, or remove the line"),
            )

    def _mistaken(self, mistake: Mistake, keys: Sequence[str], where: str) -> Finding:
        right = f"{printable_name(keys[0])} {LIVE}/privkey.pem,{LIVE}/fullchain.pem"
        edits = {
            Mistake.CERTIFICATE_FIRST: f"name the key first: {right}",
            Mistake.KEY_MISSING: f"name the key, before the certificate: {right}",
            Mistake.EMPTY: "name files with a key and a certificate in them",
            Mistake.EXPIRED: "renew the certificate (certbot renew)",
        }
        note = "-F stores what the files hold" if mistake is Mistake.NO_CONTENT else None
        codes = {
            Mistake.CERTIFICATE_FIRST: "map_certificate_first",
            Mistake.KEY_MISSING: "map_key_missing",
            Mistake.NO_CONTENT: "map_without_keys",
            Mistake.EMPTY: "map_empty_value",
            Mistake.EXPIRED: "map_expired",
        }
        why = (
            "clients refuse it; without the entry they would get the default certificate"
            if mistake is Mistake.EXPIRED
            else "Postfix aborts the handshake of each client that asks for such a name: it is not given the "
            "default certificate"
        )
        return Finding(
            codes[mistake],
            Severity.ERROR,
            f"{summarize([printable_name(key) for key in keys])}: the entry {mistake.value}",
            where,
            why,
            Fix(self._rebuild(), edit=edits.get(mistake), note=note),
        )

    def _content(self) -> Iterator[Finding]:
        existing = self._existing
        if existing is None or self.table.kind in ("texthash", "") or self.table.kind not in self._configuration.types:
            return
        if not os.access(existing, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
        by_key = {line.key: line for line in self._lines or ()}
        self._keys, problem = map_source.stored(self.table, by_key, self._configuration.directory, self._facts.now)
        if problem is not None:
            yield Finding(
                "map_unusable",
                Severity.ERROR,
                f"{self.table.written}: {problem}",
                str(existing),
                "every client that sends a name (SNI) is cut off, for every name",
                Fix(self._rebuild())
                if by_key or self._ours
                else Fix(edit=f"remove {self.table.written} from {PARAMETER} ({self.where})"),
            )
            return
        for mistake in Mistake:
            keys = sorted(key for key, found in self._keys.items() if found is mistake)
            if keys:
                line = by_key.get(keys[0]) if mistake is not Mistake.NO_CONTENT else None
                where = f"{self.table.path}:{line.number}" if line is not None else str(existing)
                finding = self._mistaken(mistake, keys, where)
                if mistake is Mistake.NO_CONTENT:
                    finding = replace(finding, code="map_compiled_without_f")
                yield finding

    def _age(self) -> Iterator[Finding]:
        existing, path = self._existing, self.table.path
        if existing is None or path is None or self.table.kind == "texthash" or self._ours:
            return
        compiled = existing.stat().st_mtime
        if path.is_file() and path.stat().st_mtime > compiled + _SLACK:
            yield Finding(
                "map_older_than_source",
                Severity.WARNING,
                f"{existing} is older than its source {path}",
                str(path),
                "what was changed in the source is not served",
                Fix(self._rebuild()),
            )
        changed = map_source.newest(self._lines or ())
        late = [line for line, time in changed.items() if time > compiled + _SLACK]
        if late:
            yield Finding(
                "map_older_than_certificates",
                Severity.ERROR,
                f"{summarize([printable_name(line.key) for line in late])}: renewed after {existing} was compiled",
                f"{path}:{late[0].number}",
                "the table holds copies: clients are shown the old certificate until it expires, and after that",
                Fix(self._rebuild(), note="mailsni does this by itself for the names in its own map"),
            )

    def _modes(self) -> Iterator[Finding]:
        path, existing = self.table.path, self._existing
        if path is None or self.table.compiled is None:
            return
        compiled = existing if existing is not None and existing != path else None
        opened = helpers.exposed([one for one in (compiled,) if one is not None])
        both = [one for one in (path, compiled) if one is not None and one.exists()]
        fix = Fix(quoted("chmod", "600", *both))
        for found, mode in opened:
            yield Finding(
                "map_readable",
                Severity.ERROR,
                f"{found} can be read by every user of this host ({mode})",
                str(found),
                f"it holds the private key of every name in it: `postmap -F -s {self.table.name}` shows them all",
                replace(fix, note=KEYS_EXPOSED),
            )
        if not opened and compiled is not None and path.is_file() and helpers.exposed([path]):
            yield Finding(
                "map_source_readable",
                Severity.WARNING,
                f"{path} can be read by others",
                str(path),
                "a table that postmap makes anew gets the mode of its source, and holds the private keys",
                fix,
            )
        for one in both:
            status = one.stat()
            if status.st_mode & _WRITABLE_BY_OTHERS:
                yield self._writable(one, f"mode {stat.S_IMODE(status.st_mode):04o}", fix)
            if status.st_uid not in (0, os.geteuid()):
                yield Finding(
                    "map_owner",
                    Severity.ERROR if one == path else Severity.WARNING,
                    f"{one} belongs to user {status.st_uid}",
                    str(one),
                    "postmap gives up root for the owner of the source, who cannot read the keys: it leaves every "
                    "line out "
                    "and exits 0; and the owner can read or replace what is served",
                    Fix(quoted("chown", "root", *both)),
                )
        directory = path.parent
        if directory.is_dir():
            status = directory.stat()
            if status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
                yield self._writable(
                    directory, f"mode {stat.S_IMODE(status.st_mode):04o}", Fix(quoted("chmod", "go-w", directory))
                )

    def _writable(self, path: Path, why: str, fix: Fix) -> Finding:
        return Finding(
            "map_writable",
            Severity.ERROR,
            f"{path} can be written by others than its owner ({why})",
            str(path),
            "they can put a certificate and a key of theirs in the place of yours",
            fix,
        )
