"""The log of a daemon: one line for each event, with its level where standard error is the journal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from mailsni.core.log import Level, labelled, prefixed
from mailsni.core.text import printable


class Journal:
    """Writes lines to standard error.

    Args:
        threshold: the least important level that is written.
        prefixed: whether each line begins with its level, as the journal reads it (sd-daemon(3)).
    """

    def __init__(self, threshold: Level = Level.INFO, *, prefixed: bool = False) -> None:
        self._threshold = threshold
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
        """Write a line. An error on the way is ignored: the work goes on."""
        self.pass_on(level, f"mailsni: {labelled(level, line)}")

    def pass_on(self, level: Level, line: str) -> None:
        """Write a line of a run that the watch has started."""
        if level > self._threshold:
            return
        shown = printable(line).replace("\n", " ")
        with suppress(OSError, ValueError):
            sys.stderr.write((prefixed(level, shown) if self._prefixed else shown) + "\n")
            sys.stderr.flush()
