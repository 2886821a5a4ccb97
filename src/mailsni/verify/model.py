"""What `verify` asks and answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from mailsni.core.model import Algorithm
from mailsni.deploy.confirm import asked_for
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.tls_client import Question, Served

UNKNOWN_NAME = "mailsni-unknown.invalid"
"""A name that nobody can have (RFC 6761, 6.4)."""


CONCURRENCY = 32
"""Connections at a time: probes wait for the network, and both servers take 100 clients by default."""


_NAMES_SHOWN = 3


class Client(enum.StrEnum):
    """What kind of client asks."""

    NAMED = "named"
    """It sends a name that is to be served."""
    WITHOUT_SNI = "without_sni"
    UNKNOWN_NAME = "unknown_name"
    """It sends a name that no certificate is for."""


class Concern(enum.StrEnum):
    """What is wrong with an answer."""

    NOT_LISTENING = "not_listening"
    NO_ANSWER = "no_answer"
    """Nothing within the time limit."""
    NO_STARTTLS = "no_starttls"
    NOT_UNDERSTOOD = "not_understood"
    """The server breaks its protocol, or speaks another."""
    CUT_OFF = "cut_off"
    """No handshake."""
    OTHER_CERTIFICATE = "other_certificate"
    """Not the intended one."""
    SERVERS_DISAGREE = "servers_disagree"
    """Nothing is known of what is meant, and not all endpoints show the same."""
    OTHER_CHAIN = "other_chain"
    """The chain behind the leaf is not the intended one, or incomplete, or out of order."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    OTHER_NAME = "other_name"
    """The certificate is not for the name that the client asked for."""
    UNTRUSTED = "untrusted"
    """The system's trust store does not lead to it: a warning only, for a company may have an authority of its own."""


@dataclass(frozen=True, slots=True)
class Intention:
    """A certificate that a name is to be served."""

    fingerprint: str
    """SHA-256 of the leaf, hexadecimal."""
    algorithm: Algorithm
    chain: tuple[str, ...] = ()
    """SHA-256 of each certificate of the chain, the leaf first; none when it is not known."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer and what is wrong with it."""

    client: Client
    name: str | None
    """The name that was asked for; a wildcard stands as ``*.example.com``. None: the client sent none."""
    endpoint: Endpoint
    algorithm: Algorithm | None
    """The only kind of certificate that the client takes, where the name has two; else None."""
    intended: str | None
    """SHA-256 of the leaf that is meant, hexadecimal; None: any valid one."""
    served: Served
    concerns: tuple[Concern, ...]
    not_after: datetime | None
    """Of the leaf that was shown."""
    detail: str = ""
    """What is wrong, and what is shown instead, for people: printable, bounded."""
    served_names: tuple[str, ...] = ()
    """Of the leaf that was shown, as far as they are of the grammar."""

    @property
    def wrong(self) -> bool:
        """Whether somebody must act: there is a concern that is more than a warning."""
        return any(concern is not Concern.UNTRUSTED for concern in self.concerns)


@dataclass(frozen=True, slots=True)
class Inspection:
    """All answers, ordered by name and endpoint; the clients without a known name come last."""

    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()
    """What could not be asked, and why."""

    @property
    def wrong(self) -> tuple[Shown, ...]:
        """The answers that somebody must look at."""
        return tuple(one for one in self.shown if one.wrong)


@dataclass(frozen=True, slots=True)
class Limits:
    """How servers are asked."""

    timeout: float
    """Seconds for each question."""
    concurrency: int = CONCURRENCY


@dataclass(frozen=True, slots=True)
class _Case:
    client: Client
    name: str | None
    endpoint: Endpoint
    intention: Intention | None = None
    algorithm: Algorithm | None = None

    def question(self, *, trusting: bool = False) -> Question:
        name = None if self.name is None else asked_for(self.name)
        return Question(self.endpoint, name, self.algorithm, trusting)
