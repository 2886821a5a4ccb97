"""Reads files of a store: once, up to a size limit, and nothing outside the store.

A file is opened without effect first (``O_PATH``), checked by its descriptor, and opened for reading through the same
descriptor, so nothing can be swapped in between. A FIFO or a device is never opened for reading.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import FileIdentity, Reason
from mailsni.core.text import printable_name
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import file_identity

SIZE_LIMIT = 1 << 20
"""Bytes in one key or chain. An RSA-4096 key has 3 KB, a chain of a hundred names 10 KB."""

FIRST_LOOK = 1 << 15
"""Bytes. What OpenSSL prints of a certificate before its PEM block has 4 KB, and 100 names another 3 KB."""


STORE_HINT = (
    "[[sources]] in the configuration says where the store is; `mailsni sources --detect` finds those of this host"
)


class ReadRefusedError(Exception):
    """A file of a store cannot be read, or must not be. The message holds none of its content."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file that was read: its content, and which file it was."""

    content: bytes
    identity: FileIdentity

    @property
    def changed(self) -> float:
        """When it or its name last changed, seconds since the epoch."""
        return self.identity.ctime_ns / 1e9


@dataclass(frozen=True, slots=True)
class StoreBoundary:
    """What belongs to a store, and how large its files may be."""

    roots: tuple[str, ...]
    """Real paths of directories, with all below them, or of files."""
    size_limit: int = SIZE_LIMIT
    """Bytes in one file."""
    marker: bytes = b""
    """What the first :data:`FIRST_LOOK` bytes of a file must have in them; the content of another one is empty."""

    def contains(self, descriptor: int) -> bool:
        """Whether an open file lies in the store, by the path that the kernel knows for it (proc(5))."""
        return self.holds(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  # twice for every certificate

    def holds(self, real: str) -> bool:
        """Whether a path without links lies in the store."""
        return any(real == root or real.startswith(root + "/") for root in self.roots)

    def read(self, path: str, *, missing: Reason) -> StoreFile:
        """Read one file.

        Args:
            path: an absolute path; links are followed.
            missing: the reason to give when there is no such file, or a link to nothing.

        Raises:
            ReadRefusedError: it is missing, not regular, outside the store, too large or unreadable.
        """
        shown = printable_name(path.rpartition("/")[2])
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ReadRefusedError(missing, f"{shown} is not there, or a link to nothing") from None
        except OSError as error:
            raise ReadRefusedError(Reason.UNREADABLE, f"{shown}: {error.strerror}") from None
        try:
            return self._read_handle(shown, handle)
        except OSError as error:
            raise ReadRefusedError(Reason.UNREADABLE, f"{shown}: {error.strerror}") from None
        finally:
            os.close(handle)

    def _read_handle(self, shown: str, handle: int) -> StoreFile:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ReadRefusedError(Reason.NOT_A_REGULAR_FILE, f"{shown} is not a regular file")
        if not self.contains(handle):
            raise ReadRefusedError(Reason.SYMLINK_OUTSIDE_STORE, f"{shown} is a link that leaves the store")
        if status.st_size > self.size_limit:
            raise ReadRefusedError(Reason.TOO_LARGE, f"{shown} has {status.st_size} bytes, more than {self.size_limit}")
        reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(reader, "rb", buffering=0) as file:
            content = file.read(FIRST_LOOK if self.marker else self.size_limit + 1)
            if self.marker and content:
                content = content + file.read(self.size_limit) if self.marker in content else b""
        if content is None or len(content) > self.size_limit:
            raise ReadRefusedError(Reason.TOO_LARGE, f"{shown} grew over {self.size_limit} bytes while it was read")
        return StoreFile(content, file_identity.of_status(status))


@contextmanager
def listing_errors(store: Path) -> Iterator[None]:
    """Turns what goes wrong while a store's directories are listed into errors of that store.

    Raises:
        PermissionMissingError: this user may not list one of them.
        HostError: one of them is missing or cannot be listed.
    """
    try:
        yield
    except PermissionError as error:
        what = f"{error.filename or store}: cannot be read: {error.strerror}"
        raise PermissionMissingError(what, hint="run it as root", path=store) from None
    except OSError as error:
        what = f"{error.filename or store}: cannot be read: {error.strerror}"
        raise HostError(what, hint=STORE_HINT, path=store) from None
