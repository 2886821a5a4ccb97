"""Groups assessments by the fault that explains them: one fault may concern every name at every port. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailsni.probes.endpoint import Endpoint
from mailsni.probes.model import Problem
from mailsni.verify.model import Assessment, Client


@dataclass(frozen=True, slots=True)
class Cause:
    """A fault, and the answers that it explains, at least one."""

    problem: Problem
    """The worst, by which the answers are grouped."""
    assessments: tuple[Assessment, ...]
    nobody_served: bool
    """Whether no client gets a certificate at these endpoints because of it."""

    @property
    def wrong(self) -> bool:
        """Whether somebody must act."""
        return self.assessments[0].wrong

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems of its answers."""
        return tuple(dict.fromkeys(problem for each in self.assessments for problem in each.problems))

    @property
    def detail(self) -> str:
        """That of the first answer."""
        return self.assessments[0].detail

    @property
    def names(self) -> tuple[str, ...]:
        """The known names that clients sent."""
        return _names(self.assessments)

    def names_at(self, server: str) -> tuple[str, ...]:
        """The known names that clients of a server sent."""
        return _names(each for each in self.assessments if each.endpoint.server == server)

    @property
    def clients(self) -> tuple[Client, ...]:
        """The kinds of client."""
        return tuple(dict.fromkeys(each.client for each in self.assessments))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where it shows."""
        return tuple(dict.fromkeys(each.endpoint for each in self.assessments))

    @property
    def servers(self) -> tuple[str, ...]:
        """Whose endpoints these are."""
        return tuple(dict.fromkeys(endpoint.server for endpoint in self.endpoints))

    @property
    def identical(self) -> bool:
        """Whether all its answers have one and the same detail."""
        return len({each.detail for each in self.assessments}) == 1


def causes_of(assessments: Sequence[Assessment]) -> tuple[Cause, ...]:
    """The causes of all problems, what somebody must act on first. Each answer with a problem belongs to one."""
    groups: defaultdict[tuple[Problem, Hashable], list[Assessment]] = defaultdict(list)
    for assessment in assessments:
        if assessment.problems:
            problem = _worst(assessment)
            groups[problem, _what(problem, assessment)].append(assessment)
    clients = Counter(each.endpoint for each in assessments)
    causes = [
        Cause(problem, tuple(group), problem.leaves_no_certificate and _are_all(group, clients))
        for (problem, _), group in groups.items()
    ]
    return tuple(sorted(causes, key=lambda cause: not cause.wrong))


def _names(assessments: Iterable[Assessment]) -> tuple[str, ...]:
    names = (each.expectation.name for each in assessments if each.client is Client.NAMED)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _worst(assessment: Assessment) -> Problem:
    """The first problem, but a warning only if there is nothing else."""
    return next((each for each in assessment.problems if each is not Problem.UNTRUSTED), Problem.UNTRUSTED)


def _what(problem: Problem, assessment: Assessment) -> Hashable:
    """What the answers that one fault explains have in common, besides the problem."""
    match problem:
        case Problem.WRONG_CERTIFICATE | Problem.NAME_MISMATCH:
            return "outdated" if assessment.outdated else assessment.result.fingerprint
        case Problem.EXPIRED | Problem.NOT_YET_VALID | Problem.SERVERS_DISAGREE:
            return None
        case Problem.NO_ANSWER:
            return assessment.endpoint.server
        case _ if assessment.served:
            return assessment.detail
        case _:
            return assessment.endpoint.server, assessment.result.detail


def _are_all(group: Iterable[Assessment], clients: Mapping[Endpoint, int]) -> bool:
    return all(count == clients[endpoint] for endpoint, count in Counter(each.endpoint for each in group).items())
