"""A command that prints certificates with their keys: whatever a store is, some program can read it.

It prints PEM or JSON (:mod:`mailsni.sources.printed`). It runs once for each scan of the stores; to tell whether
something changed it would have to run, too, which may cost money or count against a limit. So the change token changes
with time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import commands, file_identity, trust
from mailsni.sources.base import StoreFiles, WatchPath
from mailsni.sources.document import Content, DocumentStore, origin_of
from mailsni.sources.printed import entries

TIME_LIMIT = 60.0
"""Seconds that the command may take."""
OUTPUT_LIMIT = 16 << 20
"""Bytes that it may print: four thousand certificates."""
_COMPLAINT_LIMIT = 500


def command_store(command: tuple[str, ...], every: float) -> DocumentStore:
    """The store that a command prints. It has no files.

    Args:
        command: the absolute path of a program, and its arguments.
        every: seconds after which the change token changes.
    """
    return DocumentStore(CommandDocument(command, every), entries)


@dataclass(frozen=True, slots=True)
class CommandDocument:
    """See :class:`mailsni.sources.document.Document`.

    Args:
        command: see :func:`command_store`.
        every: likewise.
        clock: seconds that never go back. They begin with the boot, so that not every host asks at the same moment.
        time_limit: seconds that the command may take.
    """

    command: tuple[str, ...]
    every: float
    clock: Callable[[], float] = time.monotonic
    time_limit: float = TIME_LIMIT

    @property
    def location(self) -> str:
        """The program."""
        return origin_of(self.command[0])

    @property
    def path(self) -> Path:
        """The program."""
        return Path(self.command[0])

    @property
    def origins(self) -> tuple[str, ...]:
        """The program; and, where it has arguments, a digest of them: they may hold what nobody should read."""
        program, *arguments = self.command
        digest = hashlib.blake2b("\0".join(arguments).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        return (f"{origin_of(program)}:{digest}" if arguments else origin_of(program),)

    def fetch(self) -> Content:
        """Run it."""
        if found := trust.weaknesses(self.path):
            message = f"{self.location}: others can change it: {'; '.join(map(str, found))}"
            raise HostError(message, hint=f"look at it, then: {trust.remedy(self.path, found)}", path=self.path)
        if not self._can_be_run():
            raise PermissionMissingError(f"{self.location}: may not be run by this user", path=self.path)
        try:
            completed = commands.run_bounded(self.command, timeout=self.time_limit, limit=OUTPUT_LIMIT)
        except HostError as error:
            raise HostError(error.message, path=self.path) from None
        if completed.returncode != 0:
            said = " / ".join(completed.stderr.splitlines())[:_COMPLAINT_LIMIT] or "and said nothing"
            message = f"{self.location}: failed with exit status {completed.returncode}: {said}"
            raise HostError(message, path=self.path)
        if not completed.stdout.strip():
            raise HostError(f"{self.location}: printed nothing", path=self.path)
        return Content(completed.stdout, self.origins[0])

    def change_token(self) -> bytes:
        """Which program it is, and the time. It is not run."""
        try:
            identity: object = file_identity.of_status(self.path.stat())
        except OSError as error:
            identity = error.errno
        return repr((identity, self.clock() // self.every)).encode()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """None."""
        return ()

    def files(self) -> StoreFiles:
        """None. The command is run to see that it can be."""
        self.fetch()
        return StoreFiles()

    def _can_be_run(self) -> bool:
        """Whether this user may; a program that is not there is another matter."""
        try:
            self.path.stat()
        except OSError as error:
            return not isinstance(error, PermissionError)
        return os.access(self.path, os.X_OK)
