"""The servers that take artifacts, one module each, and what both can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.probes.endpoint import Endpoint, Server
from mailsni.targets.reload import ReloadResult
from mailsni.targets.rendering import Paths


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A key of the Postfix map, and the pinned files whose content it must hold."""

    key: str
    pins: tuple[Path, ...]
    digests: tuple[str, ...]
    """SHA-256 of each, hexadecimal, or the first digits of it."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished file, the place it is to be published at, and what to put there again when it has to go back."""

    path: Path
    destination: Path
    previous: Path | None
    """A copy of what lies at the destination; None when going back means to remove it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that a target publishes, proven, in the order in which to publish it."""

    files: tuple[Staged, ...]
    map_type: str = ""
    """Of a compiled Postfix map."""


class Target(Protocol):
    """A server that takes artifacts."""

    @property
    def name(self) -> Server:
        """Of the server."""

    @property
    def path(self) -> Path:
        """The text that is written for it."""

    @property
    def installed(self) -> bool:
        """Whether the server is on this host; its files can be made all the same."""

    def render(self, selection: Selection, paths: Paths, templates: Path | None) -> bytes:
        """The text that it should have."""

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why what is live is not what should be; None when it is."""

    def stage(self, staging: Path, text: bytes, entries: Sequence[MapEntry]) -> Stage:
        """Make everything in a private directory beside the live files, and prove it.

        Raises:
            HostError: it cannot be made, or the server would not take it.
        """

    def not_configured_reason(self, map_type: str) -> str | None:
        """Why the running server does not read the live files, and what to do; None when it does."""

    def signal(self) -> ReloadResult:
        """Make the running server read the live files, as the configuration says.

        Raises:
            HostError: the command failed, for another reason than that the server does not run.
        """

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """Where the server says that it listens.

        Args:
            every_family: on IPv4 and on IPv6, where it listens on both; else one address of each service.

        Raises:
            HostError: it does not say.
        """
