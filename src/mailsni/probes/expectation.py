"""What a client should get from a port, and what is wrong when it gets something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mailsni.core.model import Algorithm, Certificate
from mailsni.core.names import is_wildcard
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.model import Probe, ProbeResult, Problem

_PROBE_LABEL: Final = "mailsni-probe"


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

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name or "(no SNI)"

    def probe(self, endpoint: Endpoint, *, require_trust: bool = False, anchor: bytes = b"") -> Probe:
        """The probe that tests it at an endpoint."""
        return Probe(
            endpoint, None if self.name is None else sni_name(self.name), self.algorithm, require_trust, anchor
        )


@dataclass(frozen=True, slots=True)
class Question:
    """An expectation to test at an endpoint; or whether a client that verifies the chain accepts it."""

    expectation: Expectation
    endpoint: Endpoint
    require_trust: bool = False
    anchor: bytes = field(default=b"", repr=False)
    """As in the probe."""

    @property
    def probe(self) -> Probe:
        """The probe that asks it."""
        return self.expectation.probe(self.endpoint, require_trust=self.require_trust, anchor=self.anchor)

    @property
    def verifies(self) -> bool:
        """Whether the client verifies the chain."""
        return self.require_trust or bool(self.anchor)


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
        """Why it is not the expected leaf, or not any one where any will do; None when it is."""
        if self.expectation.fingerprint in (None, self.result.fingerprint):
            return self.result.problem
        return self.result.problem or Problem.WRONG_CERTIFICATE

    @property
    def served(self) -> bool:
        """Whether the client got a certificate at all."""
        return self.result.problem is None

    @property
    def timed_out(self) -> bool:
        """Whether the time limit ended it: it tells neither what the server sends nor that it sends nothing."""
        return self.result.problem is Problem.NO_ANSWER

    @property
    def cut_off_in_tls(self) -> bool:
        """Whether the server ended or broke the conversation where it may know which name the client wants."""
        return self.result.in_handshake and not self.timed_out

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
