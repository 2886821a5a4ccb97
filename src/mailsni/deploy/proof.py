"""Proves what a scan read before anything is made of it: OpenSSL loads it, and a client shakes hands with it.

A certificate that OpenSSL refuses aborts every handshake for its names, and a deployment that cuts a name off is rolled
back as a whole: one bad renewal would hold up all others. So it is left out, as any broken lineage is, and the last
good certificate of its names stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mailsni.core.model import Certificate, Inventory, KeyAndChain, Progress, Reason, SkippedLineage

MANY = 200
"""More new certificates than this are proven by kind. A proof takes 4 ms."""


def proven(inventory: Inventory, deployed: Collection[str], progress: Progress | None = None) -> Inventory:
    """An inventory in which the certificates that OpenSSL refuses are skipped.

    What is known from an earlier scan was proven then. Of many new certificates OpenSSL judges one of each kind
    (:attr:`mailsni.core.model.KeyAndChain.kind`), and all of a kind of which it refuses that one.

    Args:
        inventory: what a scan gave.
        deployed: the idents of certificates that the servers load already.
        progress: called for each proof.
    """
    new = {pair.certificate.ident: pair for pair in inventory.read if pair.certificate.ident not in deployed}
    refusals = _refusals(list(new.values()), progress) if new else {}
    if not refusals:
        return inventory
    refused = [certificate for certificate in inventory.certificates if certificate.ident in refusals]
    return replace(
        inventory,
        certificates=tuple(one for one in inventory.certificates if one.ident not in refusals),
        skipped=(*inventory.skipped, *(_skipped(certificate, refusals) for certificate in refused)),
        cached=tuple(lineage for lineage in inventory.cached if lineage.certificate.ident not in refusals),
        read=tuple(pair for pair in inventory.read if pair.certificate.ident not in refusals),
    )


def _skipped(certificate: Certificate, refusals: Mapping[str, str]) -> SkippedLineage:
    detail = refusals[certificate.ident]
    return SkippedLineage(certificate.source, Reason.REFUSED_BY_OPENSSL, detail, certificate.names)


def _refusals(pairs: Sequence[KeyAndChain], progress: Progress | None) -> dict[str, str]:
    """By ident, why OpenSSL refuses a certificate."""
    from mailsni.probes import openssl  # only what is new needs OpenSSL

    refusals = {}
    done = 0
    for group in _by_kind(pairs) if len(pairs) > MANY else ([pair] for pair in pairs):
        for at, pair in enumerate(group):
            reason = openssl.refusal(pair.pem)
            if progress is not None:
                progress("proving certificates", done + at + 1, len(pairs))
            if reason is not None:
                refusals[pair.certificate.ident] = reason
            elif at == 0:
                break
        done += len(group)
    return refusals


def _by_kind(pairs: Iterable[KeyAndChain]) -> Iterable[Sequence[KeyAndChain]]:
    kinds: dict[str, list[KeyAndChain]] = defaultdict(list)
    for pair in pairs:
        kinds[pair.kind].append(pair)
    return kinds.values()
