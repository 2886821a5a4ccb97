"""``mailsni plan``, ``status``, ``explain`` and ``render``: the commands that only read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mailsni.cli.options import GlobalOptions, flag, print_json
from mailsni.errors import Exit, UsageError

if TYPE_CHECKING:
    from mailsni.deploy.snapshot import Snapshot


def plan(
    context: typer.Context,
    *,
    diff: Annotated[bool, flag("--diff", "Show how the servers' files would change.")] = False,
    detailed_exitcode: Annotated[
        bool, flag("--detailed-exitcode", "Exit with 3 if `apply` would change anything.")
    ] = False,
) -> int:
    """Show what `apply` would change, and why.

    Writes nothing. Each line begins with + for an added name, ~ for a changed one, - for a removed one, and ! for one
    that keeps its last valid certificate because its lineage is broken.
    """
    options: GlobalOptions = context.obj
    snapshot = options.snapshot()
    show_plan(options, snapshot, with_diff=diff)
    return Exit.PENDING if detailed_exitcode and snapshot.plan.pending else Exit.DONE


def show_plan(options: GlobalOptions, snapshot: Snapshot, *, with_diff: bool) -> None:
    """Print a plan, with the diffs of the servers' files on demand."""
    from mailsni.output import documents, text

    diffs = text.diffs(snapshot) if with_diff else []
    if options.as_json:
        print_json(documents.plan(snapshot, diffs))
        return
    if not options.quiet:
        text.plan(snapshot)
        text.diff(diffs)
    text.problems(snapshot.selection.problems)


def status(
    context: typer.Context,
    *,
    skipped: Annotated[bool, flag("--skipped", "Also list what is not served, and why.")] = False,
) -> int:
    """List every name with its certificate, expiry date and state.

    States: deployed; pending, changed by the next `apply`; kept, because its lineage is broken and its last valid
    certificate is served; leaving, removed by the next `apply`.
    """
    from mailsni.output import documents, text
    from mailsni.runs import history as runs

    options: GlobalOptions = context.obj
    snapshot = options.snapshot()
    history = runs.load(snapshot.settings.state.directory)
    if options.as_json:
        print_json(documents.status(snapshot, history))
    else:
        text.status(snapshot, history, skipped=skipped)
    return Exit.DONE


def explain(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A host name, or a wildcard such as '*.example.com'.")],
) -> int:
    """Show which certificate a name gets, and why it gets no other."""
    from mailsni.core import selection
    from mailsni.core.names import RefusedNameError, covered_by, host_name
    from mailsni.output import documents, text

    options: GlobalOptions = context.obj
    try:
        name = host_name(name)
    except RefusedNameError as error:
        raise UsageError(str(error)) from None
    snapshot = options.snapshot()
    deployed = snapshot.record.deployment.names
    candidates = selection.explain(name, snapshot.inventory, snapshot.settings.names, snapshot.now, deployed)
    broken = [lineage for lineage in snapshot.inventory.skipped if covered_by(name, lineage.names)]
    if options.as_json:
        print_json(documents.explanation(name, candidates, broken))
    else:
        text.explanation(name, candidates, broken)
    return Exit.DONE


def render(
    context: typer.Context,
    *,
    server: Annotated[str, typer.Argument(metavar="postfix|dovecot", help="The server.")],
) -> int:
    """Print the file that `apply` would write for a server.

    Writes nothing.
    """
    from mailsni.output import documents

    if server not in ("postfix", "dovecot"):
        raise UsageError(f"{server}: unknown server", hint="`mailsni render postfix` or `mailsni render dovecot`")
    options: GlobalOptions = context.obj
    snapshot = options.snapshot()
    target = next((target for target in snapshot.targets if target.name == server), None)
    if target is None:
        unreadable = next((each for each in snapshot.left_out if each.name == server), None)
        if unreadable is not None:
            raise unreadable.error
        raise UsageError(
            f"{server}: is not installed or is disabled",
            hint=f"set [{server}] enabled = true in the configuration to render its file anyway",
        )
    rendered = snapshot.texts[target.name]
    if options.as_json:
        print_json(documents.rendering(server, rendered))
    else:
        sys.stdout.write(rendered.decode("ascii"))
    return Exit.DONE
