"""Looks at Postfix: its default certificate, which tables it asks for names, and what services have for themselves."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailsni.core.names import is_wildcard
from mailsni.core.text import printable_name, summarize
from mailsni.core.x509 import InvalidPair, describe
from mailsni.doctor import helpers
from mailsni.doctor.checks.postfix_maps import LIVE, Commands, TableLooks
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.helpers import quoted
from mailsni.host import files
from mailsni.targets.postfix import map_source, postconf
from mailsni.targets.postfix.map_source import Mistake
from mailsni.targets.postfix.postconf import CERTIFICATES, KEYS, PARAMETER, Configuration, Service

_LOOPBACK = re.compile(r"(?:\[?127\.[\d.]+\]?|\[?::1\]?|localhost):")
_SNI = re.compile(r"sni|tls_server|chain_file")
_KNOWN = (PARAMETER, *CERTIFICATES, *KEYS, "smtpd_tls_security_level")
_LARGEST_PEM = 1 << 20


def findings(facts: Facts, configuration: Configuration | None) -> Iterator[Finding]:
    """Everything that is wrong with this host's Postfix; nothing where it is not installed, or cannot be asked."""
    if configuration is None:
        return
    looks = _Looks(facts, configuration)
    yield from helpers.each(
        ("whether Postfix offers TLS", looks.tls_switched_off),
        ("Postfix's default certificate", looks.default_certificate),
        ("misspelt parameters", looks.misspelt),
        ("parameters that stand twice", looks.twice),
        ("what services have for themselves", looks.past_the_map),
        ("whether Postfix is told of mailsni's map", looks.unwired),
    )
    for one in looks.tables():
        yield from one.findings()
    yield from helpers.each(
        ("names that another table has before mailsni's", looks.shadowed),
        ("names of the default certificate", looks.default_names),
    )


