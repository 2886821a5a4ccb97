"""Standard output, standard error, the progress bar and the system log."""

from __future__ import annotations

import io
import os
import sys
import syslog
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailsni.core.log import LEVELS_WANTED, Level, labelled, prefixed
from mailsni.errors import MailsniError

if TYPE_CHECKING:
    from rich.console import Console

    from mailsni.core import model


PROGRESS_FROM = 200
"""A bar is shown from so many lineages, or questions, on: fewer are done before anybody could see it."""


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def print_line(line: str = "") -> None:
    """Write a line of the result."""
    sys.stdout.write(line + "\n")


def log(level: Level, text: str) -> None:
    """Write a line about the work, not of its result, to standard error: ``mailsni: warning: …``."""
    sys.stdout.flush()
    if isinstance(sys.stderr, _SystemLog):
        sys.stderr.log(level, labelled(level, text))
        return
    line = f"mailsni: {labelled(level, text)}"
    sys.stderr.write((prefixed(level, line) if os.environ.get(LEVELS_WANTED) else line) + "\n")


def log_error(problem: MailsniError) -> None:
    """Log an error and its hint."""
    log(Level.ERROR, problem.message)
    if problem.hint:
        log(Level.NOTICE, problem.hint)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str] = ()) -> None:
    """Rows under headings: a Rich table on a terminal, each row in its colour; aligned columns elsewhere."""
    if not sys.stdout.isatty():
        widths = [max(len(row[at]) for row in (headings, *rows)) for at in range(len(headings))]
        for row in (headings, *rows):
            print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for at, row in enumerate(rows):
        drawn.add_row(*(Text(cell) for cell in row), style=colours[at] if colours else None)
    _console().print(drawn, soft_wrap=False)


def print_coloured(line: str, colour: str) -> None:
    """Write a line of the result, in a colour of Rich's on a terminal."""
    if not sys.stdout.isatty():
        print_line(line)
        return
    from rich.text import Text

    _console().print(Text(line, style=colour))


@contextmanager
def progress(*, quiet: bool) -> Iterator[model.Progress | None]:
    """A bar on standard error while something long goes on, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    bar = Progress(console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int, total: int) -> None:
        if total < PROGRESS_FROM:
            return
        if not tasks:
            bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bar.stop()


class _SystemLog(io.TextIOBase):
    """Standard error that goes to syslog(3), which drops it where no logger runs."""

    def __init__(self) -> None:
        syslog.openlog("mailsni", syslog.LOG_PID, syslog.LOG_MAIL)

    def log(self, level: Level, text: str) -> None:
        for line in text.splitlines():
            syslog.syslog(level, line)

    def write(self, text: str) -> int:
        self.log(Level.WARNING, text)
        return len(text)


def log_to_syslog() -> None:
    """Send standard error to syslog from now on: there is no terminal, and nobody reads it."""
    sys.stderr = _SystemLog()


def secure_standard_streams() -> None:
    """Have all three standard descriptors open, and never fail for a character that the terminal does not know.

    A program that is started without one (``>&-``) would open its next file under that number, and print into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def silence_output() -> None:
    """Say nothing more: the reader of the output has gone (``mailsni status | head``), or there is no room for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
