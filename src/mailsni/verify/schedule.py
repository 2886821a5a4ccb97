"""Decides which client probes which endpoint next: an endpoint that does not respond holds up no other. No I/O."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mailsni.core.model import Progress
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation, Question
from mailsni.probes.model import ProbeResult, Problem
from mailsni.verify.model import Client, client_of

Chain = tuple[bytes, ...]
"""The certificates that a server sent, in DER."""

_FIRST_CONTACTS = 2
"""Clients that probe an endpoint, at once; if it begins TLS with none of them, it is left out."""
_TIMEOUTS_ALLOWED = 16
"""Probes of an endpoint that may time out until the rest of them is left out."""
_VERDICT_ATTEMPTS = 3
"""Clients that ask for the verdict on a chain, until one of them gets that chain."""
_DICE = random.SystemRandom()


class ProbeSchedule:
    """Every client at every endpoint, and what came of it.

    Each endpoint begins with other names than those beside it, so that a short time suffices for every name at one
    endpoint of each server. The names are shuffled: a run with too little time probes others than the run before it.
    Each new chain takes one or two more probes, of clients that verify it.
    """

    def __init__(
        self,
        clients: Sequence[Expectation],
        addresses: Sequence[Endpoint],
        concurrency: int,
        progress: Progress | None = None,
    ) -> None:
        self._total = len(clients) * len(addresses)
        self._progress = progress
        self._waiting = _queues(clients, addresses)
        self._turns = deque(addresses)
        self._strangers_at_once = max(1, concurrency * 2 // 3)
        self._begun: Counter[Endpoint] = Counter()
        self._ended: Counter[Endpoint] = Counter()
        self._timeouts: Counter[Endpoint] = Counter()
        self._responsive: set[Endpoint] = set()
        self._left_out: dict[Endpoint, ProbeResult] = {}
        self._answers: dict[Question, Answer] = {}
        self._verifying = deque[Question]()
        self._served: dict[Chain, Question] = {}
        self._chains: dict[Question, Chain] = {}
        self._attempts: Counter[tuple[Chain, bool]] = Counter()
        self._unknown: dict[Chain, ProbeResult] = {}
        self.refusals: dict[Chain, ProbeResult | None] = {}
        """For each chain, what a client got that verifies and rejects it; None: nothing shows that one does."""

    def next(self) -> Question | None:
        """The next question; None: none is due before another answer comes, or at all."""
        if self._verifying:
            return self._verifying.popleft()
        for _ in range(len(self._turns)):
            endpoint = self._turns[0]
            self._turns.rotate(-1)
            if self._waiting[endpoint] and self._is_due(endpoint):
                self._begun[endpoint] += 1
                return Question(self._waiting[endpoint].popleft(), endpoint)
        return None

    def _is_due(self, endpoint: Endpoint) -> bool:
        if endpoint in self._left_out:
            return False
        if endpoint in self._responsive:
            return True
        strangers = sum(self._begun[each] - self._ended[each] for each in self._turns if each not in self._responsive)
        return self._begun[endpoint] < _FIRST_CONTACTS and strangers < self._strangers_at_once

    def take(self, question: Question, result: ProbeResult) -> None:
        """Take the result of the question's probe."""
        if question.verifies:
            self._take_verdict(question, result)
            return
        endpoint = question.endpoint
        answer = Answer(question.expectation, result)
        self._answers[question] = answer
        self._ended[endpoint] += 1
        self._timeouts[endpoint] += result.problem is Problem.NO_ANSWER
        if result.reached_tls:
            self._responsive.add(endpoint)
        gave_none = endpoint not in self._responsive and self._ended[endpoint] >= _FIRST_CONTACTS
        if gave_none or self._timeouts[endpoint] >= _TIMEOUTS_ALLOWED:
            self._left_out.setdefault(endpoint, result)
        if self._progress is not None:
            self._progress("probing the servers", len(self._answers), self._total)
        if answer.served:
            self._served[result.chain] = question
            if not self._attempts[result.chain, False]:
                self._ask_for_verdict(result.chain, below=False)

    def _ask_for_verdict(self, chain: Chain, *, below: bool) -> None:
        """Let a client verify a chain: Python's ssl has no other way to OpenSSL's verdict.

        OpenSSL looks no further once it knows no issuer. ``below`` an authority that this system does not know, a
        second client trusts what the chain ends with, and sees the rest of it verified.
        """
        question = replace(self._served[chain], require_trust=not below, anchor=chain[-1] if below else b"")
        self._attempts[chain, below] += 1
        self._chains[question] = chain
        self._verifying.append(question)

    def _take_verdict(self, question: Question, result: ProbeResult) -> None:
        chain, below = self._chains[question], bool(question.anchor)
        accepted = result.problem is None and result.chain == chain
        if result.problem is Problem.INVALID_CHAIN:
            self.refusals[chain] = result
        elif result.problem is Problem.UNTRUSTED and not below:
            self._unknown[chain] = result
            self._ask_for_verdict(chain, below=True)
        elif accepted or result.problem is Problem.UNTRUSTED or self._attempts[chain, below] >= _VERDICT_ATTEMPTS:
            self.refusals[chain] = self._unknown.get(chain)
        else:
            # A server that sends something else now, or nothing, says nothing about the chain that it sent before.
            self._ask_for_verdict(chain, below=below)

    def answers(self) -> Mapping[Question, Answer]:
        """The answers so far whose chain has a verdict: half an answer could hide what is wrong.

        An endpoint that is left out counts as if it had given its last result to every client.
        """
        answers = {
            question: answer
            for question, answer in self._answers.items()
            if not answer.served or answer.result.chain in self.refusals
        }
        for endpoint, result in self._left_out.items():
            for expectation in self._waiting[endpoint]:
                answers[Question(expectation, endpoint)] = Answer(expectation, replace(result, name=expectation.name))
        return answers


def _queues(clients: Sequence[Expectation], addresses: Sequence[Endpoint]) -> dict[Endpoint, deque[Expectation]]:
    """The clients in the order in which each endpoint is probed: those without a known name first."""
    strangers = [client for client in clients if client_of(client) is not Client.NAMED]
    named = [client for client in clients if client_of(client) is Client.NAMED]
    shuffled = _DICE.sample(named, len(named))
    return {
        address: deque([*strangers, *shuffled[start:], *shuffled[:start]])
        for address, start in _starts(addresses, len(named))
    }


def _starts(addresses: Sequence[Endpoint], count: int) -> Iterator[tuple[Endpoint, int]]:
    """Spread the beginnings of each server's endpoints evenly over so many names."""
    for server in dict.fromkeys(address.server for address in addresses):
        own = [address for address in addresses if address.server == server]
        for place, address in enumerate(own):
            yield address, place * count // len(own)
