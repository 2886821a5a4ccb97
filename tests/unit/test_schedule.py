"""Which probe comes next: every name soon, a server that does not respond a few times, trust once for each chain."""

from __future__ import annotations

from collections.abc import Callable

from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, Question
from mailsni.probes.model import ProbeResult, Problem
from mailsni.verify.model import UNKNOWN_NAME
from mailsni.verify.schedule import ProbeSchedule

NAMES = [Expectation(f"m{number}.a.test") for number in range(100)]
CLIENTS = [*NAMES, Expectation(None), Expectation(UNKNOWN_NAME)]
IMAPS = [Endpoint("imaps", "127.0.0.1", port) for port in range(1, 11)]
SMTP = [Endpoint("smtp", "127.0.0.1", port) for port in range(11, 13)]
CONCURRENCY = 32


def result(question: Question, problem: Problem | None, chain: bytes = b"chain") -> ProbeResult:
    served = (chain,) if problem is None else ()
    return ProbeResult(question.endpoint, question.expectation.name, problem, None, str(problem), served)


def asked(
    schedule: ProbeSchedule, problem: Callable[[Question], Problem | None], limit: int = 10_000
) -> list[Question]:
    """The questions, in the order in which they are answered; as many are under way as connections are open."""
    under_way: list[Question] = []
    answered: list[Question] = []
    while len(answered) < limit:
        while len(under_way) < CONCURRENCY and (question := schedule.next()) is not None:
            under_way.append(question)
        if not under_way:
            break
        answered.append(under_way.pop(0))
        schedule.take(answered[-1], result(answered[-1], problem(answered[-1])))
    return answered


def test_every_client_is_asked_everywhere_and_the_trust_once_for_each_chain() -> None:
    schedule = ProbeSchedule(CLIENTS, [*IMAPS, *SMTP], CONCURRENCY)
    questions = asked(schedule, lambda _: None)
    assert len(questions) == len(set(questions)) == len(CLIENTS) * 12 + 1
    assert [question.require_trust for question in questions].count(True) == 1
    assert len(schedule.answers()) == len(CLIENTS) * 12
    assert schedule.refusals == {(b"chain",): None}


def test_a_short_time_suffices_for_every_name_at_one_endpoint_of_each_server() -> None:
    first = asked(ProbeSchedule(CLIENTS, [*IMAPS, *SMTP], CONCURRENCY), lambda _: None, 160)
    assert {question.expectation for question in first if question.endpoint in IMAPS} == set(CLIENTS)
    assert {question.endpoint for question in first} == {*IMAPS, *SMTP}
    again = asked(ProbeSchedule(CLIENTS, [*IMAPS, *SMTP], CONCURRENCY), lambda _: None, 160)
    assert again != first, "another run begins with other names"


def test_endpoints_that_do_not_respond_are_asked_a_few_times_and_hold_up_no_other() -> None:
    schedule = ProbeSchedule(CLIENTS, [*IMAPS, *SMTP], CONCURRENCY)
    under_way = [question for question in (schedule.next() for _ in range(CONCURRENCY)) if question is not None]
    assert len(under_way) == CONCURRENCY * 2 // 3, "one third is kept for those that do"
    for question in under_way:
        if question.endpoint in SMTP:
            schedule.take(question, result(question, None))
    due = [question for question in (schedule.next() for _ in range(CONCURRENCY)) if question is not None]
    assert sum(question.endpoint in SMTP for question in due) > CONCURRENCY - 8
    schedule = ProbeSchedule(CLIENTS, [*IMAPS, *SMTP], CONCURRENCY)
    down = Problem.NOT_LISTENING
    questions = asked(schedule, lambda question: down if question.endpoint in IMAPS else None)
    assert sum(question.endpoint in IMAPS for question in questions) == 2 * len(IMAPS)
    answers = schedule.answers()
    assert len(answers) == len(CLIENTS) * 12
    assert {answer.problem for question, answer in answers.items() if question.endpoint in IMAPS} == {down}
    assert all(answer.result.name == question.expectation.name for question, answer in answers.items())


def test_an_endpoint_that_falls_silent_is_given_up() -> None:
    count = iter(range(10_000))
    schedule = ProbeSchedule(CLIENTS, IMAPS[:1], CONCURRENCY)
    questions = asked(schedule, lambda _: None if next(count) < 5 else Problem.NO_ANSWER)
    assert len(questions) <= 5 + 16 + CONCURRENCY
    assert len(schedule.answers()) == len(CLIENTS)


def test_an_answer_whose_chain_has_no_verdict_yet_is_none() -> None:
    schedule = ProbeSchedule(CLIENTS, SMTP, CONCURRENCY)
    question = schedule.next()
    assert question is not None
    schedule.take(question, result(question, None))
    assert schedule.answers() == {}
    verdict = schedule.next()
    assert verdict is not None
    assert verdict.require_trust
    unknown = result(verdict, Problem.UNTRUSTED)
    schedule.take(verdict, unknown)
    assert schedule.answers() == {}
    below = schedule.next()
    assert below is not None
    assert below.anchor == b"chain", "the rest of the chain, below an authority that this system does not know"
    schedule.take(below, result(below, None))
    assert list(schedule.answers()) == [question]
    assert schedule.refusals == {(b"chain",): unknown}


def test_a_server_that_sends_something_else_when_asked_again_is_asked_three_times() -> None:
    schedule = ProbeSchedule([Expectation(None)], SMTP[:1], CONCURRENCY)
    questions = asked(schedule, lambda question: Problem.HANDSHAKE_FAILED if question.require_trust else None)
    assert [question.require_trust for question in questions] == [False, True, True, True]
    assert schedule.refusals == {(b"chain",): None}
