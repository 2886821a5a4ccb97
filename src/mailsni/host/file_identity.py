"""Which file lies at a path, and whether it is the one that was published."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from mailsni.core.model import FileIdentity, PublishedFile
from mailsni.host import files


def of_status(status: os.stat_result) -> FileIdentity:
    """The identity of the file that a status is of."""
    return FileIdentity(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
    )


def of_file(path: Path) -> FileIdentity | None:
    """The identity of a regular file; None when there is none. Links are not followed."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return of_status(status) if stat.S_ISREG(status.st_mode) else None


def published(path: Path) -> PublishedFile | None:
    """A file as it is now; None when there is no regular one.

    Raises:
        HostError: it cannot be read.
    """
    identity = of_file(path)
    return PublishedFile(identity, _digest(path)) if identity is not None else None


def is_as_published(path: Path, known: PublishedFile | None) -> bool:
    """Whether a file holds what was published. It is read only if it is not the very file that was.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read.
    """
    identity = of_file(path)
    if known is None or identity is None:
        return known is None and identity is None
    return identity == known.identity or (identity.size == known.identity.size and _digest(path) == known.sha256)


def _digest(path: Path) -> str:
    with files.host_errors(path, "cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
