"""Which certificates cut off clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from mailsni.core.model import Certificate
from mailsni.core.text import counted
from mailsni.deploy.confirm import CutOff
from mailsni.deploy.snapshot import Snapshot
from mailsni.probes.expectation import Answer

HEAVY: Final = 2_000_000
"""From this weight on a certificate may be too much for a server: a hundred names of twenty bytes weigh 200,000.
Measured: with 1,000 names of 40 bytes (40,000,000) Dovecot 2.4's config process runs out of memory, and Dovecot serves
nobody any more."""
_TRY_AGAIN: Final = "`mailsni apply --force` tries it again"


def causes(cut_off: CutOff, snapshot: Snapshot) -> dict[str, str]:
    """The certificates that are the cause, by ident, and in a sentence why.

    Only one that was never served can be: what is deployed has shown that the servers take it.

    Args:
        cut_off: who gets no certificate with what was published.
        snapshot: what that was.
    """
    deployed = frozenset(snapshot.record.deployment.certificates) - snapshot.record.unproven
    new = {
        winner.name: tuple(each for each in winner.certificates if each.ident not in deployed)
        for winner in snapshot.selection.winners
    }
    server = cut_off.answers[0].endpoint.server
    return _refused(cut_off.alone, new) if cut_off.alone else _too_heavy(server, new)


def _refused(answers: Iterable[Answer], new: dict[str, tuple[Certificate, ...]]) -> dict[str, str]:
    """Of names that get no certificate where others do. Of two new ones it is the one that the client wanted."""
    blamed: dict[str, str] = {}
    for answer in answers:
        wanted = answer.expectation
        suspects = new.get(wanted.name or "", ())
        why = (
            f"{answer.endpoint.server} cut off the clients of {wanted.name} at {answer.endpoint} "
            f"({answer.result.detail}): {_TRY_AGAIN}"
        )
        for certificate in [each for each in suspects if each.fingerprint == wanted.fingerprint] or suspects:
            blamed.setdefault(certificate.ident, why)
    return blamed


def _too_heavy(server: str, new: dict[str, tuple[Certificate, ...]]) -> dict[str, str]:
    """Where nobody is served any more: the heaviest new one, if any is heavy."""
    names = Counter(certificate for certificates in new.values() for certificate in certificates)
    weights = {each: count * sum(map(len, each.names)) for each, count in names.items()}
    heaviest = max(weights, key=lambda each: (weights[each], each.ident), default=None)
    if heaviest is None or weights[heaviest] < HEAVY:
        return {}
    why = f"{server} served nobody any more, and its {counted(names[heaviest], 'name')} may be too much: {_TRY_AGAIN}"
    return {heaviest.ident: why}
