"""Confirms on the wire that the running servers took what was published: probes until they did, or until time is up.

After a reload a server goes on for a moment with the processes that it has, so a wrong answer gets another probe. The
answers from before the reload say what a failure means: a name that got a certificate before and gets none now must be
rolled back; a server that did not run before is no fault of the certificates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from mailsni.core.model import Progress
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import Problem

PROBE_LIMIT: Final = 400
"""Probes of one server after a run. Of more names than that an even sample is probed, and the output says so."""
PATIENCE_PER_NAME: Final = 0.01
"""Seconds for each name that is deployed: Dovecot 2.3 stalls new logins for 10 s after a reload with 5,000 blocks."""
_PAUSE: Final = 0.2


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


@dataclass(frozen=True, slots=True)
class WireCheck:
    """The probes that show what the running servers do with a deployment."""

    endpoints: Mapping[str, Sequence[Endpoint]]
    """Where each server answers, by its name. All are probed as long as that makes few probes; else the first."""
    expected: tuple[Expectation, ...]
    """The names, and what a client should get for each."""
    timeout: float
    """Seconds for each probe."""
    deployed: int
    """How many names the servers must read after a reload: with many of them they need longer."""
    progress: Progress | None = None
    """Called after each probe."""

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
        """Seconds for which wrong answers get another probe."""
        return self.timeout + PATIENCE_PER_NAME * self.deployed

    def _probe(self, expected: Sequence[Expectation], *, patience: float) -> tuple[Confirmation, ...]:
        names = list(dict.fromkeys(expectation.name for expectation in expected))
        sample = frozenset(names[:: max(1, -(-len(names) // PROBE_LIMIT))])
        chosen = [expectation for expectation in expected if expectation.name in sample]
        confirmations = []
        for server, endpoints in self.endpoints.items():
            few = len(chosen) * len(endpoints) <= PROBE_LIMIT
            pairs = [(each, endpoint) for each in chosen for endpoint in (endpoints if few else endpoints[:1])]
            answers = self._patient_answers(server, pairs, patience)
            confirmations.append(Confirmation(server, answers, len(names), len(sample)))
        return tuple(confirmations)

    def _patient_answers(
        self, server: str, pairs: Sequence[tuple[Expectation, Endpoint]], patience: float
    ) -> tuple[Answer, ...]:
        from mailsni.probes.tls_client import probe_expectations  # only a run that probes needs ssl

        ask = partial(probe_expectations, timeout=self.timeout)
        progress = self.progress
        on_done = (lambda done: progress(f"probing {server}", done, len(pairs))) if progress else None
        answers = dict(zip(pairs, ask(pairs, on_done=on_done), strict=True))
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and (wrong := [pair for pair in pairs if answers[pair].problem is not None]):
            time.sleep(_PAUSE)
            answers.update(zip(wrong, ask(wrong), strict=True))
        return tuple(answers.values())


def newly_cut_off(before: Confirmation, after: Confirmation) -> tuple[Answer, ...]:
    """The answers without a certificate to probes that got one before, whichever that was."""
    served = {answer.probe for answer in before.answers if answer.served}
    return tuple(answer for answer in after.answers if not answer.served and answer.probe in served)


def all_wrong(confirmations: Iterable[Confirmation]) -> tuple[Confirmation, ...]:
    """The servers that send the expected certificate for none of the names: they did not take what was published."""
    return tuple(each for each in confirmations if each.wrong_certificates and not each.right)
