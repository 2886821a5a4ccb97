"""What setup and its removal are planned as, and which files setup may touch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.deploy.state_directory import State
from mailsni.setup.autostart import Kind
from mailsni.setup.steps import Step

_WRITTEN = b"# Written by mailsni"


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """What the command line asks for."""

    config_file: Path | None = None
    """The configuration file, if one was named; hooks and units name it too."""
    take_over: bool = False
    """Replace the administrator's ``tls_server_sni_maps``."""
    kind: Kind | None = None
    """None: what is there already, else the timer."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the plan says for information."""

    text: str


@dataclass(frozen=True, slots=True)
class Caution:
    """What a person should look at."""

    text: str


Item = Step | Note | Caution
"""What the planning of one part of the host gives."""


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """Everything that setup, or its removal, is going to do."""

    settings: Settings
    """As they are when the first steps are done: setup may write a configuration file."""
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings, items: Iterable[Item]) -> SetupPlan:
        """The plan that consists of these items, in their order."""
        every = tuple(items)
        return cls(
            settings,
            tuple(item for item in every if isinstance(item, Step)),
            tuple(item.text for item in every if isinstance(item, Note)),
            tuple(item.text for item in every if isinstance(item, Caution)),
        )


def is_published(settings: Settings, path: Path, content: bytes) -> bool:
    """Whether this program wrote a file that a server reads: its head says so, or the record of what is deployed."""
    return content.startswith(_WRITTEN) or str(path) in State(settings.state.directory).load().deployment.files
