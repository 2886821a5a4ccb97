"""Checks what starts the program: would it start, did its unit fail, is the last run older than the schedule allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result, Unreadable
from mailsni.core.text import summarize
from mailsni.runs.starting import examine


def check_starters(context: CheckContext) -> Iterator[Result]:
    """One finding for each cause."""
    starting = examine(context.host.settings, context.host.now)
    for starter in starting.unreadable:
        yield Unreadable(f"the program that {starter.path} starts")
    paths: dict[str, list[str]] = defaultdict(list)
    for starter, why in starting.broken:
        paths[why].append(str(starter.path))
    for why, names in paths.items():
        yield Finding(Level.WARNING, Code.START_FAILS, f"{summarize(names)}: starts nothing: {why}")
    for unit in starting.failed:
        yield Finding(Level.WARNING, Code.UNIT_FAILED, unit.what)
    if starting.late is not None:
        since = f"since {starting.last:%Y-%m-%d %H:%M} UTC" if starting.last is not None else "yet"
        what = f"no run {since}, though {starting.late.path} should start one"
        yield Finding(Level.WARNING, Code.RUN_OVERDUE, what)
