"""One probe: what a client asks of one port, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailsni.core.model import Algorithm
from mailsni.core.text import ContractWord
from mailsni.probes.endpoint import Endpoint, is_host_name


class Problem(ContractWord):
    """What is wrong with the result of a probe."""

    NOT_LISTENING = "not_listening", "nothing listens at the port"
    NO_ANSWER = "no_answer", "no answer within the time limit"
    NO_STARTTLS = "no_starttls", "the server does not offer STARTTLS, or refuses it"
    PROTOCOL_ERROR = "protocol_error", "the server breaks its protocol, or speaks another one"
    HANDSHAKE_FAILED = "handshake_failed", "the server ends the conversation, or the TLS handshake fails"
    WRONG_CERTIFICATE = "wrong_certificate", "another certificate than the expected one"
    SERVERS_DISAGREE = "servers_disagree", "the expected certificate is unknown, and the endpoints send different ones"
    WRONG_CHAIN = "wrong_chain", "the chain is not the expected one, or incomplete, or out of order"
    EXPIRED = "expired", "the certificate has expired"
    NOT_YET_VALID = "not_yet_valid", "the certificate is not valid yet"
    NAME_MISMATCH = "name_mismatch", "the certificate does not cover the name that the client sent"
    INVALID_CHAIN = "invalid_chain", "OpenSSL refuses the chain for another reason than an unknown authority"
    UNTRUSTED = "untrusted", "this system does not know the authority; only a warning, for it may be a private one"

    @property
    def leaves_no_certificate(self) -> bool:
        """Whether the client got no certificate at all."""
        return self in {
            Problem.NOT_LISTENING,
            Problem.NO_ANSWER,
            Problem.NO_STARTTLS,
            Problem.PROTOCOL_ERROR,
            Problem.HANDSHAKE_FAILED,
        }


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
    anchor: bytes = field(default=b"", repr=False)
    """Accept only a chain that leads to this certificate (DER), of whatever kind it is; empty: no such condition."""

    def __post_init__(self) -> None:
        if self.name is not None and not is_host_name(self.name):
            raise ValueError(f"{self.name[:80]!a} cannot be sent as SNI")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of a probe."""

    endpoint: Endpoint
    name: str | None
    """The SNI name that was sent."""
    problem: Problem | None
    """Why the client got no certificate, or none that it takes; None when it got one."""
    fingerprint: str | None
    """SHA-256 of the leaf in DER, lower-case hexadecimal, when there is no problem; else None."""
    detail: str
    """For people: the TLS version, or what went wrong. Printable ASCII, at most 200 characters, in the words of this
    program or of OpenSSL, never the server's."""
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    """The certificates in DER as the server sent them, the leaf first; none where no handshake ended."""
    in_handshake: bool = False
    """Whether it failed in the TLS handshake: before that no server knows which name the client wants."""

    @property
    def reached_tls(self) -> bool:
        """Whether the server began a TLS handshake, or turned the client away before it."""
        return self.problem in (None, Problem.HANDSHAKE_FAILED)
