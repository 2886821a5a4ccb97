"""What `verify` probes, and what it finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from mailsni.core.text import counted
from mailsni.core.x509 import Leaf
from mailsni.deploy.startup import StartupProblem
from mailsni.probes.expectation import Answer, Expectation, Question
from mailsni.probes.model import Problem

UNKNOWN_NAME = "mailsni-unknown.invalid"
"""A name that nobody can have (RFC 6761, 6.4)."""


class Client(enum.StrEnum):
    """What kind of client a probe plays."""

    NAMED = "named"
    """It sends a name that should be served."""
    WITHOUT_SNI = "without_sni"
    UNKNOWN_NAME = "unknown_name"
    """It sends a name that no certificate covers."""


def client_of(expectation: Expectation) -> Client:
    """The kind of client that tests an expectation."""
    if expectation.name is None:
        return Client.WITHOUT_SNI
    return Client.UNKNOWN_NAME if expectation.name == UNKNOWN_NAME else Client.NAMED


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """A certificate that this host has in a store, or has deployed."""

    label: str
    """What to call it in a message."""
    outdated: bool = False
    """It is deployed, and no store has it any more: the next ``apply`` replaces it."""


@dataclass(frozen=True, slots=True)
class Assessment(Answer):
    """An answer, and everything that is wrong with it."""

    problems: tuple[Problem, ...] = ()
    detail: str = ""
    """What is wrong, and what the server sends instead, for people: printable, bounded."""
    leaf: Leaf | None = None
    """What the server sent; None where it is nothing, or cannot be decoded."""
    outdated: bool = False
    """Whether the server sends what is deployed, and the next ``apply`` replaces it."""

    @property
    def client(self) -> Client:
        """The kind of client that sent the probe."""
        return client_of(self.expectation)

    @property
    def wrong(self) -> bool:
        """Whether somebody must act: there is a problem that is more than a warning."""
        return any(problem is not Problem.UNTRUSTED for problem in self.problems)

    @property
    def not_after(self) -> datetime | None:
        """Of the leaf that the server sent."""
        return None if self.leaf is None else self.leaf.not_after

    @property
    def served_names(self) -> tuple[str, ...]:
        """Of the leaf that the server sent, as far as they are of the grammar."""
        return () if self.leaf is None else self.leaf.names


@dataclass(frozen=True, slots=True)
class Audit:
    """All assessments, ordered by name; the clients without a known name come last."""

    assessments: tuple[Assessment, ...]
    notes: tuple[str, ...] = ()
    """What could not be probed, and why."""
    not_asked: tuple[Question, ...] = ()
    """What the total time did not suffice for. Nobody knows whether the answers are right."""
    cannot_start: tuple[StartupProblem, ...] = ()
    """The servers that would not start again, whatever they send now."""

    @property
    def gap(self) -> str:
        """How many probes the total time did not suffice for, for people."""
        probes = counted(len(self.assessments) + len(self.not_asked), "probe")
        return f"{len(self.not_asked)} of {probes} were not made for lack of time: --max-time sets the limit"

    @property
    def unseen(self) -> tuple[str, ...]:
        """The clients that no endpoint of a server was probed by, and the endpoints that were not probed at all."""
        clients = {(each.expectation.name, each.endpoint.server) for each in self.assessments}
        endpoints = {each.endpoint for each in self.assessments}
        labels: dict[str, None] = {}
        for question in self.not_asked:
            if (question.expectation.name, question.endpoint.server) not in clients:
                labels[question.expectation.label] = None
            if question.endpoint not in endpoints:
                labels[str(question.endpoint)] = None
        return tuple(labels)

    @property
    def wrong(self) -> tuple[Assessment, ...]:
        """Those that somebody must act on."""
        return tuple(assessment for assessment in self.assessments if assessment.wrong)