class _Looks:
    """The looks at one Postfix."""

    def __init__(self, facts: Facts, configuration: Configuration) -> None:
        self._facts = facts
        self._configuration = configuration
        self._command = Commands(configuration.directory)
        self._tables: list[TableLooks] = []
        self._written = postconf.tables(configuration.value(PARAMETER))

    def tables(self) -> list[TableLooks]:
        """Every table that main.cf or a service names, each once."""
        if not self._tables:
            places = {one: self._configuration.where(PARAMETER, one) for one in self._written}
            for override in self._configuration.overrides:
                if override.parameter == PARAMETER:
                    where = self._configuration.where_service(override.service, PARAMETER)
                    for one in postconf.tables(override.value):
                        places.setdefault(one, where)
            self._tables = [
                TableLooks(self._facts, self._configuration, self._command, map_source.table(written), where)
                for written, where in places.items()
            ]
        return self._tables

    def _then_reload(self, command: str) -> str:
        return f"{command} && {self._command('postfix', 'reload')}"

    def _set_default(self) -> Fix:
        """Names the placeholder of a lineage, so it is no command to be run as it is."""
        return Fix(
            self._command("postfix", "reload"),
            edit=f"in main.cf: smtpd_tls_chain_files = {LIVE}/privkey.pem, {LIVE}/fullchain.pem",
        )

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
                "TLS is switched off in main.cf (smtpd_tls_security_level), for "
                f"{summarize([one.title for one in off])}",
                configuration.where("smtpd_tls_security_level"),
                why,
                Fix(self._then_reload(self._command("postconf", "-e", "smtpd_tls_security_level=may"))),
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
                Fix(self._then_reload(self._command("postconf", "-PX", f"{one.title}/smtpd_tls_security_level"))),
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
                f"there is no default certificate for {summarize([one.title for one in lacking])}",
                configuration.where(given or CERTIFICATES[0]),
                "without one Postfix switches TLS off and never looks into tls_server_sni_maps, so no name is served",
                self._set_default(),
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
                    Fix(self._command("postconf", "-PX", f"{one.title}/{own}")),
                )
            elif has and its_paths != paths:
                yield Finding(
                    "service_certificate",
                    Severity.NOTE,
                    f"{one.title} has a default certificate of its own ({own})",
                    where,
                    "clients without SNI see that one there; names are served from tls_server_sni_maps all the same",
                    Fix(
                        self._command("postconf", "-PX", f"{one.title}/{own}"),
                        note="only needed to have one default certificate everywhere",
                    ),
                )
                yield from self._certificate(has, its_paths, where, f"the default certificate of {one.title}")

    def _certificate(self, parameter: str, paths: Sequence[Path], where: str, title: str) -> Iterator[Finding]:
        """What is wrong with the files of a default certificate."""
        if parameter == CERTIFICATES[0]:
            mistake = map_source.Files({}).mistake(map_source.SourceLine(0, "", tuple(paths)))
            if mistake in (Mistake.CERTIFICATE_FIRST, Mistake.KEY_MISSING):
                yield Finding(
                    "default_key_not_first",
                    Severity.ERROR,
                    f"{title} {mistake.value} ({parameter})",
                    where,
                    "Postfix cannot load it and switches TLS off, for all names",
                    Fix(
                        self._command("postfix", "reload"),
                        edit=f"name the key first: {parameter} = {LIVE}/privkey.pem, {LIVE}/fullchain.pem",
                    ),
                )
        else:
            key = KEYS[CERTIFICATES.index(parameter) - 1]
            paths = [*paths, *(Path(word) for word in [self._configuration.value(key)] if word.startswith("/"))]
        for path in paths:
            if parameter != CERTIFICATES[0] and path != paths[0] and path.exists():
                continue  # the key: that it is there is enough
            content = files.read_untrusted(path, _LARGEST_PEM)
            if content is None:
                yield Finding(
                    "default_certificate_unreadable",
                    Severity.ERROR,
                    f"{title} is not there: {path}",
                    where,
                    # Measured: with smtpd_tls_chain_files names are served all the same, with the others nothing is.
                    "clients that send no name, or one without an entry, are cut off"
                    if parameter == CERTIFICATES[0]
                    else "Postfix cannot load it and switches TLS off, for all names",
                    Fix(
                        edit=f"let {parameter} name files that exist",
                        note="to get a certificate: certbot certonly -d NAME",
                    ),
                )
                return
            if path != paths[0] and b"CERTIFICATE-----" not in content:
                continue
            if b"-----BEGIN CERTIFICATE" not in content:
                continue  # the key, in a file of its own
            described = describe(content)
            if isinstance(described, InvalidPair):
                yield Finding(
                    "default_certificate_unreadable",
                    Severity.ERROR,
                    f"{title} cannot be used: {described.detail}",
                    str(path),
                    "Postfix cannot load it and switches TLS off, for all names",
                    Fix(edit=f"let {parameter} name a key, its certificate and the intermediates ({where})"),
                )
            elif described.leaf.not_after <= self._facts.now:
                yield Finding(
                    "default_certificate_expired",
                    Severity.ERROR,
                    f"{title} expired on {described.leaf.not_after:%Y-%m-%d}: {path}",
                    where,
                    "clients that send no name, or one without an entry, refuse it",
                    Fix(self._then_reload("certbot renew")),
                )
            elif described.leaf.self_signed:
                yield Finding(
                    "default_certificate_self_signed",
                    Severity.NOTE,
                    f"{title} is self-signed: {path}",
                    where,
                    "clients that send no name, or one without an entry, do not trust it; mail servers mostly do "
                    "not mind",
                    self._set_default(),
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
                fix = Fix(
                    take + (f" && {self._command('postconf', '-e', f'{meant}={value.strip()}')}" if needed else "")
                )
            else:
                number = next(
                    (one.line_with(re.escape(name)) for one in self._configuration.master if name in one.text), 0
                )
                where = f"{file}:{number}" if number else str(file)
                fix = Fix(edit=f"write {meant} there, or remove the option")
            yield Finding(
                "parameter_misspelt",
                Severity.ERROR if meant == PARAMETER and not self._written else Severity.WARNING,
                f"{printable_name(name)} is no parameter of Postfix; {meant} is",
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
                    Fix(
                        quoted("sed", "-i", f"{found[0]}d", configuration.main_cf),
                        edit=f"add what is missing to line {found[-1]}",
                        note="the command removes this line",
                    ),
                )

    def past_the_map(self) -> Iterator[Finding]:
        own = str(self._facts.settings.postfix.map)
        for one in self._configuration.overrides:
            if one.parameter != PARAMETER:
                continue
            named = [map_source.table(written) for written in postconf.tables(one.value)]
            if any(str(found.path) == own for found in named):
                continue
            yield Finding(
                "service_past_map",
                Severity.WARNING,
                f"{one.service} has {PARAMETER} = {one.value or '(nothing)'} for itself",
                self._configuration.where_service(one.service, PARAMETER),
                "it goes past main.cf: the certificates that mailsni publishes are not served there",
                Fix(self._then_reload(self._command("postconf", "-PX", f"{one.service}/{PARAMETER}"))),
            )

    def unwired(self) -> Iterator[Finding]:
        own = self._facts.settings.postfix.map
        if any(map_source.table(written).path == own for written in self._written):
            return
        yield Finding(
            "map_not_named",
            Severity.WARNING,
            f"{PARAMETER} in main.cf does not name mailsni's map {own}",
            self._configuration.where(PARAMETER),
            "nothing that mailsni publishes is served by Postfix",
            Fix("mailsni setup"),
        )

    def shadowed(self) -> Iterator[Finding]:
        snapshot = self._facts.snapshot
        if snapshot is None:
            return
        own = self._facts.settings.postfix.map
        names = {winner.name for winner in snapshot.selection.winners}
        by_name = {one.table.written: one for one in self.tables()}
        if not any(map_source.table(written).path == own for written in self._written):
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
                f"{summarize(taken)}: answered from {written}, which stands before mailsni's map",
                found.place_of(taken[0]),
                "the first table with a name decides: a renewal is served only when somebody compiles that table again",
                Fix("mailsni setup --take-over", note="or remove these lines and compile the table again"),
            )

    def default_names(self) -> Iterator[Finding]:
        snapshot = self._facts.snapshot
        parameter, paths = self._configuration.certificate()
        if snapshot is None or not parameter or not self._written:
            return
        names: dict[str, None] = {}
        for path in paths:
            described = describe(files.read_untrusted(path, _LARGEST_PEM) or b"")
            if not isinstance(described, InvalidPair):
                names |= dict.fromkeys(name for name in described.leaf.names if not is_wildcard(name))
        own = self._facts.settings.postfix.map
        wired = any(map_source.table(written).path == own for written in self._written)
        served = {winner.name for winner in snapshot.selection.winners} if wired else set()
        for one in self.tables():
            served |= one.keys()
        missing = [name for name in names if not served & {name, f"*.{name.partition('.')[2]}", *_parents(name)}]
        if not missing:
            return
        stored = {name for one in snapshot.inventory.certificates for name in one.names}
        include = [*self._facts.settings.names.include, *(name for name in missing if name in stored)]
        in_store = any(name in stored for name in missing)
        quotes = ", ".join(f'"{one}"' for one in include)
        yield Finding(
            "default_name_not_in_map",
            Severity.NOTE,
            f"{summarize(missing)}: in the default certificate, and in no table of {PARAMETER}",
            self._configuration.where(parameter),
            "clients that ask for it get the default certificate all the same; Postfix logs each of them as `not "
            "matched`, "
            "and a client without ECDSA (or RSA) is not offered the other",
            Fix("mailsni apply", edit=f"in mailsni's configuration, below [names]: include = [{quotes}]")
            if in_store
            else Fix(note="nothing need be done; mailsni serves a certificate by name when it is in a store"),
        )


def _parents(name: str) -> Iterator[str]:
    """What Postfix looks up after a name: ``.example.com``, ``.com``."""
    while "." in name:
        name = name.partition(".")[2]
        yield f".{name}"
