"""Who may read and write a file: owners, modes, and the directories above it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError, RefusedError
from mailsni.host import file_identity, files


def mode_problem(path: Path, mode: int) -> str | None:
    """What is wrong with the owner or the mode of a file of ours; None when nothing is."""
    identity = file_identity.of_file(path)
    if identity is None:
        return f"{path} is gone, or is no regular file"
    if identity.owner != os.geteuid():
        return f"{path} belongs to somebody else"
    return None if identity.mode == mode else f"{path} has mode {identity.mode:04o} instead of {mode:04o}"


def excess_permissions(path: Path, mode: int, owner: int) -> str | None:
    """What gives others more access to a file or a directory than they should have: its owner, or bits of its mode.

    ``mode`` has all bits that it may have; ``owner`` is the number of the user that it must belong to.

    Returns:
        None when nothing does, when there is no such file, or this user cannot see it.
    """
    try:
        status = path.stat() if path.is_dir() else path.lstat()
    except OSError:
        return None
    if status.st_uid != owner:
        return f"{path} belongs to user {status.st_uid}"
    has = stat.S_IMODE(status.st_mode)
    return f"{path} has mode {has:04o} instead of {mode:04o}" if has & ~mode & 0o777 else None


def world_readable(path: Path) -> str | None:
    """The mode of a file that every user can read: its own mode and that of every directory above it allow it.

    Returns:
        None when not every user can, or there is no such file.
    """
    return _world_mode(path, stat.S_IROTH)


def world_writable(path: Path) -> str | None:
    """Why others than the owner and the group can write a file; see :func:`world_readable`."""
    return _world_mode(path, stat.S_IWOTH)


def _world_mode(path: Path, permission: int) -> str | None:
    real = path.resolve()
    try:
        mode = stat.S_IMODE(real.stat().st_mode)
        if not mode & permission or not all(above.stat().st_mode & stat.S_IXOTH for above in real.parents):
            return None
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # what we cannot reach, others cannot
        return None
    return f"mode {mode:04o}"


def require_writable(paths: Iterable[Path]) -> None:
    """Make sure that this user can write below these directories.

    Raises:
        PermissionMissingError: one of them, or the nearest directory above it that exists, is not writable.
        HostError: not even root can write there.
    """
    for path in paths:
        at = path
        # lexists says no to what this user may not see; the directory above it then says no to writing.
        while not os.path.lexists(at) and at != at.parent:
            at = at.parent
        if os.access(at, os.W_OK | os.X_OK):
            continue
        if os.geteuid() == 0:
            raise HostError(
                f"{path}: cannot be written, not even by root", hint="is the file system read-only?", path=path
            )
        raise PermissionMissingError(f"{path}: cannot be written by this user", hint="run it as root", path=path)


def require_replaceable(path: Path) -> None:
    """Make sure that :func:`mailsni.host.files.replace` may write to a path that somebody chose.

    Raises:
        RefusedError: something lies there that is no regular file: a link could be a trap, and a pipe or a device is
            no place for a file.
        HostError: its directory is not there, or not even root can write in it.
        PermissionMissingError: this user cannot write in it.
    """
    with files.host_errors(path, "cannot be looked at"), suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RefusedError(f"{path}: is no regular file", hint="look at what lies there, then remove it", path=path)
    if not path.parent.is_dir():
        raise HostError(f"{path.parent}: is no directory", hint="make it, or name another place", path=path.parent)
    require_writable([path.parent])
