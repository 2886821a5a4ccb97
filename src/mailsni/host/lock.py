"""The lock that allows one run at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailsni.errors import LockedError, RefusedError
from mailsni.host.files import PRIVATE, host_errors

_LOCK_POLL = 0.1


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the program's lock (flock(2): the kernel releases it when the holder dies).

    The lock file is made when it is missing, and never removed.

    Raises:
        LockedError: another run still holds it after ``wait`` seconds.
        RefusedError: what lies there is not a lock file.
        PermissionMissingError: this user may not open it.
    """
    deadline = time.monotonic() + wait
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise LockedError(f"{path}: another run holds the lock", hint="--wait SECONDS waits for it", path=path)
        time.sleep(_LOCK_POLL)
    try:
        yield
    finally:
        with suppress(OSError):  # whatever it says, the descriptor is closed and the lock is free
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    with host_errors(path, "the lock file cannot be opened"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE)
        except OSError:
            if path.is_symlink():
                raise RefusedError(
                    f"{path}: is a link, not a lock file", hint="look at it, then remove it", path=path
                ) from None
            raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise RefusedError(f"{path}: is not a lock file", hint="look at it, then remove it", path=path)
        with host_errors(path, "cannot be locked"), suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have replaced the file between open and flock: then another run can lock the new one.
            if os.path.samestat(path.lstat(), status):
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Whether a run holds the lock; False when this user cannot tell. Makes no file and does not wait.

    The test takes a shared lock for an instant: call it only when something else says that a run may be active.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
