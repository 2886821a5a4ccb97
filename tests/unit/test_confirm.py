"""What the answers of running servers mean for a deployment, above all those that do not come in time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from mailsni.deploy import confirm
from mailsni.deploy.confirm import Confirmation, CutOff, WireCheck, all_wrong, choose, newly_cut_off
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import ProbeResult, Problem

IMAPS = Endpoint.parse("imaps://127.0.0.1:993")
POP3S = Endpoint.parse("pop3s://127.0.0.1:995")
OLD, NEW = "0" * 64, "1" * 64
TIMEOUT = 0.05

Served = str | Problem
"""A fingerprint, or why there is none."""


def answer(expectation: Expectation, endpoint: Endpoint, served: Served) -> Answer:
    problem = served if isinstance(served, Problem) else None
    fingerprint = None if problem else str(served)
    in_handshake = problem is Problem.HANDSHAKE_FAILED
    result = ProbeResult(endpoint, expectation.name, problem, fingerprint, "detail", in_handshake=in_handshake)
    return Answer(expectation, result)


@dataclass
class Servers:
    """Stands for the servers; a probe that times out takes its time, as long as the wave that it is in."""

    says: Callable[[str, Endpoint, int], Served]
    """What a name gets at an endpoint, when it is asked for the so manieth time."""
    asked: Counter[tuple[str, Endpoint]] = field(default_factory=Counter)

    def probe(self, pairs: Sequence[tuple[Expectation, Endpoint]], *, timeout: float) -> list[Answer]:
        """What stands for :func:`mailsni.probes.tls_client.probe_expectations`."""
        answers = []
        for expectation, endpoint in pairs:
            name = expectation.name or ""
            self.asked[name, endpoint] += 1
            answers.append(answer(expectation, endpoint, self.says(name, endpoint, self.asked[name, endpoint])))
        if any(each.timed_out for each in answers):
            time.sleep(timeout)
        return answers


def wire(names: int = 1, *endpoints: Endpoint) -> WireCheck:
    expected = tuple(Expectation(f"mail.d{number}.test", NEW) for number in range(names))
    return WireCheck({"dovecot": endpoints or (IMAPS,)}, expected, TIMEOUT, 0)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, Endpoint, int], Served]], Servers]:
    def make(says: Callable[[str, Endpoint, int], Served]) -> Servers:
        made = Servers(says)
        monkeypatch.setattr("mailsni.probes.tls_client.probe_expectations", made.probe)
        monkeypatch.setattr(confirm, "_PAUSE", 0.001)
        return made

    return make


MakeServers = Callable[[Callable[[str, Endpoint, int], Served]], Servers]


def test_a_time_out_is_neither_a_cut_off_client_nor_a_wrong_certificate(servers: MakeServers) -> None:
    servers(lambda _, __, time: OLD if time == 1 else Problem.NO_ANSWER)
    (before,) = wire(3).now()
    (after,) = wire(3).confirm()
    assert not newly_cut_off(before, after)
    assert not all_wrong([after])
    assert after.wrong == after.right == ()
    assert after.unconfirmed == ("mail.d0.test", "mail.d1.test", "mail.d2.test")
    assert after.patience == pytest.approx(confirm.TIMEOUTS_WAITED_FOR * TIMEOUT)


@pytest.mark.parametrize("problem", [Problem.HANDSHAKE_FAILED, Problem.NOT_LISTENING, Problem.NO_STARTTLS])
def test_any_other_failure_of_a_name_that_was_served_is_a_cut_off_client(
    servers: MakeServers, problem: Problem
) -> None:
    servers(lambda _, __, time: OLD if time == 1 else problem)
    (before,) = wire().now()
    (after,) = wire().confirm()
    assert newly_cut_off(before, after) == after.wrong != ()
    assert after.unconfirmed == ()


def test_a_server_that_becomes_fast_again_is_confirmed(servers: MakeServers) -> None:
    servers(lambda _, __, time: NEW if time > 2 else Problem.NO_ANSWER)
    (after,) = wire(5).confirm()
    assert len(after.right) == 5
    assert after.unconfirmed == ()


def test_a_server_that_hangs_costs_a_bounded_time_however_many_names_there_are(servers: MakeServers) -> None:
    """Each wave takes one time limit: one or two at first, then as many as it is waited for, and the last one."""
    hanging = servers(lambda _, __, ___: Problem.NO_ANSWER)
    begin = time.monotonic()
    (after,) = wire(300).confirm()
    waves = (time.monotonic() - begin) / TIMEOUT
    assert waves < 2 + confirm.TIMEOUTS_WAITED_FOR + 3
    assert len(after.unconfirmed) == 300
    assert len(after.answers) + len(after.unasked) == 300
    assert hanging.asked.total() < 100


def test_an_endpoint_that_hangs_does_not_keep_the_others_from_being_asked(servers: MakeServers) -> None:
    servers(lambda _, endpoint, __: Problem.NO_ANSWER if endpoint is POP3S else NEW)
    (after,) = wire(100, IMAPS, POP3S).confirm()
    assert {each.endpoint for each in after.right} == {IMAPS}
    assert len(after.right) == 100
    assert len(after.unconfirmed) == 100


def test_the_patience_with_a_hanging_endpoint_does_not_prolong_a_client_being_cut_off(servers: MakeServers) -> None:
    """As soon as the patience for wrong answers is over the deployment is taken back, whatever else is open."""
    servers(lambda _, endpoint, __: Problem.NO_ANSWER if endpoint is POP3S else Problem.HANDSHAKE_FAILED)
    begin = time.monotonic()
    wire(1, IMAPS, POP3S).confirm()
    assert (time.monotonic() - begin) / TIMEOUT < confirm.TIMEOUTS_WAITED_FOR + 1


def test_a_server_that_says_that_it_fails_is_not_slow(servers: MakeServers) -> None:
    servers(lambda _, __, time: OLD if time == 1 else Problem.NO_ANSWER)
    before, after = wire().now(), wire().confirm()
    assert wire().cut_off(before, after, ()).answers == ()
    assert wire().cut_off(before, after, {"dovecot"}) == CutOff(after[0].answers, ())


def test_a_server_that_crashes_and_hangs_then_has_cut_off_the_client(servers: MakeServers) -> None:
    """What postfix's master(8) does with a program that crashed: it starts it again after a minute."""
    servers(lambda _, __, time: (OLD, Problem.HANDSHAKE_FAILED, Problem.NO_ANSWER)[min(time, 3) - 1])
    before, after = wire().now(), wire().confirm()
    assert wire().cut_off(before, after, ()).answers == after[0].answers
    assert after[0].unconfirmed == ()


