"""One look at everything that monitoring wants to know, as far as it can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.errors import HostError, MailsniError
from mailsni.runs import history as runs
from mailsni.runs.history import History
from mailsni.verify import audit
from mailsni.verify.model import Inspection


@dataclass(frozen=True, slots=True)
class Look:
    """What was found out; what could not be is None, and what there is of it has a problem."""

    history: History
    snapshot: Snapshot | None = None
    inspection: Inspection | None = None
    problem: MailsniError | None = None
    """Why something could not be looked at."""
    wire: bool = False
    """Whether the servers were to be asked."""


def look(settings: Settings, now: datetime, *, wire: bool, progress: Progress | None = None) -> Look:
    """Look at the stores, the servers' configurations, what is deployed, and the servers themselves. Never raises.

    Args:
        settings: where to look.
        now: with a time zone.
        wire: ask the servers, too.
        progress: told about what takes long.
    """
    history = runs.load(settings.state.directory)
    try:
        seen = take_snapshot(settings, now, progress=progress)
    except MailsniError as problem:
        return Look(history, problem=problem, wire=wire)
    except OSError as error:
        return Look(history, problem=HostError.of(error), wire=wire)
    if not wire:
        return Look(history, seen)
    try:
        return Look(history, seen, audit.inspect(seen, progress=progress), wire=wire)
    except MailsniError as problem:
        return Look(history, seen, problem=problem, wire=wire)
    except OSError as error:
        return Look(history, seen, problem=HostError.of(error), wire=wire)
