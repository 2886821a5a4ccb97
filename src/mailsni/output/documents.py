"""Results as JSON documents: one object each, with ``schema``. ``schema.json`` beside this file describes them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailsni.core.model import Certificate, SkippedLineage
from mailsni.core.plan import Change, Plan, name_states
from mailsni.core.selection import Candidate
from mailsni.deploy.confirm import Confirmation
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.transaction import ApplyResult
from mailsni.doctor.finding import Finding, Severity
from mailsni.errors import MailsniError
from mailsni.probes.expectation import Answer
from mailsni.runs.history import EMPTY_HISTORY, History

if TYPE_CHECKING:
    from mailsni.check.model import CheckResult

Document = dict[str, Any]

_DEPLOYED = ("source", "algorithm", "fingerprint", "spki", "not_before", "not_after")
_RUN = ("started_at", "ended_at", "exit_code", "summary", "trigger", "names", "skipped", "error")


def status(snapshot: Snapshot, history: History = EMPTY_HISTORY) -> Document:
    """Every name with its certificates and state, everything that was skipped, and how the last run ended."""
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    deployed = snapshot.record.deployment
    return {
        "schema": "mailsni.status/1",
        "names": [
            {
                "name": name,
                "state": state,
                "certificates": [_certificate(each) for each in winners.get(name, ())],
                "deployed": [members(each, *_DEPLOYED) for each in deployed.certificates_for(name)],
            }
            for name, state in name_states(snapshot.selection, snapshot.plan)
        ],
        "skipped": _skipped(snapshot.selection.skipped),
        "pending": snapshot.plan.pending,
        "last_run": None if history.last is None else members(history.last, *_RUN),
        "last_good_run": None if history.last_good is None else time(history.last_good.ended_at),
    }


def check(found: CheckResult) -> Document:
    """What a monitoring plugin has to say, in full."""
    from mailsni.output import nagios

    return {
        "schema": "mailsni.check/1",
        "exit_code": int(found.level),
        "status": found.level.name,
        "summary": nagios.text(found),
        "findings": [
            {"level": each.level.name, "code": each.code, "text": nagios.plain(each.text), "names": list(each.names)}
            for each in found.findings
        ],
        "names": found.names,
        "expiry": [
            {
                **members(expiry, "name", "not_after"),
                "days": round((expiry.not_after - found.now) / timedelta(days=1), 3),
                **members(expiry, "warning", "critical"),
                "level": expiry.level(found.now).name,
            }
            for expiry in found.expiries
        ],
        "pending": found.pending,
        "unreadable": list(found.unreadable),
        "answers": found.probed,
        "not_asked": found.not_asked,
    }


def plan(snapshot: Snapshot, diffs: Sequence[tuple[str, str]] = ()) -> Document:
    """What apply would do."""
    return {
        "schema": "mailsni.plan/1",
        **_plan(snapshot.plan),
        "skipped": _skipped(snapshot.selection.skipped),
        **({"diff": dict(diffs)} if diffs else {}),
    }


def run(outcome: ApplyResult | MailsniError) -> Document:
    """What apply did, or why it could not."""
    if isinstance(outcome, MailsniError):
        return error(outcome)
    return {
        "schema": "mailsni.apply/1",
        "exit_code": int(outcome.exit_code),
        "result": "unchanged" if outcome.reloads is None else "applied",
        **_plan(outcome.snapshot.plan),
        "skipped": _skipped(outcome.snapshot.selection.skipped),
        "published": [str(path) for paths in outcome.published.values() for path in paths],
        "servers": {server: str(done) for server, done in (outcome.reloads or {}).items()},
        "confirmations": [_confirmation(confirmation) for confirmation in outcome.confirmations],
        "warnings": [*outcome.not_configured, *outcome.warnings, *(each.text for each in outcome.cannot_start)],
    }


def explanation(name: str, candidates: Sequence[Candidate], broken: Iterable[SkippedLineage]) -> Document:
    """Which certificate a name gets, why the others lost, and which lineages with the name cannot be used."""
    return {
        "schema": "mailsni.explain/1",
        "name": name,
        "candidates": [
            {**members(each, "wins", "why", "exact"), "certificate": _certificate(each.certificate)}
            for each in candidates
        ],
        "skipped": _skipped(broken),
    }


def rendering(server: str, text: bytes) -> Document:
    """The text of a server's file."""
    return {"schema": "mailsni.render/1", "server": server, "text": text.decode("ascii")}


def doctor(findings: Sequence[Finding]) -> Document:
    """Every mistake that was found, the worst first."""
    return {
        "schema": "mailsni.doctor/1",
        "findings": [
            {
                **members(finding, "code", "severity", "what", "where", "why"),
                "fix": members(finding.fix, "command", "edit", "note"),
            }
            for finding in findings
        ],
        "counts": {str(severity): sum(finding.severity is severity for finding in findings) for severity in Severity},
    }


def error(problem: MailsniError) -> Document:
    """Why a command could not do its work."""
    return {
        "schema": "mailsni.error/1",
        "exit_code": int(problem.exit_code),
        "error": problem.message,
        **members(problem, "hint", "path", "line"),
    }


def _plan(found: Plan) -> Document:
    return {
        "pending": found.pending,
        "changes": [_change(change) for change in found.changes],
        "artifacts": [members(artifact, "server", "path", "why") for artifact in found.artifacts],
        "pins": len(found.pins),
    }


def _change(change: Change) -> Document:
    return {
        **members(change, "kind", "name", "why"),
        "old": [members(each, *_DEPLOYED) for each in change.old],
        "new": [_certificate(each) for each in change.new],
        "new_public_key": change.new_public_key,
    }


def _certificate(certificate: Certificate) -> Document:
    return members(certificate, *_DEPLOYED, "issuer", "issuer_missing", "self_signed", "kept")


def _skipped(lineages: Iterable[SkippedLineage]) -> list[Document]:
    return [members(lineage, "source", "reason", "detail", "names", "information") for lineage in lineages]


def _confirmation(confirmation: Confirmation) -> Document:
    return {
        **members(confirmation, "server", "names", "names_probed", "unconfirmed", "patience"),
        "answers": [_answer(answer) for answer in confirmation.answers],
    }


def _answer(answer: Answer) -> Document:
    return {
        "name": answer.expectation.name,
        "endpoint": str(answer.result.endpoint),
        "algorithm": answer.expectation.algorithm,
        "expected": answer.expectation.fingerprint,
        "served": answer.result.fingerprint,
        "problem": answer.problem,
        "detail": answer.result.detail,
    }


def members(item: object, *names: str) -> Document:
    """These attributes of an item, and no other, as JSON has them."""
    return {name: plain(getattr(item, name)) for name in names}


def plain(value: object) -> object:
    """A value as JSON has it: a moment and a path as text, a tuple as a list, everything else as it is."""
    match value:
        case datetime():
            return time(value)
        case Path():
            return str(value)
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def time(moment: datetime) -> str:
    """A moment as every document writes it: UTC, to the second (RFC 3339)."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
