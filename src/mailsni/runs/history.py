"""How the last ``apply`` ended, and the last good one: ``runs.json`` in the state directory.

A record for people and monitoring (``status``, ``check``), and the memory of :mod:`mailsni.runs.alerts`. Nothing that
is deployed depends on it, so it is not made durable, and a run never fails because it cannot be written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mailsni.core import json_values
from mailsni.errors import Exit, MailsniError
from mailsni.host import files
from mailsni.host.records import RecordFormat

GOOD = frozenset({Exit.DONE, Exit.SKIPPED})
"""Exit codes of a run after which the servers serve what they should, as far as the certificates allow."""
REMOVAL_RETENTION = timedelta(days=7)
"""How long the record keeps a name that a run removed."""
_MOST_REMEMBERED = 1000
_CLOCK_STEP = timedelta(minutes=1)
"""A clock that is corrected by less than this did not go back."""


@dataclass(frozen=True, slots=True)
class Run:
    """One ``apply`` and how it ended. The times have a time zone."""

    started_at: datetime
    ended_at: datetime
    exit_code: int
    """As the shell sees it: 128 and the number of the signal for a run that one ended."""
    summary: str
    """One line."""
    trigger: str
    """The name of its trigger: ``terminal``, ``certbot-post``, ``timer``, ``watch``, …"""
    names: int | None = None
    """How many names are served after it; None when it failed."""
    skipped: Mapping[str, int] = field(default_factory=Counter)
    """How many certificates were skipped for each reason, the ones for information among them."""
    error: str | None = None
    """The message of a run that failed."""

    @property
    def good(self) -> bool:
        """Whether it did its work."""
        return self.exit_code in GOOD


@dataclass(frozen=True, slots=True)
class RemovedName:
    """A name that a run removed: since then its clients get the default certificate."""

    when: datetime
    why: str
    """In the words of the plan."""


@dataclass(frozen=True, slots=True)
class History:
    """What the record of runs holds."""

    last: Run | None = None
    last_good: Run | None = None
    alerted: Mapping[str, datetime] = field(default_factory=dict)
    """Failures that caused an alert since the last run without one, and when."""
    removed: Mapping[str, RemovedName] = field(default_factory=dict)
    """Names that a run of the last days removed, and that are not served again; at most the latest thousand."""

    def clock_problem(self, now: datetime) -> str | None:
        """What shows that the clock went back since the last run; None when nothing does."""
        if self.last is None or self.last.ended_at - now <= _CLOCK_STEP:
            return None
        return (
            f"the clock went back: the last run ended on {self.last.ended_at:%Y-%m-%d %H:%M} UTC, "
            f"and now it is {now:%Y-%m-%d %H:%M} UTC"
        )

    def after(self, run: Run, removed: Mapping[str, str] | None = None, served: Collection[str] = ()) -> History:
        """The history after another run: the names that it removed and why, and those that are served after it."""
        since = run.ended_at - REMOVAL_RETENTION
        gone = {name: one for name, one in self.removed.items() if one.when > since and name not in served}
        gone |= {name: RemovedName(run.ended_at, why) for name, why in (removed or {}).items()}
        latest = sorted(gone, key=lambda name: (gone[name].when, name))[-_MOST_REMEMBERED:]
        return replace(
            self,
            last=run,
            last_good=run if run.good else self.last_good,
            removed={name: gone[name] for name in latest},
        )


EMPTY_HISTORY = History()
"""Before the first run."""


def load(state_directory: Path) -> History:
    """The history; empty when there is no record, or a damaged one, or one that this user may not read."""
    try:
        return _FORMAT.read(_path(state_directory)).content or EMPTY_HISTORY
    except (MailsniError, OSError):
        return EMPTY_HISTORY


def problem(state_directory: Path) -> str | None:
    """What is wrong with the record; None when it is sound, or there is none.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read.
    """
    return _FORMAT.read(_path(state_directory)).problem


def _path(state_directory: Path) -> Path:
    return state_directory / "runs.json"


def record(state_directory: Path, run: Run) -> None:
    """Record a run, as far as the directory can be written; see :func:`save`."""
    save(state_directory, load(state_directory).after(run))


def save(state_directory: Path, history: History) -> bool:
    """Write the record. Tells whether it could be written; of two writers at once one may lose."""
    with suppress(MailsniError, OSError):
        files.ensure_directory(state_directory, 0o700)
        _FORMAT.write(_path(state_directory), history, durable=False)
        return True
    return False


def _to_json(history: History) -> dict[str, Any]:
    return {
        "last": _item(history.last),
        "last_good": _item(history.last_good),
        "alerted": {key: moment.timestamp() for key, moment in history.alerted.items()},
        "removed": {name: (one.when.timestamp(), one.why) for name, one in history.removed.items()},
    }


def _from_json(document: object) -> History:
    members = json_values.members(document)
    return History(
        last=json_values.optional(members["last"], _run),
        last_good=json_values.optional(members["last_good"], _run),
        alerted=json_values.mapping(members["alerted"], json_values.text, json_values.moment),
        removed=json_values.mapping(members["removed"], json_values.name, _removed),
    )


def _item(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        **{name: getattr(run, name) for name in Run.__slots__},
        "started_at": run.started_at.timestamp(),
        "ended_at": run.ended_at.timestamp(),
        "skipped": dict(run.skipped),
    }


def _run(document: object) -> Run:
    item = json_values.members(document)
    return Run(
        started_at=json_values.moment(item["started_at"]),
        ended_at=json_values.moment(item["ended_at"]),
        exit_code=json_values.whole_number(item["exit_code"]),
        summary=json_values.text(item["summary"]),
        trigger=json_values.text(item["trigger"]),
        names=json_values.optional(item["names"], json_values.whole_number),
        skipped=json_values.mapping(item["skipped"], json_values.text, json_values.whole_number),
        error=json_values.optional(item["error"], json_values.text),
    )


def _removed(document: object) -> RemovedName:
    when, why = json_values.items(document, lambda value: value)
    return RemovedName(json_values.moment(when), json_values.text(why))


_FORMAT = RecordFormat("mailsni.runs/2", _to_json, _from_json)
