"""Checks Postfix: its default certificate, the tables it asks for names, and what services override in master.cf."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from mailsni.config.settings import PostfixSettings
from mailsni.core.names import is_wildcard
from mailsni.core.text import printable_name, summarize
from mailsni.core.x509 import ChainDescription, chain_digests, describe, leaf_names
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.checks import postfix_maps
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding
from mailsni.doctor.helpers import PEM_LIMIT, Checks, incomplete_chain, lonely_leaf, quoted, run_each, stored_pair
from mailsni.doctor.pairs import Fault, judge, renewal
from mailsni.doctor.postfix_facts import (
    TableFacts,
    archive_finding,
    command,
    command_in,
    read_table,
    then_reload,
)
from mailsni.errors import PermissionMissingError
from mailsni.host import files
from mailsni.targets.postfix import map_source
from mailsni.targets.postfix.authorities import authorities
from mailsni.targets.postfix.map_source import Mistake
from mailsni.targets.postfix.map_types import parse_tables
from mailsni.targets.postfix.postconf import (
    DEFAULT_CERTIFICATES,
    DEFAULT_KEYS,
    SECURITY_LEVEL,
    SNI_MAPS,
    Configuration,
    Service,
)
from mailsni.targets.postfix.target import Postfix

_CHAIN_FILES = DEFAULT_CERTIFICATES[0]
_NAME_A_PAIR = "let {parameter} name a key without a password, its certificate and the intermediates"
_FAULTS = {
    Fault.UNUSABLE: ("default_certificate_unreadable", _NAME_A_PAIR),
    Fault.EXPIRED: ("default_certificate_expired", "{renewal}"),
    Fault.NOT_YET_VALID: ("default_certificate_not_yet_valid", _NAME_A_PAIR),
    Fault.EXPIRES: ("default_certificate_expires", "{renewal}"),
}
"""The code for each fault of a default certificate, and what to edit."""
_LOOPBACK = re.compile(r"(?:\[?127\.[\d.]+\]?|\[?::1\]?|localhost):")
_SNI = re.compile(r"sni|tls_server|chain_file")
_KNOWN = (SNI_MAPS, *DEFAULT_CERTIFICATES, *DEFAULT_KEYS, SECURITY_LEVEL)


@dataclass(frozen=True, slots=True)
class PostfixFacts:
    """What the checks of Postfix start from."""

    host: HostFacts
    configuration: Configuration
    tables: tuple[TableFacts, ...]
    """Those that main.cf names, in order, and then those that only services name."""

    @property
    def servers(self) -> list[Service]:
        """The services that take mail from clients."""
        services = self.configuration.services
        return [service for service in services if service.command == "smtpd" and service.type in ("inet", "pass")]

    @property
    def is_configured(self) -> bool:
        """Whether main.cf names mailsni's map, as a table of whatever type."""
        named = any(table.own for table in self.tables)
        return self.host.postfix is not None and (named or self.host.postfix.is_configured)

    @property
    def served_names(self) -> set[str]:
        """The names that mailsni's map serves, or would; none where main.cf does not name it."""
        snapshot = self.host.snapshot if self.is_configured else None
        return {winner.name for winner in snapshot.selection.winners} if snapshot is not None else set()


@dataclass(frozen=True, slots=True)
class DefaultCertificate:
    """A default certificate: of main.cf, or of a service."""

    title: str
    parameter: str
    files: tuple[Path, ...]
    where: str
    """The line that names them."""
    service: Service | None = None
    """That has it for itself."""


def findings(facts: Facts) -> Iterator[Finding]:
    """Everything that is wrong with this host's Postfix; nothing where it is not installed, or cannot be asked."""
    configuration = facts.postfix_configuration
    if configuration is None:
        return
    tables = []
    for reference, where in configuration.named_tables().items():
        table, unreadable = read_table(reference, where, facts.host, configuration)
        tables.append(table)
        yield from unreadable
        yield from postfix_maps.findings(table)
    yield from run_each(_CHECKS, PostfixFacts(facts.host, configuration, tuple(tables)))


def refusal(postfix: Postfix) -> Finding | None:
    """Why Postfix would not start; what is read of such a configuration all the same may not be what Postfix reads."""
    try:
        why = postfix.startup_problem()
    except PermissionMissingError:
        return None
    if why is None:
        return None
    what = f"Postfix would not start with its configuration: {why}"
    fix = ask_again(postfix.settings, "correct what the message says")
    return finding("postfix_configuration_rejected", what, postfix.settings.config_directory, fix)


