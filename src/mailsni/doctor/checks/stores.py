"""The stores and the pinned files: keys that others can read, chains that end early, lineages that compete."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Certificate, Reason
from mailsni.core.text import counted, summarize
from mailsni.core.x509 import ChainDescription, Leaf, describe
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.helpers import KEYS_EXPOSED, chmod, quoted, world_readable, writable_by_others
from mailsni.host import files
from mailsni.sources.base import StoreFiles

_PEM_LIMIT = 1 << 20
_RENEW = ("--force-renewal",)
_RENEWALS = {
    Reason.KEY_MISMATCH: _RENEW,
    Reason.KEY_MISSING: _RENEW,
    Reason.CHAIN_MISSING: _RENEW,
    Reason.BAD_PEM: _RENEW,
    Reason.ENCRYPTED_KEY: _RENEW,
    Reason.UNSUPPORTED_KEY: (*_RENEW, "--key-type", "ecdsa"),
    Reason.EXPIRED: ("--dry-run",),
}
"""The options with which certbot repairs a lineage."""


def key_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read the private keys of the stores."""
    for store in facts.stores:
        yield from _check_key_modes(store)
        yield from _check_writable(store.directories)


def _check_key_modes(store: StoreFiles) -> Iterator[Finding]:
    for_everybody = [path for path in store.keys if path.is_file() and path.stat().st_mode & stat.S_IROTH]
    exposed = [path for path, _ in world_readable(for_everybody)]
    shielded = [path for path in for_everybody if path not in set(exposed)]
    if exposed:
        yield Finding(
            "key_world_readable",
            Severity.ERROR,
            f"every user of this host can read {_named(exposed, 'private key')}",
            str(exposed[0]),
            "whoever has the key can impersonate the server, until the certificate is revoked or expires",
            chmod("o-rwx", exposed, f"certbot copies the mode to the next key; {KEYS_EXPOSED}"),
        )
    if shielded:
        yield Finding(
            "key_mode_too_open",
            Severity.WARNING,
            f"the mode of {_named(shielded, 'private key')} lets everybody read",
            str(shielded[0]),
            "only the mode of a directory above protects it; certbot copies the mode to the next key",
            chmod("o-rwx", shielded),
        )


def pin_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read the pinned files."""
    settings = facts.settings
    for directory in dict.fromkeys((settings.dovecot.pin_directory, settings.state.directory / "pinned")):
        pins = (directory / name for name in files.list_names(directory) if name.endswith(".pem"))
        exposed = [path for path, _ in world_readable(pins)]
        if exposed:
            yield Finding(
                "pin_world_readable",
                Severity.ERROR,
                f"every user of this host can read {_named(exposed, 'pinned file')}",
                str(exposed[0]),
                "it holds a private key: whoever has it can impersonate the server",
                chmod("600", exposed, KEYS_EXPOSED),
            )
        yield from _check_writable((directory,))


def _named(paths: list[Path], noun: str) -> str:
    return f"{counted(len(paths), noun)}: {summarize([str(path) for path in paths])}"


def _check_writable(directories: Iterable[Path]) -> Iterator[Finding]:
    for path in directories:
        if path.is_dir() and (writable := writable_by_others(path)) is not None:
            yield Finding(
                "store_writable",
                Severity.ERROR,
                f"others than root can write to {path} ({writable[0]})",
                str(path),
                "they can put another key and certificate there, which is then served",
                writable[1],
            )


def broken_lineages(facts: Facts) -> Iterator[Finding]:
    """Report every certificate that is skipped and needs repair."""
    for problem in facts.snapshot.selection.problems if facts.snapshot is not None else ():
        if problem.reason is not Reason.KEPT_LAST_GOOD:  # its lineage is there with its own reason
            yield Finding(
                f"lineage_{problem.reason}",
                Severity.WARNING,
                f"{problem.source}: {problem.detail}",
                problem.source,
                f"{summarize(problem.names) or 'no name'} is not served from it: clients get its last valid "
                "certificate, and after that the default one",
                _renewal_fix(problem.reason, Path(problem.source).name),
            )


def _renewal_fix(reason: Reason, name: str) -> Fix:
    if reason is Reason.RENEWAL_IN_PROGRESS:
        return Fix("certbot certificates", note="it completes the interrupted renewal")
    options = _RENEWALS.get(reason)
    if options is None:
        return Fix("mailsni status --skipped", note="it shows every certificate that is skipped, and why")
    note = "it shows why the certificate is not renewed" if reason is Reason.EXPIRED else None
    return Fix(quoted("certbot", "renew", "--cert-name", name, *options), note=note)


def incomplete_chains(facts: Facts) -> Iterator[Finding]:
    """Check the chains of the selected certificates."""
    for certificate in facts.snapshot.selection.certificates if facts.snapshot is not None else ():
        path = Path(certificate.chain_path)
        chain = describe(files.read_untrusted(path, _PEM_LIMIT) or b"") if certificate.chain_path else None
        if isinstance(chain, ChainDescription) and chain.alone:
            yield _incomplete(str(path), path, chain.leaf)


def postfix_default_chain(facts: Facts) -> Iterator[Finding]:
    """Check the chain of Postfix's default certificate. One that is missing is a finding of Postfix's checks."""
    configuration = facts.postfix_configuration
    parameter, paths = configuration.certificate() if configuration is not None else ("", ())
    if configuration is None or not parameter:
        return
    contents = {path: files.read_untrusted(path, _PEM_LIMIT) or b"" for path in paths}
    contents = {path: content for path, content in contents.items() if b"-----BEGIN CERTIFICATE" in content}
    # smtpd_tls_chain_files may have the intermediates in a file of their own, after the leaf's.
    whole = describe(b"\n".join(contents.values()))
    if not isinstance(whole, ChainDescription) or not whole.alone:
        return
    for path, content in contents.items():
        chain = describe(content)
        if isinstance(chain, ChainDescription) and chain.alone:
            yield _incomplete(configuration.where(parameter), path, chain.leaf, "the default certificate ")


def _incomplete(where: str, path: Path, leaf: Leaf, title: str = "") -> Finding:
    # A public authority says where its intermediate is; a private one may well sign with its root.
    public = leaf.has_issuer_address
    return Finding(
        "chain_incomplete",
        Severity.WARNING if public else Severity.NOTE,
        f"{title}{path} has the leaf ({summarize(leaf.names)}) without its issuer ({leaf.issuer})",
        where,
        "clients that do not know the intermediate (Apple Mail, Android, other servers) refuse it"
        if public
        else "only clients that have the issuer in their trust store accept it",
        Fix(edit=f"name {path.with_name('fullchain.pem')} instead of {path}")
        if path.name == "cert.pem"
        else Fix(
            quoted("certbot", "renew", "--cert-name", path.parent.name, "--force-renewal"),
            note="or append the issuer's certificate to the file",
        ),
    )


def competing_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that lose a name to another one which was issued later."""
    if facts.snapshot is None:
        return
    winners = {winner.name: winner.certificates for winner in facts.snapshot.selection.winners}
    selected = {certificate.source for certificates in winners.values() for certificate in certificates}
    for certificate in facts.snapshot.inventory.certificates:
        if certificate.kept or certificate.staging or certificate.self_signed or not certificate.valid_at(facts.now):
            continue
        for source, names in sorted(_lost_names(certificate, winners).items()):
            name = Path(certificate.source).name
            left = [word for other in certificate.names if other not in names for word in ("-d", other)]
            command = (
                ("certonly", "--cert-name", name, *left)
                if certificate.source in selected
                else ("delete", "--cert-name", name)
            )
            lineage = _certbot_lineage(facts, certificate)
            yield Finding(
                "lineages_compete",
                Severity.WARNING,
                f"{summarize(names)}: two lineages have it, {source} is served, {certificate.source} is not",
                str(lineage.renewal) if lineage is not None and lineage.renewal.is_file() else certificate.source,
                "the one that was issued later wins, so they take turns at each renewal (which breaks TLSA records of "
                "the key), and both are renewed for nothing",
                Fix(quoted("certbot", *command), note=f"check first what else uses it: mailsni explain {names[0]}"),
            )


