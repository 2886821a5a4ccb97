"""One ``apply`` as everything that starts one makes it: do it, write down how it ended, and tell who wants to know.

Hooks, timers and the watcher are started by nobody who looks at an exit code. What they say of themselves stands in
``MAILSNI_STARTED_BY``: one word, such as ``certbot-post``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailsni.config.settings import Settings
from mailsni.core.log import Level, Log
from mailsni.core.model import Progress
from mailsni.core.plan import Kind
from mailsni.core.text import counted
from mailsni.deploy import transaction
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import ConfigurationError, Exit, HostError, LockedError, MailsniError
from mailsni.output import documents
from mailsni.runs import history as runs
from mailsni.runs.history import Run

STARTED_BY = "MAILSNI_STARTED_BY"
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class Trigger:
    """Who started a run, and whether somebody sees what it says."""

    name: str
    attended: bool = False

    @classmethod
    def from_environment(cls) -> Trigger:
        """What the environment tells, else whether standard error is a terminal."""
        word = os.environ.get(STARTED_BY, "")
        if word:
            return cls(word if _WORD.fullmatch(word) else "unattended")
        return cls("terminal", attended=True) if sys.stderr.isatty() else cls("unattended")


def exit_code(done: ApplyResult) -> Exit:
    """Of a run that went to its end: whether there is something that a person should look at."""
    return Exit.SKIPPED if done.snapshot.selection.problems or done.wrong else Exit.DONE


def run_apply(
    settings: Settings,
    options: Options,
    trigger: Trigger,
    log: Log,
    *,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> ApplyResult:
    """:func:`mailsni.deploy.transaction.run`, remembered however it ends.

    A run that finds the lock held leaves no trace: the one that holds it does.

    Args:
        settings: what to do it with.
        options: what the command line asks for.
        trigger: who started it.
        log: told when an alert cannot be delivered.
        wait: seconds to wait for another run to end.
        progress: told about what takes long.

    Raises:
        MailsniError: what :func:`mailsni.deploy.transaction.run` raises, and HostError for a system call that fails.
    """
    started_at = datetime.now(UTC)
    try:
        done = transaction.run(settings, options, wait=wait, progress=progress)
    except (LockedError, BrokenPipeError):
        raise
    except MailsniError as problem:
        failed(settings, problem, started_at, trigger, log)
        raise
    except OSError as error:
        blamed = HostError.of(error)
        failed(settings, blamed, started_at, trigger, log)
        raise blamed from error
    except (SystemExit, KeyboardInterrupt) as ending:
        code = ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT
        number = code if isinstance(code, int) else int(Exit.FAILED)
        runs.record(settings.state.directory, _ended(started_at, number, "ended by a signal", trigger))
        raise
    except Exception as error:
        # Its name only: what a library says may hold anything.
        own = MailsniError(f"mailsni: an error of its own: {type(error).__name__}")
        failed(settings, own, started_at, trigger, log)
        raise
    code = exit_code(done)
    skipped = Counter(str(one.reason) for one in done.snapshot.selection.skipped)
    run = Run(
        started_at,
        datetime.now(UTC),
        int(code),
        summary(done),
        trigger.name,
        len(done.snapshot.selection.winners),
        skipped,
    )
    changes = done.snapshot.plan.changes if done.reloads is not None else ()
    _finish(
        settings,
        run,
        _failure(done),
        lambda: documents.apply(done, code),
        trigger,
        log,
        removed={change.name: change.why for change in changes if change.kind is Kind.REMOVE},
        served={winner.name for winner in done.snapshot.selection.winners},
    )
    return done


def failed(settings: Settings, problem: MailsniError, started_at: datetime, trigger: Trigger, log: Log) -> None:
    """Remember and tell that a run failed.

    Args:
        settings: where to write it down and whom to tell.
        problem: why.
        started_at: when it began, with a time zone.
        trigger: who started it.
        log: told when an alert cannot be delivered.
    """
    run = _ended(started_at, int(problem.exit_code), problem.message, trigger, error=problem.message)
    _finish(settings, run, problem.message, lambda: documents.error(problem), trigger, log)


def record_config_failure(partial: Settings | None, problem: ConfigurationError, trigger: Trigger, log: Log) -> None:
    """Remember and tell that a run could not begin, because the configuration is wrong.

    Args:
        partial: what it still says (:func:`mailsni.config.parser.parse_partial`); without it nobody knows whom to tell.
        problem: what is wrong.
        trigger: who started it.
        log: told when an alert cannot be delivered.
    """
    if partial is not None:
        failed(partial, problem, datetime.now(UTC), trigger, log)


def summary(done: ApplyResult) -> str:
    """A run that went to its end in one line: what was done, how much is served, what a person should look at."""
    snapshot = done.snapshot
    names = len(snapshot.selection.winners)
    changed = len(snapshot.plan.effective)
    what = "nothing to do" if done.reloads is None else f"published, {counted(changed, 'name')} changed"
    words = [what, f"{counted(names, 'name')} served"]
    problems = snapshot.selection.problems
    if problems:
        first = problems[0]
        words.append(f"{counted(len(problems), 'problem')}: {first.source}: {first.reason}")
    if done.wrong:
        words.append(f"{counted(len(done.wrong), 'wrong answer')} on the wire")
    return ", ".join(words)


def _ended(started_at: datetime, code: int, line: str, trigger: Trigger, error: str | None = None) -> Run:
    return Run(started_at, datetime.now(UTC), code, " ".join(line.split()), trigger.name, error=error)


def _failure(done: ApplyResult) -> str:
    """What tells the problems of a run from those of another."""
    skipped = (f"{one.source} {one.reason}" for one in done.snapshot.selection.problems)
    wrong = (f"{one.expectation.name} {one.result.endpoint} {one.problem}" for one in done.wrong)
    return "\n".join(sorted((*skipped, *wrong)))


def _finish(
    settings: Settings,
    run: Run,
    failure: str,
    document: Callable[[], Mapping[str, Any]],
    trigger: Trigger,
    log: Log,
    removed: Mapping[str, str] | None = None,
    served: Collection[str] = (),
) -> None:
    state, command = settings.state.directory, settings.alerts.on_failure
    history = runs.load(state).after(run, removed, served)
    runs.save(state, history)
    if not command or trigger.attended:
        return
    from mailsni.runs import alerts

    host = alerts.host_name()
    alert = alerts.due(history, run, failure, host)
    if alert is None:
        return
    try:
        alerts.deliver(command, alert, document(), host)
    except HostError as error:
        log(Level.WARNING, f"[alerts] on_failure: {error.message}")
        return
    runs.save(state, alerts.delivered(runs.load(state), alert))
