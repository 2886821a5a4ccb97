"""Looks at Postfix: its default certificate, the tables of ``tls_server_sni_maps``, and who can read them.

What each mistake does was measured with Postfix 3.7 and 3.10: the facts are those of mailsni's own map too.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mailsni import files
from mailsni.certificate import Rejected, describe
from mailsni.doctor import Facts, Finding, Severity, looking, postfix_configuration, tables
from mailsni.doctor.looking import listed, quoted
from mailsni.doctor.postfix_configuration import CERTIFICATES, KEYS, PARAMETER, Configuration, Service
from mailsni.doctor.tables import Mistake, SourceLine, Table
from mailsni.names import is_wildcard, shown

_LIVE = "/etc/letsencrypt/live/NAME"
_LOOPBACK = re.compile(r"(?:127\.\d+\.\d+\.\d+|\[::1\]|localhost):")
_SNI = re.compile(r"sni|tls_server|chain_file")
_KNOWN = (PARAMETER, *CERTIFICATES, *KEYS, "smtpd_tls_security_level")
_LARGEST_PEM = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_SLACK = 2.0
"""Seconds between a table and what it was made of that say nothing: file systems and copies round times."""


def findings(facts: Facts, configuration: Configuration | None) -> Iterator[Finding]:
    """Everything that is wrong with this host's Postfix; nothing where it is not installed, or cannot be asked."""
    if configuration is None:
        return
    looks = _Looks(facts, configuration)
    yield from looking.each(
        ("whether Postfix offers TLS", looks.tls_switched_off),
        ("Postfix's default certificate", looks.default_certificate),
        ("misspelt parameters", looks.misspelt),
        ("parameters that stand twice", looks.twice),
        ("what services have for themselves", looks.past_the_map),
        ("whether Postfix is told of mailsni's map", looks.unwired),
    )
    for one in looks.tables():
        about = f"the table {one.table.written}"
        yield from looking.each(
            (f"whether {about} is there", one.is_there),
            (f"the source of {about}", one.source),
            (f"what is stored in {about}", one.content),
            (f"whether {about} is up to date", one.age),
            (f"who can read {about}", one.modes),
        )
    yield from looking.each(
        ("names that another table has before mailsni's", looks.shadowed),
        ("names of the default certificate", looks.default_names),
    )


@dataclass(frozen=True, slots=True)
class _Commands:
    """The commands of this Postfix, to be shown."""

    directory: Path

    def __call__(self, program: str, *words: str | Path) -> str:
        own = ("-c", self.directory) if self.directory != Path("/etc/postfix") else ()
        return quoted(program, *own, *words)


