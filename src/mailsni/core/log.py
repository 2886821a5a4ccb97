"""How important a line about the work is, and how a line says so to people, to the journal and to another process."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable


class Level(enum.IntEnum):
    """The levels of syslog(3) that this program uses."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


Log = Callable[[Level, str], None]
"""Writes a line about the work for whoever reads it."""

LEVELS_WANTED = "MAILSNI_LOG_LEVELS"
"""Set in the environment of a program whose standard error is read by :func:`parse`."""

_LABELS = {Level.ERROR: "error: ", Level.WARNING: "warning: ", Level.NOTICE: "hint: "}
_PREFIX = re.compile(r"<([3-7])>")


def labelled(level: Level, text: str) -> str:
    """The text as people read it: ``error: …``, ``warning: …``, ``hint: …``, or without a label."""
    return _LABELS.get(level, "") + text


def prefixed(level: Level, line: str) -> str:
    """The line with its level in front, as the journal reads it (sd-daemon(3))."""
    return f"<{level:d}>{line}"


def parse(line: str) -> tuple[Level, str]:
    """The level and the text of a line that :func:`prefixed` may have made; without a prefix it is INFO."""
    prefix = _PREFIX.match(line)
    return (Level(int(prefix[1])), line[prefix.end() :]) if prefix else (Level.INFO, line)
