"""The files that Dovecot's configuration names: missing, broken, of another name, open to everybody, or short-lived."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from mailsni.core.text import printable_name, summarize, summarize_names
from mailsni.doctor.dovecot_facts import APPLY, DovecotFacts, disconnected, owner, place_of
from mailsni.doctor.finding import Finding, Fix, finding
from mailsni.doctor.helpers import PEM_LIMIT, grouped, quoted
from mailsni.doctor.pairs import ARCHIVED, Fault, PairFault, judge, live_path, live_script, renewal
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files, permissions
from mailsni.targets.dovecot.configuration import BlockPair, file_problem, full_key
from mailsni.targets.dovecot.parser import Setting
from mailsni.targets.dovecot.precedence import can_match

_CODES = {
    Fault.EXPIRED: "dovecot_certificate_expired",
    Fault.NOT_YET_VALID: "dovecot_certificate_not_yet_valid",
    Fault.EXPIRES: "dovecot_certificate_expires",
    Fault.LEAF_ALONE: "dovecot_chain_incomplete",
    Fault.OTHER_NAMES: "dovecot_certificate_name_mismatch",
}
"""The code for each fault of a pair that Dovecot can load."""
_OF_STORES = (Fault.LEAF_ALONE, Fault.EXPIRES)


def missing_files(facts: DovecotFacts) -> Iterator[Finding]:
    """Report files that Dovecot cannot read."""
    for group in grouped(facts.configuration.missing_files, lambda missing: facts.group(missing[0])):
        first = group[0][0]
        keys = " and ".join(dict.fromkeys(full_key(setting) for setting, _ in group))
        problems = dict.fromkeys(f"{facts.configuration.file_of(setting)} {problem}" for setting, problem in group)
        by_hand = facts.by_hand(f"name a file that exists in line {first.line} of {first.file}")
        fix = APPLY if facts.is_ours(first) else facts.without_filter(first.blocks) or by_hand
        what = f"{owner(first.blocks)}: {keys}: {summarize(list(problems))}"
        yield finding("dovecot_file_missing", what, place_of(first), fix)


def certificates(facts: DovecotFacts) -> Iterator[Finding]:
    """Check every certificate that a block or the default sets, with its key."""
    read = functools.cache(_read)
    denied: Setting | None = None
    for pair in facts.configuration.pairs:
        chain, key = facts.configuration.file_of(pair.certificate), facts.configuration.file_of(pair.key)
        if chain is None or key is None or file_problem(chain) or file_problem(key):
            continue
        try:
            chain_pem, key_pem = read(chain), read(key)
        except PermissionMissingError:
            denied = denied or pair.own
        except HostError as error:
            yield _unusable(facts, pair, error.message)
        else:
            yield from _check_pair(facts, pair, chain, chain_pem, key_pem)
    if denied is not None:
        what = "the certificates and keys that blocks name were not checked"
        yield finding("dovecot_certificates_not_checked", what, place_of(denied), Fix("sudo mailsni doctor"))


def _read(path: Path) -> bytes:
    content = files.read_untrusted(path, PEM_LIMIT)
    if content is None:
        raise HostError(f"{path}: is not a regular file", path=path)
    return content


def _check_pair(
    facts: DovecotFacts, pair: BlockPair, chain: Path, chain_pem: bytes, key_pem: bytes
) -> Iterator[Finding]:
    asked = _names_of(pair)
    for fault in judge(chain_pem, key_pem, asked, facts.host.now, password=_has_password(facts)):
        # The chains and the dates of what the stores have, which our own include names, are other checks'.
        if fault.fault in _OF_STORES and facts.is_ours(pair.certificate):
            continue
        if fault.fault is Fault.UNUSABLE:
            yield _unusable(facts, pair, fault.text)
            continue
        what = f"{_owner(pair)}: {fault.text}: {chain}"
        fix = _fix(facts, pair, chain, fault, every_name=len(fault.names) == len(asked))
        yield finding(_CODES[fault.fault], what, place_of(pair.own), fix, severity=fault.severity)


def _names_of(pair: BlockPair) -> list[str]:
    blocks = (name for kind, name in pair.scope if kind == "local_name")
    return [name for block in blocks for name in block.lower().split() if can_match(name)]


def _fix(facts: DovecotFacts, pair: BlockPair, chain: Path, fault: PairFault, *, every_name: bool) -> Fix:
    """How to mend what is wrong with a pair that Dovecot can load."""
    match fault.fault:
        case Fault.LEAF_ALONE:
            if chain.name == "cert.pem" and os.access(chain.with_name("fullchain.pem"), os.F_OK):
                return facts.sed(pair.certificate.file, f"{pair.certificate.line}s/cert\\.pem/fullchain.pem/")
            return facts.by_hand("name the file with the whole chain (certbot: fullchain.pem)")
        case Fault.EXPIRES:
            return facts.by_hand(renewal(facts.host.settings.sources, chain))
        case Fault.OTHER_NAMES if not every_name:
            return facts.by_hand(f"remove {summarize_names(fault.names)} from the names of the block")
    return _replacement(facts, pair)


def _has_password(facts: DovecotFacts) -> bool:
    passwords = ("ssl_key_password", "ssl_server_key_password")
    return any(full_key(setting) in passwords for setting in facts.configuration.source.settings)


def _owner(pair: BlockPair) -> str:
    return owner(pair.own.blocks) + (" (second algorithm)" if pair.alternative else "")


def _unusable(facts: DovecotFacts, pair: BlockPair, detail: str) -> Finding:
    paths = dict.fromkeys(str(facts.configuration.file_of(setting)) for setting in (pair.certificate, pair.key))
    what = f"{_owner(pair)}: Dovecot cannot serve {' and '.join(paths)}: {detail}"
    why = f"{disconnected(pair.own.blocks)}; Dovecot starts and reloads without a complaint"
    return finding("dovecot_certificate_unusable", what, place_of(pair.own), _replacement(facts, pair), why=why)


def _replacement(facts: DovecotFacts, pair: BlockPair) -> Fix:
    """Repairs a pair that cannot be served: a block can go, the default certificate cannot."""
    if facts.is_ours(pair.own):
        return APPLY
    keys = f"{pair.certificate.key} and {pair.key.key}"
    return facts.without_filter(pair.own.blocks) or facts.by_hand(f"name a valid certificate and its key with {keys}")


def key_modes(facts: DovecotFacts) -> Iterator[Finding]:
    """Check who can read or replace the private keys."""
    keys = {facts.configuration.key(key) for key in ("ssl_key", "ssl_alt_key")}
    places: dict[Path, Setting] = {}
    for setting in facts.configuration.source.settings:
        path = facts.configuration.file_of(setting) if full_key(setting) in keys else None
        if path is not None:
            places.setdefault(Path(os.path.realpath(path)), setting)
    for path, setting in places.items():
        if path.parent == facts.dovecot.settings.pin_directory:  # the checks of the stores are about the pins
            continue
        if not os.path.isfile(path):  # noqa: PTH113  # whatever the path, this raises nothing
            continue
        can_read, can_write = permissions.world_readable(path), permissions.world_writable(path)
        if can_read or can_write:
            what = f"every user of this host can {'read' if can_read else 'replace'} the private key {path}"
            yield finding("dovecot_key_exposed", what, place_of(setting), Fix(quoted("chmod", "o-rwx", path)))


def archive_paths(facts: DovecotFacts) -> Iterator[Finding]:
    """Report paths of one version of a certificate."""
    named = ((setting, facts.configuration.file_of(setting)) for setting in facts.configuration.source.settings)
    archived = [
        (setting, match)
        for setting, path in named
        if path is not None and (match := ARCHIVED.fullmatch(str(path))) is not None and file_problem(path) is None
    ]
    for group in grouped(archived, lambda each: (each[0].file, each[0].blocks[-1:])):
        first = group[0][0]
        script = "; ".join(f"{setting.line}{live_script(match)}" for setting, match in group)
        exists = all(live_path(match).exists() for _, match in group)
        by_hand = facts.by_hand("name the files of live/ in place of those of archive/")
        what = f"{owner(first.blocks)}: {printable_name(first.value)} is a file of certbot's archive"
        fix = facts.sed(first.file, script) if exists else by_hand
        yield finding("dovecot_archive_path", what, place_of(first), fix)
