"""The stores and the pinned files: keys that others can read, chains that end early, lineages that compete."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mailsni.core.model import Certificate, Reason
from mailsni.core.text import counted, summarize
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import (
    KEYS_EXPOSED,
    PEM_LIMIT,
    chmod,
    incomplete_chain,
    lonely_leaf,
    quoted,
    world_readable,
    writable_by_others,
)
from mailsni.host import files
from mailsni.sources.base import CertbotLineage

_DAMAGED = (Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM, Reason.ENCRYPTED_KEY)
_RENEWALS = {
    **dict.fromkeys(_DAMAGED, ("--force-renewal",)),
    Reason.UNSUPPORTED_KEY: ("--force-renewal", "--key-type", "ecdsa"),
    Reason.EXPIRED: ("--dry-run",),
}
"""The options with which certbot repairs a lineage."""


def key_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read or replace the private keys of the stores."""
    for store in facts.host.stores:
        for_everybody = [path for path in store.keys if path.is_file() and path.stat().st_mode & stat.S_IROTH]
        exposed = [path for path, _ in world_readable(for_everybody)]
        shielded = [path for path in for_everybody if path not in set(exposed)]
        if exposed:
            what = f"every user of this host can read {_listed(exposed, 'private key')}"
            fix = chmod("o-rwx", exposed, f"certbot copies the mode to the next key; {KEYS_EXPOSED}")
            yield finding("key_world_readable", what, exposed[0], fix)
        if shielded:
            what = f"the mode of {_listed(shielded, 'private key')} lets everybody read"
            yield finding("key_mode_too_open", what, shielded[0], chmod("o-rwx", shielded))
        for directory in store.directories:
            yield from writable_by_others("store_writable", directory)


def pin_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read or replace the pinned files."""
    settings = facts.host.settings
    for directory in dict.fromkeys((settings.dovecot.pin_directory, settings.state.directory / "pinned")):
        pins = (directory / name for name in files.list_names(directory) if name.endswith(".pem"))
        exposed = [path for path, _ in world_readable(pins)]
        if exposed:
            what = f"every user of this host can read {_listed(exposed, 'pinned file')}"
            yield finding("pin_world_readable", what, exposed[0], chmod("600", exposed, KEYS_EXPOSED))
        yield from writable_by_others("store_writable", directory)


def _listed(paths: Sequence[Path], noun: str) -> str:
    return f"{counted(len(paths), noun)}: {summarize([str(path) for path in paths])}"


def _certbot_lineage(facts: Facts, origin: str) -> CertbotLineage | None:
    lineages = (settings.open().certbot_lineage(origin) for settings in facts.host.settings.sources)
    return next((lineage for lineage in lineages if lineage is not None), None)


def broken_lineages(facts: Facts) -> Iterator[Finding]:
    """Report every certificate that is skipped and needs repair."""
    for problem in facts.host.snapshot.selection.problems if facts.host.snapshot is not None else ():
        if problem.reason is not Reason.KEPT_LAST_GOOD:  # its lineage is there with its own reason
            names = summarize(problem.names) or "no name"
            why = (
                f"{names} is not served from it: clients get its last valid certificate, and after that the default one"
            )
            what = f"{problem.source}: {problem.detail}"
            fix = _renewal_fix(problem.reason, _certbot_lineage(facts, problem.source))
            yield finding(f"lineage_{problem.reason}", what, problem.source, fix, why=why)


def _renewal_fix(reason: Reason, lineage: CertbotLineage | None) -> Fix:
    options = _RENEWALS.get(reason)
    if lineage is not None and reason is Reason.RENEWAL_IN_PROGRESS:
        return Fix("certbot certificates", note="it completes the interrupted renewal")
    if lineage is None or options is None:
        return Fix("mailsni status --skipped", note="it shows every certificate that is skipped, and why")
    note = "it shows why the certificate is not renewed" if reason is Reason.EXPIRED else None
    return Fix(quoted("certbot", "renew", "--cert-name", lineage.name, *options), note=note)


def incomplete_chains(facts: Facts) -> Iterator[Finding]:
    """Check the chains of the selected certificates."""
    for certificate in facts.host.snapshot.selection.certificates if facts.host.snapshot is not None else ():
        path = Path(certificate.chain_path)
        leaf = lonely_leaf(files.read_untrusted(path, PEM_LIMIT) or b"") if certificate.chain_path else None
        if leaf is not None:
            yield incomplete_chain(path, path, leaf)


def competing_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that lose a name to another one which was issued later."""
    snapshot, now = facts.host.snapshot, facts.host.now
    if snapshot is None:
        return
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    selected = {certificate.source for certificates in winners.values() for certificate in certificates}
    for certificate in snapshot.inventory.certificates:
        if certificate.kept or certificate.staging or certificate.self_signed or not certificate.valid_at(now):
            continue
        lineage = _certbot_lineage(facts, certificate.source)
        for source, names in sorted(_lost_names(certificate, winners).items()):
            command = None
            if lineage is not None and certificate.source in selected:
                kept = [word for name in certificate.names if name not in names for word in ("-d", name)]
                command = quoted("certbot", "certonly", "--cert-name", lineage.name, *kept)
            elif lineage is not None:
                command = quoted("certbot", "delete", "--cert-name", lineage.name)
            where = lineage.renewal if lineage is not None and lineage.renewal.is_file() else certificate.source
            what = f"{summarize(names)}: two lineages have it, {source} is served, {certificate.source} is not"
            fix = Fix(command, note=f"check first what else uses it: mailsni explain {names[0]}")
            yield finding("lineages_compete", what, where, fix)


