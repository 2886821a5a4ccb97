"""Runs all checks of ``mailsni check`` and adds up what they yield.

Nothing is written, and without ``--wire`` no server is probed. A check that fails does not stop the others: what this
user may not read is named, and what is in the way is a finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from mailsni.check.dovecot_include import check_include
from mailsni.check.expiry import check_expiry, expiry_findings, first_expiries
from mailsni.check.gather import CheckContext, failure, gather, is_publishing
from mailsni.check.model import (
    DAMAGE_CODES,
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
from mailsni.check.pending import check_pending, pending_names
from mailsni.check.pinned_files import check_pinned_files
from mailsni.check.postfix_map import check_map
from mailsni.check.records import check_records, check_runs
from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.state_directory import State
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
    ("the map", check_map),
    ("the include", check_include),
    ("the pinned files", check_pinned_files),
    ("the expiry", check_expiry),
    ("the records", check_records),
    ("the last run", check_runs),
    ("the plan", check_pending),
)
"""Each check with the part that it reads."""


def check(
    settings: Settings,
    thresholds: Thresholds,
    now: datetime,
    *,
    wire: bool = False,
    progress: Progress | None = None,
) -> CheckResult:
    """Run all checks. If a run is publishing meanwhile, wait a few seconds for its end, and run them again.

    Args:
        settings: where everything is.
        thresholds: when the check warns that a certificate expires.
        now: the moment at which certificates must be valid, with a time zone.
        wire: probe the running servers, too.
        progress: called while something takes long.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        before = _change_token(settings)
        result = run_checks(gather(settings, thresholds, now, progress))
        moving = before != _change_token(settings) or is_publishing(settings)
        if result.level is Level.OK or not moving or time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    if not wire:
        return result
    from mailsni.check.wire import check_wire

    findings, probed = check_wire(settings, now, progress)
    return replace(result, findings=worst_first((*findings, *result.findings)), probed=probed)


def _change_token(settings: Settings) -> object:
    try:
        return State(settings.state.directory).change_token()
    except OSError:
        return None


def run_checks(context: CheckContext) -> CheckResult:
    """Run all checks but that on the wire."""
    results = [result for part, run in CHECKS for result in _run_check(part, run, context)]
    expiries = first_expiries(result for result in results if isinstance(result, Expiry))
    unreadable = tuple(dict.fromkeys(result.part for result in results if isinstance(result, Unreadable)))
    findings = [*expiry_findings(expiries, context.now), *(each for each in results if isinstance(each, Finding))]
    if unreadable and not findings and not expiries and not context.names:
        text = "this user can read nothing of what is deployed"
        findings.append(Finding(Level.UNKNOWN, Code.NOTHING_READABLE, text))
    names = context.names if context.names is not None else expiries
    return CheckResult(
        context.now,
        worst_first(_without_consequences(findings)),
        expiries,
        0 if context.nothing_deployed else len(names),
        pending_names(context),
        unreadable,
    )


def _run_check(part: str, run: Callable[[CheckContext], Iterator[Result]], context: CheckContext) -> Iterator[Result]:
    try:
        yield from run(context)
    except (MailsniError, OSError) as error:
        yield failure(part, error)


def _without_consequences(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings without those that only follow from another one: the next run rewrites what is damaged."""
    damaged = any(finding.code in DAMAGE_CODES for finding in findings)
    return (finding for finding in findings if not (damaged and finding.code == Code.REWRITE_PENDING))
