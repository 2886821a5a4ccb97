"""Compares the result of a probe with what was expected. No I/O."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from mailsni.core import x509
from mailsni.core.names import covered_by
from mailsni.core.text import summarize
from mailsni.core.x509 import Leaf
from mailsni.probes.expectation import Answer, Expectation, sni_name
from mailsni.probes.model import ProbeResult, Problem
from mailsni.verify.model import Assessment, Client, KnownCertificate, client_of


def assess(
    answer: Answer, refusal: ProbeResult | None, *, now: datetime, known: Mapping[str, KnownCertificate]
) -> Assessment:
    """What is wrong with an answer at a moment with a time zone.

    ``refusal`` is what a client got that verifies the chain, and rejects it. ``known`` has the certificates of this
    host, by fingerprint.
    """
    expectation, result, problem = answer.expectation, answer.result, answer.problem
    leaf = x509.parse_leaf(result.chain[0]) if result.chain else None
    explained: list[tuple[Problem, str]] = []
    served = known.get(result.fingerprint or "") if problem is Problem.WRONG_CERTIFICATE else None
    if problem is Problem.WRONG_CERTIFICATE:
        label = served.label if served is not None else _unknown_certificate(result, leaf)
        explained.append((problem, f"serves {label}"))
    elif problem is not None:
        explained.append((problem, result.detail))
    if leaf is not None:
        explained += _leaf_problems(expectation, leaf, now)
        unknown_authority = refusal is not None and refusal.problem is Problem.UNTRUSTED
        explained += _chain_problems(expectation, result.chain, leaf, unknown_authority=unknown_authority)
        if refusal is not None and leaf.not_before <= now < leaf.not_after:  # else it only repeats the dates
            explained.append(_refused(refusal))
    elif answer.served:
        explained.append((Problem.WRONG_CERTIFICATE, "serves a certificate that cannot be decoded"))
    problems = tuple(dict.fromkeys(problem for problem, _ in explained))
    detail = "; ".join(text for _, text in explained)
    outdated = served is not None and served.outdated and Problem.NAME_MISMATCH not in problems
    return Assessment(expectation, result, problems, detail, leaf, outdated)


def _refused(refusal: ProbeResult) -> tuple[Problem, str]:
    if refusal.problem is Problem.INVALID_CHAIN:
        return Problem.INVALID_CHAIN, f"clients reject the chain: {refusal.detail}"
    return Problem.UNTRUSTED, f"this system does not trust it: {refusal.detail}"


def _leaf_problems(expectation: Expectation, leaf: Leaf, now: datetime) -> Iterator[tuple[Problem, str]]:
    if now < leaf.not_before:
        yield Problem.NOT_YET_VALID, f"not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC"
    if now >= leaf.not_after:
        yield Problem.EXPIRED, f"expired on {leaf.not_after:%Y-%m-%d %H:%M} UTC"
    name = expectation.name if client_of(expectation) is Client.NAMED else None
    if name is not None and not covered_by(sni_name(name), leaf.names):
        yield Problem.NAME_MISMATCH, f"the certificate is for {describe_names(leaf.names)}"


def _chain_problems(
    expectation: Expectation, chain: Sequence[bytes], leaf: Leaf, *, unknown_authority: bool
) -> Iterator[tuple[Problem, str]]:
    digests = tuple(hashlib.sha256(der).hexdigest() for der in chain)
    expected = expectation.chain
    order_problem = x509.chain_order_problem(chain)
    if order_problem is not None:
        yield Problem.WRONG_CHAIN, f"the chain is out of order: {order_problem}"
    elif expected and digests[0] == expected[0] and digests != expected:
        sent = f"{len(digests)} certificate{'' if len(digests) == 1 else 's'} sent, {len(expected)} expected"
        yield Problem.WRONG_CHAIN, f"the chain is not the expected one ({sent})"
    elif unknown_authority and len(digests) == 1 and leaf.has_issuer_address and not leaf.self_signed:
        yield Problem.WRONG_CHAIN, "the server sends the leaf without its intermediates"


def _unknown_certificate(result: ProbeResult, leaf: Leaf | None) -> str:
    if leaf is None:
        return f"an unknown certificate ({result.fingerprint})"
    until = f"until {leaf.not_after:%Y-%m-%d}"
    return f"an unknown certificate for {describe_names(leaf.names)}, issued by {leaf.issuer}, {until}"


def describe_names(names: Sequence[str]) -> str:
    """The names of a certificate, for people."""
    return summarize(names) or "no name"


def with_disagreements(assessments: Sequence[Assessment]) -> Iterator[Assessment]:
    """The same, with a problem where nobody knows which leaf to expect, and the endpoints send different ones."""
    served: dict[str | None, set[str | None]] = defaultdict(set)
    for assessment in assessments:
        if _has_no_expectation(assessment):
            served[assessment.expectation.name].add(assessment.result.fingerprint)
    for assessment in assessments:
        if _has_no_expectation(assessment) and len(served[assessment.expectation.name]) > 1:
            problems = (*assessment.problems, Problem.SERVERS_DISAGREE)
            here = (assessment.result.fingerprint or "")[:16]
            text = f"the endpoints serve different certificates: {here}... here"
            detail = "; ".join(filter(None, (assessment.detail, text)))
            yield replace(assessment, problems=problems, detail=detail)
        else:
            yield assessment


def _has_no_expectation(assessment: Assessment) -> bool:
    return assessment.served and assessment.client is Client.NAMED and assessment.expectation.fingerprint is None
