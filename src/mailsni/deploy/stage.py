"""Stages a deployment: every file made, proven and durable, in private directories that no server reads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.startup import startup_problems
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.targets.base import Stage, Target


def stage(snapshot: Snapshot, targets: Iterable[Target], directories: ExitStack) -> dict[str, Stage]:
    """Write the pinned files, which nothing names yet, and stage what the targets publish.

    The stages are by the targets' names, in the order in which to publish them. A server whose own configuration is
    broken has none: what it has stays, and the others get theirs. ``directories`` removes the private directories when
    it closes.

    Raises:
        HostError: a file cannot be made, a server would not take it, or the configuration of every one is broken.
        RefusedError: something lies at the name of a private directory that no run made.
    """

    @cache
    def private_directory_in(directory: Path) -> Path:
        return directories.enter_context(files.staging(directory))

    snapshot.pins.publish(snapshot.plan.pins, private_directory_in(snapshot.pins.path))
    stages: dict[str, Stage] = {}
    broken: list[HostError] = []
    for target in targets:
        directory = target.path.parent
        if not directory.is_dir():
            raise HostError(f"{directory}: no such directory: {target.path.name} cannot be written there")
        text = snapshot.texts[target.name]
        try:
            stages[target.name] = target.stage(private_directory_in(directory), text, snapshot.selection, snapshot.pins)
        except HostError as error:
            if not startup_problems((target,)):
                raise
            broken.append(error)
    if broken and not stages:
        raise broken[0]
    staged = [file for each in stages.values() for file in each.files]
    files.fsync_all([path for file in staged for path in (file.path, file.previous) if path is not None])
    return stages
