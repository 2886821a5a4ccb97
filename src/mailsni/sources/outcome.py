"""What reading one certificate of a store gives, and the inventory that comes of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.core.model import CachedLineage, FileIdentity, Inventory, KeyAndChain, Reason, SkippedLineage

_STAGING = re.compile(rb"https://(?:acme-staging|[\w.-]*staging-api\.|[\w.-]*\btest-api\.|[\w.-]*\.test4\.)[\w./-]+")
"""Addresses of staging authorities: Let's Encrypt's, and those of Google and Buypass."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one read of one certificate gave."""

    lineage: CachedLineage | None = None
    pair: KeyAndChain | None = None
    """The certificate with its key and chain, if they were read: those of a known one are not."""
    skipped: tuple[SkippedLineage, ...] = ()
    foreign: bool = False
    """It is no certificate, but somebody's own file or directory."""
    torn: bool = False
    """It may be in the middle of a replacement: read it again."""


def accepted(lineage: CachedLineage, pair: KeyAndChain | None = None) -> Outcome:
    """A certificate to serve, with the names that are refused."""
    source = lineage.certificate.source
    refused_names = (f"the name {name} in the certificate is refused" for name in lineage.certificate.refused_names)
    return Outcome(lineage, pair, tuple(SkippedLineage(source, Reason.BAD_NAME, detail) for detail in refused_names))


def refused(source: str, reason: Reason, detail: str, names: tuple[str, ...] = ()) -> Outcome:
    """One that cannot be served. The source is printable."""
    return Outcome(skipped=(SkippedLineage(source, reason, detail, names),))


def paired(
    source: str,
    chain: bytes,
    key: bytes,
    files: tuple[FileIdentity, ...],
    *,
    staging: bool = False,
    paths: tuple[str, str] = ("", ""),
) -> Outcome:
    """What a chain and a key come to.

    Args:
        source: the origin of both, a safe one.
        chain: leaf and intermediates, as PEM.
        key: the private key, as PEM.
        files: those that both were read from; empty where the store has no files.
        staging: whether the store says that a staging authority issued it.
        paths: of the chain and the key, where servers can read them from the store.
    """
    from mailsni.core.x509 import InvalidPair, chain_digests, validate_pair  # only a changed one needs cryptography

    outcome = validate_pair(source, chain, key)
    if isinstance(outcome, InvalidPair):
        return refused(source, outcome.reason, outcome.detail, outcome.names)
    # A server serves a file as it is, in its order, with a root and what else is in it.
    is_as_served = chain_digests(chain) == chain_digests(outcome.pem)
    chain_path, key_path = paths if is_as_served else ("", "")
    certificate = replace(
        outcome.certificate,
        staging=staging or outcome.certificate.staging,
        chain_path=chain_path,
        key_path=key_path,
    )
    return accepted(CachedLineage(files, certificate), replace(outcome, certificate=certificate))


def names_staging_authority(content: bytes) -> bool:
    """Whether what a store says of a certificate's authority holds the address of a staging one."""
    return _STAGING.search(content) is not None


def inventory(outcomes: Mapping[str, Outcome], directory: Path | None = None) -> Inventory:
    """What a store has, from the outcomes by origin; the directory is what the configuration names."""
    own = {origin: outcome for origin, outcome in outcomes.items() if not outcome.foreign}
    lineages = tuple(outcome.lineage for outcome in own.values() if outcome.lineage)
    return Inventory(
        certificates=tuple(lineage.certificate for lineage in lineages),
        skipped=tuple(skipped for outcome in own.values() for skipped in outcome.skipped),
        lineages=frozenset(own),
        cached=tuple(lineage for lineage in lineages if lineage.files),
        read=tuple(outcome.pair for outcome in own.values() if outcome.pair),
        is_bare=directory is not None and not own and _is_bare(directory),
    )


def _is_bare(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False
