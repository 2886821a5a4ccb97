"""The way back from a deployment that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from mailsni.errors import MailsniError, RollbackFailedError
from mailsni.host import files
from mailsni.targets.base import StagedFile

UndoStep = Callable[[BaseException], None]
"""Undoes one thing; takes what went wrong. It must not fail where the thing has not been done yet."""


class Rollback:
    """Undo steps, taken in reverse order when the block fails.

    A step is added before what it undoes is done, so that a signal between the two loses nothing. A step that fails
    ends the way back: the steps below it rely on what it should have undone.
    """

    def __init__(self) -> None:
        self._steps: list[UndoStep] = []

    def add(self, step: UndoStep) -> None:
        """Add a step."""
        self._steps.append(step)

    def __enter__(self) -> Self:
        """Start without steps."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, cause: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Take the steps when the block failed."""
        while cause is not None and self._steps:
            self._steps.pop()(cause)


@contextmanager
def way_back_from(cause: BaseException) -> Iterator[None]:
    """Undo something that servers can see.

    Raises:
        RollbackFailedError: it cannot be undone.
    """
    try:
        yield
    except (MailsniError, OSError) as error:
        raise RollbackFailedError(
            f"the way back failed too: {error}; what led to it: {cause}",
            hint="look at the servers now: `mailsni apply --force` publishes everything again",
        ) from cause


def publish_file(file: StagedFile, undo: Rollback) -> None:
    """Rename a staged file to its destination; on the way back its predecessor takes the place again.

    Raises:
        HostError: it cannot be renamed.
    """

    def restore(cause: BaseException) -> None:
        if os.path.lexists(file.path):  # it was never renamed
            return
        with way_back_from(cause):
            if file.previous is None:
                files.remove(file.destination)
            else:
                files.publish(file.previous, file.destination)
            files.fsync_all([file.destination.parent])

    undo.add(restore)
    files.publish(file.path, file.destination)
