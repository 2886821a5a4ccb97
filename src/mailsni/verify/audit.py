"""Audits the running servers: probes every name at every port, as every kind of client, and assesses the results.

Where :mod:`mailsni.deploy.confirm` probes the names that were just published, an audit covers everything that a server
sends: the leaf, the chain behind it, the dates, the names, and whether the system trusts it. It changes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from mailsni.config.settings import VerifySettings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import ProbeResult, Problem
from mailsni.probes.tls_client import CONCURRENCY, probe_expectations
from mailsni.verify.assess import assess, with_disagreements
from mailsni.verify.model import UNKNOWN_NAME, Audit
from mailsni.verify.request import (
    EVERYTHING,
    VerifyRequest,
    certificate_labels,
    endpoints_to_probe,
    expected_certificates,
)

_Ask = Callable[..., list[Answer]]
"""Runs the probes of expectations at endpoints."""
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
        expected = tuple(map(Expectation, request.names))
        seconds = timeout or VerifySettings().timeout
        return probe_and_assess(expected, request.endpoints, seconds, concurrency, progress=progress)
    settings = snapshot.settings
    endpoints, notes = (request.endpoints, ()) if request.endpoints else endpoints_to_probe(settings, snapshot.targets)
    if not endpoints:
        raise HostError(
            "; ".join(notes) or "the servers' configurations have no service with TLS",
            hint="name the ports with [verify] endpoints in the configuration, or with --endpoint",
        )
    expected, labels = expected_certificates(snapshot, request.names), certificate_labels(snapshot)
    seconds = timeout or settings.verify.timeout
    result = probe_and_assess(
        expected, endpoints, seconds, concurrency, now=snapshot.now, labels=labels, progress=progress
    )
    return replace(result, notes=notes)


def probe_and_assess(
    expected: Sequence[Expectation],
    endpoints: Sequence[Endpoint],
    timeout: float,
    concurrency: int = CONCURRENCY,
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
    ask = partial(probe_expectations, timeout=timeout, concurrency=concurrency)
    # An endpoint that does not get as far as TLS would cost a timeout for each name, and show no certificate.
    first = ask([(Expectation(None), address) for address in addresses])
    unresponsive = {answer.endpoint: answer.result for answer in first if not answer.result.reached_tls}
    answers = _answers(cases, unresponsive, ask, progress)
    refusals = _refusals(answers, ask, progress)
    moment, known = now or datetime.now(UTC), labels or {}
    assessments = [assess(answer, refusals.get(answer.result.chain), now=moment, labels=known) for answer in answers]
    return Audit(tuple(with_disagreements(assessments)))


def _answers(
    cases: Sequence[tuple[Expectation, Endpoint]],
    unresponsive: Mapping[Endpoint, ProbeResult],
    ask: _Ask,
    progress: Progress | None,
) -> list[Answer]:
    """The answers in the order of the cases. An endpoint that hangs is left out after a while.

    An endpoint that is left out counts as if it had given its last result again.
    """
    left_out = dict(unresponsive)
    timeouts: Counter[Endpoint] = Counter()
    answers: list[Answer] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        responsive = [(expectation, endpoint) for expectation, endpoint in batch if endpoint not in left_out]
        new = iter(ask(responsive, on_done=_reporter(progress, "probing the servers", start, len(cases))))
        answers += [
            Answer(expectation, replace(left_out[endpoint], name=expectation.name))
            if endpoint in left_out
            else next(new)
            for expectation, endpoint in batch
        ]
        for answer in answers[start:]:
            timeouts[answer.endpoint] += answer.result.problem is Problem.NO_ANSWER
            if timeouts[answer.endpoint] >= _TIMEOUTS_ALLOWED:
                left_out.setdefault(answer.endpoint, answer.result)
    return answers


_Chain = tuple[bytes, ...]


def _refusals(answers: Iterable[Answer], ask: _Ask, progress: Progress | None) -> dict[_Chain, ProbeResult]:
    """For each chain that a client rejects who trusts as this system does, what comes of such a client's probe.

    OpenSSL looks no further once it knows no issuer: below an authority that this system does not know, a second client
    trusts what the chain ends with, and sees the rest of it verified. Each takes a handshake of its own: Python's ssl
    has no other way to OpenSSL's verdict.
    """
    by_chain: defaultdict[_Chain, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.served:
            by_chain[answer.result.chain].append(answer)
    trusting = partial(ask, on_done=_reporter(progress, "verifying trust", 0, len(by_chain)))
    refused = _refused(by_chain, lambda pending: trusting(_pairs(pending), require_trust=True))
    unknown = {chain: by_chain[chain] for chain, why in refused.items() if why.problem is Problem.UNTRUSTED}
    below = _refused(unknown, lambda pending: ask(_pairs(pending), anchors=[chain[-1] for chain in pending]))
    return refused | {chain: why for chain, why in below.items() if why.problem is Problem.INVALID_CHAIN}


def _refused(
    by_chain: Mapping[_Chain, Sequence[Answer]], ask: Callable[[Mapping[_Chain, Answer]], list[Answer]]
) -> dict[_Chain, ProbeResult]:
    """The results of clients that reject a chain. ``ask`` runs the probes of those that verify."""
    verdicts: dict[_Chain, ProbeResult] = {}
    # A server that sends something else now, or nothing, says nothing about the chain that it sent before.
    for attempt in range(_TRUST_ATTEMPTS):
        pending = {
            chain: candidates[attempt]
            for chain, candidates in by_chain.items()
            if chain not in verdicts and attempt < len(candidates)
        }
        for chain, answer in zip(pending, ask(pending), strict=True):
            rejected = answer.result.problem in (Problem.UNTRUSTED, Problem.INVALID_CHAIN)
            if rejected or (answer.served and answer.result.chain == chain):
                verdicts[chain] = answer.result
    return {chain: result for chain, result in verdicts.items() if result.problem is not None}


def _pairs(pending: Mapping[_Chain, Answer]) -> list[tuple[Expectation, Endpoint]]:
    return [(answer.expectation, answer.endpoint) for answer in pending.values()]


def _reporter(progress: Progress | None, stage: str, done_before: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(stage, done_before + done, total)
