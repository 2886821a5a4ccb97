"""Checks what the running servers send: ``check --wire``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from mailsni.verify.causes import causes_of
from mailsni.verify.model import Assessment, Audit, Client
from mailsni.verify.request import VerifyRequest


def check_wire(
    settings: Settings, now: datetime, until: float, progress: Progress | None = None
) -> tuple[tuple[Finding, ...], Audit | None]:
    """Probe the servers for every deployed name until that time; None: there was no probe, and a finding says why."""
    try:
        snapshot = take_snapshot(settings, now, progress=progress)
        deployed = snapshot.record.deployment
        result = audit(snapshot, VerifyRequest(tuple(deployed.names)), until=until, progress=progress)
    except MailsniError as problem:
        text = f"the servers were not probed: {problem.message}"
        return (Finding(Level.UNKNOWN, Code.WIRE_NOT_PROBED, text),), None
    return tuple(wire_findings(result, deployed)), result


def wire_findings(result: Audit, deployed: Deployment) -> Iterator[Finding]:
    """One finding for each cause. Until the next run a server may send what is deployed."""
    for note in result.notes:
        yield Finding(Level.UNKNOWN, Code.WIRE_NOT_PROBED, f"on the wire: {note}")
    if result.unseen:
        text = f"on the wire: {result.gap}; nothing is known of {summarize_names(result.unseen)}"
        yield Finding(Level.UNKNOWN, Code.WIRE_NOT_ASKED, text)
    for cause in causes_of([_without_acceptable(each, deployed) for each in result.assessments]):
        level = Level.CRITICAL if cause.wrong else Level.WARNING
        names = [*cause.names, *("(no name)" for client in cause.clients if client is not Client.NAMED)]
        where = summarize_names(map(str, cause.endpoints))
        about = where if cause.nobody_served else f"{summarize_names(names)} at {where}"
        why = f" ({cause.detail})" if cause.detail else ""
        text = f"{', '.join(cause.servers)} on the wire: {about}: {cause.problem.replace('_', ' ')}{why}"
        yield Finding(level, f"wire_{cause.problem}", text, tuple(dict.fromkeys(names)))


def _without_acceptable(assessment: Assessment, deployed: Deployment) -> Assessment:
    problems = [each for each in assessment.problems if not _is_acceptable(assessment, each, deployed)]
    return replace(assessment, problems=tuple(problems))


def _is_acceptable(assessment: Assessment, problem: Problem, deployed: Deployment) -> bool:
    match problem:
        case Problem.UNTRUSTED:
            # A client that sends no name, or one that nobody has, cannot expect more of the default certificate.
            return assessment.client is not Client.NAMED or _is_of_private_authority(assessment)
        case Problem.WRONG_CERTIFICATE | Problem.EXPIRED:  # other checks say what is not deployed, and what expires
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
