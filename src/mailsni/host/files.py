"""Reads and writes files: the only module that writes. Staging, publishing by rename, durability, modes.

* A file is created with ``O_CREAT | O_EXCL | O_NOFOLLOW`` and mode 0600, whatever the umask and whatever lies there
  already. Its mode may become wider afterwards, never narrower.
* Staging happens in a directory of mode 0700 below the directory that is published into, because rename(2) works only
  within one mount and systemd's ``ReadWritePaths=`` makes each of its entries a mount of its own.
* What a server reads changes by rename(2) only, after fsync of the file and before fsync of the directory.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError, RefusedError
from mailsni.host import trust

PRIVATE = 0o600
PUBLIC = 0o644
TEXT_LIMIT = 16 << 20
"""Bytes of a text file that are read: the source of a map of 60,000 names has 12 MB."""
STAGING_NAME = ".mailsni-staging"
"""A dot file: neither ``!include conf.d/*.conf`` nor ``postfix check`` reads it as configuration."""
_FSYNC_EACH = 64
"""For more files than this one syncfs(2) replaces an fsync(2) each."""
_COPY_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def host_errors(path: Path, what: str) -> Iterator[None]:
    """Blame a system call that fails on a path, for example with "cannot be read": on a missing permission or the host.

    Raises:
        PermissionMissingError: this user may not do it.
        HostError: the host cannot do it.
    """
    try:
        yield
    except OSError as error:
        message = f"{path}: {what}: {error.strerror}"
        if isinstance(error, PermissionError) and os.geteuid() != 0:
            raise PermissionMissingError(message, hint="run it as root", path=path) from None
        raise HostError(message, path=path) from None


def read_private(path: Path) -> bytes | None:
    """The content of a regular file of ours; None when there is none, or something else lies there.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read. It does not count as missing: that would forget what is deployed.
    """
    with host_errors(path, "cannot be read"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):  # ELOOP: a link, ENXIO: a socket
                return None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()


def read_untrusted(path: Path, limit: int) -> bytes | None:
    """The content of somebody else's regular file, links followed.

    It checks the file's type before it opens the file for reading: it never opens a FIFO or a device.

    Returns:
        None when there is none, or it is no regular file.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read, or has more than ``limit`` bytes.
    """
    with host_errors(path, "cannot be read"), suppress(FileNotFoundError, NotADirectoryError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            with os.fdopen(reader, "rb") as file:
                content = file.read(limit + 1)
        finally:
            os.close(handle)
        if len(content) > limit:
            raise HostError(f"{path}: has more than {limit} bytes", path=path)
        return content
    return None


def read_text(path: Path) -> str | None:
    """Somebody else's text file, whatever its encoding; None when there is none, or no regular file.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read, or is larger than :data:`TEXT_LIMIT`.
    """
    content = read_untrusted(path, TEXT_LIMIT)
    return None if content is None else content.decode("utf-8", "surrogateescape")


def list_names(directory: Path) -> list[str]:
    """The names in a directory, sorted; none when there is no such directory.

    Raises:
        OSError: it cannot be listed.
    """
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208  # names, not paths
    except (FileNotFoundError, NotADirectoryError):
        return []


def missing_directories(path: Path) -> tuple[Path, ...]:
    """The directories that a path lacks, itself included; the outermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    return tuple(reversed(missing))


def ensure_directory(path: Path, mode: int) -> None:
    """Make a directory of ours, and the missing directories above it; new ones get exactly this mode.

    Raises:
        ConfigurationError: others can put something else there, such as other keys.
        HostError: something else lies there, or it cannot be made.
    """
    trust.require(path)
    with host_errors(path, "the directory cannot be made"):
        for directory in missing_directories(path):
            directory.mkdir(mode=0o700)
            directory.chmod(mode)
    if not path.is_dir():
        raise HostError(f"{path}: not a directory", path=path)


@contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """A private directory below a directory that is published into; removed afterwards with everything in it.

    It removes first what an interrupted run left behind. Then this run's directory has another name: a program that the
    interrupted run started may live on, and create its files late by their old paths. It refuses anything at the name
    that such a run cannot have made: a link, a file, a directory of another user.
    """
    interrupted = clear_staging(directory)
    path = directory / (f"{STAGING_NAME}-{os.getpid()}" if interrupted else STAGING_NAME)
    try:
        with host_errors(path, "the staging directory cannot be made"):
            path.mkdir(mode=0o700)
        yield path
    finally:
        try:
            shutil.rmtree(path, ignore_errors=True)
        except BaseException:  # a signal; it holds keys
            shutil.rmtree(path, ignore_errors=True)
            raise


def clear_staging(directory: Path) -> bool:
    """Remove the staging directories of interrupted runs. Tells whether there was one.

    Raises:
        RefusedError: something lies there that no run of this program made.
        HostError: it cannot be removed.
    """
    with host_errors(directory, "cannot be listed"):
        left = [directory / name for name in list_names(directory) if name.startswith(STAGING_NAME)]
    for path in left:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise RefusedError(
                f"{path}: is not the staging directory of this program",
                hint="somebody else put it there: look at it, then remove it",
                path=path,
            )
        with host_errors(path, "cannot be removed"):
            shutil.rmtree(path)
    return bool(left)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Create a file. It must not exist yet, and is not durable before :func:`fsync_all`.

    Raises:
        RefusedError: something lies there already.
        HostError: it cannot be written.
    """
    with host_errors(path, "cannot be written"), os.fdopen(_open_new(path), "wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fchmod(file.fileno(), mode)


def copy_new(source: Path, destination: Path) -> None:
    """Copy a file of ours, mode and content, to a free name.

    A copy, not a hard link: smtpd(8) notices a replaced table by the link count of the one that it holds open
    (``dict_changed_name``), and a second link would hide the replacement.

    Raises:
        RefusedError: something lies at the destination.
        HostError: it cannot be copied.
    """
    with host_errors(source, "cannot be copied"):
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(reader, "rb") as original, os.fdopen(_open_new(destination), "wb") as copy:
            shutil.copyfileobj(original, copy, _COPY_CHUNK)
            os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(reader).st_mode))


def _open_new(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        raise RefusedError(f"{path}: exists already, which it must not", path=path) from None


def set_mode(path: Path, mode: int) -> None:
    """Give a file or a directory of ours its mode.

    Raises:
        HostError: it cannot be done.
    """
    with host_errors(path, "the mode cannot be set"):
        path.chmod(mode)


def fsync_all(paths: Iterable[Path]) -> None:
    """Make files or directories durable (fsync(2), or one syncfs(2) for many).

    Raises:
        HostError: the disk did not take them. That is final: after a failed fsync the data is lost.
    """
    todo = list(paths)
    if not todo:
        return
    with host_errors(todo[0], "cannot be made durable"):
        if len(todo) <= _FSYNC_EACH:
            for path in todo:
                _with_descriptor(path, os.fsync)
        else:
            _with_descriptor(todo[0], _syncfs)


def publish(staged: Path, destination: Path) -> None:
    """Rename a durable staged file to its destination: servers see the whole new file at once.

    Raises:
        HostError: the place cannot be written.
    """
    with host_errors(destination, "cannot be published"):
        staged.rename(destination)


def exchange(staged: Path, destination: Path) -> None:
    """Put a staged directory in the place of another one, which then lies where the staged one did.

    In one step (renameat2(2), RENAME_EXCHANGE), so that a path always leads to one of them as a whole; where the file
    system cannot do that, in three.

    Raises:
        HostError: it cannot be done.
    """
    import ctypes  # only a target with directories needs it

    with host_errors(destination, "cannot be published"):
        if not os.path.lexists(destination):
            staged.rename(destination)
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(destination), _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        aside = staged.with_name(f"{staged.name}.aside")
        destination.rename(aside)
        staged.rename(destination)
        aside.rename(staged)


def remove(path: Path) -> None:
    """Remove a file of ours, if it is there.

    Raises:
        HostError: it cannot be removed.
    """
    with host_errors(path, "cannot be removed"):
        path.unlink(missing_ok=True)


def replace(path: Path, content: bytes, mode: int = PRIVATE, *, durable: bool = True) -> None:
    """Replace a file of ours as a whole: staged beside it, then renamed over it.

    Durable: fsync of the file before the rename, and of the directory after it. Without that a power cut may leave an
    empty file: only for what may be lost.

    Raises:
        HostError: it cannot be written.
    """
    with _renamed_over(path, durable=durable) as staged:
        create(staged, content, mode)


def edit(path: Path, content: bytes) -> None:
    """Replace the content of a file of the administrator's, durably; its owner, mode and attributes stay.

    A link stays a link: the file that it leads to is replaced.

    Raises:
        HostError: it is not there, or cannot be written.
    """
    target = path.resolve()
    with _renamed_over(target) as staged, host_errors(path, "cannot be edited"):
        status = target.stat()
        create(staged, content)
        os.chown(staged, status.st_uid, status.st_gid)
        staged.chmod(stat.S_IMODE(status.st_mode))
        for name in os.listxattr(target):
            with suppress(OSError):  # some belong to the kernel alone
                os.setxattr(staged, name, os.getxattr(target, name))


@contextmanager
def _renamed_over(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A free name beside a path, for a file that then replaces what lies there."""
    staged = path.with_name(f".{path.name}.new")
    remove(staged)
    try:
        yield staged
        if durable:
            fsync_all([staged])
        publish(staged, path)
    except BaseException:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
    if durable:
        fsync_all([path.parent])


def remove_directory(path: Path) -> bool:
    """Remove a directory of ours if it is empty. Tells whether it is gone.

    Raises:
        HostError: it cannot be removed for another reason.
    """
    with host_errors(path, "cannot be removed"), suppress(FileNotFoundError):
        try:
            path.rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
    return True


@contextmanager
def scratch(**contents: bytes) -> Iterator[Path]:
    """A private directory that no server reads, with these files (``_`` stands for a dot); removed afterwards.

    Raises:
        HostError: it cannot be made.
    """
    import tempfile  # a hook's way in does not need it

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
    import ctypes  # only a deployment of many certificates needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
