"""Where the servers that read a deployment answer, and the probes that confirm it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mailsni.config.settings import VerifySettings
from mailsni.core.model import Progress
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Confirmation
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, sni_name
from mailsni.targets.base import Target


@dataclass(frozen=True, slots=True)
class Listener:
    """Where one server answers in TLS."""

    endpoints: tuple[Endpoint, ...] | None = None
    """Empty: the server does not run. None: no probe of it can tell anything."""
    warnings: tuple[str, ...] = ()


def find_listener(target: Target, verify: VerifySettings, name: str) -> Listener:
    """Find out where a server answers, by a probe of every endpoint.

    Args:
        target: the server.
        verify: the endpoints that the administrator names, and the time limit of a probe.
        name: any name, to probe for.
    """
    given = verify.endpoints
    try:
        endpoints = target.endpoints() if given == "auto" else tuple(one for one in given if one.server == target.name)
    except HostError as error:
        return Listener(warnings=(f"{target.name}: where it listens cannot be found out: {error.message}",))
    if not endpoints:
        return Listener(warnings=(f"{target.name}: no service with TLS was found, so nothing was probed",))
    responsive, odd = confirm.responsive_endpoints(endpoints, sni_name(name), timeout=verify.timeout)
    warnings = tuple(f"{result.endpoint}: not probed: {result.detail}" for result in odd)
    return Listener(tuple(responsive) if responsive or not odd else None, warnings)


@dataclass(frozen=True, slots=True)
class WireCheck:
    """The probes that show what the running servers do with a deployment."""

    endpoints: Mapping[str, tuple[Endpoint, ...]]
    """Of each server to probe, by its name."""
    expected: tuple[Expectation, ...]
    timeout: float
    """Seconds for each probe."""
    deployed: int
    """How many names the servers must read after a reload: with many of them they need longer."""
    progress: Progress | None = None

    def now(self) -> tuple[Confirmation, ...]:
        """What the servers send at this moment."""
        return self._probe(self.expected, patience=0.0)

    def confirm(self) -> tuple[Confirmation, ...]:
        """What the servers send once they have taken what was published, or time is up."""
        return self._probe(self.expected, patience=self._patience)

    def any_certificate(self) -> tuple[Confirmation, ...]:
        """Whether the servers send a certificate at all, once they do, or time is up."""
        anything = tuple(replace(expectation, fingerprint=None) for expectation in self.expected)
        return self._probe(anything, patience=self._patience)

    @property
    def _patience(self) -> float:
        """Seconds until the servers must have taken what was published."""
        return self.timeout + confirm.PATIENCE_PER_NAME * self.deployed

    def _probe(self, expected: tuple[Expectation, ...], *, patience: float) -> tuple[Confirmation, ...]:
        return tuple(
            confirm.probe_server(
                server, endpoints, expected, timeout=self.timeout, patience=patience, progress=self.progress
            )
            for server, endpoints in self.endpoints.items()
        )
