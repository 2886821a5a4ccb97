"""Reads text files and directories that belong to somebody else."""

from __future__ import annotations

import os
from pathlib import Path

from mailsni.host import files

LARGEST = 16 << 20
"""Bytes of a configuration file that are read: the source of a map of 60,000 names has 12 MB."""


def text_of(path: Path) -> str | None:
    """A text file of somebody's, whatever its encoding; None when there is none, or no regular file.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read, or is too large.
    """
    content = files.read_untrusted(path, LARGEST)
    return None if content is None else content.decode("utf-8", "surrogateescape")


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none when there is no such directory.

    Raises:
        OSError: it cannot be listed.
    """
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208  # names, not paths
    except (FileNotFoundError, NotADirectoryError):
        return []
