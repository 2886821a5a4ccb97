"""``mailsni doctor``."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from mailsni.cli.options import GlobalOptions, print_json
from mailsni.errors import Exit
from mailsni.output import console


def doctor(context: typer.Context) -> int:
    """Diagnose known misconfigurations on this host and suggest fixes.

    Checks both servers' configurations, the maps and blocks of others, the stores, hooks, cron, and what panels and
    tutorials leave behind. Each finding says what is wrong, where, why it matters, and how to fix it. -q prints only
    errors. Exits with 0 if it finds nothing but notes, else with 4. Changes nothing and probes nothing. Run it as root:
    it reports what it cannot read.
    """
    from mailsni.doctor.runner import examine
    from mailsni.output import documents, text

    options: GlobalOptions = context.obj
    with console.progress(quiet=options.quiet) as progress:
        findings = examine(options.settings(), datetime.now(UTC), progress=progress)
    if options.as_json:
        print_json(documents.doctor(findings))
    else:
        text.doctor(findings, errors_only=options.quiet)
    return Exit.DONE if all(finding.severity == "note" for finding in findings) else Exit.SKIPPED
