"""The process that reads Dovecot's configuration when it starts, and opens one after the other the files that it names.

That is ``doveconf``, which a start goes through before the master process is there (measured, 2.3 and 2.4). When a file
is gone, Dovecot does not start. A running Dovecot's ``config`` process does not count: it may live for as long as its
clients do, with everything read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAUSE = 0.1


def outlasting(moment: float, patience: float) -> tuple[int, ...]:
    """The processes that began before a moment and still read; none as soon as there is none.

    Args:
        moment: seconds of CLOCK_BOOTTIME, by which the kernel dates processes.
        patience: seconds to wait for their end.
    """
    deadline = time.monotonic() + patience
    while (readers := tuple(_readers(moment))) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return readers


def _readers(moment: float) -> Iterator[int]:
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if (entry / "exe").readlink().name == "doveconf" and _begin(entry) <= moment:
                yield int(entry.name)
        except OSError:  # it has ended, or is no program
            continue


def _begin(process: Path) -> float:
    """When a process began (``starttime``, field 22 of proc_pid_stat(5))."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / _TICKS
