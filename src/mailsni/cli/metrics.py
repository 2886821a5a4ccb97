"""``mailsni metrics``."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mailsni.cli.options import GlobalOptions, flag, print_json, time_limit, valued
from mailsni.errors import ConfigurationError, Exit
from mailsni.output import console

_MAX_TIME = "Total time. mailsni_not_asked counts the probes that it leaves out. Default: 300."


def metrics(
    context: typer.Context,
    *,
    textfile: Annotated[
        Path | None,
        valued("--textfile", "PATH", "Write to a file (mode 0644) for node_exporter's textfile collector."),
    ] = None,
    no_wire: Annotated[bool, flag("--no-wire", "Do not probe the servers.")] = False,
    every_port: Annotated[bool, flag("--every-port", "Also print a series for each name at each port.")] = False,
    max_time: Annotated[float, valued("--max-time", "SECONDS", _MAX_TIME, time_limit)] = 300.0,
) -> int:
    """Print Prometheus metrics about certificates, probes and runs.

    Probes the servers like `verify`, and aggregates by name and by port. If something cannot be read, mailsni_up is 0,
    the remaining metrics are printed, and the exit code tells why. The text file is replaced atomically; anything but a
    regular file is refused.
    """
    from mailsni import metrics as monitoring
    from mailsni.host import files, permissions
    from mailsni.output import prometheus
    from mailsni.output import verify as verification
    from mailsni.runs import history

    options: GlobalOptions = context.obj
    until = time.monotonic() + max_time
    if textfile is not None:
        permissions.require_replaceable(textfile)
    try:
        settings = options.settings()
    except ConfigurationError as problem:  # without this the old text file would say that all is well
        measured = monitoring.MetricsInput(history.EMPTY_HISTORY, problem=problem, wire=not no_wire)
    else:
        with console.progress(quiet=options.quiet) as progress:
            measured = monitoring.collect(
                settings,
                datetime.now(UTC),
                wire=not no_wire,
                every_port=every_port,
                until=until,
                progress=progress,
            )
    if textfile is not None:
        files.replace(textfile, prometheus.exposition(measured), files.PUBLIC)
    if options.as_json:
        print_json(prometheus.document(measured))
    elif textfile is None:
        sys.stdout.write(prometheus.exposition(measured).decode())
    if measured.audit is not None:
        verification.warn_of_gaps(measured.audit)
    if measured.problem is None:
        return Exit.DONE
    console.log_error(measured.problem)
    return measured.problem.exit_code