def test_a_server_that_serves_the_old_certificates_is_wrong_unless_it_is_slow() -> None:
    expectations = [Expectation(f"mail.d{number}.test", NEW) for number in range(2)]
    old = [answer(each, IMAPS, OLD) for each in expectations]
    slow = [old[0], answer(expectations[1], IMAPS, Problem.NO_ANSWER)]
    told = Confirmation("dovecot", tuple(old), 2, 2)
    assert all_wrong([told]) == (told,)
    assert all_wrong([Confirmation("dovecot", tuple(slow), 2, 2)]) == ()
    assert all_wrong([Confirmation("dovecot", (old[0],), 2, 2, unasked=(expectations[1],))]) == ()


@pytest.mark.parametrize(
    ("groups", "limit", "expected"),
    [
        ([], 3, ""),
        (["abcd"], 4, "abcd"),
        (["abcdefgh"], 4, "aceg"),
        (["abcdefgh"], 3, "adg"),
        (["h", "abcdefgh"], 3, "hae"),
        (["hg", "ghf", "abcdefgh"], 2, "gh"),
        (["hh", "hga", "abcdefgh"], 4, "hgab"),
    ],
)
def test_of_too_many_names_the_first_group_is_chosen_and_of_the_next_an_even_sample(
    groups: list[str], limit: int, expected: str
) -> None:
    assert choose(groups, limit) == frozenset(expected)
