"""What all checks share: a check that cannot run, texts that can be shown, and fixes that several checks give."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mailsni.core.text import printable
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.host import permissions

FILES_IN_COMMAND = 4
"""Files that one command of a fix names."""
KEYS_EXPOSED = "others may know the keys: replace them (certbot renew --force-renewal --new-key)"
"""Note of a fix, where keys could be read."""

Check = Callable[[], Iterable[Finding]]


def run_each(*checks: tuple[str, Check]) -> Iterator[Finding]:
    """The findings of several checks; one that cannot run is a finding, and the next ones go on.

    Args:
        checks: what each is about, and the check.
    """
    for about, check in checks:
        try:
            yield from check()
        except (MailsniError, OSError, ValueError, RecursionError) as problem:
            yield check_failed(about, problem)


def check_failed(about: str, problem: Exception) -> Finding:
    """The finding that a check could not run."""
    denied = isinstance(problem, PermissionMissingError | PermissionError)
    error = HostError.of(problem) if isinstance(problem, OSError) else problem
    why, hint = (error.message, error.hint) if isinstance(error, MailsniError) else (type(error).__name__, None)
    return Finding(
        "check_failed",
        Severity.NOTE if denied else Severity.WARNING,
        f"cannot check {about}",
        place_of(error) or about,
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


def sanitized(finding: Finding) -> Finding:
    """The same, printable and bounded: no text of it can do anything to a terminal, or hold a key."""
    fix = finding.fix
    command, edit = fix.command, fix.edit
    if command is not None and _one_line(command) != command:
        # A name that cannot be shown, or too long: nobody may run what is left of it.
        command, edit = None, "; ".join(filter(None, (edit, f"do what this stands for: {command}")))
    return Finding(
        finding.code,
        finding.severity,
        _one_line(finding.what),
        _one_line(finding.where) or "?",
        _one_line(finding.why),
        Fix(command, edit and _one_line(edit), fix.note and _one_line(fix.note)),
    )


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " / ")


def quoted(*words: str | Path) -> str:
    """Words of a command line, for a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def chmod(mode: str, paths: Sequence[Path], note: str | None = None) -> Fix:
    """The fix that changes the mode of files, however many there are."""
    more = len(paths) - FILES_IN_COMMAND
    repeat = f"repeat it for the other {more}" if more > 0 else None
    return Fix(quoted("chmod", mode, *paths[:FILES_IN_COMMAND]), note="; ".join(filter(None, (repeat, note))) or None)


def writable_by_others(path: Path) -> tuple[str, Fix] | None:
    """Why others than root can write to a file or a directory, and the fix; None when they cannot."""
    status = path.stat()
    is_directory = stat.S_ISDIR(status.st_mode)
    writable = permissions.others_can_replace_entries if is_directory else permissions.others_can_write
    if status.st_uid not in (0, os.geteuid()):
        command = quoted("chown", "root", path) + " && " + quoted("chmod", "go-w", path)
        return f"it belongs to user {status.st_uid}", Fix(command)
    if writable(status):
        return f"mode {stat.S_IMODE(status.st_mode):04o}", Fix(quoted("chmod", "go-w", path))
    return None


def world_readable(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """The files that every user of the host can read, with their modes."""
    reasons = ((path, permissions.world_readable(path)) for path in paths)
    return [(path, reason) for path, reason in reasons if reason is not None]
