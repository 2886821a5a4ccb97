"""After a reload: is each changed name served what was meant? Asked of the running servers, until it is or time is up.

A server goes on for a moment with the processes that it has, so a wrong answer is asked for again. What was asked
before the reload decides what a wrong answer means: a name that was answered and is cut off now must go back, a
server that did not run before is no fault of the certificates.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mailsni.core.model import Algorithm, Certificate, Progress
from mailsni.core.names import is_wildcard
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.starttls import Outcome
from mailsni.probes.tls_client import Question, Served, probe_all

QUESTION_LIMIT = 400
"""Questions asked of one server after a run. More names than that are sampled evenly, and that is said."""
_PROBE_LABEL = "mailsni-probe"
_PAUSE = 0.2
PATIENCE_PER_NAME = 0.01
"""Seconds for each name that is deployed: Dovecot 2.3 stalls new logins for 10 s after a reload with 5,000 blocks."""


class Verdict(enum.StrEnum):
    """What an answer means."""

    RIGHT = "right"
    """The intended certificate; for a removed name, any at all."""
    WRONG = "wrong"
    """Another certificate."""
    CUT_OFF = "cut_off"
    """No handshake."""
    SILENT = "silent"
    """Nobody listens there."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one kind of client must be shown for a name."""

    name: str
    fingerprint: str | None
    """Of the leaf; None: any, because the name was removed, or only an answer matters."""
    algorithm: Algorithm | None
    """The only kind that the client takes, where the name has two; else None."""

    def question(self, endpoint: Endpoint) -> Question:
        """What to ask an endpoint."""
        return Question(endpoint, asked_for(self.name), self.algorithm)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint showed, and what that means."""

    expectation: Expectation
    question: Question
    served: Served
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Survey:
    """The answers of one server."""

    server: str
    answers: tuple[Answer, ...]
    """None at all: nobody listens."""
    names: int
    """How many names there were to ask for."""
    names_asked: int

    def of(self, *verdicts: Verdict) -> tuple[Answer, ...]:
        """The answers with one of these verdicts."""
        return tuple(answer for answer in self.answers if answer.verdict in verdicts)

    @property
    def silent(self) -> bool:
        """Whether nobody of the server listens."""
        return not self.answers


def asked_for(name: str) -> str:
    """The name to ask for: a wildcard is asked for by a name below it."""
    return f"{_PROBE_LABEL}{name[1:]}" if is_wildcard(name) else name


def expectations(wanted: Mapping[str, Sequence[Certificate]]) -> tuple[Expectation, ...]:
    """What clients must be shown.

    Args:
        wanted: each name with its certificates; none for a removed name.
    """
    found = []
    for name, certificates in wanted.items():
        if not certificates:
            found.append(Expectation(name, None, None))
        two = len(certificates) > 1
        found.extend(Expectation(name, one.fingerprint, one.algorithm if two else None) for one in certificates)
    return tuple(found)


def answering(endpoints: Sequence[Endpoint], name: str, *, timeout: float) -> tuple[list[Endpoint], list[Served]]:
    """Which endpoints are worth asking: those that get as far as TLS.

    Asking the others for every name would cost a time limit each, and tells nothing of certificates.

    Args:
        endpoints: where a server says that it listens.
        name: any name.
        timeout: seconds for each probe.

    Returns:
        The endpoints, and the answers of those where somebody listens who does not speak TLS as expected.
    """
    answers = probe_all([Question(endpoint, name) for endpoint in endpoints], timeout=timeout)
    good = [one.endpoint for one in answers if one.outcome in (Outcome.SERVED, Outcome.ABORTED)]
    odd = [one for one in answers if one.endpoint not in good and one.outcome is not Outcome.REFUSED]
    return good, odd


def ask(
    server: str,
    endpoints: Sequence[Endpoint],
    expected: Sequence[Expectation],
    *,
    timeout: float,
    patience: float,
    progress: Progress | None = None,
) -> Survey:
    """Ask a server for names.

    Args:
        server: its name, for the result.
        endpoints: where it answers. All of them are asked as long as that makes few questions; else the first.
        expected: the names and what they must show.
        timeout: seconds for each probe.
        patience: seconds for which wrong answers are asked for again; 0: they are not.
        progress: told about every answer.
    """
    names = list(dict.fromkeys(one.name for one in expected))
    asked = _sample(names)
    chosen = [one for one in expected if one.name in asked]
    if len(chosen) * len(endpoints) > QUESTION_LIMIT:
        endpoints = endpoints[:1]
    pairs = [(one, endpoint) for one in chosen for endpoint in endpoints]
    answers = _answers(pairs, timeout, partial(progress, f"asking {server}") if progress else None)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        open_ones = [at for at, answer in enumerate(answers) if answer.verdict is not Verdict.RIGHT]
        if not open_ones:
            break
        time.sleep(_PAUSE)
        again = _answers([pairs[at] for at in open_ones], timeout)
        for at, answer in zip(open_ones, again, strict=True):
            answers[at] = answer
    return Survey(server, tuple(answers), len(names), len(asked))


def _sample(names: Sequence[str]) -> frozenset[str]:
    step = max(1, -(-len(names) // QUESTION_LIMIT))
    return frozenset(names[::step])


def _answers(
    pairs: Sequence[tuple[Expectation, Endpoint]], timeout: float, progress: Callable[[int, int], None] | None = None
) -> list[Answer]:
    questions = [expected.question(endpoint) for expected, endpoint in pairs]
    on_done = (lambda done: progress(done, len(questions))) if progress else None
    served = probe_all(questions, timeout=timeout, on_done=on_done)
    return [
        Answer(expected, question, one, _verdict(expected, one))
        for (expected, _), question, one in zip(pairs, questions, served, strict=True)
    ]


def _verdict(expected: Expectation, served: Served) -> Verdict:
    match served.outcome:
        case Outcome.SERVED:
            return Verdict.RIGHT if expected.fingerprint in (None, served.fingerprint) else Verdict.WRONG
        case Outcome.REFUSED:
            return Verdict.SILENT
        case _:
            return Verdict.CUT_OFF


def newly_cut_off(before: Survey, after: Survey) -> tuple[Answer, ...]:
    """The answers of names that were answered before, with whatever certificate, and are cut off now."""
    answered = {answer.question for answer in before.of(Verdict.RIGHT, Verdict.WRONG)}
    return tuple(answer for answer in after.of(Verdict.CUT_OFF, Verdict.SILENT) if answer.question in answered)


def all_wrong(surveys: Iterable[Survey]) -> tuple[Survey, ...]:
    """The servers that show the intended certificate for none of the names: they did not take what was published."""
    return tuple(survey for survey in surveys if survey.of(Verdict.WRONG) and not survey.of(Verdict.RIGHT))
