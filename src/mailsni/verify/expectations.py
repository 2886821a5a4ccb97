"""What each client is expected to get."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailsni.config.settings import Settings
from mailsni.core import x509
from mailsni.core.deployment import DeployedCertificate
from mailsni.core.model import Certificate
from mailsni.core.names import host_name
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError, UsageError
from mailsni.host import files
from mailsni.probes.endpoint import Endpoint
from mailsni.targets.base import Target
from mailsni.verify.model import Intention


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to know.

    Attributes:
        names: what to ask for; all names that are to be served when there is none.
        endpoints: whom to ask, in the place of the configuration's or of this host's listeners.
    """

    names: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], endpoints: Iterable[str]) -> Wish:
        """From what was typed.

        Raises:
            UsageError: a name or an endpoint is not of its grammar.
        """
        try:
            asked = tuple(dict.fromkeys(host_name(name) for name in names))
            return cls(asked, tuple(Endpoint.parse(url) for url in endpoints))
        except ValueError as error:
            raise UsageError(str(error)) from None


EVERYTHING = Wish()


def listeners(settings: Settings, targets: Iterable[Target]) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """Where to ask: what the configuration names, else every listener with TLS of the servers, on IPv4 and on IPv6.

    Returns:
        The endpoints, and what could not be found out.
    """
    if settings.verify.endpoints != "auto":
        return settings.verify.endpoints, ()
    found: list[Endpoint] = []
    notes: list[str] = []
    for target in targets:
        if not target.installed:
            continue
        try:
            said = target.endpoints(every_family=True)
        except HostError as error:
            notes.append(f"{target.name}: where it listens could not be found out: {error.message}")
            continue
        if not said:
            notes.append(f"{target.name}: no service with TLS was found, so it was not asked")
        found += said
    return tuple(dict.fromkeys(found)), tuple(notes)


def intentions(snapshot: Snapshot, names: Sequence[str] = ()) -> dict[str, tuple[Intention, ...]]:
    """What names are to be served: the winners in the stores, also those that are not deployed yet.

    A name that is deployed and has no winner any more, because its certificate has expired or its lineage is gone, is
    served what is deployed until the next run.

    Args:
        snapshot: of this host.
        names: those of interest, all when there is none. One that is not to be served has no intention.
    """
    deployed, pins = snapshot.record.deployment, snapshot.pins
    meant: dict[str, Sequence[Certificate | DeployedCertificate]] = {
        **{name: deployed.certificates_for(name) for name in deployed.names},
        **{winner.name: winner.certificates for winner in snapshot.selection.winners},
    }

    @functools.cache
    def chain_of(ident: str) -> tuple[str, ...]:
        return x509.chain_digests(files.read_private(pins.path / f"{ident}.pem") or b"")

    return {
        name: tuple(Intention(one.fingerprint, one.algorithm, chain_of(one.ident)) for one in meant.get(name, ()))
        for name in names or sorted(meant)
    }


def _known(snapshot: Snapshot) -> dict[str, str]:
    """What to call a certificate, by fingerprint."""
    deployed = snapshot.record.deployment
    known = {
        one.fingerprint: f"that of {one.source}, deployed and not the newest any more: `mailsni apply`"
        for one in deployed.certificates.values()
    }
    return known | {one.fingerprint: f"that of {one.source}" for one in snapshot.inventory.certificates}
