"""The only module that writes: staging, publishing by rename, durability, modes, the lock.

* A file is created with ``O_CREAT | O_EXCL | O_NOFOLLOW`` and mode 0600, whatever the umask and whatever lies there
  already; it may be made wider afterwards, never narrower.
* Staging happens in a directory of mode 0700 below the directory that is published into, because rename(2) works only
  within one mount and systemd's ``ReadWritePaths=`` makes each of its entries a mount of its own.
* What a server reads changes by rename(2) only, after fsync of the file, before fsync of the directory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError, RefusedError

PRIVATE = 0o600
PUBLIC = 0o644
_WRITABLE_BY_OTHERS = 0o022
STAGING_NAME = ".mailsni-staging"
"""A dot file: neither ``!include conf.d/*.conf`` nor ``postfix check`` takes it for configuration."""
_FSYNC_EACH = 64
"""More new files than this are made durable by one syncfs(2) instead of an fsync(2) each."""
_COPY_CHUNK = 1 << 20


def read_private(path: Path) -> bytes | None:
    """The content of a regular file of ours; None when it is not there, or something else lies there.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read: to go on as if it were not there would forget what is deployed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return None
        raise as_host_error(error, path, "cannot be read") from None


def read_untrusted(path: Path, limit: int) -> bytes | None:
    """The content of somebody else's regular file, links followed.

    It is judged before it is opened for reading, so a FIFO or a device is never opened.

    Args:
        path: the file.
        limit: bytes that it may have at most.

    Returns:
        None when it is not there, or something else than a regular file is.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read, or is larger.
    """
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            with os.fdopen(reader, "rb") as file:
                content = file.read(limit + 1)
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise as_host_error(error, path, "cannot be read") from None
    if len(content) > limit:
        raise HostError(f"{path}: has more than {limit} bytes", path=path)
    return content


def ensure_directory(path: Path, mode: int) -> None:
    """Make a directory of the program's own and what is missing above it; new ones get exactly this mode.

    In one that is there already nobody else may rename or remove files: write permission of others is taken away.

    Raises:
        RefusedError: it belongs to another user than root, who could put other keys there.
        HostError: something else lies there, or it cannot be made.
    """
    missing = []
    at = path
    while not at.exists() and not at.is_symlink():
        missing.append(at)
        at = at.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=0o700)
            directory.chmod(mode)
    except OSError as error:
        raise as_host_error(error, path, "the directory cannot be made") from None
    if not path.is_dir():
        raise HostError(f"{path}: not a directory", path=path)
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise RefusedError(
            f"{path}: belongs to user {status.st_uid}, who could put other keys there",
            hint=f"look at what lies there, then chown root {path}",
            path=path,
        )
    if status.st_mode & _WRITABLE_BY_OTHERS and status.st_uid == os.geteuid():
        set_mode(path, stat.S_IMODE(status.st_mode) & ~_WRITABLE_BY_OTHERS)


@contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """A private directory below one that is published into, gone again afterwards, with all that is left in it.

    What an interrupted run left behind is removed first; this run's directory has another name then, because a
    program that the interrupted one started may live on and create its files late, by their old paths. Anything at
    the name that such a run cannot have made (a link, a file, a directory of another user) is refused.
    """
    interrupted = clear_staging(directory)
    path = directory / (f"{STAGING_NAME}-{os.getpid()}" if interrupted else STAGING_NAME)
    try:
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise as_host_error(error, path, "the staging directory cannot be made") from None
        yield path
    finally:
        try:
            shutil.rmtree(path, ignore_errors=True)
        except BaseException:  # a signal; it holds keys
            shutil.rmtree(path, ignore_errors=True)
            raise


def clear_staging(directory: Path) -> bool:
    """Remove what interrupted runs left in their staging directories. Tells whether there was anything.

    Raises:
        RefusedError: something lies there that no run of this program made.
        HostError: it cannot be removed.
    """
    try:
        found = sorted(entry.name for entry in os.scandir(directory) if entry.name.startswith(STAGING_NAME))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise as_host_error(error, directory, "cannot be listed") from None
    for path in (directory / name for name in found):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise RefusedError(
                f"{path}: is not the staging directory of this program",
                hint="somebody else put it there: look at it, then remove it",
                path=path,
            )
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise as_host_error(error, path, "cannot be removed") from None
    return bool(found)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Create a file that is not there yet. It is not durable before :func:`fsync_all`.

    Raises:
        RefusedError: something lies there already.
        HostError: it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fchmod(descriptor, mode)
    except FileExistsError:
        raise RefusedError(f"{path}: exists already, which it must not", path=path) from None
    except OSError as error:
        raise as_host_error(error, path, "cannot be written") from None


def copy_new(source: Path, destination: Path) -> None:
    """Copy a file of ours, mode and content, to a name that is free.

    A copy, not a hard link: smtpd(8) sees that a table was replaced by the link count of the one it holds open
    (``dict_changed_name``), and a second link would hide it.

    Raises:
        RefusedError: something lies at the destination.
        HostError: it cannot be copied.
    """
    try:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(reader, "rb") as original:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(destination, flags, PRIVATE), "wb") as copy:
                shutil.copyfileobj(original, copy, _COPY_CHUNK)
                os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(reader).st_mode))
    except FileExistsError:
        raise RefusedError(f"{destination}: exists already, which it must not", path=destination) from None
    except OSError as error:
        raise as_host_error(error, source, "cannot be copied") from None


def set_mode(path: Path, mode: int) -> None:
    """Give a file or a directory of ours its mode.

    Raises:
        HostError: it cannot be done.
    """
    try:
        path.chmod(mode)
    except OSError as error:
        raise as_host_error(error, path, "the mode cannot be set") from None


def fsync_all(paths: Iterable[Path]) -> None:
    """Have written files on the disk before they are published (fsync(2), or one syncfs(2) for many).

    Raises:
        HostError: the disk did not take them. That is final: after a failed fsync the data is lost.
    """
    todo = list(paths)
    if not todo:
        return
    try:
        if len(todo) <= _FSYNC_EACH:
            for path in todo:
                _with_descriptor(path, os.fsync)
        else:
            _with_descriptor(todo[0], _syncfs)
    except OSError as error:
        raise as_host_error(error, todo[0], "cannot be made durable") from None


def publish(staged: Path, destination: Path) -> None:
    """Put a durable staged file in its place by rename(2), for servers to see at once and whole.

    Raises:
        HostError: the place cannot be written.
    """
    try:
        staged.rename(destination)
    except OSError as error:
        raise as_host_error(error, destination, "cannot be published") from None


def remove(path: Path) -> None:
    """Remove a file of ours, if it is there.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise as_host_error(error, path, "cannot be removed") from None


def replace(path: Path, content: bytes, mode: int = PRIVATE, *, durable: bool = True) -> None:
    """Write a file of the program's own whole: staged beside it, then renamed over it.

    Args:
        path: the file.
        content: all of it.
        mode: of the file.
        durable: have it on the disk before it replaces the old one, and the directory afterwards. Without that a
            power cut may leave an empty file: only for what may be lost.

    Raises:
        HostError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.new")
    remove(staged)
    try:
        create(staged, content, mode)
        if durable:
            fsync_all([staged])
        publish(staged, path)
    except BaseException:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
    if durable:
        fsync_all([path.parent])


def edit(path: Path, content: bytes) -> None:
    """Give a file of the administrator's another content, whole and durably: its owner, mode and attributes stay.

    A link stays a link: what it leads to is replaced.

    Raises:
        HostError: it is not there, or cannot be written.
    """
    target = path.resolve()
    staged = target.with_name(f".{target.name}.mailsni")
    remove(staged)
    try:
        status = target.stat()
        create(staged, content)
        os.chown(staged, status.st_uid, status.st_gid)
        staged.chmod(stat.S_IMODE(status.st_mode))
        for name in os.listxattr(target):
            with suppress(OSError):  # some belong to the kernel alone
                os.setxattr(staged, name, os.getxattr(target, name))
        fsync_all([staged])
        publish(staged, target)
    except OSError as error:
        raise as_host_error(error, path, "cannot be edited") from None
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
    fsync_all([target.parent])


def remove_directory(path: Path) -> bool:
    """Remove an empty directory of ours. Tells whether it is gone: one with something in it stays.

    Raises:
        HostError: it cannot be removed for another reason.
    """
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise as_host_error(error, path, "cannot be removed") from None
    return True


@contextmanager
def scratch(**contents: bytes) -> Iterator[Path]:
    """A private directory outside of everything that a server reads, gone again afterwards.

    Args:
        contents: files in it, by name; ``_`` in a name stands for a dot.

    Raises:
        HostError: it cannot be made.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix="mailsni-"))
    except OSError as error:
        raise HostError(f"{tempfile.gettempdir()}: no directory can be made there: {error.strerror}") from None
    try:
        for name, content in contents.items():
            create(directory / name.replace("_", "."), content)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _with_descriptor(path: Path, act: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


def _syncfs(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def as_host_error(error: OSError, path: Path, what: str) -> HostError | PermissionMissingError:
    """The error to raise for a system call that failed on a path: a missing permission, else the host's fault."""
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return PermissionMissingError(f"{path}: {what}: {error.strerror}", hint="run it as root", path=path)
    return HostError(f"{path}: {what}: {error.strerror}", path=path)