class _Looks:
    """The looks at one Postfix."""

    def __init__(self, facts: Facts, configuration: Configuration) -> None:
        self._facts = facts
        self._configuration = configuration
        self._command = _Commands(configuration.directory)
        self._tables: list[_TableLooks] = []
        self._written = postfix_configuration.tables(configuration.value(PARAMETER))

    def tables(self) -> list[_TableLooks]:
        """Every table that main.cf or a service names, each once."""
        if not self._tables:
            places = {one: self._configuration.where(PARAMETER, one) for one in self._written}
            for override in self._configuration.overrides:
                if override.parameter == PARAMETER:
                    where = self._configuration.where_service(override.service, PARAMETER)
                    for one in postfix_configuration.tables(override.value):
                        places.setdefault(one, where)
            self._tables = [
                _TableLooks(self._facts, self._configuration, self._command, tables.table(written), where)
                for written, where in places.items()
            ]
        return self._tables

    def _servers(self) -> list[Service]:
        return [one for one in self._configuration.services if one.command == "smtpd" and one.type in ("inet", "pass")]

    def tls_switched_off(self) -> Iterator[Finding]:
        configuration = self._configuration
        services = self._servers()
        off = [one for one in services if not configuration.offers_tls(one)]
        if not off:
            return
        why = "clients are offered no TLS there: mail and passwords go in clear text, and no certificate is used"
        if len(off) == len(services) or not configuration.offers_tls():
            yield Finding(
                "tls_off",
                Severity.ERROR if len(off) == len(services) else Severity.WARNING,
                f"TLS is switched off in main.cf (smtpd_tls_security_level), for {listed([one.title for one in off])}",
                configuration.where("smtpd_tls_security_level"),
                why,
                self._command("postconf", "-e", "smtpd_tls_security_level=may")
                + " && "
                + self._command("postfix", "reload"),
            )
            return
        for one in off:
            if _LOOPBACK.match(one.name):
                continue  # where a content filter gives mail back: it needs none
            yield Finding(
                "service_without_tls",
                Severity.WARNING,
                f"{one.title} has TLS switched off for itself",
                configuration.where_service(one.title, "smtpd_tls_security_level"),
                why,
                self._command("postconf", "-PX", f"{one.title}/smtpd_tls_security_level")
                + " && "
                + self._command("postfix", "reload"),
            )

    def default_certificate(self) -> Iterator[Finding]:
        configuration = self._configuration
        services = self._servers()
        lacking = [one for one in services if not configuration.certificate(one)[0]]
        parameter, paths = configuration.certificate()
        if not parameter and lacking:
            given = next((name for name in CERTIFICATES if configuration.where(name) != str(configuration.main_cf)), "")
            yield Finding(
                "default_certificate_missing",
                Severity.ERROR,
                f"there is no default certificate for {listed([one.title for one in lacking])}",
                configuration.where(given or CERTIFICATES[0]),
                "without one Postfix switches TLS off and never looks into tls_server_sni_maps, so no name is served",
                self._command("postconf", "-e", f"smtpd_tls_chain_files={_LIVE}/privkey.pem,{_LIVE}/fullchain.pem")
                + " && "
                + self._command("postfix", "reload"),
            )
        elif parameter:
            yield from self._certificate(parameter, paths, configuration.where(parameter), "the default certificate")
        for one in services:
            own = next((name for name in CERTIFICATES if configuration.override(one, name)), None)
            if own is None:
                continue
            where = configuration.where_service(one.title, own)
            has, its_paths = configuration.certificate(one)
            if not has and parameter:
                yield Finding(
                    "default_certificate_missing",
                    Severity.ERROR,
                    f"{one.title} takes the default certificate away for itself ({own})",
                    where,
                    "without one Postfix switches TLS off there and never looks into tls_server_sni_maps",
                    self._command("postconf", "-PX", f"{one.title}/{own}"),
                )
            elif has and its_paths != paths:
                yield Finding(
                    "service_certificate",
                    Severity.NOTE,
                    f"{one.title} has a default certificate of its own ({own})",
                    where,
                    "clients without SNI see that one there; names are served from tls_server_sni_maps all the same",
                    "nothing need be done; to have one default everywhere: "
                    + self._command("postconf", "-PX", f"{one.title}/{own}"),
                )
                yield from self._certificate(has, its_paths, where, f"the default certificate of {one.title}")

    def _certificate(self, parameter: str, paths: Sequence[Path], where: str, title: str) -> Iterator[Finding]:
        """What is wrong with the files of a default certificate."""
        for path in paths:
            content = files.read_foreign(path, _LARGEST_PEM)
            if content is None:
                yield Finding(
                    "default_certificate_unreadable",
                    Severity.ERROR,
                    f"{title} is not there: {path}",
                    where,
                    "Postfix cannot load it and switches TLS off, for all names",
                    f"let {parameter} name files that are there, or get the certificate: certbot certonly -d NAME",
                )
                return
            if path != paths[0] and b"CERTIFICATE-----" not in content:
                continue
            if b"-----BEGIN CERTIFICATE" not in content:
                continue  # the key, in a file of its own
            described = describe(content)
            if isinstance(described, Rejected):
                yield Finding(
                    "default_certificate_unreadable",
                    Severity.ERROR,
                    f"{title} cannot be used: {described.detail}",
                    str(path),
                    "Postfix cannot load it and switches TLS off, for all names",
                    f"let {parameter} name a key, its certificate and the intermediates ({where})",
                )
            elif described.not_after <= self._facts.now:
                yield Finding(
                    "default_certificate_expired",
                    Severity.ERROR,
                    f"{title} expired on {described.not_after:%Y-%m-%d}: {path}",
                    where,
                    "clients that send no name, or one without an entry, refuse it",
                    "renew it (certbot renew), then " + self._command("postfix", "reload"),
                )
            elif described.self_signed:
                yield Finding(
                    "default_certificate_self_signed",
                    Severity.NOTE,
                    f"{title} is self-signed: {path}",
                    where,
                    "clients that send no name, or one without an entry, do not trust it; mail servers mostly do "
                    "not mind",
                    self._command("postconf", "-e", f"smtpd_tls_chain_files={_LIVE}/privkey.pem,{_LIVE}/fullchain.pem")
                    + " && "
                    + self._command("postfix", "reload"),
                )

    def misspelt(self) -> Iterator[Finding]:
        for file, name, value in self._configuration.unused:
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.75)
            if not near and not _SNI.search(name):
                continue
            meant = near[0] if near else PARAMETER
            in_main = file.name == "main.cf"
            if in_main:
                where = self._configuration.where(name)
                take = self._command("postconf", "-X", name)
                needed = not self._configuration.value(meant)
                fix = take + (f" && {self._command('postconf', '-e', f'{meant}={value.strip()}')}" if needed else "")
            else:
                number = next(
                    (one.line_with(re.escape(name)) for one in self._configuration.master if name in one.text), 0
                )
                where = f"{file}:{number}" if number else str(file)
                fix = f"write {meant} there, or take the option out"
            yield Finding(
                "parameter_misspelt",
                Severity.ERROR if meant == PARAMETER and not self._written else Severity.WARNING,
                f"{shown(name)} is no parameter of Postfix; {meant} is",
                where,
                "Postfix ignores it and says so nowhere but in the warnings of postconf: what it says is not in force",
                fix,
            )

    def twice(self) -> Iterator[Finding]:
        configuration = self._configuration
        for name in (PARAMETER, *CERTIFICATES, "smtpd_tls_security_level"):
            found = configuration.lines_of(name)
            if len(found) > 1:
                yield Finding(
                    "parameter_twice",
                    Severity.WARNING,
                    f"{name} stands in main.cf {len(found)} times",
                    f"{configuration.main_cf}:{found[0]}",
                    f"only the last one (line {found[-1]}) is in force: what this one says is not done",
                    f"take the line out, after adding what is missing to line {found[-1]}: "
                    + quoted("sed", "-i", f"{found[0]}d", configuration.main_cf),
                )

    def past_the_map(self) -> Iterator[Finding]:
        own = str(self._facts.settings.postfix.map)
        for one in self._configuration.overrides:
            if one.parameter != PARAMETER:
                continue
            named = [tables.table(written) for written in postfix_configuration.tables(one.value)]
            if any(str(found.path) == own for found in named):
                continue
            yield Finding(
                "service_past_map",
                Severity.WARNING,
                f"{one.service} has {PARAMETER} = {one.value or '(nothing)'} for itself",
                self._configuration.where_service(one.service, PARAMETER),
                "it goes past main.cf: the certificates that mailsni publishes are not served there",
                self._command("postconf", "-PX", f"{one.service}/{PARAMETER}")
                + " && "
                + self._command("postfix", "reload"),
            )

    def unwired(self) -> Iterator[Finding]:
        own = self._facts.settings.postfix.map
        if any(tables.table(written).path == own for written in self._written):
            return
        yield Finding(
            "map_not_named",
            Severity.WARNING,
            f"{PARAMETER} in main.cf does not name mailsni's map {own}",
            self._configuration.where(PARAMETER),
            "nothing that mailsni publishes is served by Postfix",
            "mailsni setup",
        )

    def shadowed(self) -> Iterator[Finding]:
        observation = self._facts.observation
        if observation is None:
            return
        own = self._facts.settings.postfix.map
        names = {winner.name for winner in observation.selection.winners}
        by_name = {one.table.written: one for one in self.tables()}
        if not any(tables.table(written).path == own for written in self._written):
            return
        for written in self._written:
            found = by_name[written]
            if found.table.path == own:
                return
            taken = sorted(names & found.keys())
            if not taken:
                continue
            yield Finding(
                "name_in_other_table",
                Severity.WARNING,
                f"{listed(taken)}: answered from {written}, which stands before mailsni's map",
                found.place_of(taken[0]),
                "the first table with a name decides: a renewal is served only when somebody compiles that table again",
                "mailsni setup --take-over, or take these lines out and compile the table again",
            )

    def default_names(self) -> Iterator[Finding]:
        observation = self._facts.observation
        parameter, paths = self._configuration.certificate()
        if observation is None or not parameter or not self._written:
            return
        names: dict[str, None] = {}
        for path in paths:
            described = describe(files.read_foreign(path, _LARGEST_PEM) or b"")
            if not isinstance(described, Rejected):
                names |= dict.fromkeys(name for name in described.names if not is_wildcard(name))
        own = self._facts.settings.postfix.map
        wired = any(tables.table(written).path == own for written in self._written)
        served = {winner.name for winner in observation.selection.winners} if wired else set()
        for one in self.tables():
            served |= one.keys()
        missing = [name for name in names if not served & {name, f"*.{name.partition('.')[2]}", *_parents(name)}]
        if not missing:
            return
        stored = {name for one in observation.inventory.certificates for name in one.names}
        include = [*self._facts.settings.names.include, *(name for name in missing if name in stored)]
        in_store = any(name in stored for name in missing)
        quotes = ", ".join(f'"{one}"' for one in include)
        yield Finding(
            "default_name_not_in_map",
            Severity.NOTE,
            f"{listed(missing)}: in the default certificate, and in no table of {PARAMETER}",
            self._configuration.where(parameter),
            "clients that ask for it get the default certificate all the same; Postfix logs each of them as `not "
            "matched`, "
            "and a client without ECDSA (or RSA) is not offered the other",
            f"in mailsni's configuration, below [names]: include = [{quotes}]; then mailsni apply"
            if in_store
            else "nothing need be done; with the certificate in a store of mailsni's it is served by name",
        )


