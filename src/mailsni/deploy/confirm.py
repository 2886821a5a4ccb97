"""Confirms on the wire that the running servers took what was published: probes until they did, or until time is up.

After a reload a server goes on for a moment with the processes that it has, so a wrong answer gets another probe. The
answers from before the reload say what a failure means: a name that got a certificate before and gets none now must be
rolled back; a server that did not run before is no fault of the certificates.

A probe that ends with a time-out tells nothing: neither that a client is cut off nor that it gets the certificate. It
is asked again within a bound, with few others at a time; what is still open then is not confirmed, and no failure.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from mailsni.core.model import Progress
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import Problem

PROBE_LIMIT: Final = 400
"""Probes of one server after a run. Of more names than that some are probed, and the output says so."""
PATIENCE_PER_NAME: Final = 0.01
"""Seconds for each name that is deployed: Dovecot 2.3 stalls new logins for 10 s after a reload with 5,000 blocks."""
TIMEOUTS_WAITED_FOR: Final = 3
"""For how many time limits of a probe the servers are asked again that do not answer within one."""
_PAUSE: Final = 0.2
_AT_ONCE: Final = 32
"""Probes that run at the same time, and after which it is decided whether to go on."""
_AT_ONCE_WHEN_SLOW: Final = 4
"""The same for a server that does not answer in time: probes must not make a slow server slower."""
_TIMEOUTS_ALLOWED: Final = 8
"""Time-outs of an endpoint after which the rest of its probes is left out."""

_Pair = tuple[Expectation, Endpoint]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The answers of one server."""

    server: str
    answers: tuple[Answer, ...]
    """Empty: the server does not listen."""
    names: int
    """How many names there were to probe."""
    names_probed: int
    """How many of them were chosen, where there were too many; the others were not asked."""
    patience: float = 0.0
    """Seconds for which probes without an answer were asked again."""
    unasked: tuple[Expectation, ...] = ()
    """What was not asked, because the server did not answer other probes in time."""

    @property
    def right(self) -> tuple[Answer, ...]:
        """The answers that are as expected."""
        return tuple(answer for answer in self.answers if answer.problem is None)

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The answers that are not."""
        return tuple(answer for answer in self.answers if answer.problem is not None and not answer.timed_out)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The names of which nobody knows how they are served: a probe timed out, or was not asked."""
        timed_out = (answer.expectation for answer in self.answers if answer.timed_out)
        return tuple(dict.fromkeys(each.label for each in (*timed_out, *self.unasked)))

    @property
    def wrong_certificates(self) -> tuple[Answer, ...]:
        """The answers with another certificate than the expected one."""
        return tuple(answer for answer in self.answers if answer.problem is Problem.WRONG_CERTIFICATE)


