"""What the running servers show, name by name and port by port, held against what they should show."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from mailsni.endpoints import Endpoint
from mailsni.inventory import Algorithm
from mailsni.verify import Served


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
    OTHER_CHAIN = "other_chain"
    """The intended leaf, with another chain than the intended one, or one that is incomplete or out of order."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    OTHER_NAME = "other_name"
    """The certificate is not for the name that the client asked for."""
    UNTRUSTED = "untrusted"
    """The system's trust store does not know the issuer: a warning only, for a company may have its own."""


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

    @property
    def wrong(self) -> bool:
        """Whether somebody must act: there is a concern that is more than a warning."""
        return any(concern is not Concern.UNTRUSTED for concern in self.concerns)


@dataclass(frozen=True, slots=True)
class Inspection:
    """All answers, ordered by name and endpoint; the clients without a known name come last."""

    shown: tuple[Shown, ...]
