"""What every server that takes certificates can do: the seam behind which Postfix and Dovecot differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from mailsni.config.settings import Action
from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.host import file_identity, files
from mailsni.probes.endpoint import Endpoint
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.reload import ReloadResult

TargetName = Literal["postfix", "dovecot", "mailcow"]
"""The mail servers (:data:`mailsni.probes.endpoint.Server`), and what else takes certificates."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A finished file, the place to publish it at, and what to put there again when it has to go back.

    Or a finished directory: it is exchanged with the one at the destination, and exchanged again to go back.
    """

    path: Path
    destination: Path
    previous: Path | None
    """A copy of what lies at the destination; None when going back means to remove it, and for a directory."""


def copy_of_live(live: Path, copy: Path) -> Path | None:
    """Copy what lies at a destination, to put it there again; None when nothing lies there."""
    if file_identity.of_file(live) is None:
        return None
    files.copy_new(live, copy)
    return copy


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that a target publishes, proven, in the order in which to publish it."""

    files: tuple[StagedFile, ...]
    memory: Mapping[str, str] = field(default_factory=dict)
    """What the target must know of this stage at the next run; only the target understands it. The deployment record
    keeps it (:attr:`mailsni.core.deployment.Deployment.memories`)."""
    starts: bool = False
    """Whether the server itself said that it would start with these files in their places."""


class Target(Protocol):
    """A server that takes certificates."""

    @property
    def name(self) -> TargetName:
        """The server's name."""

    @property
    def path(self) -> Path:
        """The text file that is written for it."""

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """Every path at which a stage may publish a file, :attr:`path` among them."""

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        """Those of :attr:`artifacts` that something may read; the others are removed, some time after a deployment."""

    @property
    def installed(self) -> bool:
        """Whether the server is on this host; its files can be made all the same."""

    @property
    def reload_action(self) -> Action:
        """How :meth:`reload` makes the server read new files, as the configuration says."""

    @property
    def is_configured(self) -> bool:
        """Whether the server's configuration names the live files."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server's configuration asks for and no stage can give."""

    @property
    def pin_directory(self) -> Path | None:
        """Where the pinned files must lie because the running server opens them; None when it does not."""

    def render(self, selection: Selection, pins: PinDirectory, templates: Path | None) -> bytes:
        """The text that it should have. The same selection gives the same bytes.

        Raises:
            ConfigurationError: the administrator's template is wrong.
        """

    def named_files(self, text: bytes) -> Mapping[str, tuple[Path, ...]]:
        """The names that a text serves, and the files that it names for each; names are as in a selection."""

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the live files must be published again; None when they are what they should be."""

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """Make everything in a private directory beside the live files, and prove it.

        Args:
            staging: the directory. Nothing outside of it is written.
            text: what :meth:`render` gave for the same selection.
            selection: the names and their certificates.
            pins: the pinned files of all of these; they are in their places already.

        Raises:
            HostError: it cannot be made, or the server would not take it.
        """

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        """Why the running server does not read the live files, and what to do about it; None when it reads them.

        Args:
            memory: of the stage that is live, or about to be.
        """

    def startup_problem(self) -> str | None:
        """Why the server would not start again with its configuration as it is, in one line; None when it would.

        One that is not installed has no problem.

        Raises:
            HostError: nobody can tell.
            PermissionMissingError: this user may not read what it takes.
        """

    def reload(self) -> ReloadResult:
        """Make the running server read the live files, as the configuration says.

        Raises:
            HostError: the command failed, for another reason than that the server does not run.
        """

    def failure(self) -> str | None:
        """Why the running server, as it says itself, can serve nobody now; None when it can, or does not say.

        A server that answers no probe in time may just be slow.
        """

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """Where the server says that it listens.

        Args:
            every_family: on IPv4 and on IPv6, where it listens on both; else one address of each service.

        Raises:
            HostError: it does not say.
        """
