"""Checks what waits for the next run, and which certificates cannot be served."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result
from mailsni.core.plan import Kind, Plan
from mailsni.core.text import summarize_names


def pending_names(context: CheckContext) -> int | None:
    """How many names wait for the next run; None when this user cannot tell."""
    plan = _reliable_plan(context)
    return None if plan is None else len(plan.effective)


def check_pending(context: CheckContext) -> Iterator[Result]:
    """The plan, and the certificates that somebody must look at."""
    plan = _reliable_plan(context)
    if plan is not None:
        yield from _check_plan(plan)
    for skipped in context.snapshot.selection.problems if context.snapshot is not None else ():
        about = f" ({summarize_names(skipped.names)})" if skipped.names else ""
        text = f"{skipped.source}: {skipped.reason}: {skipped.detail}{about}"
        yield Finding(Level.WARNING, skipped.reason, text, skipped.names)


def _reliable_plan(context: CheckContext) -> Plan | None:
    """The plan, where a record says what is deployed and no run is changing it."""
    snapshot = context.snapshot
    return snapshot.plan if snapshot is not None and snapshot.record.trusted and not context.running else None


def _check_plan(plan: Plan) -> Iterator[Result]:
    waiting: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for change in plan.effective:
        waiting[change.kind is Kind.REMOVE, change.why].append(change.name)
    for (removal, why), names in waiting.items():
        if removal:
            code, text = Code.REMOVAL_PENDING, f"{summarize_names(names)}: {why}: the next run removes it"
        else:
            code, text = Code.DEPLOY_PENDING, f"{summarize_names(names)}: {why}, but not deployed yet"
        yield Finding(Level.WARNING, code, text, tuple(names))
    if waiting:
        return
    for artifact in plan.artifacts:
        text = f"{artifact.server}: {artifact.path} waits for the next run to write it again: {artifact.why}"
        yield Finding(Level.WARNING, Code.REWRITE_PENDING, text)
    if plan.pins and not plan.artifacts:
        text = f"{len(plan.pins)} pinned files wait for the next run to write them again"
        yield Finding(Level.WARNING, Code.REWRITE_PENDING, text)
