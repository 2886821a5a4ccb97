"""Results as JSON documents: one object each, with ``schema``. ``schema.json`` beside this file describes them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mailsni.core.deployment import DeployedCertificate
from mailsni.core.model import Certificate, SkippedLineage
from mailsni.core.plan import Change, Plan, name_states
from mailsni.core.selection import Candidate
from mailsni.deploy.confirm import Answer, Confirmation
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.transaction import ApplyResult
from mailsni.doctor.finding import Finding, Severity
from mailsni.errors import MailsniError
from mailsni.runs.history import EMPTY_HISTORY, History, Run

if TYPE_CHECKING:
    from mailsni.check.model import CheckResult

Document = dict[str, Any]


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
                "certificates": [_certificate(one) for one in winners.get(name, ())],
                "deployed": [_deployed(one) for one in deployed.certificates_for(name)],
            }
            for name, state in name_states(snapshot.selection, snapshot.plan)
        ],
        "skipped": _skipped(snapshot.selection.skipped),
        "pending": snapshot.plan.pending,
        "last_run": None if history.last is None else _run(history.last),
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
            {"level": one.level.name, "code": one.code, "text": nagios.plain(one.text), "names": list(one.names)}
            for one in found.findings
        ],
        "names": found.names,
        "expiry": [
            {
                "name": one.name,
                "not_after": time(one.not_after),
                "days": round((one.not_after - found.now) / timedelta(days=1), 3),
                "warning": one.warning,
                "critical": one.critical,
                "level": one.level(found.now).name,
            }
            for one in found.expiries
        ],
        "pending": found.pending,
        "unreadable": list(found.unreadable),
        "answers": found.probed,
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
    return error(outcome) if isinstance(outcome, MailsniError) else apply(outcome)


def apply(applied: ApplyResult) -> Document:
    """What apply did."""
    return {
        "schema": "mailsni.apply/1",
        "exit_code": int(applied.exit_code),
        "result": "unchanged" if applied.reloads is None else "applied",
        **_plan(applied.snapshot.plan),
        "skipped": _skipped(applied.snapshot.selection.skipped),
        "published": [str(path) for path in applied.published],
        "servers": {server: str(done) for server, done in (applied.reloads or {}).items()},
        "confirmations": [_confirmation(confirmation) for confirmation in applied.confirmations],
        "warnings": [*applied.not_configured, *applied.warnings],
    }


def explanation(name: str, candidates: Sequence[Candidate]) -> Document:
    """Which certificate a name gets, and why the others lost."""
    return {
        "schema": "mailsni.explain/1",
        "name": name,
        "candidates": [
            {"wins": one.wins, "why": one.why, "exact": one.exact, "certificate": _certificate(one.certificate)}
            for one in candidates
        ],
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
                "code": one.code,
                "severity": str(one.severity),
                **{key: getattr(one, key) for key in _TEXTS},
                "fix": {"command": one.fix.command, "edit": one.fix.edit, "note": one.fix.note},
            }
            for one in findings
        ],
        "counts": {str(severity): sum(one.severity is severity for one in findings) for severity in Severity},
    }


_TEXTS = ("what", "where", "why")


def error(problem: MailsniError) -> Document:
    """Why a command could not do its work."""
    return {
        "schema": "mailsni.error/1",
        "exit_code": int(problem.exit_code),
        "error": problem.message,
        "hint": problem.hint,
        "path": None if problem.path is None else str(problem.path),
        "line": problem.line,
    }


def _plan(found: Plan) -> Document:
    return {
        "pending": found.pending,
        "changes": [_change(change) for change in found.changes],
        "artifacts": [
            {"server": change.server, "path": str(change.path), "why": change.why} for change in found.artifacts
        ],
        "pins": len(found.pins),
    }


def _change(change: Change) -> Document:
    return {
        "kind": str(change.kind),
        "name": change.name,
        "why": change.why,
        "old": [_deployed(one) for one in change.old],
        "new": [_certificate(one) for one in change.new],
        "new_public_key": change.new_public_key,
    }


def _certificate(one: Certificate) -> Document:
    return {**_deployed(one), "issuer": one.issuer, "self_signed": one.self_signed, "kept": one.kept}


def _deployed(one: Certificate | DeployedCertificate) -> Document:
    return {
        "source": one.source,
        "algorithm": one.algorithm,
        "fingerprint": one.fingerprint,
        "spki": one.spki,
        "not_before": time(one.not_before),
        "not_after": time(one.not_after),
    }


def _skipped(found: Iterable[SkippedLineage]) -> list[Document]:
    return [
        {
            "source": one.source,
            "reason": str(one.reason),
            "detail": one.detail,
            "names": list(one.names),
            "information": one.information,
        }
        for one in found
    ]


def _run(run: Run) -> Document:
    return {
        "started_at": time(run.started_at),
        "ended_at": time(run.ended_at),
        "exit_code": run.exit_code,
        "summary": run.summary,
        "trigger": run.trigger,
        "names": run.names,
        "skipped": dict(run.skipped),
        "error": run.error,
    }


def _confirmation(confirmation: Confirmation) -> Document:
    return {
        "server": confirmation.server,
        "names": confirmation.names,
        "names_probed": confirmation.names_probed,
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


def time(moment: datetime) -> str:
    """A moment as every document writes it: UTC, to the second (RFC 3339)."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
