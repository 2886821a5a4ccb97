"""What `verify` probes, and what it finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from mailsni.core.model import Algorithm
from mailsni.core.x509 import Leaf
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, Problem, sni_name
from mailsni.probes.model import Probe, ProbeResult
from mailsni.probes.tls_client import CONCURRENCY

UNKNOWN_NAME = "mailsni-unknown.invalid"
"""A name that nobody can have (RFC 6761, 6.4)."""


class Client(enum.StrEnum):
    """What kind of client a probe plays."""

    NAMED = "named"
    """It sends a name that should be served."""
    WITHOUT_SNI = "without_sni"
    UNKNOWN_NAME = "unknown_name"
    """It sends a name that no certificate covers."""


@dataclass(frozen=True, slots=True)
class ProbeCase:
    """One client at one endpoint, and what it should get."""

    client: Client
    endpoint: Endpoint
    expectation: Expectation | None = None
    """None: the client sends no name."""

    @property
    def name(self) -> str | None:
        """The name as it is deployed; a wildcard stands as ``*.example.com``."""
        return None if self.expectation is None else self.expectation.name

    @property
    def algorithm(self) -> Algorithm | None:
        """The only kind of certificate that the client accepts, where the name has two; else None."""
        return None if self.expectation is None else self.expectation.algorithm

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the expected leaf, hexadecimal; None: any valid certificate."""
        return None if self.expectation is None else self.expectation.fingerprint

    def probe(self, *, require_trust: bool = False) -> Probe:
        """The probe that tests it."""
        return Probe(self.endpoint, None if self.name is None else sni_name(self.name), self.algorithm, require_trust)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is wrong with the result of one probe."""

    case: ProbeCase
    result: ProbeResult
    problems: tuple[Problem, ...] = ()
    detail: str = ""
    """What is wrong, and what the server sends instead, for people: printable, bounded."""
    leaf: Leaf | None = None
    """What the server sent; None where it is nothing, or cannot be decoded."""

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

    @property
    def wrong(self) -> tuple[Assessment, ...]:
        """Those that somebody must act on."""
        return tuple(assessment for assessment in self.assessments if assessment.wrong)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at a time, and how long."""

    timeout: float
    """Seconds for each probe."""
    concurrency: int = CONCURRENCY
    """Connections at a time."""
