"""What the looks have in common: a look that cannot be taken, other people's text files, and the lines in them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.core import names
from mailsni.doctor.finding import Finding, Severity
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.host import files, permissions
from mailsni.host.commands import printable

LARGEST = 16 << 20
"""Bytes of a configuration file that are read: the source of a map of 60,000 names has 12 MB."""
SHOWN = 4
"""Names, lines or files that a finding lists."""

Look = Callable[[], Iterable[Finding]]


def each(*looks: tuple[str, Look]) -> Iterator[Finding]:
    """What looks find; one that cannot be taken is a finding, and the next ones go on.

    Args:
        looks: what each is about, and the look.
    """
    for about, look in looks:
        try:
            yield from look()
        except (MailsniError, OSError, ValueError, RecursionError) as problem:
            yield not_looked_at(about, problem)


def not_looked_at(about: str, problem: Exception) -> Finding:
    """The finding that a look could not be taken."""
    denied = isinstance(problem, PermissionMissingError | PermissionError)
    if isinstance(problem, MailsniError):
        why, hint = problem.message, problem.hint
    else:
        why, hint = HostError.of(problem).message if isinstance(problem, OSError) else type(problem).__name__, None
    return Finding(
        "not_looked_at",
        Severity.NOTE if denied else Severity.WARNING,
        f"{about} could not be looked at",
        blamed_place(why) or about,
        why,
        hint or ("run it as root" if denied else "mend what it says, then look again: mailsni doctor"),
    )


def blamed_place(message: str) -> str | None:
    """The file, and the line where one is told, that an error message is about: ``/path, line 3:``, ``/path: …``."""
    found = re.search(r"(/[^\s:,]+)(?:,| \()? ?line (\d+)", message)
    if found is not None:
        return f"{found[1]}:{found[2]}"
    found = re.search(r"(/[^\s:,]+):(?: |\Z)", message)
    return found[1] if found is not None else None


def made_safe(finding: Finding) -> Finding:
    """The same, printable and bounded: no text of it can do anything to a terminal, or hold a key."""
    texts = (finding.what, finding.where, finding.why, finding.fix)
    what, where, why, fix = (printable(text).replace("\n", " / ") for text in texts)
    return Finding(finding.code, finding.severity, what, where or "?", why, fix)


def quoted(*words: str | Path) -> str:
    """Words of a command line, for a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def listed(texts: Sequence[str]) -> str:
    """A few of them, and how many more there are."""
    return names.listed(texts, SHOWN)


@dataclass(frozen=True, slots=True)
class Entry:
    """A logical line of a Postfix file, with its physical lines and their numbers (postconf(5), postmap(1))."""

    lines: tuple[tuple[int, str], ...]

    @property
    def number(self) -> int:
        """Where it begins, counted from 1."""
        return self.lines[0][0]

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join(line.strip() for _, line in self.lines)

    def line_with(self, pattern: str) -> int:
        """The number of the first of its lines that has something; its beginning when none has."""
        return next((number for number, line in self.lines if re.search(pattern, line)), self.number)


def text_of(path: Path) -> str | None:
    """A text file of somebody's, whatever its encoding; None when there is none, or no regular file.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read, or is too large.
    """
    content = files.read_foreign(path, LARGEST)
    return None if content is None else content.decode("utf-8", "surrogateescape")


def entries(text: str) -> list[Entry]:
    """The logical lines of a Postfix file: comments and empty lines are skipped and end nothing, blanks continue."""
    found: list[list[tuple[int, str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and found:
            found[-1].append((number, line))
        else:
            found.append([(number, line)])
    return [Entry(tuple(lines)) for lines in found]


def exposed(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Those files that others can read, with their modes."""
    found = ((path, permissions.why_exposed(path)) for path in paths)
    return [(path, why) for path, why in found if why is not None]


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none when there is no such directory.

    Raises:
        OSError: it cannot be listed.
    """
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208  # names, not paths
    except (FileNotFoundError, NotADirectoryError):
        return []
