"""Stages a deployment: every file made, proven and durable, in private directories that no server reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.targets.base import StagedFile, Target


@dataclass(frozen=True, slots=True)
class StagedDeployment:
    """What is ready to be published."""

    files: tuple[StagedFile, ...]
    """In the order in which to publish them."""
    memories: Mapping[str, Mapping[str, str]]
    """What each target must remember of it, by name."""

    @property
    def destinations(self) -> tuple[Path, ...]:
        """Where the files are published."""
        return tuple(file.destination for file in self.files)


def stage(snapshot: Snapshot, targets: Iterable[Target], directories: ExitStack) -> StagedDeployment:
    """Write the pinned files, which nothing names yet, and stage what the targets publish.

    ``directories`` removes the private directories when it closes.

    Raises:
        HostError: a file cannot be made, or a server would not take it.
        RefusedError: something lies at the name of a private directory that no run made.
    """
    opened: dict[Path, Path] = {}

    def private_directory_in(directory: Path) -> Path:
        if directory not in opened:
            opened[directory] = directories.enter_context(files.staging(directory))
        return opened[directory]

    snapshot.pins.publish(snapshot.plan.pins, private_directory_in(snapshot.pins.path))
    staged: list[StagedFile] = []
    memories: dict[str, Mapping[str, str]] = {}
    for target in targets:
        directory = target.path.parent
        if not directory.is_dir():
            raise HostError(f"{directory}: no such directory: {target.path.name} cannot be written there")
        text = snapshot.texts[target.name]
        result = target.stage(private_directory_in(directory), text, snapshot.selection, snapshot.pins)
        staged += result.files
        memories[target.name] = result.memory
    files.fsync_all([path for file in staged for path in (file.path, file.previous) if path is not None])
    return StagedDeployment(tuple(staged), memories)
