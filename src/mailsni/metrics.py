"""Collects what monitoring wants to know, as far as this user can read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.errors import HostError, MailsniError
from mailsni.runs import history as runs
from mailsni.runs.history import History
from mailsni.verify.audit import audit
from mailsni.verify.model import Audit


@dataclass(frozen=True, slots=True)
class MetricsInput:
    """What the metrics are made of. A part that could not be collected is None, and ``problem`` says why."""

    history: History
    snapshot: Snapshot | None = None
    audit: Audit | None = None
    problem: MailsniError | None = None
    wire: bool = False
    """Whether the servers were to be probed."""
    every_port: bool = False
    """Whether each name at each port is of interest."""


def collect(
    settings: Settings,
    now: datetime,
    *,
    wire: bool,
    every_port: bool = False,
    until: float = math.inf,
    progress: Progress | None = None,
) -> MetricsInput:
    """Read the stores, the servers' configurations and the state; with ``wire`` probe the servers. Never raises.

    At ``until``, in the time of ``time.monotonic``, all probes end.
    """
    snapshot, result, problem = None, None, None
    try:
        snapshot = take_snapshot(settings, now, progress=progress)
        result = audit(snapshot, until=until, progress=progress) if wire else None
    except (MailsniError, OSError) as error:
        problem = error if isinstance(error, MailsniError) else HostError.of(error)
    return MetricsInput(runs.load(settings.state.directory), snapshot, result, problem, wire, every_port)
