"""The difference between what is deployed and what should be: pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.deployment import Deployment
from mailsni.core.model import Certificate, KeyAndChain
from mailsni.core.selection import Selection, Winner


class Kind(enum.StrEnum):
    """What happens to a name."""

    ADD = "add"
    RENEW = "renew"
    """Another certificate of the same lineages."""
    REPLACE = "replace"
    """A certificate of another lineage, or one more, or one fewer."""
    REMOVE = "remove"
    KEEP = "keep"
    """Its lineage is broken, so it keeps its last good certificate."""


SYMBOLS = {
    Kind.ADD: "+",
    Kind.RENEW: "~",
    Kind.REPLACE: "~",
    Kind.REMOVE: "-",
    Kind.KEEP: "!",
}


class NameState(enum.StrEnum):
    """Where a name stands between what is deployed and what should be."""

    DEPLOYED = "deployed"
    KEPT = "kept"
    """Its lineage is broken; it is served with its last good certificate."""
    PENDING = "pending"
    """The next ``apply`` changes what it is served."""
    LEAVING = "leaving"
    """The next ``apply`` removes it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A name whose certificates change, or that keeps its last good one."""

    kind: Kind
    name: str
    old: tuple[Certificate, ...]
    new: tuple[Certificate, ...]
    why: str

    @property
    def new_public_key(self) -> bool:
        """Whether a TLSA record of the key (``3 1 1``) must change with it."""
        return bool(self.old and self.new) and {each.spki for each in self.old} != {each.spki for each in self.new}


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """A file of a server that must be published, and why."""

    server: str
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``apply`` would do."""

    changes: tuple[Change, ...]
    artifacts: tuple[ArtifactChange, ...]
    pins: tuple[KeyAndChain, ...]
    """The pinned files that have to be written."""

    @property
    def pending(self) -> bool:
        """Whether ``apply`` would write anything."""
        return bool(self.artifacts or self.pins)

    @property
    def effective(self) -> tuple[Change, ...]:
        """The changes of what a name is served with: all but the kept ones."""
        return tuple(change for change in self.changes if change.kind is not Kind.KEEP)

    def count(self, *kinds: Kind) -> int:
        """How many names have a change of these kinds."""
        return sum(change.kind in kinds for change in self.changes)


def changes(selection: Selection, deployed: Deployment, lineages: frozenset[str]) -> tuple[Change, ...]:
    """The change of each name, ordered by name.

    Args:
        selection: what should be deployed.
        deployed: what is deployed.
        lineages: the origins in the stores; they tell why a name goes.
    """
    winners = {winner.name: winner for winner in selection.winners}
    result = []
    for name in sorted({*winners, *deployed.names}):
        old = deployed.certificates_for(name)
        winner = winners.get(name)
        if winner is None:
            result.append(Change(Kind.REMOVE, name, old, (), _why_gone(old, lineages)))
            continue
        change = _change(winner, old, known=name in deployed.names)
        if change is not None:
            result.append(change)
    return tuple(result)


def _change(winner: Winner, old: Sequence[Certificate], *, known: bool) -> Change | None:
    new = winner.certificates
    if [certificate.ident for certificate in old] == [certificate.ident for certificate in new]:
        if any(certificate.kept for certificate in new):
            return Change(Kind.KEEP, winner.name, tuple(old), new, "its lineage is broken: the last good one stays")
        return None
    if not known:
        return Change(Kind.ADD, winner.name, (), new, "new")
    if sorted(certificate.source for certificate in old) == sorted(certificate.source for certificate in new):
        return Change(Kind.RENEW, winner.name, tuple(old), new, "renewed")
    return Change(Kind.REPLACE, winner.name, tuple(old), new, "other lineages serve it now")


def _why_gone(old: Sequence[Certificate], lineages: frozenset[str]) -> str:
    if old and all(certificate.source not in lineages for certificate in old):
        return "its lineage is gone"
    return "no certificate can serve it any more"


def name_states(selection: Selection, plan: Plan) -> list[tuple[str, NameState]]:
    """Each name that is or will be served, ordered, with its state."""
    states = {change.name: _STATES.get(change.kind, NameState.PENDING) for change in plan.changes}
    names = sorted({winner.name for winner in selection.winners} | set(states))
    return [(name, states.get(name, NameState.DEPLOYED)) for name in names]


_STATES = {Kind.KEEP: NameState.KEPT, Kind.REMOVE: NameState.LEAVING}
