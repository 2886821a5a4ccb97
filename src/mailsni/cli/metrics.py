"""``mailsni metrics``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mailsni.cli.options import GlobalOptions, flag, print_json, valued
from mailsni.core.log import Level
from mailsni.errors import ConfigurationError, Exit
from mailsni.output import console


def metrics(
    context: typer.Context,
    *,
    textfile: Annotated[
        Path | None,
        valued("--textfile", "PATH", "Write to a file (mode 0644) for node_exporter's textfile collector."),
    ] = None,
    no_wire: Annotated[bool, flag("--no-wire", "Do not probe the servers.")] = False,
) -> int:
    """Print Prometheus metrics about certificates, probes and runs.

    Probes the servers like `verify`. If something cannot be read, mailsni_up is 0, the remaining metrics are printed,
    and the exit code tells why. The text file is replaced atomically; anything but a regular file is refused.
    """
    from mailsni import metrics as monitoring
    from mailsni.host import files, permissions
    from mailsni.output import prometheus
    from mailsni.runs import history

    options: GlobalOptions = context.obj
    if textfile is not None:
        permissions.require_replaceable(textfile)
    try:
        settings = options.settings()
    except ConfigurationError as problem:  # without this the old text file would say that all is well
        measured = monitoring.MetricsInput(history.EMPTY_HISTORY, problem=problem, wire=not no_wire)
    else:
        with console.progress(quiet=options.quiet) as progress:
            measured = monitoring.collect(settings, datetime.now(UTC), wire=not no_wire, progress=progress)
    if textfile is not None:
        files.replace(textfile, prometheus.exposition(measured), files.PUBLIC)
    if options.as_json:
        print_json(prometheus.document(measured))
    elif textfile is None:
        sys.stdout.write(prometheus.exposition(measured).decode())
    for note in measured.audit.notes if measured.audit is not None else ():
        console.log(Level.WARNING, note)
    if measured.problem is None:
        return Exit.DONE
    console.log_error(measured.problem)
    return measured.problem.exit_code
