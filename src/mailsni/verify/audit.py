"""Audits the running servers: probes every name at every port, as every kind of client, and assesses the results.

Where :mod:`mailsni.deploy.confirm` probes the names that were just published, an audit covers everything that a server
sends: the leaf, the chain behind it, the dates, the names, and whether the system trusts it. It changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mailsni.config.settings import VerifySettings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.probes.expectation import Expectation, Question
from mailsni.probes.tls_client import CONCURRENCY, run_schedule
from mailsni.verify.assess import assess, with_disagreements
from mailsni.verify.model import UNKNOWN_NAME, Audit, KnownCertificate
from mailsni.verify.request import (
    EVERYTHING,
    VerifyRequest,
    endpoints_to_probe,
    expected_certificates,
    known_certificates,
)
from mailsni.verify.schedule import ProbeSchedule


def audit(
    snapshot: Snapshot | None,
    request: VerifyRequest = EVERYTHING,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    until: float = math.inf,
    progress: Progress | None = None,
) -> Audit:
    """Probe the servers of this host, or others, for what this host should serve.

    Without a snapshot nobody knows what to expect: then the request has names and endpoints. The timeout is seconds
    for each probe, by default those of the configuration. At ``until``, in the time of ``time.monotonic``, all probes
    end.

    Raises:
        HostError: there is no endpoint to probe.
    """
    if snapshot is None:
        expected = tuple(map(Expectation, request.names))
        seconds = timeout or VerifySettings().timeout
        return probe_and_assess(expected, request.endpoints, seconds, concurrency, until=until, progress=progress)
    settings = snapshot.settings
    endpoints, notes = (request.endpoints, ()) if request.endpoints else endpoints_to_probe(settings, snapshot.targets)
    if not endpoints:
        raise HostError(
            "; ".join(notes) or "the servers' configurations have no service with TLS",
            hint="name the ports with [verify] endpoints in the configuration, or with --endpoint",
        )
    expected, known = expected_certificates(snapshot, request.names), known_certificates(snapshot)
    seconds = timeout or settings.verify.timeout
    result = probe_and_assess(
        expected, endpoints, seconds, concurrency, now=snapshot.now, known=known, until=until, progress=progress
    )
    return replace(result, notes=notes)


def probe_and_assess(
    expected: Sequence[Expectation],
    endpoints: Sequence[Endpoint],
    timeout: float,
    concurrency: int = CONCURRENCY,
    *,
    now: datetime | None = None,
    known: Mapping[str, KnownCertificate] | None = None,
    until: float = math.inf,
    progress: Progress | None = None,
) -> Audit:
    """Probe endpoints for names, and assess the results at a moment with a time zone, by default the present.

    Where any certificate is expected for a name, it must be valid, cover the name, and be the same at all endpoints. An
    endpoint whose host is a name stands for all addresses of that name.
    """
    addresses = list(dict.fromkeys(address for endpoint in endpoints for address in resolved(endpoint)))
    by_name = sorted(expected, key=lambda expectation: expectation.name or "")
    clients = (*by_name, Expectation(None), Expectation(UNKNOWN_NAME))
    schedule = ProbeSchedule(clients, addresses, concurrency, progress)
    questions = [Question(expectation, address) for expectation in clients for address in addresses]
    run_schedule(schedule, timeout=timeout, concurrency=concurrency, until=until)
    answers = schedule.answers()
    moment, certificates = now or datetime.now(UTC), known or {}
    assessments = [
        assess(answer, schedule.refusals.get(answer.result.chain), now=moment, known=certificates)
        for answer in map(answers.get, questions)
        if answer is not None
    ]
    not_asked = tuple(question for question in questions if question not in answers)
    return Audit(tuple(with_disagreements(assessments)), not_asked=not_asked)
