"""Whether what starts the program does: each program starts, no unit failed, and the last run is not overdue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import PermissionMissingError
from mailsni.runs import history, starters
from mailsni.runs.starters import Starter, UnitFailure


@dataclass(frozen=True, slots=True)
class Starting:
    """What is wrong; what follows from something else that is wrong is left out."""

    broken: tuple[tuple[Starter, str], ...] = ()
    """What starts nothing, and why."""
    unreadable: tuple[Starter, ...] = ()
    """What names a program that this user may not look at."""
    failed: tuple[UnitFailure, ...] = ()
    late: Starter | None = None
    """What should have started a run since the last one."""
    last: datetime | None = None
    """The end of the last run."""


def examine(settings: Settings, now: datetime, root: Path = Path("/")) -> Starting:
    """Look at what starts the program on this host.

    Args:
        settings: of the configuration.
        now: with a time zone.
        root: of the system.

    Raises:
        HostError: the record of the runs cannot be read.
    """
    present = starters.starters(settings, root)
    broken, unreadable = [], []
    for starter in present:
        try:
            if (why := starters.failure(starter.program)) is not None:
                broken.append((starter, why))
        except PermissionMissingError:
            unreadable.append(starter)
    if broken:
        return Starting(tuple(broken), tuple(unreadable))
    failed = starters.unit_failures() if any(each.path.parent == starters.UNITS for each in present) else ()
    if failed or history.problem(settings.state.directory) is not None:
        return Starting(unreadable=tuple(unreadable), failed=failed)
    last = history.load(settings.state.directory).last
    ended = last.ended_at if last is not None else None
    late = starters.overdue(present, ended, now, uptime=starters.uptime())
    return Starting(unreadable=tuple(unreadable), late=late, last=ended)
