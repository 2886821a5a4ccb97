"""``mailsni watch``."""

from __future__ import annotations

import os
from functools import partial

import typer

from mailsni.cli.options import GlobalOptions
from mailsni.core.log import Level
from mailsni.errors import Exit


def watch(context: typer.Context) -> int:
    """Run as a daemon and apply whenever certificates change.

    Runs `mailsni apply` at the start, after each change once the files are quiet, after a failure again in 1, 2, 5 and
    15 minutes, and every 12 hours. It also scans the stores every minute, in case a file event is lost; a scan reads no
    key. Logs one line for each apply that published something.

    SIGHUP reloads the configuration; a wrong one is refused, and the old one stays in use. SIGTERM and Ctrl-C wait up
    to 80 seconds for a running apply; a second signal makes it undo what it has begun. The exit code is 0. Supports
    systemd's Type=notify and WatchdogSec=.

    The table [watch] of the configuration sets the times in seconds: quiet, max_wait, scan.
    """
    from mailsni.watch import loop as watching
    from mailsni.watch.log import Journal
    from mailsni.watch.requests import signals
    from mailsni.watch.sd_notify import Notifier

    options: GlobalOptions = context.obj
    path, named = options.configuration()
    least = Level.DEBUG if options.verbose else Level.WARNING if options.quiet else Level.INFO
    loop = watching.Watch(
        partial(watching.Configuration.read, path.absolute(), required=named),
        watching.command(path.absolute() if named else None, verbose=options.verbose),
        journal=Journal(least, prefixed=Journal.listens()),
        notifier=Notifier.of(os.environ, os.getpid()),
    )
    with signals(loop.requests):
        loop.run()
    return Exit.DONE
