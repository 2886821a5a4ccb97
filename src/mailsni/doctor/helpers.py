"""What the looks have in common: a look that cannot be taken, other people's text files, and the lines in them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mailsni.core.text import printable
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.host import permissions

SHOWN = 4
"""Names, lines or files that a finding lists."""

KEYS_EXPOSED = "others may know the keys: replace them (certbot renew --force-renewal --new-key)"
"""Note of a fix, where keys could be read."""

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
        place_of(problem) or about,
        why,
        Fix(edit=hint or ("run it as root" if denied else "correct what the message says")),
    )


def place_of(problem: Exception) -> str | None:
    """What an error is about: ``/path:LINE`` or ``/path``; None when it does not carry that."""
    if isinstance(problem, OSError):
        problem = HostError.of(problem)
    if not isinstance(problem, MailsniError) or problem.path is None:
        return None
    return str(problem.path) if problem.line is None else f"{problem.path}:{problem.line}"


def made_safe(finding: Finding) -> Finding:
    """The same, printable and bounded: no text of it can do anything to a terminal, or hold a key."""
    fix = finding.fix
    command, edit = fix.command, fix.edit
    if command is not None and _safe(command) != command:
        # A name that cannot be shown, or too long: nobody may run what is left of it.
        command, edit = None, "; ".join(filter(None, (edit, f"do what this stands for: {command}")))
    return Finding(
        finding.code,
        finding.severity,
        _safe(finding.what),
        _safe(finding.where) or "?",
        _safe(finding.why),
        Fix(command, edit and _safe(edit), fix.note and _safe(fix.note)),
    )


def _safe(text: str) -> str:
    return printable(text).replace("\n", " / ")


def quoted(*words: str | Path) -> str:
    """Words of a command line, for a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def exposed(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Those files that others can read, with their modes."""
    found = ((path, permissions.world_readable(path)) for path in paths)
    return [(path, why) for path, why in found if why is not None]
