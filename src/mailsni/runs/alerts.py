"""Alerts about a run that failed while nobody looked on, and about recovery: ``[alerts] on_failure``.

The command gets the JSON document of the run (as ``--json`` prints it) on standard input, and in its environment:

* ``MAILSNI_SUMMARY``: one line, fit for a subject;
* ``MAILSNI_EXIT_CODE``: of the run; 0 means that it works again;
* ``MAILSNI_HOST``: the name of this host.

The same failure causes another alert after a day. An alert that cannot be delivered is tried again after the next run.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mailsni.core.log import Level, Log
from mailsni.core.text import printable
from mailsni.errors import Exit, HostError
from mailsni.host.commands import run
from mailsni.runs.history import History, Run

TOLD = frozenset(Exit) - {Exit.DONE, Exit.USAGE, Exit.PENDING, Exit.LOCKED}
"""Exit codes that cause an alert. A held lock does not: the run that holds it reports its own end."""
REPEATED_AFTER = timedelta(hours=24)
TIMEOUT = 60.0
"""Seconds that the command may take."""
LINES_LOGGED = 20
_REMEMBERED = 32
_SUBJECT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert to deliver."""

    summary: str
    exit_code: int
    told: Mapping[str, datetime]
    """The value of :attr:`History.alerted` once it is delivered."""


def due(history: History, failure: str, host: str) -> Alert | None:
    """The alert that the last run causes, if any. ``failure`` tells its failure from others, in any words."""
    last = history.last
    if last is None:
        return None
    if last.exit_code == Exit.DONE:
        return Alert(_subject(host, "works again", last), last.exit_code, {}) if history.alerted else None
    if last.exit_code not in TOLD:
        return None
    key = hashlib.sha256(f"{last.exit_code} {failure}".encode()).hexdigest()[:32]
    told = history.alerted.get(key)
    if told is not None and timedelta() <= last.ended_at - told < REPEATED_AFTER:
        return None
    newest = sorted({**history.alerted, key: last.ended_at}.items(), key=lambda one: one[1])[-_REMEMBERED:]
    what = "needs a look" if last.exit_code == Exit.SKIPPED else "failed"
    return Alert(_subject(host, f"{what} (exit code {last.exit_code})", last), last.exit_code, dict(newest))


def _subject(host: str, what: str, last: Run) -> str:
    text = " ".join(printable(f"mailsni: {host}: {what}: {last.summary}").split())
    return text if len(text) <= _SUBJECT_LENGTH else text[:_SUBJECT_LENGTH] + " […]"


def deliver(command: Sequence[str], alert: Alert, document: Mapping[str, Any], host: str, log: Log) -> None:
    """Run the alert command, an absolute path and arguments, with the document of the run.

    What it writes to standard error is logged, as far as :data:`LINES_LOGGED` lines, however it ends: a mailer may
    complain and exit 0.

    Raises:
        HostError: it could not be started, failed, or did not end in time.
    """
    variables = {
        "MAILSNI_SUMMARY": alert.summary,
        "MAILSNI_EXIT_CODE": str(alert.exit_code),
        "MAILSNI_HOST": host,
    }
    content = json.dumps(document, indent=2, ensure_ascii=True).encode() + b"\n"
    done = run(command, stdin=content, timeout=TIMEOUT, discard=True, variables=variables)
    for line in done.stderr.splitlines()[-LINES_LOGGED:]:
        log(Level.WARNING, f"[alerts] on_failure: {command[0]}: {line}")
    if done.returncode != 0:
        raise HostError(f"{command[0]}: exit status {done.returncode}")


def host_name() -> str:
    """The name of this host, printable."""
    return printable(socket.gethostname()) or "localhost"
