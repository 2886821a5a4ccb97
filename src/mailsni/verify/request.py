"""What to verify: which names at which endpoints, and which certificates to expect there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailsni.config.settings import Settings
from mailsni.core import x509
from mailsni.core.model import Certificate
from mailsni.core.names import host_name
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError, UsageError
from mailsni.host import files
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, expectations
from mailsni.targets.base import Target
from mailsni.verify.model import KnownCertificate


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What the command line asks for."""

    names: tuple[str, ...] = ()
    """Empty: all names that should be served."""
    endpoints: tuple[Endpoint, ...] = ()
    """Empty: those of the configuration, or this host's listeners."""

    @classmethod
    def parse(cls, names: Iterable[str], endpoints: Iterable[str]) -> VerifyRequest:
        """The request for names and endpoints as somebody typed them.

        Raises:
            UsageError: a name or an endpoint is not of its grammar.
        """
        try:
            host_names = tuple(dict.fromkeys(host_name(name) for name in names))
            return cls(host_names, tuple(Endpoint.parse(url) for url in endpoints))
        except ValueError as error:
            raise UsageError(str(error)) from None


EVERYTHING = VerifyRequest()


def endpoints_to_probe(settings: Settings, targets: Iterable[Target]) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """The endpoints of the configuration, else every listener of the servers with TLS, on IPv4 and on IPv6.

    The second part are notes on servers whose listeners are unknown.
    """
    if settings.verify.endpoints != "auto":
        return settings.verify.endpoints, ()
    endpoints: list[Endpoint] = []
    notes: list[str] = []
    for target in targets:
        if not target.installed:
            continue
        try:
            listeners = target.endpoints(every_family=True)
        except HostError as error:
            notes.append(f"{target.name}: cannot find out where it listens: {error.message}")
            continue
        if not listeners:
            notes.append(f"{target.name}: no service with TLS found, so it is not probed")
        endpoints += listeners
    return tuple(dict.fromkeys(endpoints)), tuple(notes)


def expected_certificates(snapshot: Snapshot, names: Sequence[str] = ()) -> tuple[Expectation, ...]:
    """What clients should get: the winners in the stores, also those that are not deployed yet.

    A name that is deployed and has no winner any more, because its certificate has expired or its lineage is gone,
    keeps what is deployed until the next run. Without ``names`` all are of interest. For a name that nothing is
    deployed or selected for, any certificate will do.
    """
    deployed, pins = snapshot.record.deployment, snapshot.pins
    certificates: dict[str, Sequence[Certificate]] = {
        **{name: deployed.certificates_for(name) for name in deployed.names},
        **{winner.name: winner.certificates for winner in snapshot.selection.winners},
    }

    @functools.cache
    def chain_of(ident: str) -> tuple[str, ...]:
        return x509.chain_digests(files.read_private(pins.path / f"{ident}.pem") or b"")

    return expectations({name: certificates.get(name, ()) for name in names or sorted(certificates)}, chain_of)


def known_certificates(snapshot: Snapshot) -> dict[str, KnownCertificate]:
    """What is known of the certificates in the stores and of the deployed ones, by fingerprint."""
    deployed = {
        certificate.fingerprint: KnownCertificate(
            f"the deployed certificate of {certificate.source}, not the newer one in the store: run `mailsni apply`",
            outdated=True,
        )
        for certificate in snapshot.record.deployment.certificates.values()
    }
    stored = {
        certificate.fingerprint: KnownCertificate(f"the certificate of {certificate.source}")
        for certificate in snapshot.inventory.certificates
    }
    return deployed | stored
