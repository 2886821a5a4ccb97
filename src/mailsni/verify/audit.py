"""Audits the running servers: probes every name at every port, as every kind of client, and assesses the results.

Where :mod:`mailsni.deploy.confirm` probes the names that were just published, an audit covers everything that a server
sends: the leaf, the chain behind it, the dates, the names, and whether the system trusts it. It changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mailsni.config.settings import VerifySettings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.probes.expectation import Expectation
from mailsni.probes.model import Outcome, Probe, ProbeResult
from mailsni.probes.tls_client import CONCURRENCY, run_probes
from mailsni.verify.assess import assess, with_disagreements
from mailsni.verify.model import UNKNOWN_NAME, Audit, Limits
from mailsni.verify.request import (
    EVERYTHING,
    VerifyRequest,
    certificate_labels,
    endpoints_to_probe,
    expected_certificates,
)

_Case = tuple[Expectation, Endpoint]
_BATCH = 512
"""Probes between two decisions whether an endpoint still responds."""
_TRUST_ATTEMPTS = 3
"""Clients that ask for the verdict on a chain, until one of them gets that chain."""
_TIMEOUTS_ALLOWED = 16
"""Probes of an endpoint that may time out until the rest of them is left out."""


def audit(
    snapshot: Snapshot | None,
    request: VerifyRequest = EVERYTHING,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> Audit:
    """Probe the servers of this host, or others, for what this host should serve.

    Without a snapshot nobody knows what to expect: then the request has names and endpoints. The timeout is seconds
    for each probe, by default those of the configuration.

    Raises:
        HostError: there is no endpoint to probe.
    """
    if snapshot is None:
        limits = Limits(timeout or VerifySettings().timeout, concurrency)
        return probe_and_assess(list(map(Expectation, request.names)), request.endpoints, limits, progress=progress)
    settings = snapshot.settings
    endpoints, notes = (request.endpoints, ()) if request.endpoints else endpoints_to_probe(settings, snapshot.targets)
    if not endpoints:
        raise HostError(
            "; ".join(notes) or "the servers' configurations have no service with TLS",
            hint="name the ports with [verify] endpoints in the configuration, or with --endpoint",
        )
    limits = Limits(timeout or settings.verify.timeout, concurrency)
    expected, labels = expected_certificates(snapshot, request.names), certificate_labels(snapshot)
    result = probe_and_assess(expected, endpoints, limits, now=snapshot.now, labels=labels, progress=progress)
    return replace(result, notes=notes)


def probe_and_assess(
    expected: Sequence[Expectation],
    endpoints: Sequence[Endpoint],
    limits: Limits,
    *,
    now: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Probe endpoints for names, and assess the results at a moment with a time zone, by default the present.

    Where any certificate is expected for a name, it must be valid, cover the name, and be the same at all endpoints. An
    endpoint whose host is a name stands for all addresses of that name.
    """
    addresses = list(dict.fromkeys(address for endpoint in endpoints for address in resolved(endpoint)))
    by_name = sorted(expected, key=lambda expectation: expectation.name or "")
    clients = (*by_name, Expectation(None), Expectation(UNKNOWN_NAME))
    # The names first, so that concurrent probes spread over all endpoints.
    cases = [(expectation, address) for expectation in clients for address in addresses]
    results = _run_cases(cases, _unresponsive(addresses, limits), limits, progress)
    trust_errors = _trust_errors(cases, results, limits, progress)
    moment, known = now or datetime.now(UTC), labels or {}
    assessments = [
        assess(expectation, result, trust_errors.get(result.chain), now=moment, labels=known)
        for (expectation, _), result in zip(cases, results, strict=True)
    ]
    return Audit(tuple(with_disagreements(assessments)))


def _unresponsive(endpoints: Sequence[Endpoint], limits: Limits) -> dict[Endpoint, ProbeResult]:
    """The endpoints that do not get as far as TLS. They would cost a timeout for each name, and show no certificate."""
    probes = [Probe(endpoint) for endpoint in endpoints]
    results = run_probes(probes, timeout=limits.timeout, concurrency=limits.concurrency)
    return {result.endpoint: result for result in results if not result.outcome.reached_tls}


def _run_cases(
    cases: Sequence[_Case],
    unresponsive: Mapping[Endpoint, ProbeResult],
    limits: Limits,
    progress: Progress | None,
) -> list[ProbeResult]:
    """The results in the order of the cases. An endpoint that hangs is left out after a while.

    An endpoint that is left out counts as if it had given its last result again.
    """
    left_out = dict(unresponsive)
    timeouts: Counter[Endpoint] = Counter()
    results: list[ProbeResult] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        probes = [expectation.probe(endpoint) for expectation, endpoint in batch if endpoint not in left_out]
        new = iter(_run(probes, limits, progress, "probing the servers", start, len(cases)))
        results += [
            replace(left_out[endpoint], name=expectation.name) if endpoint in left_out else next(new)
            for expectation, endpoint in batch
        ]
        for result in results[start:]:
            timeouts[result.endpoint] += result.outcome is Outcome.TIMEOUT
            if timeouts[result.endpoint] >= _TIMEOUTS_ALLOWED:
                left_out.setdefault(result.endpoint, result)
    return results


def _trust_errors(
    cases: Sequence[_Case], results: Sequence[ProbeResult], limits: Limits, progress: Progress | None
) -> dict[tuple[bytes, ...], str | None]:
    """For each chain, why a client that trusts as this system does rejects it; None: it accepts it.

    Each chain takes a handshake of its own: Python's ssl has no other way to OpenSSL's verdict.
    """
    by_chain: dict[tuple[bytes, ...], list[_Case]] = {}
    for case, result in zip(cases, results, strict=True):
        if result.outcome is Outcome.SERVED:
            by_chain.setdefault(result.chain, []).append(case)
    verdicts: dict[tuple[bytes, ...], str | None] = {}
    # A server that sends something else now, or nothing, says nothing about the chain that it sent before.
    for attempt in range(_TRUST_ATTEMPTS):
        pending = [
            (chain, candidates[attempt])
            for chain, candidates in by_chain.items()
            if chain not in verdicts and attempt < len(candidates)
        ]
        probes = [expectation.probe(endpoint, require_trust=True) for _, (expectation, endpoint) in pending]
        trusted = _run(probes, limits, progress, "verifying trust", 0, len(probes))
        for (chain, _), result in zip(pending, trusted, strict=True):
            if result.outcome is Outcome.UNTRUSTED or (result.outcome is Outcome.SERVED and result.chain == chain):
                verdicts[chain] = result.detail if result.outcome is Outcome.UNTRUSTED else None
    return verdicts


def _run(
    probes: Sequence[Probe], limits: Limits, progress: Progress | None, stage: str, done_before: int, total: int
) -> list[ProbeResult]:
    on_done = (lambda done: progress(stage, done_before + done, total)) if progress is not None else None
    return run_probes(probes, timeout=limits.timeout, concurrency=limits.concurrency, on_done=on_done)
