"""Files that nothing names any more stay for a while: a server that starts slowly may be about to open them.

Dovecot reads its configuration first and the files that it names later, each by its path; on a cold disk minutes later
(measured with a delay at each open). It does not start when one of them is gone. So a file is retired when it is no
longer named, and a later run removes it, when :data:`GRACE` is over or the host was started again.

The time is that of a clock that nobody sets, because a wall clock that jumps would make the wait shorter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mailsni.core import json_values
from mailsni.host.records import RecordFormat

GRACE: Final = 600
"""Seconds for which a retired file stays at least."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment since the host was started."""

    boot: str
    """Which start it was (random(4)); empty where the kernel does not say."""
    seconds: int
    """Since then, those of sleep included (clock_gettime(2), CLOCK_BOOTTIME)."""

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        try:
            boot = _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            boot = ""
        return cls(boot, int(time.clock_gettime(time.CLOCK_BOOTTIME)))


def retire(unused: Iterable[Path], retired: Mapping[Path, Moment], now: Moment) -> dict[Path, Moment]:
    """Since when each unused file has certainly been so. A file that is used again is forgotten.

    Args:
        unused: the files that nothing names.
        retired: what an earlier run got.
        now: a moment of the run's.
    """
    since = {path: retired.get(path, now) for path in unused}
    return {path: now if _is_uncertain(moment, now) else moment for path, moment in since.items()}


def _is_uncertain(moment: Moment, now: Moment) -> bool:
    """Whether the wait must begin anew, because nobody knows how long ago a moment was.

    One of two boots may be unknown, and a clock that went backwards within one start is that of another container.
    """
    if moment.boot == now.boot:
        return moment.seconds > now.seconds
    return not (moment.boot and now.boot)


def may_go(since: Moment, now: Moment) -> bool:
    """Whether no process can still be about to open a file that has been retired since a moment."""
    return since.boot != now.boot or now.seconds - since.seconds >= GRACE


def _to_json(retired: Mapping[Path, Moment]) -> dict[str, Any]:
    return {str(path): {"boot": moment.boot, "seconds": moment.seconds} for path, moment in retired.items()}


def _from_json(document: object) -> dict[Path, Moment]:
    return {Path(path): moment for path, moment in json_values.mapping(document, json_values.path, _moment).items()}


def _moment(value: object) -> Moment:
    members = json_values.members(value)
    return Moment(json_values.text(members["boot"]), json_values.whole_number(members["seconds"]))


FORMAT: Final[RecordFormat[Mapping[Path, Moment]]] = RecordFormat("mailsni.retired/1", _to_json, _from_json)
"""The record of the retired files. When it is lost, the wait begins anew."""
