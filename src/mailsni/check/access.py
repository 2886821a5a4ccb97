"""Who else may read or change the files, and whether they are there at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailsni.check.model import Code, Finding, Level
from mailsni.host import files, permissions


def check_files(paths: Iterable[Path], mode: int, owner: int) -> Iterator[Finding]:
    """A finding for each file with another owner, or with bits that the mode does not have."""
    harm = "others may read its keys" if mode == files.PRIVATE else "others may change it"
    for path in paths:
        excess = permissions.excess_permissions(path, mode, owner)
        if excess is not None:
            yield Finding(Level.CRITICAL, Code.INSECURE_FILE, f"{excess}: {harm}")


def check_directory(directory: Path, owner: int) -> Iterator[Finding]:
    """A finding for a directory that others may write in, or own."""
    excess = permissions.excess_permissions(directory, 0o755, owner)
    if excess is not None:
        text = f"{excess}: others may replace the files in it"
        yield Finding(Level.CRITICAL, Code.INSECURE_DIRECTORY, text)


def is_absent(path: Path) -> bool:
    """Whether nothing is there; no, where this user cannot tell."""
    return not os.path.lexists(path) and os.access(path.parent, os.X_OK)
