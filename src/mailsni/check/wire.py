"""Checks what the running servers send: ``check --wire``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from mailsni.check.model import Code, Finding, Level
from mailsni.config.settings import Settings
from mailsni.core.deployment import Deployment
from mailsni.core.model import Progress
from mailsni.core.text import summarize_names
from mailsni.deploy.snapshot import take_snapshot
from mailsni.errors import MailsniError
from mailsni.probes.model import Problem
from mailsni.verify.audit import audit
from mailsni.verify.model import Assessment, Audit, Client
from mailsni.verify.request import VerifyRequest


def check_wire(
    settings: Settings, now: datetime, progress: Progress | None = None
) -> tuple[tuple[Finding, ...], int | None]:
    """Probe the servers for every deployed name: the findings, and the number of answers if there was any probe."""
    try:
        snapshot = take_snapshot(settings, now, progress=progress)
        deployed = snapshot.record.deployment
        result = audit(snapshot, VerifyRequest(tuple(deployed.names)), progress=progress)
    except MailsniError as problem:
        text = f"the servers were not probed: {problem.message}"
        return (Finding(Level.UNKNOWN, Code.WIRE_NOT_PROBED, text),), None
    return tuple(wire_findings(result, deployed)), len(result.assessments)


def wire_findings(result: Audit, deployed: Deployment) -> Iterator[Finding]:
    """One finding for each server and problem. Until the next run a server may send what is deployed."""
    for note in result.notes:
        yield Finding(Level.UNKNOWN, Code.WIRE_NOT_PROBED, f"on the wire: {note}")
    groups: dict[tuple[str, Problem], list[Assessment]] = defaultdict(list)
    for assessment in result.assessments:
        for problem in assessment.problems:
            if not _is_acceptable(assessment, problem, deployed):
                groups[assessment.endpoint.server, problem].append(assessment)
    explained: set[Assessment] = set()
    for (server, problem), group in groups.items():
        level = Level.WARNING if problem is Problem.UNTRUSTED else Level.CRITICAL
        names = tuple(dict.fromkeys(assessment.expectation.name or "(no name)" for assessment in group))
        where = summarize_names(sorted({str(assessment.endpoint) for assessment in group}))
        about = where if problem is Problem.NOT_LISTENING else f"{summarize_names(names)} at {where}"
        first = group[0]
        # A detail names all problems of an answer: once is enough.
        why = f" ({first.detail})" if first.detail and first not in explained else ""
        explained.add(first)
        text = f"{server} on the wire: {about}: {problem.replace('_', ' ')}{why}"
        yield Finding(level, f"wire_{problem}", text, names)


def _is_acceptable(assessment: Assessment, problem: Problem, deployed: Deployment) -> bool:
    match problem:
        case Problem.UNTRUSTED:
            # A client that sends no name, or one that nobody has, cannot expect more of the default certificate.
            return assessment.client is not Client.NAMED or _is_of_private_authority(assessment)
        case Problem.WRONG_CERTIFICATE:
            certificates = deployed.certificates_for(assessment.expectation.name or "")
            return any(certificate.fingerprint == assessment.result.fingerprint for certificate in certificates)
        case _:
            return False


def _is_of_private_authority(assessment: Assessment) -> bool:
    """Whether a certificate comes from a company's own authority, which this system need not know.

    Those of public authorities say where to fetch their issuer's certificate (Baseline Requirements, 7.1.2.7.7).
    """
    leaf = assessment.leaf
    return leaf is not None and not leaf.self_signed and not leaf.has_issuer_address
