"""``mailsni apply``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailsni.cli.options import GlobalOptions, WaitOption, flag, number, print_json
from mailsni.core.log import Level
from mailsni.errors import ConfigurationError, Exit
from mailsni.output import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailsni.config.settings import Settings
    from mailsni.deploy.transaction import ApplyResult
    from mailsni.errors import MailsniError
    from mailsni.runs.runner import Reporting


def apply(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, flag("--dry-run", "Show what would change, like `plan`.")] = False,
    force: Annotated[bool, flag("--force", "Publish and reload even if nothing has changed.")] = False,
    no_reload: Annotated[bool, flag("--no-reload", "Publish, but do not reload the servers.")] = False,
    no_verify: Annotated[bool, flag("--no-verify", "Do not probe the servers afterwards.")] = False,
    allow_empty: Annotated[
        bool, flag("--allow-empty", "Remove names though their store is empty, or no certificate is left.")
    ] = False,
    wait: WaitOption = 0.0,
    settle_for: Annotated[float | None, typer.Option("--settle", metavar="SECONDS", parser=number, hidden=True)] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="PROGRAM", hidden=True)] = None,
) -> int:
    """Publish the current certificates to Postfix and Dovecot, reload them and verify the result.

    Does nothing if nothing has changed. A broken certificate is skipped and reported, and its names keep their last
    valid certificate; all other names are updated.
    """
    # Hooks call with --settle once for each certificate: return at once, and let one process in the background apply
    # after so many seconds, or with --after as soon as the calling program has ended. Called by another, apply now.
    options: GlobalOptions = context.obj
    if dry_run:
        return _dry_run(options, allow_empty=allow_empty)
    settings = _settings(options)
    if settle_for is not None:
        from mailsni.runs import debounce

        outcome = debounce.wait(settings.state.lock, settle_for, after)
        if outcome is debounce.Debounced.ALREADY_PENDING:
            return Exit.DONE
        if outcome is debounce.Debounced.RUN_IN_BACKGROUND:
            console.log_to_syslog()
        settings = _settings(options)
    from mailsni.deploy.transaction import Options
    from mailsni.runs import runner

    wanted = Options(force=force, reload=not no_reload, verify=not no_verify, allow_empty=allow_empty)
    with console.progress(quiet=options.quiet) as progress:
        result = runner.run_apply(settings, wanted, _reporting(), wait=wait, progress=progress)
    _show(options, result)
    return result.exit_code


def _dry_run(options: GlobalOptions, *, allow_empty: bool) -> int:
    from mailsni.cli.queries import show_plan
    from mailsni.deploy.transaction import require_not_empty

    snapshot = options.snapshot(allow_empty=allow_empty)
    require_not_empty(snapshot, allow=allow_empty)
    show_plan(options, snapshot, with_diff=False)
    return Exit.DONE


def _settings(options: GlobalOptions) -> Settings:
    """The settings. Failing to read them is recorded and reported as a failed run."""
    try:
        return options.settings()
    except ConfigurationError as error:
        from mailsni.config import parser
        from mailsni.runs import runner

        partial = parser.parse_partial(options.configuration()[0])
        runner.record_config_failure(partial, error, _reporting())
        raise


def _reporting() -> Reporting:
    from mailsni.runs.runner import Reporting, Trigger

    return Reporting(Trigger.from_environment(), console.log, _document)


def _document(outcome: ApplyResult | MailsniError) -> Mapping[str, Any]:
    from mailsni.output import documents  # only an alert, or --json, needs it

    return documents.run(outcome)


def _show(options: GlobalOptions, result: ApplyResult) -> None:
    from mailsni.output import text
    from mailsni.runs.runner import Trigger

    try:
        if options.as_json:
            print_json(_document(result))
        elif not options.quiet:
            text.applied(result, verbose=options.verbose)
        elif Trigger.from_environment().logs and (result.reloads is not None or options.verbose):
            console.log(Level.INFO, text.applied_in_a_line(result))
        sys.stdout.flush()
    except OSError as error:  # the exit code tells what was done, whether or not it can be printed
        console.silence_output()
        if not isinstance(error, BrokenPipeError):
            console.log(Level.WARNING, f"standard output: {error.strerror}")
    for warning in (*result.not_configured, *result.warnings, *(each.text for each in result.cannot_start)):
        console.log(Level.WARNING, warning)
    text.problems(result.snapshot.selection.problems)