def _lost_names(certificate: Certificate, winners: dict[str, tuple[Certificate, ...]]) -> dict[str, list[str]]:
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


@dataclass(frozen=True, slots=True)
class _CertbotLineage:
    directory: Path
    """Of certbot's configuration."""
    name: str

    @property
    def renewal(self) -> Path:
        """The file without which certbot does not renew it."""
        return self.directory / "renewal" / f"{self.name}.conf"


def _certbot_lineage(facts: Facts, certificate: Certificate) -> _CertbotLineage | None:
    for settings in facts.settings.sources:
        store = settings.open()
        if store.certbot_directory is not None and store.owns(certificate.source):
            return _CertbotLineage(store.certbot_directory, Path(certificate.source).name)
    return None


def unrenewed_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that certbot has no renewal configuration for."""
    if facts.snapshot is None:
        return
    selected = {certificate.source for certificate in facts.snapshot.selection.certificates}
    for certificate in facts.snapshot.inventory.certificates:
        lineage = None if certificate.kept else _certbot_lineage(facts, certificate)
        expired = certificate.not_after <= facts.now
        # A directory without any renewal configurations is not certbot's.
        if lineage is None or not lineage.renewal.parent.is_dir() or os.path.lexists(lineage.renewal):
            continue
        if expired or certificate.source in selected:
            yield _unrenewed(certificate, lineage, expired=expired)


def _unrenewed(certificate: Certificate, lineage: _CertbotLineage, *, expired: bool) -> Finding:
    names = [word for name in certificate.names for word in ("-d", name)]
    again = quoted("certbot", "certonly", "--cert-name", lineage.name, *names)
    what = f"{certificate.source}: certbot does not renew it: {lineage.renewal} does not exist"
    day = f"{certificate.not_after:%Y-%m-%d}"
    if expired:
        remove = quoted("rm", "-r", certificate.source, lineage.directory / "archive" / lineage.name)
        return Finding(
            "lineage_expired_not_renewed",
            Severity.WARNING,
            f"{what}, and it expired on {day}",
            certificate.source,
            "its names are no longer served from it",
            Fix(remove, note=f"only when nothing needs it; otherwise move it away and get a new one: {again}"),
        )
    return Finding(
        "lineage_not_renewed",
        Severity.WARNING,
        what,
        certificate.source,
        f"it expires on {day}, and {summarize(certificate.names)} with it",
        Fix(edit=f"restore {lineage.renewal}, or move {certificate.source} away and get a new one: {again}"),
    )
