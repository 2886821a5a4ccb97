"""What the tests of the pure modules start from: certificates, and what is made of them, without any file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailsni.config.settings import MAIL_NAMES, DovecotSettings, PostfixSettings, Settings, StateSettings
from mailsni.core import plan
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.core.model import Algorithm, Certificate, Inventory, KeyAndChain, Reason, SkippedLineage
from mailsni.core.names import NamePatterns
from mailsni.core.plan import ArtifactChange, Plan
from mailsni.core.selection import Selection, select
from mailsni.deploy.snapshot import Snapshot
from mailsni.sources.kinds import SourceSettings
from mailsni.targets.dovecot.rendering import render_dovecot
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix.rendering import render_postfix
from tests.support.authority import Authority

LIVE = "/etc/letsencrypt/live"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PINS = PinDirectory(Path("/etc/dovecot/mailsni"))
PUBLISHED = (("postfix", Settings().postfix.map), ("dovecot", Settings().dovecot.include_file))
MAIL = NamePatterns(MAIL_NAMES)
EVERYTHING = NamePatterns(["*"])


def digest(*parts: str) -> str:
    """A stand-in for a fingerprint: 64 hexadecimal digits that depend on nothing but the arguments."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def source(lineage: str) -> str:
    """Where a lineage lies."""
    return f"{LIVE}/{lineage}"


def certificate(
    lineage: str,
    *names: str,
    algorithm: Algorithm = "ecdsa",
    age: float = 10,
    left: float = 80,
    self_signed: bool = False,
    staging: bool = False,
) -> Certificate:
    """A certificate that nobody issued: everything a server would look at is made up, and always the same.

    Args:
        lineage: the directory's name.
        names: its SANs, of the grammar.
        algorithm: of the key.
        age: days between the start of its validity and :data:`NOW`.
        left: days between :data:`NOW` and its end.
        self_signed: no authority issued it.
        staging: one that no client trusts did.
    """
    not_before, not_after = NOW - timedelta(days=age), NOW + timedelta(days=left)
    fingerprint = digest("leaf", lineage, algorithm, f"{not_before.timestamp():.0f}")
    return Certificate(
        source=source(lineage),
        names=tuple(sorted(names)),
        algorithm=algorithm,
        fingerprint=fingerprint,
        spki=digest("key", lineage, algorithm),
        not_before=not_before,
        not_after=not_after,
        issuer="CN=E1,O=Made Up",
        self_signed=self_signed,
        staging=staging,
        digest=hashlib.sha256(_pem(fingerprint)).hexdigest(),
        chain_path=f"{source(lineage)}/fullchain.pem",
        key_path=f"{source(lineage)}/privkey.pem",
    )


def _pem(fingerprint: str) -> bytes:
    return f"key and chain of {fingerprint}\n".encode()


def with_key(certificate: Certificate) -> KeyAndChain:
    """A certificate with its key and chain."""
    return KeyAndChain(certificate, _pem(certificate.fingerprint), kind="made up")


def kept(certificate: Certificate) -> Certificate:
    """The same, standing in for its lineage, which is broken now."""
    return replace(certificate, kept=True, chain_path="", key_path="")


def skipped(lineage: str, reason: Reason, *names: str) -> SkippedLineage:
    """A lineage that cannot be used."""
    return SkippedLineage(source(lineage), reason, "made up", names)


def inventory(*certificates: Certificate, skipped: Iterable[SkippedLineage] = ()) -> Inventory:
    """What a scan that found these would give."""
    left_out = tuple(skipped)
    lineages = [one.source for one in certificates] + [one.source for one in left_out]
    return Inventory(certificates, left_out, frozenset(lineages))


def selection(*certificates: Certificate, patterns: NamePatterns = MAIL) -> Selection:
    """The winners among these."""
    return select(inventory(*certificates), patterns, NOW)


def deployment(*certificates: Certificate, patterns: NamePatterns = MAIL) -> Deployment:
    """What is recorded when the winners among these were applied."""
    return Deployment.of(selection(*certificates, patterns=patterns), PINS.path)


def snapshot(
    *certificates: Certificate,
    skipped: Iterable[SkippedLineage] = (),
    deployed: Deployment | None = None,
    patterns: NamePatterns = MAIL,
) -> Snapshot:
    """What a look at a host would give where these lie in the store, and that is deployed. It has no servers."""
    found = inventory(*certificates, skipped=skipped)
    winners = select(found, patterns, NOW)
    before = deployed or Deployment()
    changes = plan.changes(winners, before, found.lineages)
    difference = Plan(
        changes,
        tuple(ArtifactChange(server, path, "its content changes") for server, path in PUBLISHED if changes),
        tuple(with_key(one) for one in winners.certificates if one.ident not in before.certificates),
    )
    record = DeploymentRecord(before, trusted=deployed is not None)
    return Snapshot(Settings(), NOW, found, winners, record, (), PINS, {}, difference)


def without_servers(root: Path, store: Path) -> Settings:
    """Of a host that has neither server; pins, state and lock lie below ``root``."""
    return Settings(
        sources=(SourceSettings.of("certbot", path=store),),
        postfix=PostfixSettings(enabled=False),
        dovecot=DovecotSettings(enabled=False, pin_directory=root / "pins"),
        state=StateSettings(root / "state", root / "lock"),
    )


def artifacts(selection: Selection, pins: PinDirectory = PINS, *, live: bool = False) -> dict[str, bytes]:
    """The texts of all servers, by the name of the template."""
    return {
        "postfix-sni": render_postfix(selection, pins, None),
        "dovecot-2.3.conf": render_dovecot(selection, pins, "2.3", None, live=live),
        "dovecot-2.4.conf": render_dovecot(selection, pins, "2.4", None, live=live),
    }


def mixture() -> tuple[Certificate, ...]:
    """One of each kind: two algorithms for a name, a wildcard over an exact name, many names, a kept one."""
    return (
        certificate("a.test", "mail.a.test", "imap.a.test"),
        certificate("a.test-rsa", "mail.a.test", algorithm="rsa", left=60),
        certificate("wild.test", "*.wild.test", "wild.test", left=50),
        certificate("npm-7", "mail.wild.test", algorithm="rsa", age=5),
        kept(certificate("old.test", "smtp.old.test", age=70, left=20)),
    )


@functools.cache
def authority() -> Authority:
    """A certificate authority for the tests that need real certificates; one for all of them."""
    return Authority()
