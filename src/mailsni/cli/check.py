"""``mailsni check``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from mailsni.cli import monitoring_plugin
from mailsni.cli.options import GlobalOptions, flag, number, print_json, time_limit, valued
from mailsni.errors import MailsniError, UsageError
from mailsni.output import console

_WARNING = (
    "WARNING if a deployed certificate expires sooner. Default: 14, or a quarter of its lifetime if that is less."
)
_MAX_TIME = (
    "Total time. The result is UNKNOWN if it does not suffice to probe each name at one port of each server. "
    "Default: 50."
)
_CRITICAL = "CRITICAL if it expires sooner. Default: 7, or an eighth of its lifetime if that is less."


def check(
    context: typer.Context,
    *,
    warning: Annotated[float | None, valued("--warning", "DAYS", _WARNING, number)] = None,
    critical: Annotated[float | None, valued("--critical", "DAYS", _CRITICAL, number)] = None,
    wire: Annotated[bool, flag("--wire", "Also probe the running servers, like `verify`.")] = False,
    max_time: Annotated[float, valued("--max-time", "SECONDS", _MAX_TIME, time_limit)] = monitoring_plugin.TIME_LIMIT,
) -> int:
    """Nagios-compatible check of the deployed certificates and files.

    Prints one line, and with -v one more for each finding. Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. Writes
    nothing, and probes nothing without --wire. Run by another user than root it names the parts it cannot read.
    """
    with monitoring_plugin.unknown_on_failure():
        return _check(context.obj, warning, critical, max_time, wire=wire)


def _check(
    options: GlobalOptions, warning: float | None, critical: float | None, max_time: float, *, wire: bool
) -> int:
    from mailsni.check import model, runner
    from mailsni.output import documents, nagios

    now = datetime.now(UTC)
    until = time.monotonic() + max_time * monitoring_plugin.PROBING_SHARE
    try:
        if warning is not None and critical is not None and warning < critical:
            raise UsageError("usage: --warning: fewer days than --critical")
        with (
            monitoring_plugin.unknown_after(max_time),
            console.progress(quiet=options.quiet) as progress,
        ):
            thresholds = model.Thresholds(warning, critical)
            result = runner.check(options.settings(), thresholds, now, wire=wire, until=until, progress=progress)
    except (MailsniError, OSError) as error:
        result = model.unknown(now, error.message if isinstance(error, MailsniError) else str(error))
    if options.as_json:
        print_json(documents.check(result))
    else:
        console.print_line(nagios.output(result, verbose=options.verbose))
    return result.level
