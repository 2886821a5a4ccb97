"""Confirms on the wire that the running servers took what was published: probes until they did, or until time is up.

After a reload a server goes on for a moment with the processes that it has, so a wrong answer gets another probe. The
answers from before the reload say what a failure means: a name that got a certificate before and gets none now must be
rolled back; a server that did not run before is no fault of the certificates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from mailsni.core.model import Progress
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, Problem, problem_of
from mailsni.probes.model import Outcome, Probe, ProbeResult

PROBE_LIMIT: Final = 400
"""Probes of one server after a run. Of more names than that an even sample is probed, and the output says so."""
PATIENCE_PER_NAME: Final = 0.01
"""Seconds for each name that is deployed: Dovecot 2.3 stalls new logins for 10 s after a reload with 5,000 blocks."""
_PAUSE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint sent for a name."""

    expectation: Expectation
    result: ProbeResult

    @property
    def problem(self) -> Problem | None:
        """Why it is not what was expected; None when it is."""
        return problem_of(self.result, self.expectation.fingerprint)

    @property
    def has_certificate(self) -> bool:
        """Whether the client got a certificate at all."""
        return self.result.outcome is Outcome.SERVED

    @property
    def probe(self) -> Probe:
        """The probe that got it."""
        return self.expectation.probe(self.result.endpoint)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The answers of one server."""

    server: str
    answers: tuple[Answer, ...]
    """Empty: the server does not listen."""
    names: int
    """How many names there were to probe."""
    names_probed: int

    @property
    def right(self) -> tuple[Answer, ...]:
        """The answers that are as expected."""
        return tuple(answer for answer in self.answers if answer.problem is None)

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The answers that are not."""
        return tuple(answer for answer in self.answers if answer.problem is not None)

    @property
    def wrong_certificates(self) -> tuple[Answer, ...]:
        """The answers with another certificate than the expected one."""
        return tuple(answer for answer in self.answers if answer.problem is Problem.WRONG_CERTIFICATE)


def responsive_endpoints(
    endpoints: Sequence[Endpoint], name: str, *, timeout: float
) -> tuple[list[Endpoint], list[ProbeResult]]:
    """The endpoints that get as far as TLS. The others would cost a timeout for each name, and show no certificate.

    Args:
        endpoints: where a server says that it listens.
        name: any name.
        timeout: seconds for each probe.

    Returns:
        The endpoints, and the results of those where something listens that does not speak TLS as expected.
    """
    from mailsni.probes.tls_client import run_probes  # only a run that probes needs ssl

    results = run_probes([Probe(endpoint, name) for endpoint in endpoints], timeout=timeout)
    responsive = [result.endpoint for result in results if result.outcome.reached_tls]
    return responsive, [
        result for result in results if not result.outcome.reached_tls and result.outcome is not Outcome.REFUSED
    ]


def probe_server(
    server: str,
    endpoints: Sequence[Endpoint],
    expected: Sequence[Expectation],
    *,
    timeout: float,
    patience: float,
    progress: Progress | None = None,
) -> Confirmation:
    """Probe a server for names.

    Args:
        server: its name, for the result.
        endpoints: where it responds. All of them are probed as long as that makes few probes; else the first.
        expected: the names and what a client should get for each.
        timeout: seconds for each probe.
        patience: seconds for which wrong answers get another probe; 0: they get none.
        progress: called after each probe.
    """
    names = list(dict.fromkeys(expectation.name for expectation in expected))
    sample = frozenset(names[:: max(1, -(-len(names) // PROBE_LIMIT))])
    chosen = [expectation for expectation in expected if expectation.name in sample]
    if len(chosen) * len(endpoints) > PROBE_LIMIT:
        endpoints = endpoints[:1]
    pairs = [(expectation, endpoint) for expectation in chosen for endpoint in endpoints]
    answers = _answers(pairs, timeout, partial(progress, f"probing {server}") if progress else None)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        wrong = [index for index, answer in enumerate(answers) if answer.problem is not None]
        if not wrong:
            break
        time.sleep(_PAUSE)
        for index, answer in zip(wrong, _answers([pairs[index] for index in wrong], timeout), strict=True):
            answers[index] = answer
    return Confirmation(server, tuple(answers), len(names), len(sample))


def _answers(
    pairs: Sequence[tuple[Expectation, Endpoint]], timeout: float, progress: Callable[[int, int], None] | None = None
) -> list[Answer]:
    from mailsni.probes.tls_client import run_probes

    probes = [expectation.probe(endpoint) for expectation, endpoint in pairs]
    on_done = (lambda done: progress(done, len(probes))) if progress else None
    results = run_probes(probes, timeout=timeout, on_done=on_done)
    return [Answer(expectation, result) for (expectation, _), result in zip(pairs, results, strict=True)]


def newly_cut_off(before: Confirmation, after: Confirmation) -> tuple[Answer, ...]:
    """The answers without a certificate to probes that got one before, whichever that was."""
    served = {answer.probe for answer in before.answers if answer.has_certificate}
    return tuple(answer for answer in after.answers if not answer.has_certificate and answer.probe in served)


def all_wrong(confirmations: Iterable[Confirmation]) -> tuple[Confirmation, ...]:
    """The servers that send the expected certificate for none of the names: they did not take what was published."""
    return tuple(each for each in confirmations if each.wrong_certificates and not each.right)
