"""Which file lies at a path, without reading it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mailsni.core.model import FileIdentity


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