def _parents(name: str) -> Iterator[str]:
    """What Postfix looks up after a name: ``.example.com``, ``.com``."""
    while "." in name:
        name = name.partition(".")[2]
        yield f".{name}"


@dataclass(slots=True)
class _TableLooks:
    """The looks at one table."""

    _facts: Facts
    _configuration: Configuration
    _command: _Commands
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
        if self._ours:
            return "mailsni apply --force"
        return f"{self._command('postmap', '-F', self.table.name)} && {self._command('postfix', 'reload')}"

    def is_there(self) -> Iterator[Finding]:
        found, types = self.table, self._configuration.types
        cut_off = "every client that sends a name (SNI) is cut off, for every name; those that send none are served"
        if not found.kind:
            fix = f"write its type before it: {self._configuration.value('default_database_type')}:{found.written}"
            yield Finding(
                "map_without_type", Severity.ERROR, f"{found.written}: a table without a type", self.where, cut_off, fix
            )
            return
        if found.kind not in types:
            known = [one for one in ("lmdb", "cdb", "hash", "btree") if one in types]
            kind = self._configuration.value("default_database_type")
            kind = kind if kind in known else known[0] if known else "texthash"
            others = [
                one
                for one in postfix_configuration.tables(self._configuration.value(PARAMETER))
                if one != found.written
            ]
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
                f"{self._command('postconf', '-e', f'{PARAMETER}={value}')} && {compiled}"
                f" && {self._command('postfix', 'reload')}"
                + (f" (or install the package postfix-{found.kind})" if found.kind in ("lmdb", "cdb") else ""),
            )
            return
        if found.compiled is not None and self._existing is None:
            source = found.path is not None and found.path.is_file()
            rest = [
                one
                for one in postfix_configuration.tables(self._configuration.value(PARAMETER))
                if one != found.written
            ]
            take_out = self._command("postconf", "-e", f"{PARAMETER}={', '.join(rest)}")
            yield Finding(
                "map_missing",
                Severity.ERROR,
                f"{found.written}: {found.compiled} does not exist",
                self.where,
                cut_off,
                self._rebuild() if source or self._ours else f"{take_out} && {self._command('postfix', 'reload')}",
            )
        if found.proxied:
            yield Finding(
                "map_proxied",
                Severity.WARNING,
                f"{found.written}: asked through proxymap(8)",
                self.where,
                "proxymap runs as the user postfix, which then must be able to read every private key",
                f"write {found.name} instead of {found.written}: smtpd opens it as root, before it gives that up",
            )

    def source(self) -> Iterator[Finding]:
        path = self.table.path
        if path is None or self.table.compiled is None:
            return
        self._lines = tables.read_source(path)
        if self._lines is None or (self._ours and self._is_as_rendered()):
            return
        yield from self._wildcards(path, self._lines)
        yield from self._duplicates(path, self._lines)
        seen = tables.Files({})
        yield from self._missing_files(path, self._lines, seen)
        for mistake in (Mistake.CERTIFICATE_FIRST, Mistake.KEY_MISSING, Mistake.NO_CONTENT):
            found = [line for line in self._lines if seen.mistake(line) is mistake]
            if found:
                found.sort(key=lambda line: line.key)
                yield self._mistaken(mistake, [line.key for line in found], f"{path}:{found[0].number}")

    def _is_as_rendered(self) -> bool:
        observation = self._facts.observation
        return (
            observation is not None
            and self._ours
            and files.read_own(self._facts.settings.postfix.map) == observation.texts.get("postfix")
        )

    def _wildcards(self, path: Path, lines: Sequence[SourceLine]) -> Iterator[Finding]:
        found = [line for line in lines if line.key.startswith("*.")]
        if found:
            key = shown(found[0].key)
            yield Finding(
                "map_literal_wildcard",
                Severity.WARNING,
                f"{listed([shown(line.key) for line in found])}: a key that Postfix never looks up",
                f"{path}:{found[0].number}",
                "clients that ask for such a name get the default certificate",
                f"write {key[1:]} instead of {key}, then {self._rebuild()}",
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
                f"{listed([shown(line.key) for line in twice])}: in the source more than once",
                f"{path}:{twice[0].number}",
                "smtpd cannot use the table at all: every client that sends a name (SNI) is cut off"
                if whole
                else "the first line wins, so this one does nothing; Dovecot takes the last of two blocks for a name",
                f"take the line out, then {self._rebuild()}",
            )

    def _missing_files(self, path: Path, lines: Sequence[SourceLine], seen: tables.Files) -> Iterator[Finding]:
        problems = ((line, seen.problem(line)) for line in lines)
        missing = [(line, why) for line, why in problems if why is not None]
        if os.geteuid() != 0:  # this user cannot tell a file that postmap cannot read
            missing = [(line, why) for line, why in missing if why.endswith("no such file")]
        if missing:
            line, why = missing[0]
            yield Finding(
                "map_file_missing",
                Severity.WARNING,
                f"{listed([shown(one.key) for one, _ in missing])}: {why}",
                f"{path}:{line.number}",
                "postmap leaves such a line out and exits 0: clients that ask for the name get the default certificate",
                f"name files that are there, or take the line out, then {self._rebuild()}",
            )

    def _mistaken(self, mistake: Mistake, keys: Sequence[str], where: str) -> Finding:
        right = f"{shown(keys[0])} {_LIVE}/privkey.pem,{_LIVE}/fullchain.pem"
        fixes = {
            Mistake.CERTIFICATE_FIRST: f"name the key first: {right}; then {self._rebuild()}",
            Mistake.KEY_MISSING: f"name the key, before the certificate: {right}; then {self._rebuild()}",
            Mistake.NO_CONTENT: f"compile it with -F, which stores what the files hold: {self._rebuild()}",
            Mistake.EMPTY: f"name files with a key and a certificate in them, then {self._rebuild()}",
            Mistake.EXPIRED: f"renew the certificate (certbot renew), then {self._rebuild()}",
        }
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
            f"{listed([shown(key) for key in keys])}: the entry {mistake.value}",
            where,
            why,
            fixes[mistake],
        )

    def content(self) -> Iterator[Finding]:
        existing = self._existing
        if existing is None or self.table.kind in ("texthash", "") or self.table.kind not in self._configuration.types:
            return
        if not os.access(existing, os.R_OK):
            raise PermissionError(13, "Permission denied", str(existing))
        by_key = {line.key: line for line in self._lines or ()}
        self._keys, problem = tables.stored(self.table, by_key, self._configuration.directory, self._facts.now)
        if problem is not None:
            yield Finding(
                "map_unusable",
                Severity.ERROR,
                f"{self.table.written}: {problem}",
                str(existing),
                "every client that sends a name (SNI) is cut off, for every name",
                self._rebuild()
                if by_key or self._ours
                else f"take {self.table.written} out of {PARAMETER} ({self.where})",
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

    def age(self) -> Iterator[Finding]:
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
                self._rebuild(),
            )
        changed = tables.newest(self._lines or ())
        late = [line for line, time in changed.items() if time > compiled + _SLACK]
        if late:
            yield Finding(
                "map_older_than_certificates",
                Severity.ERROR,
                f"{listed([shown(line.key) for line in late])}: renewed after {existing} was compiled",
                f"{path}:{late[0].number}",
                "the table holds copies: clients are shown the old certificate until it expires, and after that",
                f"{self._rebuild()} (mailsni does it by itself for the names in its own map)",
            )

    def modes(self) -> Iterator[Finding]:
        path, existing = self.table.path, self._existing
        if path is None or self.table.compiled is None:
            return
        compiled = existing if existing is not None and existing != path else None
        opened = looking.exposed([one for one in (compiled,) if one is not None])
        both = [one for one in (path, compiled) if one is not None and one.exists()]
        fix = quoted("chmod", "600", *both)
        for found, mode in opened:
            yield Finding(
                "map_readable",
                Severity.ERROR,
                f"{found} can be read by every user of this host ({mode})",
                str(found),
                f"it holds the private key of every name in it: `postmap -F -s {self.table.name}` shows them all",
                f"{fix}; the keys may be known to others: replace them (certbot renew --force-renewal --new-key)",
            )
        if not opened and compiled is not None and path.is_file() and looking.exposed([path]):
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
                yield self._writable(one, f"mode {stat.S_IMODE(status.st_mode):04o}", quoted("chmod", "600", *both))
            if status.st_uid not in (0, os.geteuid()):
                yield Finding(
                    "map_owner",
                    Severity.ERROR if one == path else Severity.WARNING,
                    f"{one} belongs to user {status.st_uid}",
                    str(one),
                    "postmap gives up root for the owner of the source, who cannot read the keys: it leaves every "
                    "line out "
                    "and exits 0; and the owner can read or replace what is served",
                    quoted("chown", "root", *both),
                )
        directory = path.parent
        if directory.is_dir():
            status = directory.stat()
            if status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
                yield self._writable(
                    directory, f"mode {stat.S_IMODE(status.st_mode):04o}", quoted("chmod", "go-w", directory)
                )

    def _writable(self, path: Path, why: str, fix: str) -> Finding:
        return Finding(
            "map_writable",
            Severity.ERROR,
            f"{path} can be written by others than its owner ({why})",
            str(path),
            "they can put a certificate and a key of theirs in the place of yours",
            fix,
        )
