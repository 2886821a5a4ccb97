"""What a client should get from a port, and what is wrong when it gets something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailsni.core.model import Algorithm, Certificate
from mailsni.core.names import is_wildcard
from mailsni.core.text import ContractWord
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.model import Outcome, Probe, ProbeResult

_PROBE_LABEL: Final = "mailsni-probe"


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
    UNTRUSTED = "untrusted", "this system does not trust the chain; only a warning, for the CA may be a private one"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The certificate that one kind of client should get."""

    name: str | None
    """As it is deployed: a wildcard stands as ``*.example.com``. None: the client sends no name."""
    fingerprint: str | None = None
    """SHA-256 of the leaf, hexadecimal; None: any certificate will do."""
    algorithm: Algorithm | None = None
    """The only kind that the client accepts, where the name has two; else None."""
    chain: tuple[str, ...] = ()
    """SHA-256 of each certificate of the chain, the leaf first; empty when it is not known."""

    def probe(self, endpoint: Endpoint, *, require_trust: bool = False) -> Probe:
        """The probe that tests it at an endpoint."""
        return Probe(endpoint, None if self.name is None else sni_name(self.name), self.algorithm, require_trust)


_PROBLEMS: Final[Mapping[Outcome, Problem]] = {
    Outcome.REFUSED: Problem.NOT_LISTENING,
    Outcome.TIMEOUT: Problem.NO_ANSWER,
    Outcome.NO_STARTTLS: Problem.NO_STARTTLS,
    Outcome.PROTOCOL_ERROR: Problem.PROTOCOL_ERROR,
}


def problem_of(result: ProbeResult, fingerprint: str | None) -> Problem | None:
    """What is wrong with a result where a leaf is expected, or, with None, any certificate."""
    if result.outcome is Outcome.SERVED:
        return None if fingerprint in (None, result.fingerprint) else Problem.WRONG_CERTIFICATE
    return _PROBLEMS.get(result.outcome, Problem.HANDSHAKE_FAILED)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint sent to the client of an expectation."""

    expectation: Expectation
    result: ProbeResult

    @property
    def endpoint(self) -> Endpoint:
        """Where the probe went."""
        return self.result.endpoint

    @property
    def problem(self) -> Problem | None:
        """Why it is not the expected leaf; None when it is."""
        return problem_of(self.result, self.expectation.fingerprint)

    @property
    def served(self) -> bool:
        """Whether the client got a certificate at all."""
        return self.result.outcome is Outcome.SERVED

    @property
    def probe(self) -> Probe:
        """The probe that got it."""
        return self.expectation.probe(self.endpoint)


def sni_name(name: str) -> str:
    """The name to send for a deployed one: for a wildcard, a name below it."""
    return f"{_PROBE_LABEL}{name[1:]}" if is_wildcard(name) else name


def expectations(
    certificates: Mapping[str, Sequence[Certificate]],
    chain_of: Callable[[str], tuple[str, ...]] = lambda _: (),
) -> tuple[Expectation, ...]:
    """What clients should get: one expectation for each certificate of a name; for a name with none any will do.

    Where the chain matters too, ``chain_of`` gives the SHA-256 of each certificate of a chain, by ident.
    """
    expected: list[Expectation] = []
    for name, choices in certificates.items():
        if not choices:
            expected.append(Expectation(name))
        expected += [
            Expectation(
                name, choice.fingerprint, choice.algorithm if len(choices) > 1 else None, chain_of(choice.ident)
            )
            for choice in choices
        ]
    return tuple(expected)
