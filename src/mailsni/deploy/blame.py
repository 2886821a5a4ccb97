"""Which certificates cut off their clients."""

from __future__ import annotations

from collections.abc import Iterable

from mailsni.deploy.snapshot import Snapshot
from mailsni.probes.expectation import Answer


def causes(cut_off: Iterable[Answer], snapshot: Snapshot) -> dict[str, str]:
    """The certificates that are the cause, by ident, and in a sentence why.

    Only a certificate that was never served can be: one that is deployed has shown that the servers take it. Where a
    name has a new one of each algorithm, it is the one that the client wanted.

    Args:
        cut_off: clients that get no certificate where others do, each with what it should get.
        snapshot: what was published.
    """
    deployed = frozenset(snapshot.record.deployment.certificates) - snapshot.record.unproven
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    blamed: dict[str, str] = {}
    for answer in cut_off:
        wanted = answer.expectation
        new = [each for each in winners.get(wanted.name or "", ()) if each.ident not in deployed]
        for certificate in [each for each in new if each.fingerprint == wanted.fingerprint] or new:
            why = f"{answer.endpoint.server} cut off the clients of {wanted.name} at {answer.endpoint}"
            blamed.setdefault(certificate.ident, f"{why} ({answer.result.detail}): `apply --force` tries it again")
    return blamed