@dataclass(frozen=True, slots=True)
class CutOff:
    """Clients that a deployment cuts off."""

    answers: tuple[Answer, ...]
    alone: tuple[Answer, ...]
    """Those of them whose server serves other clients at the same endpoint: the certificate is the cause."""


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
    unchanged: tuple[Expectation, ...] = (Expectation(None),)
    """Other clients. If they are served where one of the names is cut off, its certificate is the cause."""
    unproven: frozenset[str] = frozenset()
    """Names that a run which was cut off may have published: that they are not served before means nothing."""
    preferred: tuple[tuple[str | None, ...], ...] = ()
    """Names to choose first where there are too many of them, the most telling group first."""
    progress: Progress | None = None
    """Called again and again while the servers are probed."""

    def without(self, servers: Collection[str]) -> WireCheck:
        """The same, with no probe of these servers."""
        return replace(self, endpoints={name: each for name, each in self.endpoints.items() if name not in servers})

    def now(self) -> tuple[Confirmation, ...]:
        """What the servers send at this moment."""
        return self._probe(self.expected)

    def confirm(self) -> tuple[Confirmation, ...]:
        """What the servers send once they have taken what was published, or time is up."""
        return self._probe(self.expected, patience=self._patience)

    def any_certificate(self) -> tuple[Confirmation, ...]:
        """Whether the servers send a certificate at all, once they do, or time is up.

        There is more time than for wrong answers: a server that failed waits before it starts its processes again.
        """
        anything = tuple(replace(expectation, fingerprint=None) for expectation in self.expected)
        return self._probe(anything, patience=self._patience_when_slow)

    def cut_off(
        self, before: Iterable[Confirmation], after: Sequence[Confirmation], failing: Collection[str]
    ) -> CutOff:
        """The clients that got a certificate before, and get none after, and those of them that get none alone.

        ``failing`` are servers that say themselves that they cannot serve: there a time-out says the same.
        """
        lost = [
            answer
            for old, new in zip(before, after, strict=True)
            for answer in newly_cut_off(old, new, failing=new.server in failing)
        ]
        refused = [answer for each in after for answer in each.wrong if answer.cut_off_in_tls]
        suspected = [answer for answer in refused if answer in lost or answer.expectation.name in self.unproven]
        alone = self._alone(suspected, after)
        return CutOff(tuple(dict.fromkeys((*lost, *alone))), alone)

    def _alone(self, refused: Sequence[Answer], after: Iterable[Confirmation]) -> tuple[Answer, ...]:
        """The answers without a certificate at endpoints that serve other clients."""
        serving = {answer.endpoint for each in after for answer in each.answers if answer.served}
        doubtful = dict.fromkeys(answer.endpoint for answer in refused if answer.endpoint not in serving)
        if doubtful:
            from mailsni.probes.tls_client import probe_expectations

            others = [(expectation, endpoint) for endpoint in doubtful for expectation in self.unchanged]
            serving |= {each.endpoint for each in probe_expectations(others, timeout=self.timeout) if each.served}
        return tuple(answer for answer in refused if answer.endpoint in serving)

    @property
    def _patience(self) -> float:
        """Seconds for which wrong answers get another probe."""
        return self.timeout + PATIENCE_PER_NAME * self.deployed

    @property
    def _patience_when_slow(self) -> float:
        """Seconds for which the same goes while there is nothing but time-outs."""
        return TIMEOUTS_WAITED_FOR * self.timeout + PATIENCE_PER_NAME * self.deployed

    def _probe(self, expected: Sequence[Expectation], *, patience: float | None = None) -> tuple[Confirmation, ...]:
        names = tuple(dict.fromkeys(expectation.name for expectation in expected))
        sample = choose((*self.preferred, names), PROBE_LIMIT)
        chosen = [expectation for expectation in expected if expectation.name in sample]
        confirmations = []
        for server, endpoints in self.endpoints.items():
            few = len(chosen) * len(endpoints) <= PROBE_LIMIT
            pairs = [(each, endpoint) for each in chosen for endpoint in (endpoints if few else endpoints[:1])]
            answers: dict[_Pair, Answer] = {}
            pending = self._ask(pairs, answers, on_done=self._reporter(server, len(pairs)))
            if patience is not None:
                self._ask_again(pending, answers, patience)
            unasked = tuple(expectation for expectation, endpoint in pairs if (expectation, endpoint) not in answers)
            waited = 0.0 if patience is None else self._patience_when_slow
            confirmations.append(
                Confirmation(server, tuple(answers.values()), len(names), len(sample), waited, unasked)
            )
        return tuple(confirmations)

    def _ask_again(self, pending: list[_Pair], answers: dict[_Pair, Answer], patience: float) -> None:
        """Probe again what is not right, until it is, or time is up: so many seconds, more for mere time-outs."""
        begin = time.monotonic()
        while pending:
            slow = all(pair not in answers or answers[pair].timed_out for pair in pending)
            deadline = begin + (self._patience_when_slow if slow else patience)
            if time.monotonic() >= deadline:
                return
            time.sleep(_PAUSE)
            pending = self._ask(pending, answers, at_once=_AT_ONCE_WHEN_SLOW if slow else _AT_ONCE, deadline=deadline)

    def _ask(
        self,
        pairs: Sequence[_Pair],
        answers: dict[_Pair, Answer],
        *,
        at_once: int = _AT_ONCE,
        deadline: float = inf,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> list[_Pair]:
        """Probe in waves, and put in the answers; returns what is not right: first what was left out.

        An endpoint that hangs is left out after some time-outs, and everything after the deadline.
        """
        from mailsni.probes.tls_client import probe_expectations  # only a run that probes needs ssl

        timeouts: Counter[Endpoint] = Counter()
        left_out: list[_Pair] = []
        wrong: list[_Pair] = []
        for start in range(0, len(pairs), at_once):
            wave = [pair for pair in pairs[start : start + at_once] if timeouts[pair[1]] < _TIMEOUTS_ALLOWED]
            if start and time.monotonic() >= deadline:
                wave = []
            left_out += [pair for pair in pairs[start : start + at_once] if pair not in wave]
            for pair, answer in zip(wave, probe_expectations(wave, timeout=self.timeout), strict=True):
                if not (answer.timed_out and pair in answers and answers[pair].cut_off_in_tls):
                    answers[pair] = answer
                timeouts[answer.endpoint] += answer.timed_out
                if answer.problem is not None:
                    wrong.append(pair)
            on_done(min(start + at_once, len(pairs)))
        return [*left_out, *wrong]

    def _reporter(self, server: str, total: int) -> Callable[[int], None]:
        progress = self.progress
        return (lambda done: progress(f"probing {server}", done, total)) if progress else (lambda _: None)


def choose(groups: Iterable[Sequence[str | None]], limit: int) -> frozenset[str | None]:
    """At most so many names: those of the first group, then those of the next. Of too many an even sample."""
    chosen: set[str | None] = set()
    for group in groups:
        more = [name for name in dict.fromkeys(group) if name not in chosen]
        if more and (room := limit - len(chosen)):
            chosen.update(more[:: -(-len(more) // room)])
    return frozenset(chosen)


def newly_cut_off(before: Confirmation, after: Confirmation, *, failing: bool = False) -> tuple[Answer, ...]:
    """The answers without a certificate to probes that got one before, whichever that was.

    A time-out is no answer, unless the server says itself that it is ``failing``.
    """
    served = {answer.probe for answer in before.answers if answer.served}
    lost = (answer for answer in after.answers if not answer.served and (failing or not answer.timed_out))
    return tuple(answer for answer in lost if answer.probe in served)


def all_wrong(confirmations: Iterable[Confirmation]) -> tuple[Confirmation, ...]:
    """The servers that send the expected certificate for none of the names: they did not take what was published.

    A server that did not answer every probe is slow, and may still be about to take it.
    """
    return tuple(each for each in confirmations if each.wrong_certificates and not (each.right or each.unconfirmed))
