"""Where the servers that read a deployment answer."""

from __future__ import annotations

from dataclasses import dataclass

from mailsni.config.settings import VerifySettings
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import sni_name
from mailsni.probes.model import Probe, Problem
from mailsni.targets.base import Target


@dataclass(frozen=True, slots=True)
class Listener:
    """Where one server answers in TLS."""

    endpoints: tuple[Endpoint, ...] | None = None
    """Empty: the server does not run. None: no probe of it can tell anything."""
    warnings: tuple[str, ...] = ()


def find_listener(target: Target, verify: VerifySettings, name: str) -> Listener:
    """Find out which endpoints of a server get as far as TLS, where the configuration allows to probe it.

    The others would cost a timeout for each name, and show no certificate. Any name will do for the probe.
    """
    if not (target.installed and verify.after_apply and target.reload_action != "none"):
        return Listener()
    given = verify.endpoints
    try:
        endpoints = target.endpoints() if given == "auto" else tuple(one for one in given if one.server == target.name)
    except HostError as error:
        return Listener(warnings=(f"{target.name}: where it listens cannot be found out: {error.message}",))
    if not endpoints:
        return Listener(warnings=(f"{target.name}: no service with TLS was found, so nothing was probed",))
    from mailsni.probes.tls_client import run_probes  # only a run that probes needs ssl

    results = run_probes([Probe(endpoint, sni_name(name)) for endpoint in endpoints], timeout=verify.timeout)
    responsive = tuple(result.endpoint for result in results if result.reached_tls)
    failed = (result for result in results if not result.reached_tls and result.problem is not Problem.NOT_LISTENING)
    warnings = tuple(f"{result.endpoint}: not probed: {result.detail}" for result in failed)
    return Listener(responsive if responsive or not warnings else None, warnings)
