"""What identifies a file without reading it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells that a file is still the one that was published, without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    owner: int

    @classmethod
    def of(cls, path: Path) -> Identity | None:
        """The identity of a regular file; None when there is none."""
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
        )
