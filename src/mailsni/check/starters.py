"""Checks what starts the program: would it start, did its unit fail, is the last run older than the schedule allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result, Unreadable
from mailsni.core.text import summarize
from mailsni.errors import PermissionMissingError
from mailsni.runs import history as runs
from mailsni.runs import starters


def check_starters(context: CheckContext) -> Iterator[Result]:
    """One finding for each cause: what follows from another one is not said."""
    settings = context.host.settings
    found = starters.starters(settings)
    broken: dict[str, list[str]] = defaultdict(list)
    for starter in found:
        try:
            if (why := starters.failure(starter.program)) is not None:
                broken[why].append(str(starter.path))
        except PermissionMissingError:
            yield Unreadable(f"the program that {starter.path} starts")
    for why, paths in broken.items():
        yield Finding(Level.WARNING, Code.START_FAILS, f"{summarize(paths)}: starts nothing: {why}")
    failed = starters.unit_failures() if any(starter.path.parent == starters.UNITS for starter in found) else ()
    if broken:
        return
    for unit in failed:
        yield Finding(Level.WARNING, Code.UNIT_FAILED, unit.what)
    if failed or runs.problem(settings.state.directory) is not None:
        return
    last = runs.load(settings.state.directory).last
    ended = last.ended_at if last is not None else None
    late = starters.overdue(found, ended, context.host.now, uptime=starters.uptime())
    if late is not None:
        since = f"since {ended:%Y-%m-%d %H:%M} UTC" if ended is not None else "yet"
        yield Finding(Level.WARNING, Code.RUN_OVERDUE, f"no run {since}, though {late.path} should start one")
