"""Collects what monitoring wants to know, as far as this user can read it."""

from __future__ import annotations

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


def collect(settings: Settings, now: datetime, *, wire: bool, progress: Progress | None = None) -> MetricsInput:
    """Read the stores, the servers' configurations and the state, and probe the servers. Never raises.

    Args:
        settings: where all of these are.
        now: with a time zone.
        wire: probe the servers, too.
        progress: called while something takes long.
    """
    history = runs.load(settings.state.directory)
    try:
        snapshot = take_snapshot(settings, now, progress=progress)
    except MailsniError as problem:
        return MetricsInput(history, problem=problem, wire=wire)
    except OSError as error:
        return MetricsInput(history, problem=HostError.of(error), wire=wire)
    if not wire:
        return MetricsInput(history, snapshot)
    try:
        return MetricsInput(history, snapshot, audit(snapshot, progress=progress), wire=wire)
    except MailsniError as problem:
        return MetricsInput(history, snapshot, problem=problem, wire=wire)
    except OSError as error:
        return MetricsInput(history, snapshot, problem=HostError.of(error), wire=wire)
