"""Checks the records: when deployed certificates expire, how the last run ended, and what the next one would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result
from mailsni.core.model import LINEAGES_SHOWN, SkippedLineage, by_reason
from mailsni.core.plan import Kind, Plan
from mailsni.core.text import printable_name, summarize_names
from mailsni.deploy.state_directory import State
from mailsni.errors import Exit
from mailsni.host import records
from mailsni.runs import history as runs
from mailsni.runs.runner import is_deletion
from mailsni.sources.kinds import SourceSettings

_LONGEST_RUN = timedelta(minutes=15)
_HOOKS = ("certbot-post", "certbot-deploy", "acme.sh", "lego", "caddy", "dehydrated")
"""What the hooks that come with this program call themselves."""


def check_expiry(context: CheckContext) -> Iterator[Result]:
    """The expiry of every certificate that the record names."""
    for name in context.names or ():
        for certificate in context.deployment.certificates_for(name):
            yield context.thresholds.expiry(name, certificate.not_before, certificate.not_after)


def check_records(context: CheckContext) -> Iterator[Result]:
    """The record of the deployment, and the journal of a run."""
    record = context.record
    problems = record.problems if record is not None else ()
    for problem in problems:
        text = f"{problem}: the next run publishes everything again"
        yield Finding(Level.WARNING, Code.RECORD_DAMAGED, text)
    if record is None:
        return
    yield from _check_other_records(context.state)
    if record.interrupted:
        yield from _check_journal(context)
    elif not record.trusted and not context.nothing_deployed and not problems:
        text = "there is no record of what was published: the next run publishes it again"
        yield Finding(Level.WARNING, Code.RECORD_MISSING, text)
    elif record.trusted and not record.deployment.names:
        yield Finding(Level.WARNING, Code.NO_NAMES, "no name is served: the last run removed all of them")


def _check_other_records(state: State) -> Iterator[Result]:
    consequences = {
        state.readings: "the next run reads every certificate again",
        state.retired: "files that nothing names any more wait anew before they go",
        state.setup: "`mailsni setup --remove` takes out its own lines only, and what it edited is not restored: "
        "remove the file once you know",
    }
    for path, consequence in consequences.items():
        if (problem := records.damage(path)) is not None:
            yield Finding(Level.WARNING, Code.RECORD_DAMAGED, f"{problem}: {consequence}")


def _check_journal(context: CheckContext) -> Iterator[Result]:
    journal = context.state.change_token()[1]
    age = timedelta(seconds=max(0.0, context.host.now.timestamp() - (journal.mtime_ns if journal else 0) / 1e9))
    since = f"{context.host.now - age:%Y-%m-%d %H:%M} UTC"
    if not context.running:
        text = f"a run was cut off while it published, on {since}: the next run repairs it"
        yield Finding(Level.WARNING, Code.RUN_INTERRUPTED, text)
    elif age > _LONGEST_RUN:
        yield Finding(Level.WARNING, Code.RUN_HANGS, f"a run has been publishing since {since}")


def check_runs(context: CheckContext) -> Iterator[Result]:
    """The last run, and the names that runs of the last days removed."""
    directory = context.host.settings.state.directory
    if (problem := runs.problem(directory)) is not None:
        text = f"{problem}: nobody knows how the last run ended"
        yield Finding(Level.WARNING, Code.RECORD_DAMAGED, text)
    history = runs.load(directory)
    if (clock := history.clock_problem(context.host.now)) is not None:
        yield Finding(Level.WARNING, Code.CLOCK_WENT_BACK, clock)
    if history.last is not None and not history.last.good:
        yield failed_run(history.last)
    removed: dict[str, list[str]] = defaultdict(list)
    for name, removal in history.removed.items():
        recent = abs(context.host.now - removal.when) < runs.REMOVAL_RETENTION
        if recent and name not in (context.names or ()) and context.host.settings.names.match(name):
            removed[f"{removal.why}, and was removed on {removal.when:%Y-%m-%d}"].append(name)
    for why, names in removed.items():
        text = f"{summarize_names(names)}: not served any more: {printable_name(why)}"
        yield Finding(Level.WARNING, Code.NAME_REMOVED, text, tuple(names))


def failed_run(run: runs.Run) -> Finding:
    """The finding for a run that failed."""
    level = Level.CRITICAL if run.exit_code in (Exit.ROLLED_BACK, Exit.ROLLBACK_FAILED) else Level.WARNING
    hook = run.trigger in _HOOKS
    who = f"the hook {run.trigger} failed" if hook else f"the last run failed, started by {run.trigger}"
    if run.exit_code == Exit.CONFIGURATION:
        who += " with a wrong configuration"
    when = f"{run.ended_at:%Y-%m-%d %H:%M} UTC"
    text = f"{who}, on {when}: {run.summary} (exit code {run.exit_code})"
    return Finding(level, Code.HOOK_FAILED if hook else Code.RUN_FAILED, text)


def check_pending(context: CheckContext) -> Iterator[Result]:
    """The plan, and the certificates that somebody must look at."""
    if context.plan is not None:
        yield from _check_plan(context.plan, context.host.settings.sources)
    if context.host.snapshot is not None:
        yield from skipped_findings(context.host.snapshot.selection.problems)


def skipped_findings(lineages: Iterable[SkippedLineage]) -> Iterator[Finding]:
    """A finding for each lineage that needs attention, or one for many with the same reason."""
    for reason, alike in by_reason(lineages).items():
        if len(alike) > LINEAGES_SHOWN:
            sources = summarize_names(lineage.source for lineage in alike)
            names = tuple(dict.fromkeys(name for lineage in alike for name in lineage.names))
            yield Finding(Level.WARNING, reason, f"{len(alike)} certificates: {reason}: {sources}", names)
            continue
        for lineage in alike:
            about = f" ({summarize_names(lineage.names)})" if lineage.names else ""
            text = f"{lineage.source}: {reason}: {lineage.detail}{about}"
            yield Finding(Level.WARNING, reason, text, lineage.names)


def _check_plan(plan: Plan, sources: Collection[SourceSettings]) -> Iterator[Result]:
    waiting: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for change in plan.effective:
        if change.kind is Kind.REMOVE and is_deletion(change, sources):
            continue
        waiting[change.kind is Kind.REMOVE, change.why].append(change.name)
    for (removal, why), names in waiting.items():
        if removal:
            code, text = Code.REMOVAL_PENDING, f"{summarize_names(names)}: {why}: the next run removes it"
        else:
            code, text = Code.DEPLOY_PENDING, f"{summarize_names(names)}: {why}, but not deployed yet"
        yield Finding(Level.WARNING, code, text, tuple(names))
    if plan.effective:
        return
    for artifact in plan.artifacts:
        text = f"{artifact.server}: {artifact.path} waits for the next run to write it again: {artifact.why}"
        yield Finding(Level.WARNING, Code.REWRITE_PENDING, text)
    if plan.pins and not plan.artifacts:
        text = f"{len(plan.pins)} pinned files wait for the next run to write them again"
        yield Finding(Level.WARNING, Code.REWRITE_PENDING, text)
