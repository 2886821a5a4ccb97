"""What the looks have in common: a look that cannot be taken, other people's text files, and the lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mailsni.core import names
from mailsni.doctor.finding import Finding, Severity
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.host import permissions
from mailsni.host.commands import printable

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


def exposed(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Those files that others can read, with their modes."""
    found = ((path, permissions.why_exposed(path)) for path in paths)
    return [(path, why) for path, why in found if why is not None]