def _lost_names(certificate: Certificate, winners: Mapping[str, tuple[Certificate, ...]]) -> dict[str, list[str]]:
    """The names that other certificates win, by their origin.

    An exact name beats a wildcard, and one of another algorithm is served as well: neither is a competition.
    """
    lost: dict[str, list[str]] = defaultdict(list)
    for name in certificate.names:
        for winner in winners.get(name, ()):
            same_kind = winner.algorithm == certificate.algorithm and name in winner.names
            if same_kind and winner.source != certificate.source:
                lost[winner.source].append(name)
    return lost


def unrenewed_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that certbot has no renewal configuration for."""
    if facts.host.snapshot is None:
        return
    selected = {certificate.source for certificate in facts.host.snapshot.selection.certificates}
    for certificate in facts.host.snapshot.inventory.certificates:
        lineage = None if certificate.kept else _certbot_lineage(facts, certificate.source)
        # A directory without any renewal configurations is not certbot's.
        if lineage is None or not lineage.renewal.parent.is_dir() or os.path.lexists(lineage.renewal):
            continue
        expired = certificate.not_after <= facts.host.now
        if expired or certificate.source in selected:
            yield _unrenewed(certificate, lineage, expired=expired)


def _unrenewed(certificate: Certificate, lineage: CertbotLineage, *, expired: bool) -> Finding:
    names = [word for name in certificate.names for word in ("-d", name)]
    again = quoted("certbot", "certonly", "--cert-name", lineage.name, *names)
    what = f"{certificate.source}: certbot does not renew it: {lineage.renewal} does not exist"
    day = f"{certificate.not_after:%Y-%m-%d}"
    if expired:
        remove = quoted("rm", "-r", certificate.source, lineage.directory / "archive" / lineage.name)
        fix = Fix(remove, note=f"only when nothing needs it; otherwise move it away and get a new one: {again}")
        return finding("lineage_expired_not_renewed", f"{what}, and it expired on {day}", certificate.source, fix)
    fix = Fix(edit=f"restore {lineage.renewal}, or move {certificate.source} away and get a new one: {again}")
    why = f"it expires on {day}, and {summarize(certificate.names)} with it"
    return finding("lineage_not_renewed", what, certificate.source, fix, why=why)
