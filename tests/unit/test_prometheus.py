"""The metrics of results that are made by hand: every family, every label, in the text format and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from mailsni.errors import HostError
from mailsni.metrics import MetricsInput
from mailsni.output import prometheus
from mailsni.probes.endpoint import Endpoint, Server
from mailsni.probes.expectation import Expectation, Question
from mailsni.probes.model import ProbeResult, Problem
from mailsni.runs.history import EMPTY_HISTORY, History, Run
from mailsni.verify.model import Assessment, Audit
from tests.support.builders import NOW, certificate, deployment, snapshot

NAME = "mail.a.test"
DOWN = Problem.NOT_LISTENING


def lines(given: MetricsInput) -> set[str]:
    text = prometheus.exposition(given).decode()
    assert text.endswith("\n")
    return {one for one in text.splitlines() if not one.startswith("#")}


def test_without_anything_known_only_that_and_the_version_are_exported() -> None:
    assert lines(MetricsInput(EMPTY_HISTORY)) == {"mailsni_up 0.0", 'mailsni_build_info{version="0.1.0"} 1.0'}


def test_every_problem_is_there_before_anybody_answered() -> None:
    found = lines(MetricsInput(EMPTY_HISTORY, snapshot(), Audit(()), wire=True))
    assert {one for one in found if one.startswith("mailsni_answers")} == {
        f'mailsni_answers{{problem="{problem}",server="{server}"}} 0.0'
        for server in ("dovecot", "postfix")
        for problem in Problem
    }


def test_whether_each_server_could_be_asked_is_said_when_they_were_to_be() -> None:
    answer = Assessment(Expectation(NAME), ProbeResult(Endpoint("imaps", "127.0.0.1", 993), NAME, None, "0" * 64, ""))
    both: dict[Server, bool] = {"postfix": True, "dovecot": False}
    asked = MetricsInput(EMPTY_HISTORY, snapshot(), Audit((answer,)), wire=True, starts=both)
    assert {one for one in lines(asked) if one.startswith(("mailsni_wire_up", "mailsni_can_start"))} == {
        'mailsni_wire_up{server="dovecot"} 1.0',
        'mailsni_wire_up{server="postfix"} 0.0',
        'mailsni_can_start{server="dovecot"} 0.0',
        'mailsni_can_start{server="postfix"} 1.0',
    }
    problem = HostError("no service with TLS was found")
    for nothing in (None, snapshot()):  # nobody knows which servers there are
        found = lines(MetricsInput(EMPTY_HISTORY, nothing, problem=problem, wire=True))
        assert {one for one in found if one.startswith(("mailsni_wire_up", "mailsni_can_start"))} == {
            'mailsni_wire_up{server="dovecot"} 0.0',
            'mailsni_wire_up{server="postfix"} 0.0',
        }
    assert not [one for one in lines(replace(asked, wire=False)) if one.startswith("mailsni_wire_up")]


def test_the_worst_of_two_equal_questions_counts_and_comes_once() -> None:
    for order in ((), (Problem.EXPIRED,)), ((Problem.EXPIRED,), ()):
        result = ProbeResult(Endpoint("imaps", "127.0.0.1", 993), NAME, None, "0" * 64, "TLSv1.3")
        inspection = Audit(tuple(Assessment(Expectation(NAME, "0" * 64), result, problems) for problems in order))
        text = prometheus.exposition(MetricsInput(EMPTY_HISTORY, snapshot(), inspection, every_port=True)).decode()
        served = [one for one in text.splitlines() if one.startswith("mailsni_served_as_intended{")]
        assert [one[-4:] for one in served] == [" 0.0"]


@pytest.mark.parametrize("by", ["\ud800", 'x"} 1', "a\nmailsni_up 1", "back\\slash", "é"])
def test_no_text_breaks_the_format(by: str) -> None:
    """A record that was damaged, or written by somebody else."""
    (found,) = (one for one in lines(MetricsInput(History(last=Run(NOW, NOW, 0, "", by)))) if "last_run_info" in one)
    assert re.fullmatch(r'mailsni_last_run_info\{trigger="(?:[^"\\\n]|\\["\\n])*"\} 1\.0', found)


def test_a_number_that_no_exit_code_is_does_not_end_it() -> None:
    assert "mailsni_last_run_exit_code 0.0" in lines(MetricsInput(History(last=Run(NOW, NOW, 1 << 4000, "", "timer"))))


def test_two_names_that_look_alike_once_they_can_be_written_are_one_sample() -> None:
    old = certificate("a.test", NAME)
    names = {"\ud800" * 40 + end: (old.ident,) for end in "ab"}
    seen = snapshot(deployed=replace(deployment(old), names=names))
    text = prometheus.exposition(MetricsInput(EMPTY_HISTORY, seen)).decode()
    assert len([one for one in text.splitlines() if one.startswith("mailsni_deployed_not_after")]) == 1


def test_the_document_has_the_same_samples() -> None:
    given = MetricsInput(EMPTY_HISTORY, snapshot(certificate("a.test", NAME)))
    samples = prometheus.document(given)["samples"]
    assert len(samples) == len(lines(given))
    assert {"name": "mailsni_up", "labels": {}, "value": 1} in samples


def test_a_server_that_is_down_is_no_fault_of_a_thousand_names() -> None:
    """One series for each name and each port; the product only when it is asked for."""
    names = [f"mail.d{number}.test" for number in range(1000)]
    ports = [Endpoint("imaps", "127.0.0.1", port) for port in range(1, 11)]
    smtp = Endpoint("smtp", "127.0.0.1", 25)
    down = [
        Assessment(Expectation(name), ProbeResult(port, name, DOWN, None, "refused"), (DOWN,))
        for name in (*names, None)
        for port in ports
    ]
    up = [Assessment(Expectation(name), ProbeResult(smtp, name, None, "0" * 64, "")) for name in (*names, None)]
    wrong = Assessment(Expectation("x.test"), ProbeResult(smtp, "x.test", None, "1" * 64, ""), (Problem.EXPIRED,))
    audit = Audit((*down, *up, wrong), not_asked=(Question(Expectation(NAME), smtp),) * 7)
    found = lines(MetricsInput(EMPTY_HISTORY, snapshot(), audit))
    by_family = Counter(re.match(r"\w+", line).group() for line in found)  # type: ignore[union-attr]
    assert by_family["mailsni_name_served_as_intended"] == 1001
    assert by_family["mailsni_endpoint_up"] == 11
    assert by_family["mailsni_endpoint_served_as_intended"] == by_family["mailsni_served_to_others"] == 1
    assert by_family["mailsni_served_as_intended"] == 0
    assert [line for line in found if line.startswith("mailsni_name_served") and line.endswith(" 0.0")] == [
        'mailsni_name_served_as_intended{name="x.test"} 0.0'
    ]
    assert [line for line in found if line.startswith("mailsni_wrong_names") and not line.endswith(" 0.0")] == [
        'mailsni_wrong_names{problem="expired",server="postfix"} 1.0'
    ]
    assert "mailsni_not_asked 7.0" in found
    product = lines(MetricsInput(EMPTY_HISTORY, snapshot(), audit, every_port=True)) - found
    assert len(product) == 1000 * 11 + 1
