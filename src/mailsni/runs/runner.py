"""Runs one ``apply``, records how it ended, and alerts when nobody looks on.

Nobody reads the exit code of a hook, a timer or the watcher. What started the run stands in ``MAILSNI_STARTED_BY``: one
word, such as ``certbot-post``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mailsni.config.settings import Settings
from mailsni.core.log import Level, Log
from mailsni.core.model import Progress
from mailsni.core.plan import Change, Kind
from mailsni.core.text import counted
from mailsni.deploy import transaction
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import ConfigurationError, Exit, HostError, LockedError, MailsniError
from mailsni.runs import history as runs
from mailsni.runs.history import History, Run
from mailsni.sources.kinds import SourceSettings, is_deleted

STARTED_BY = "MAILSNI_STARTED_BY"
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class Trigger:
    """What started a run."""

    name: str
    attended: bool = False
    """Whether somebody sees its messages."""

    @classmethod
    def from_environment(cls) -> Trigger:
        """The word in the environment; without one ``terminal``, when standard error is one."""
        word = os.environ.get(STARTED_BY, "")
        if word:
            return cls(word if _WORD.fullmatch(word) else "unattended")
        return cls("terminal", attended=True) if sys.stderr.isatty() else cls("unattended")

    @property
    def logs(self) -> bool:
        """Whether what it prints goes to a log, which should say what was published; cron would mail it."""
        return self.name in ("timer", "watch")


ToDocument = Callable[[ApplyResult | MailsniError], Mapping[str, Any]]
"""Makes the JSON document of a run: of its result, or of the error that ended it."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """What started a run, and how its end is reported."""

    trigger: Trigger
    log: Log
    """Gets a warning when an alert cannot be delivered."""
    to_document: ToDocument
    """What the alert command reads."""


def run_apply(
    settings: Settings,
    options: Options,
    reporting: Reporting,
    *,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> ApplyResult:
    """Run :func:`mailsni.deploy.transaction.run`, and record its end, whichever it is.

    A run that finds the lock held for ``wait`` seconds records nothing: the run that holds it does.

    Raises:
        MailsniError: what :func:`mailsni.deploy.transaction.run` raises, and HostError for a system call that fails.
    """
    started_at = datetime.now(UTC)
    warnings = _warnings(settings, started_at)
    try:
        result = transaction.run(settings, options, wait=wait, progress=progress)
    except (LockedError, BrokenPipeError):
        raise
    except (SystemExit, KeyboardInterrupt) as ending:
        code = ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT
        number = code if isinstance(code, int) else int(Exit.FAILED)
        run = Run(started_at, datetime.now(UTC), number, "ended by a signal", reporting.trigger.name)
        runs.record(settings.state.directory, run)
        raise
    except OSError as error:
        failure = HostError.of(error)
        _log(warnings, reporting)
        _finish_failed(settings, failure, started_at, reporting)
        raise failure from error
    except Exception as error:
        # The name of a foreign error only: what a library says may hold anything.
        own = f"mailsni: an error of its own: {type(error).__name__}"
        problem = error if isinstance(error, MailsniError) else MailsniError(own)
        _log(warnings, reporting)
        _finish_failed(settings, problem, started_at, reporting)
        raise
    result = replace(result, warnings=(*warnings, *result.warnings))
    _finish_complete(settings, result, started_at, reporting)
    return result


def _warnings(settings: Settings, now: datetime) -> tuple[str, ...]:
    """What the record of earlier runs tells before a run: that it is damaged, or that the clock went back."""
    directory = settings.state.directory
    try:
        found = (runs.problem(directory), runs.load(directory).clock_problem(now))
    except (MailsniError, OSError):
        return ()
    damage = f"{found[0]}: what it said of earlier runs is lost" if found[0] is not None else None
    return tuple(each for each in (damage, found[1]) if each is not None)


def _log(warnings: Iterable[str], reporting: Reporting) -> None:
    for warning in warnings:
        reporting.log(Level.WARNING, warning)


def record_config_failure(partial: Settings | None, problem: ConfigurationError, reporting: Reporting) -> None:
    """Record and report that a run could not start, because the configuration is wrong.

    ``partial`` is what is right in it (:func:`mailsni.config.parser.parse_partial`); without it nobody can be alerted.
    """
    if partial is not None:
        _finish_failed(partial, problem, datetime.now(UTC), reporting)


def _finish_failed(settings: Settings, problem: MailsniError, started_at: datetime, reporting: Reporting) -> None:
    line = " ".join(problem.message.split())
    code = int(problem.exit_code)
    run = Run(started_at, datetime.now(UTC), code, line, reporting.trigger.name, error=problem.message)
    history = runs.load(settings.state.directory).after(run)
    _record_and_alert(settings, history, reporting, problem, problem.message)


def _finish_complete(settings: Settings, result: ApplyResult, started_at: datetime, reporting: Reporting) -> None:
    history = history_after(runs.load(settings.state.directory), settings, result, started_at, reporting.trigger.name)
    _record_and_alert(settings, history, reporting, result, _failure(result))


def history_after(
    history: History, settings: Settings, result: ApplyResult, started_at: datetime, trigger: str
) -> History:
    """The history after a run that went to its end now."""
    snapshot = result.snapshot
    served = {winner.name for winner in snapshot.selection.winners}
    run = Run(
        started_at,
        datetime.now(UTC),
        int(result.exit_code),
        summary(result),
        trigger,
        len(served),
        Counter(str(certificate.reason) for certificate in snapshot.selection.skipped),
    )
    changes = snapshot.plan.changes if result.reloads is not None else ()
    removed = {
        change.name: change.why
        for change in changes
        if change.kind is Kind.REMOVE and not is_deletion(change, settings.sources)
    }
    return history.after(run, removed, served)


def is_deletion(change: Change, sources: Collection[SourceSettings]) -> bool:
    """Whether a name goes because somebody told an ACME client to delete its certificates: that is no accident."""
    return bool(change.old) and all(is_deleted(sources, certificate.source) for certificate in change.old)


def summary(result: ApplyResult) -> str:
    """A run that went to its end in one line: what was published, how much is served, what a person should look at."""
    snapshot = result.snapshot
    names = len(snapshot.selection.winners)
    changed = len(snapshot.plan.effective)
    what = "nothing to do" if result.reloads is None else f"published, {counted(changed, 'name')} changed"
    words = [what, f"{counted(names, 'name')} served"]
    problems = snapshot.selection.problems
    if problems:
        first = problems[0]
        words.append(f"{counted(len(problems), 'problem')}: {first.source}: {first.reason}")
    if result.wrong:
        words.append(f"{counted(len(result.wrong), 'wrong answer')} on the wire")
    if result.unconfirmed:
        words.append(f"{counted(len(result.unconfirmed), 'name')} not confirmed: no answer in time")
    words += [f"{server.name} left out" for server in snapshot.left_out]
    words += [f"{problem.server} would not start again" for problem in result.cannot_start]
    return ", ".join(words)


def _failure(result: ApplyResult) -> str:
    """Tells the problems of a run from those of another."""
    skipped = (f"{one.source} {one.reason}" for one in result.snapshot.selection.problems)
    wrong = (f"{one.expectation.name} {one.result.endpoint} {one.problem}" for one in result.wrong)
    slow = (f"{one.server} does not answer in time" for one in result.confirmations if one.unconfirmed)
    left_out = (f"{server.name} left out: {server.error.message}" for server in result.snapshot.left_out)
    stopped = (problem.text for problem in result.cannot_start)
    return "\n".join(sorted((*skipped, *wrong, *slow, *left_out, *stopped)))


def _record_and_alert(
    settings: Settings, history: History, reporting: Reporting, outcome: ApplyResult | MailsniError, failure: str
) -> None:
    """Record the last run of a history, and alert if nobody looks on and somebody should know."""
    state, command = settings.state.directory, settings.alerts.on_failure
    runs.save(state, history)
    if not command or reporting.trigger.attended:
        return
    from mailsni.runs import alerts

    host = alerts.host_name()
    alert = alerts.due(history, failure, host)
    if alert is None:
        return
    try:
        alerts.deliver(command, alert, reporting.to_document(outcome), host, reporting.log)
    except HostError as error:
        reporting.log(Level.WARNING, f"[alerts] on_failure: {error.message}")
        return
    runs.save(state, replace(runs.load(state), alerted=alert.told))
