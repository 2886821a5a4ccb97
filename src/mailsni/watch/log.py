"""Lines of a program that runs on: one for each event, with its level where standard error is the journal."""

from __future__ import annotations

import enum
import os
import re
import sys
from contextlib import suppress

from mailsni.host.commands import printable


class Level(enum.IntEnum):
    """Of syslog(3)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


_PROGRAM = "mailsni: "
_WORDS = {"error": Level.ERROR, "warning": Level.WARNING, "hint": Level.NOTICE}
_WORD = re.compile(rf"(?:{_PROGRAM})?({'|'.join(_WORDS)}): ")


class Journal:
    """Writes lines to standard error.

    Args:
        least: the least important level that is written.
        prefixed: whether each line begins with its level, as the journal reads it (sd-daemon(3)).
    """

    def __init__(self, least: Level = Level.INFO, *, prefixed: bool = False) -> None:
        self._least = least
        self._prefixed = prefixed

    @staticmethod
    def listens() -> bool:
        """Whether standard error is the journal's: ``JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
        try:
            status = os.fstat(2)
        except OSError:
            return False
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

    def say(self, level: Level, line: str) -> None:
        """Write a line. That nobody can read it stops nothing."""
        if level > self._least:
            return
        word = next((f"{word}: " for word, one in _WORDS.items() if one is level), "")
        self._write(level, f"{_PROGRAM}{word}{printable(line)}")

    def pass_on(self, line: str) -> None:
        """Write a line of a run that this program has started, at the level that the line's first word says."""
        level = level_of(line)
        if level <= self._least:
            self._write(level, printable(line))

    def _write(self, level: Level, line: str) -> None:
        shown = line.replace("\n", " ")
        with suppress(OSError, ValueError):
            sys.stderr.write(f"<{level:d}>{shown}\n" if self._prefixed else f"{shown}\n")
            sys.stderr.flush()


def level_of(line: str) -> Level:
    """The level of a line of this program's."""
    found = _WORD.match(line)
    return _WORDS[found[1]] if found else Level.INFO
