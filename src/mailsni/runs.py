"""How the last ``apply`` ended, and the last good one: ``runs.json`` in the state directory.

A record for people and monitoring (``status``, ``check``), and the memory of :mod:`mailsni.alerts`. Nothing that is
deployed depends on it, so it is not made durable, and a run never fails because it cannot be written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailsni import files
from mailsni.errors import Exit, MailsniError

_SCHEMA = "mailsni.runs/1"
GOOD = frozenset({Exit.DONE, Exit.SKIPPED})
"""Exit codes of a run after which the servers serve what they should, as far as the certificates allow."""


@dataclass(frozen=True, slots=True)
class Run:
    """One ``apply`` and how it ended. The times have a time zone."""

    begun: datetime
    ended: datetime
    exit_code: int
    """As the shell sees it: 128 and the number of the signal for a run that one ended."""
    summary: str
    """One line."""
    by: str
    """What started it: ``terminal``, ``certbot-post``, ``timer``, ``watch``, …"""
    names: int | None = None
    """How many names are served after it; None when it failed."""
    skipped: Mapping[str, int] = field(default_factory=Counter)
    """How many certificates were skipped for each reason, the ones for information among them."""
    error: str | None = None
    """What a run that failed said."""

    @property
    def good(self) -> bool:
        """Whether it did its work."""
        return self.exit_code in GOOD


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered."""

    last: Run | None = None
    last_good: Run | None = None
    alerted: Mapping[str, datetime] = field(default_factory=dict)
    """Failures that somebody was told of since the last run without one, and when that was."""

    def after(self, run: Run) -> History:
        """The same after another run."""
        return replace(self, last=run, last_good=run if run.good else self.last_good)


NOTHING = History()
"""Before the first run."""


def load(state_directory: Path) -> History:
    """What is remembered; nothing when there is no record, or a damaged one, or one that this user may not read."""
    try:
        document = json.loads(files.read_own(state_directory / "runs.json") or b"{}")
        if document.get("schema") != _SCHEMA:
            return NOTHING
        return History(
            last=_run(document["last"]),
            last_good=_run(document["last_good"]),
            alerted={str(key): _moment(value) for key, value in document["alerted"].items()},
        )
    except (MailsniError, ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, RecursionError):
        return NOTHING


def record(state_directory: Path, run: Run) -> None:
    """Remember a run, as far as the directory can be written; see :func:`save`."""
    save(state_directory, load(state_directory).after(run))


def save(state_directory: Path, history: History) -> bool:
    """Write all that is to be remembered. Tells whether it could be written; of two at once one may be lost."""
    document = {
        "schema": _SCHEMA,
        "last": _item(history.last),
        "last_good": _item(history.last_good),
        "alerted": {key: moment.timestamp() for key, moment in history.alerted.items()},
    }
    content = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    with suppress(MailsniError, OSError):
        files.ensure_directory(state_directory, 0o700)
        files.replace(state_directory / "runs.json", content, durable=False)
        return True
    return False


def _item(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        **{name: getattr(run, name) for name in Run.__slots__},
        "begun": run.begun.timestamp(),
        "ended": run.ended.timestamp(),
        "skipped": dict(run.skipped),
    }


def _run(item: Mapping[str, Any] | None) -> Run | None:
    if item is None:
        return None
    names, error = item["names"], item["error"]
    return Run(
        begun=_moment(item["begun"]),
        ended=_moment(item["ended"]),
        exit_code=int(item["exit_code"]),
        summary=str(item["summary"]),
        by=str(item["by"]),
        names=None if names is None else int(names),
        skipped={str(reason): int(count) for reason, count in item["skipped"].items()},
        error=None if error is None else str(error),
    )


def _moment(value: float) -> datetime:
    return datetime.fromtimestamp(value, UTC)
