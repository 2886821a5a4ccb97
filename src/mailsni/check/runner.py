"""Runs all checks of ``mailsni check`` and adds up what they yield.

Nothing is written, and without ``--wire`` no server is probed. A check that fails does not stop the others: what this
user may not read is named, and what is in the way is a finding.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from mailsni.check.dovecot_include import check_include
from mailsni.check.files import check_pinned_files
from mailsni.check.gather import CheckContext, failure, gather, is_publishing, records
from mailsni.check.model import (
    DAMAGE_CODES,
    MISSING_CODES,
    CheckResult,
    Code,
    Expiry,
    Finding,
    Level,
    Result,
    Thresholds,
    Unreadable,
    worst_first,
)
from mailsni.check.postfix_map import check_map
from mailsni.check.records import check_expiry, check_pending, check_records, check_runs
from mailsni.check.starters import check_starters
from mailsni.check.startup import check_startup
from mailsni.config.settings import Settings
from mailsni.core.expiry import DAY
from mailsni.core.model import Progress
from mailsni.core.text import summarize_names
from mailsni.errors import MailsniError

PATIENCE = 5.0
"""Seconds to wait for the end of a run that is going on."""
_PAUSE = 0.25


def _check_gathered(context: CheckContext) -> Iterator[Result]:
    yield from context.problems
    if context.nothing_deployed:
        yield Finding(Level.CRITICAL, Code.NOT_DEPLOYED, "nothing is deployed yet: run `mailsni setup`")


CHECKS: tuple[tuple[str, Callable[[CheckContext], Iterator[Result]]], ...] = (
    ("the state directory", _check_gathered),
    ("whether the servers would start again", check_startup),
    ("the map", check_map),
    ("the include", check_include),
    ("the pinned files", check_pinned_files),
    ("the expiry", check_expiry),
    ("the records", check_records),
    ("the last run", check_runs),
    ("the last run", check_starters),
    ("the plan", check_pending),
)
"""Each check with the part that it reads."""


def check(
    settings: Settings,
    thresholds: Thresholds,
    now: datetime,
    *,
    wire: bool = False,
    until: float = math.inf,
    progress: Progress | None = None,
) -> CheckResult:
    """Run all checks, and again if a run was publishing meanwhile; with ``wire`` probe the running servers, too.

    At ``until``, in the time of ``time.monotonic``, all probes end.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        before = records(settings)
        result = run_checks(gather(settings, thresholds, now, progress))
        moving = before != records(settings) or is_publishing(settings)
        if result.level is Level.OK or not moving or time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    if not wire:
        return result
    from mailsni.check.wire import check_wire

    findings, answers = check_wire(settings, now, until, progress)
    result = replace(result, findings=worst_first((*findings, *result.findings)))
    if answers is None:
        return result
    return replace(result, probed=len(answers.assessments), not_asked=len(answers.not_asked))


def run_checks(context: CheckContext) -> CheckResult:
    """Run all checks but that on the wire."""
    results = [result for part, run in CHECKS for result in _run_check(part, run, context)]
    expiries = first_expiries(result for result in results if isinstance(result, Expiry))
    unreadable = tuple(dict.fromkeys(result.part for result in results if isinstance(result, Unreadable)))
    findings = [*expiry_findings(expiries, context.host.now), *(each for each in results if isinstance(each, Finding))]
    if unreadable and not findings and not expiries and not context.names:
        text = "this user can read nothing of what is deployed"
        findings.append(Finding(Level.UNKNOWN, Code.NOTHING_READABLE, text))
    names = context.names if context.names is not None else expiries
    return CheckResult(
        context.host.now,
        worst_first(_without_consequences(findings)),
        expiries,
        0 if context.nothing_deployed else len(names),
        None if context.plan is None else len(context.plan.effective),
        unreadable,
    )


def _run_check(part: str, run: Callable[[CheckContext], Iterator[Result]], context: CheckContext) -> Iterator[Result]:
    try:
        yield from run(context)
    except (MailsniError, OSError) as error:
        yield failure(part, error)


def _without_consequences(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings without those that only follow from another one.

    The next run rewrites what is damaged; Dovecot does not start while a file is missing that its configuration names.
    """
    codes = {finding.code for finding in findings}
    for finding in findings:
        rewritten = finding.code == Code.REWRITE_PENDING and not codes.isdisjoint(DAMAGE_CODES)
        explained = finding.code == Code.DOVECOT_CANNOT_START and not codes.isdisjoint(MISSING_CODES)
        if not rewritten and not explained:
            yield finding


def first_expiries(expiries: Iterable[Expiry]) -> tuple[Expiry, ...]:
    """Of each name the one that comes first, ordered by time: the servers may serve a name with different ones."""
    first: dict[str, Expiry] = {}
    for expiry in expiries:
        known = first.get(expiry.name)
        if known is None or expiry.not_after < known.not_after:
            first[expiry.name] = expiry
    return tuple(sorted(first.values(), key=lambda expiry: (expiry.not_after, expiry.name)))


def expiry_findings(expiries: Iterable[Expiry], now: datetime) -> list[Finding]:
    """Three findings at most: names whose certificates have expired, expire very soon, expire soon."""
    groups: dict[tuple[Level, Code], list[Expiry]] = defaultdict(list)
    for expiry in sorted(expiries, key=lambda expiry: (expiry.not_after, expiry.name)):
        level = expiry.level(now)
        if expiry.not_after <= now:
            groups[Level.CRITICAL, Code.EXPIRED].append(expiry)
        elif level is not Level.OK:
            groups[level, Code.EXPIRES].append(expiry)
    return [_expiry_finding(level, code, group, now) for (level, code), group in groups.items()]


def _expiry_finding(level: Level, code: Code, group: list[Expiry], now: datetime) -> Finding:
    first = group[0].not_after
    days = abs(first - now) / DAY
    when = f"{days:.1f} days ago" if code is Code.EXPIRED else f"in {days:.1f} days"
    names = tuple(expiry.name for expiry in group)
    rest = ", the first of them" if len({expiry.not_after for expiry in group}) > 1 else ""
    text = f"{summarize_names(names)}: the deployed certificate {code}{rest} {when} ({first:%Y-%m-%d %H:%M} UTC)"
    return Finding(level, code, text, names)