def ask_again(settings: PostfixSettings, edit: str) -> Fix:
    """Corrects what Postfix refuses: its own program says whether it reads main.cf and master.cf then."""
    ask = (command_in(settings.config_directory, "postconf", option) for option in ("-n", "-M"))
    note = "reload Postfix when `mailsni doctor` finds this no more: before, a reload may end it"
    return Fix(" && ".join(f"{line} > /dev/null" for line in ask), edit=edit, note=note)


# ── TLS, and the default certificate ─────────────────────────────────────────────────────────────────────────────────


def _check_tls(facts: PostfixFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    off = [service for service in facts.servers if not configuration.offers_tls(service)]
    if off and (off == facts.servers or not configuration.offers_tls()):
        what = f"TLS is switched off in main.cf ({SECURITY_LEVEL}), for {summarize([each.title for each in off])}"
        fix = Fix(then_reload(configuration, command(configuration, "postconf", "-e", f"{SECURITY_LEVEL}=may")))
        severity = None if off == facts.servers else Severity.WARNING
        yield finding("tls_off", what, configuration.where(SECURITY_LEVEL), fix, severity=severity)
        return
    for service in off:
        if not _LOOPBACK.match(service.name):  # there a content filter gives mail back: it needs no TLS
            where = configuration.where_service(service.title, SECURITY_LEVEL)
            fix = Fix(then_reload(configuration, _remove_override(configuration, service.title, SECURITY_LEVEL)))
            yield finding("service_without_tls", f"{service.title} has TLS switched off for itself", where, fix)


def _remove_override(configuration: Configuration, service: str, parameter: str) -> str:
    return command(configuration, "postconf", "-PX", f"{service}/{parameter}")


def _set_default(facts: PostfixFacts) -> Fix:
    """Lets main.cf name a certificate of the stores, that for the host's own name if there is one."""
    configuration = facts.configuration
    stored = stored_pair(facts.host, configuration.value("myhostname").lower())
    if stored is None:
        edit = f"get a certificate, and let {_CHAIN_FILES} name its key and then its chain"
        return Fix(command(configuration, "postfix", "reload"), edit=edit)
    return _name_files(configuration, stored)


def _name_files(configuration: Configuration, paths: Iterable[Path]) -> Fix:
    value = f"{_CHAIN_FILES}={', '.join(map(str, paths))}"
    return Fix(then_reload(configuration, command(configuration, "postconf", "-e", value)))


def _check_default(facts: PostfixFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    lacking = [service.title for service in facts.servers if not configuration.certificate(service)[0]]
    for parameter, paths in configuration.certificates():
        certificate = DefaultCertificate("the default certificate", parameter, paths, configuration.where(parameter))
        yield from _check_certificate(facts, certificate)
    if lacking and not configuration.certificates():
        written = next((name for name in DEFAULT_CERTIFICATES if configuration.lines_of(name)), _CHAIN_FILES)
        what = f"there is no default certificate for {summarize(lacking)}"
        fix = _set_default(facts)
        yield finding("default_certificate_missing", what, configuration.where(written), fix)


def _check_services(facts: PostfixFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    shared = dict(configuration.certificates())
    servers = {service.title: service for service in facts.servers}
    for override in configuration.overrides_of(*DEFAULT_CERTIFICATES):
        if (service := servers.get(override.service)) is None:
            continue
        where = configuration.where_service(service.title, override.parameter)
        remove = then_reload(configuration, _remove_override(configuration, service.title, override.parameter))
        if shared and not configuration.certificates(service):
            what = f"{service.title} takes the default certificate away for itself ({override.parameter})"
            why = f"without one Postfix switches TLS off there and never looks into {SNI_MAPS}"
            yield finding("default_certificate_missing", what, where, Fix(remove), why=why)
            continue
        own = dict(configuration.certificates(service)).get(override.parameter)
        if own is not None and own != shared.get(override.parameter):
            what = f"{service.title} has a default certificate of its own ({override.parameter})"
            fix = Fix(remove, note="only needed to have one default certificate everywhere")
            yield finding("service_certificate", what, where, fix)
            title = f"the default certificate of {service.title}"
            yield from _check_certificate(facts, DefaultCertificate(title, override.parameter, own, where, service))


def _check_certificate(facts: PostfixFacts, certificate: DefaultCertificate) -> Iterator[Finding]:
    configuration, title, where = facts.configuration, certificate.title, certificate.where
    chained = certificate.parameter == _CHAIN_FILES
    labels = map_source.read_labels(certificate.files)
    mistake = map_source.file_mistake(certificate.files, labels) if chained else None
    if mistake in (Mistake.CERTIFICATE_FIRST, Mistake.KEY_MISSING):
        what = f"{title} {mistake.value} ({_CHAIN_FILES})"
        fix = Fix(command(configuration, "postfix", "reload"), edit="name a key, and then the chain that belongs to it")
        if mistake is Mistake.CERTIFICATE_FIRST and certificate.service is None:
            has_key = {path: any("PRIVATE" in str(label) for label in labels[path]) for path in certificate.files}
            fix = _name_files(configuration, sorted(certificate.files, key=lambda path: not has_key[path]))
        yield finding("default_key_not_first", what, where, fix)
        return
    key = None if chained else configuration.key_file(certificate.parameter, certificate.service)
    read = {path: files.read_untrusted(path, PEM_LIMIT) for path in (*certificate.files, *filter(None, [key]))}
    contents = {path: content for path, content in read.items() if content is not None}
    if missing := [path for path in read if path not in contents]:
        what = f"{title} does not exist: {missing[0]}"
        edit = f"let {certificate.parameter} name files that exist"
        fix = Fix(edit=edit, note="to get a certificate: certbot certonly -d NAME")
        # Measured: with smtpd_tls_chain_files names are served all the same, with the others nothing is.
        why = "clients that send no name, or one without an entry, are cut off" if chained else None
        yield finding("default_certificate_unreadable", what, where, fix, why=why)
    else:
        main_cf = configuration.main_cf if certificate.service is None else None
        yield from archive_finding(contents, title, where, main_cf, command(configuration, "postfix", "reload"))
        if chained or key is not None:
            yield from _check_pairs(facts, certificate, contents, key)


def _check_pairs(
    facts: PostfixFacts, certificate: DefaultCertificate, contents: Mapping[Path, bytes], key: Path | None
) -> Iterator[Finding]:
    """Judge the pairs in the files of a default certificate; ``key`` is None where the keys are beside the chains."""
    chain = b"\n".join(contents[path] for path in certificate.files)
    pairs = map_source.stored_pairs(chain) if key is None else []
    for pair in pairs or [chain]:
        leaf = chain_digests(pair)[:1]
        holders = [path for path in certificate.files if leaf == chain_digests(contents[path])[:1]]
        file = next(iter(holders), certificate.files[-1])
        yield from _check_pair(facts, certificate, pair, contents[key] if key is not None else pair, file)


def _check_pair(
    facts: PostfixFacts, certificate: DefaultCertificate, chain: bytes, key: bytes, file: Path
) -> Iterator[Finding]:
    configuration, title, where = facts.configuration, certificate.title, certificate.where
    reload = command(configuration, "postfix", "reload")
    faults = list(judge(chain, key, (), facts.host.now, issuers=authorities(configuration, certificate.service)))
    for fault in faults:
        if fault.fault is Fault.LEAF_ALONE and (leaf := lonely_leaf(chain)) is not None:
            alone = incomplete_chain(facts.host, where, file, leaf, f"{title} ")
            yield replace(alone, fix=replace(alone.fix, command=alone.fix.command or reload))
        elif fault.fault in _FAULTS:
            edit = _FAULTS[fault.fault][1].format(
                parameter=certificate.parameter, renewal=renewal(facts.host.settings.sources, file)
            )
            yield finding(_FAULTS[fault.fault][0], f"{title}: {fault.text}: {file}", where, Fix(reload, edit=edit))
    described = describe(chain)
    if not faults and isinstance(described, ChainDescription) and described.leaf.self_signed:
        fix = _set_default(facts)
        yield finding("default_certificate_self_signed", f"{title} is self-signed: {file}", where, fix)


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_misspelt(facts: PostfixFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    for file, name, value in configuration.unused:
        similar = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.75)
        if not similar and not _SNI.search(name):
            continue
        meant = similar[0] if similar else SNI_MAPS
        if file.name == "main.cf":
            where, remove = configuration.where(name), command(configuration, "postconf", "-X", name)
            add = command(configuration, "postconf", "-e", f"{meant}={value.strip()}")
            repair = remove if configuration.value(meant) else f"{remove} && {add}"
            fix = Fix(then_reload(configuration, repair))
        else:
            lines = (entry.line_with(re.escape(name)) for entry in configuration.master if name in entry.text)
            where = next((f"{file}:{number}" for number in lines), str(file))
            reload = command(configuration, "postfix", "reload")
            fix = Fix(reload, edit=f"write {meant} there, or remove the option")
        what = f"{printable_name(name)} is no parameter of Postfix; {meant} is"
        severity = Severity.ERROR if meant == SNI_MAPS and not configuration.tables else None
        yield finding("parameter_misspelt", what, where, fix, severity=severity)


def _check_repeated(facts: PostfixFacts) -> Iterator[Finding]:
    main_cf = facts.configuration.main_cf
    for name in (SNI_MAPS, *DEFAULT_CERTIFICATES, SECURITY_LEVEL):
        first, *more = facts.configuration.lines_of(name) or [0]
        if more:
            what = f"{name} stands in main.cf {len(more) + 1} times"
            why = f"only the last one (line {more[-1]}) is in force: Postfix ignores this one"
            remove = then_reload(facts.configuration, quoted("sed", "-i", f"{first}d", main_cf))
            edit = f"add what is missing to line {more[-1]}"
            fix = Fix(remove, edit=edit, note="the command removes this line")
            yield finding("parameter_duplicated", what, f"{main_cf}:{first}", fix, why=why)


def _check_overrides(facts: PostfixFacts) -> Iterator[Finding]:
    configuration, own = facts.configuration, facts.host.settings.postfix.map
    for override in configuration.overrides_of(SNI_MAPS):
        if all(table.source != own for table in parse_tables(override.value)):
            what = f"{override.service} has {SNI_MAPS} = {override.value or '(nothing)'} for itself"
            where = configuration.where_service(override.service, SNI_MAPS)
            fix = Fix(then_reload(configuration, _remove_override(configuration, override.service, SNI_MAPS)))
            yield finding("service_bypasses_map", what, where, fix)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_order(facts: PostfixFacts) -> Iterator[Finding]:
    """Whether main.cf names mailsni's map, and what the tables before it answer, which decide first."""
    if not facts.is_configured:
        what = f"{SNI_MAPS} in main.cf does not name mailsni's map {facts.host.settings.postfix.map}"
        yield finding("map_not_configured", what, facts.configuration.where(SNI_MAPS), Fix("mailsni setup"))
        return
    for table in takewhile(lambda table: not table.own, facts.tables):
        taken = sorted(facts.served_names & table.keys)
        if taken:
            what = f"{summarize(taken)}: answered from {table.reference.written}, which stands before mailsni's map"
            fix = Fix("mailsni setup --take-over", note="or remove these lines and compile the table again")
            yield finding("name_in_earlier_map", what, table.place_of(taken[0], table.where), fix)


def _check_default_names(facts: PostfixFacts) -> Iterator[Finding]:
    snapshot, configuration = facts.host.snapshot, facts.configuration
    parameter, paths = configuration.certificate()
    if snapshot is None or not configuration.tables:
        return
    served = facts.served_names.union(*(table.keys for table in facts.tables))
    missing = [name for name in _names_in(paths) if served.isdisjoint(_keys_for(name))]
    if not missing:
        return
    stored = {name for certificate in snapshot.inventory.certificates for name in certificate.names}
    names = [name for name in missing if name in stored]
    if names:
        include = ", ".join(f'"{pattern}"' for pattern in (*facts.host.settings.names.include, *names))
        fix = Fix("mailsni apply", edit=f"in mailsni's configuration, below [names]: include = [{include}]")
    else:
        fix = Fix(note="nothing need be done; mailsni serves a certificate by name when it is in a store")
    what = f"{summarize(missing)}: in the default certificate, and in no table of {SNI_MAPS}"
    yield finding("default_name_not_in_map", what, configuration.where(parameter), fix)


def _names_in(paths: Iterable[Path]) -> list[str]:
    """The names of some certificates, without wildcards."""
    names = (name for path in paths for name in leaf_names(files.read_untrusted(path, PEM_LIMIT) or b""))
    return [name for name in dict.fromkeys(names) if not is_wildcard(name)]


def _keys_for(name: str) -> Iterator[str]:
    """What has an entry for a name: itself, a wildcard, and the parents that Postfix looks up (``.example.com``)."""
    parent = name.partition(".")[2]
    yield from (name, f"*.{parent}")
    while parent:
        yield f".{parent}"
        parent = parent.partition(".")[2]


_CHECKS: Checks[PostfixFacts] = (
    ("whether Postfix offers TLS", _check_tls),
    ("Postfix's default certificate", _check_default),
    ("the default certificates of services", _check_services),
    ("misspelt parameters", _check_misspelt),
    ("repeated parameters", _check_repeated),
    ("the tables of services", _check_overrides),
    ("whether main.cf names mailsni's map, and before which tables", _check_order),
    ("the names of the default certificate", _check_default_names),
)
