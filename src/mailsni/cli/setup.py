"""``mailsni setup``."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mailsni.cli.options import GlobalOptions, WaitOption, flag, print_json
from mailsni.core.log import Level
from mailsni.errors import Exit, UsageError
from mailsni.output import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailsni.output.setup import Result
    from mailsni.setup.model import SetupPlan
    from mailsni.setup.steps import Step


def setup(
    context: typer.Context,
    *,
    yes: Annotated[bool, flag("--yes -y", "Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Show what would change, and change nothing.")] = False,
    remove: Annotated[
        bool, flag("--remove", "Undo the setup and remove everything but your configuration file.")
    ] = False,
    take_over: Annotated[
        bool, flag("--take-over", "Replace the maps in tls_server_sni_maps. Default: add mailsni's map after them.")
    ] = False,
    watch: Annotated[bool, flag("--watch", "Install the service that runs `watch` instead of the timer.")] = False,
    timer: Annotated[bool, flag("--timer", "Replace the service of --watch by the timer.")] = False,
    wait: WaitOption = 0.0,
) -> int:
    """Configure Postfix, Dovecot, certbot and the scheduler to use mailsni.

    Shows every change, then asks. Changes nothing if a check fails. The steps, in this order:

    1. Run `mailsni apply` to build the map: without it Postfix rejects clients.

    2. Add the map to tls_server_sni_maps in main.cf.

    3. Include mailsni's file in Dovecot's configuration, if no include does.

    4. Install a hook for certbot, renewal-hooks/post/mailsni.

    5. Install a systemd timer, an OpenRC service or a cron job as the fallback.

    Where the configuration names no store, it asks for each one that `mailsni sources --detect` finds with new mail
    names, and writes those that you take into the configuration file. The only store of a host without certbot's
    directory is taken without a question, unless others than root can change it.

    Probes both servers before and after each step. If a step fails, or a client that connected before no longer can,
    every change is undone. Running it again changes nothing. It never replaces a file that it did not write.
    """
    from mailsni.deploy import transaction
    from mailsni.output.setup import show_plan
    from mailsni.setup import execute, stores
    from mailsni.setup.model import Caution, Note, SetupOptions
    from mailsni.setup.plan import plan_setup
    from mailsni.setup.plan_removal import plan_removal

    options: GlobalOptions = context.obj
    if watch and timer:
        raise UsageError("--watch and --timer: use only one of them")
    if remove and (take_over or watch or timer):
        raise UsageError("--remove: cannot be combined with --take-over, --watch or --timer")
    path, named = options.configuration()
    kind: Literal["timer", "watch"] | None = "watch" if watch else "timer" if timer else None
    wanted = SetupOptions(path.absolute() if named else None, take_over, kind)
    settings = options.settings()
    if not dry_run:
        transaction.require_places(settings)
    now = datetime.now(UTC)
    ask = None if yes or dry_run or options.as_json or not sys.stdin.isatty() else _ask
    plan = plan_removal(settings) if remove else plan_setup(settings, wanted, now, stores.offer(settings, now, ask))
    changes = bool(plan.steps) and not dry_run
    if not options.as_json and not (options.quiet and (yes or not changes)):
        show_plan(plan)
    if not changes:
        result: Result = "planned" if plan.steps else "in_place"
        return _end(options, plan, result, remove=remove, warnings=plan.warnings, logged=0)
    execute.require_permission(plan)
    _log_warnings(plan.warnings)
    if not yes and not _confirm(options):
        console.log(Level.INFO, "nothing was changed")
        return Exit.FAILED
    on_step = None if options.as_json or options.quiet else _log_step
    warnings = (*plan.warnings, *execute.run(plan, remove=remove, wait=wait, on_step=on_step))
    obstacles = () if remove else tuple(execute.not_serving(plan.settings))
    notes = tuple(each.text for each in obstacles if isinstance(each, Note))
    plan = replace(plan, notes=(*plan.notes, *notes))
    warnings += tuple(each.text for each in obstacles if isinstance(each, Caution))
    for note in notes if on_step is not None else ():
        console.log(Level.INFO, note)
    result = "done_not_serving" if obstacles else "done"
    return _end(options, plan, result, remove=remove, warnings=warnings, logged=len(plan.warnings))


def _confirm(options: GlobalOptions) -> bool:
    if options.as_json or not sys.stdin.isatty():
        raise UsageError(
            "setup: cannot ask for confirmation: standard input is not a terminal; nothing was changed",
            hint="--yes skips the question, --dry-run only shows the changes",
        )
    return _ask("\nMake these changes?")


def _ask(question: str) -> bool:
    try:
        return typer.confirm(question, default=False, err=True)
    except typer.Abort:
        return False


def _log_step(step: Step) -> None:
    console.log(Level.INFO, f"done: {step.title}")


def _log_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.log(Level.WARNING, warning)


def _end(
    options: GlobalOptions, plan: SetupPlan, result: Result, *, remove: bool, warnings: Sequence[str], logged: int
) -> int:
    """Print the result, and log the warnings after the first ones, which were logged before the question."""
    from mailsni.output import setup as output

    code = Exit.SKIPPED if warnings else Exit.DONE
    if options.as_json:
        print_json(output.document(plan, result, code, warnings, remove=remove))
    elif not options.quiet:
        output.show_result(plan, result, remove=remove)
    _log_warnings(warnings[logged:])
    return code
