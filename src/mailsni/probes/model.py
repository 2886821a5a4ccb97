"""One probe: what a client asks of one port, and what comes of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from mailsni.core.model import Algorithm
from mailsni.probes.endpoint import Endpoint, is_host_name


class Outcome(enum.StrEnum):
    """How a probe ended."""

    SERVED = "served"
    """The server sent a certificate."""
    REFUSED = "refused"
    """No listener: connection refused, host unreachable or unknown."""
    HANDSHAKE_FAILED = "handshake_failed"
    """The server ended the conversation: a TLS alert, a close, a greeting that says no; or no TLS in common."""
    NO_STARTTLS = "no_starttls"
    """The server speaks its protocol, and does not start TLS."""
    TIMEOUT = "timeout"
    """The deadline passed."""
    PROTOCOL_ERROR = "protocol_error"
    """The server broke the protocol, or speaks another."""
    UNTRUSTED = "untrusted"
    """The system's trust store does not lead to the chain; only where the probe requires trust."""

    @property
    def reached_tls(self) -> bool:
        """Whether the server began a TLS handshake, or turned the client away before it."""
        return self in (Outcome.SERVED, Outcome.HANDSHAKE_FAILED)


@dataclass(frozen=True, slots=True)
class Probe:
    """One TLS connection to make.

    Raises:
        ValueError: the name is none that SNI carries: an address, a wildcard, not ASCII (RFC 6066, section 3).
    """

    endpoint: Endpoint
    name: str | None = None
    """The SNI name, A-labels; None sends no SNI, as many SMTP clients do."""
    algorithm: Algorithm | None = None
    """The only kind of certificate to accept; None leaves the choice to the server. Such a probe speaks TLS 1.2, whose
    cipher suites name the kind (those of 1.3 do not)."""
    require_trust: bool = False
    """Accept only a chain that the system's trust store leads to, as a mail client does. (The name is not compared:
    whether a certificate covers a name is visible without a probe.)"""

    def __post_init__(self) -> None:
        if self.name is not None and not is_host_name(self.name):
            raise ValueError(f"{self.name[:80]!a} cannot be sent as SNI")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of a probe."""

    endpoint: Endpoint
    name: str | None
    """The SNI name that was sent."""
    outcome: Outcome
    fingerprint: str | None
    """SHA-256 of the leaf in DER, lower-case hexadecimal, when the outcome is ``served``; else None."""
    detail: str
    """For people: the TLS version, or what went wrong. Printable ASCII, at most 200 characters, in the words of this
    program or of OpenSSL, never the server's."""
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    """The certificates in DER as the server sent them, the leaf first; none where no handshake ended."""
