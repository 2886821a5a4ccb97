"""The processes that read Dovecot's configuration, and open one after the other the files that it names.

Two programs do (measured, 2.3 and 2.4): ``doveconf``, which a start goes through before the master process is there,
and the master's child ``config``. A reload ends the child once it has read everything again, and another one takes its
place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from mailsni.host.commands import parent

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAUSE = 0.1


def outlasting(moment: float, master: int | None, patience: float) -> tuple[int, ...]:
    """The processes that began before a moment and still read; none as soon as there is none.

    Args:
        moment: seconds of CLOCK_BOOTTIME, by which the kernel dates processes.
        master: the process whose child ``config`` counts too, because a reload ends it.
        patience: seconds to wait for their end.
    """
    deadline = time.monotonic() + patience
    while (readers := tuple(_readers(moment, master))) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return readers


def _readers(moment: float, master: int | None) -> Iterator[int]:
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        number = int(entry.name)
        try:
            program = (entry / "exe").readlink().name
            reads = program == "doveconf" or (program == "config" and parent(number) == master)
            if reads and _begin(entry) <= moment:
                yield number
        except (OSError, ValueError):  # it has ended, or is no program
            continue


def _begin(process: Path) -> float:
    """When a process began (``starttime``, field 22 of proc_pid_stat(5))."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / _TICKS
