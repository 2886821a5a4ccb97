"""What every builder of a store can do."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mailsni.sandbox.authority import Issued
from mailsni.sources.base import Source
from mailsni.sources.kinds import SourceSettings


def no_pause(_seconds: float) -> None:
    """Instead of waiting for a writer."""


class StoreBuilder(ABC):
    """A store of one kind in a directory of its own, and what happens to it.

    Args:
        root: the directory; it need not exist.
        path: what the store's ``[[sources]]`` table names.
    """

    kind: ClassVar[str]
    separator: ClassVar[str]
    """Between the path and a certificate's name."""
    capacity: ClassVar[int] = 3
    """How many certificates it can hold, or three."""
    key_mark: ClassVar[bytes] = b"PRIVATE KEY"
    """What each file with keys holds."""
    holds_one: ClassVar[bool] = False
    """Whether the store is one certificate."""
    has_files: ClassVar[bool] = True
    """Whether the store has files, which tell what is known already."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path

    @property
    def location(self) -> str:
        """Where the store says that it is."""
        return str(self.path)

    @property
    def error_path(self) -> Path | None:
        """What the errors of the store are about."""
        return self.path

    @property
    def settings(self) -> SourceSettings:
        """What its ``[[sources]]`` table says."""
        return SourceSettings.of(self.kind, path=self.path)

    def source(self, pause: Callable[[float], None] = no_pause) -> Source:
        """The store."""
        store: Any = self.settings.open()
        source: Source = replace(store, pause=pause)
        return source

    def origin(self, name: str) -> str:
        """Of a certificate."""
        return f"{self.path}{self.separator}{name}"

    @abstractmethod
    def put(self, name: str, issued: Issued) -> None:
        """Issue or renew a certificate, to the end."""

    @abstractmethod
    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        """Replace one part of a certificate, or both."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a certificate."""

    @abstractmethod
    def interrupt(self, name: str, issued: Issued) -> None:
        """Begin a renewal and die in the middle of it."""

    @abstractmethod
    def point_outside(self, name: str, target: Path) -> None:
        """Have the store name a file that lies outside of it as a certificate's key."""

    @abstractmethod
    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        """Remove the file with a certificate's key, and put something else in its place."""

    def pass_time(self) -> None:  # noqa: B027  # only some kinds need it
        """As much as the change token needs to tell of a change."""

    def unmount(self) -> None:
        """Take the store away."""
        shutil.move(self.root, self.root.with_name("unmounted"))

    def mount(self) -> None:
        """Bring it back."""
        shutil.move(self.root.with_name("unmounted"), self.root)
