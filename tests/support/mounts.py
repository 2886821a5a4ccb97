"""mount(2) and unshare(2) for the tests that run as root; only the standard library."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

READ_ONLY = 1
REMOUNT = 32
BIND = 4096
RECURSIVE = 16384
PRIVATE = 1 << 18
_NEW_MOUNT_NAMESPACE = 0x20000
_DETACH = 2
_KEPT_ON_REMOUNT = 0b1110
"""nosuid, nodev, noexec: a user name space forbids a remount that drops them."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_namespace() -> None:
    """Give this thread, and all processes that it starts from now on, mounts of their own.

    Raises:
        OSError: this process may not (it needs CAP_SYS_ADMIN).
    """
    _require(_libc.unshare(_NEW_MOUNT_NAMESPACE), "unshare")
    mount("none", Path("/"), PRIVATE | RECURSIVE)


def mount(source: str | Path, target: Path, flags: int = 0, kind: str = "none", options: str = "") -> None:
    """Mount a file system, or change a mount: see its page in section 2 of the manual.

    Raises:
        OSError: it failed; the file name is the target.
    """
    words = (os.fsencode(source), os.fsencode(target), kind.encode())
    _require(_libc.mount(*words, ctypes.c_ulong(flags), options.encode()), str(target))


def unmount(target: Path) -> None:
    """Take a mount out of the tree; it ends with its last user.

    Raises:
        OSError: umount2(2) failed.
    """
    _require(_libc.umount2(os.fsencode(target), _DETACH), str(target))


def make_read_only(point: Path) -> None:
    """Close one mount point for writing, unless a later mount hides it; those below it are mounts of their own.

    Raises:
        OSError: mount(2) or statvfs(3) failed.
    """
    try:
        kept = os.statvfs(point).f_flag & _KEPT_ON_REMOUNT
        mount("none", point, BIND | REMOUNT | READ_ONLY | kept)
    except OSError as error:
        is_hidden = error.errno in (errno.ENOENT, errno.EINVAL)  # the path leads nowhere, or to no mount point
        if not is_hidden:
            raise


def mount_points() -> dict[Path, str]:
    """The source of the topmost mount at each mount point of this process (proc_pid_mountinfo(5))."""
    points: dict[Path, str] = {}
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        place, _, origin = line.partition(" - ")
        points[Path(_unescaped(place.split()[4]))] = origin.split()[1]
    return points


def _unescaped(word: str) -> str:
    r"""A path without the escapes of mountinfo: ``\040`` is a space."""
    return word.encode().decode("unicode_escape").encode("latin-1").decode()


def _require(status: int, subject: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
