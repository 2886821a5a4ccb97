"""The steps of setup and of its removal: each shows what it would do, does it, and takes it back.

A step that fails leaves nothing of itself behind; :func:`carry_out` takes back those before it. The last steps of a
removal delete keys and cannot be taken back: no server refers to what they delete any more.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mailsni.config.settings import Settings
from mailsni.deploy import transaction
from mailsni.deploy.confirm import newly_cut_off
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.deploy.transaction import Options
from mailsni.errors import HostError, MailsniError, RefusedError, RollbackFailedError, RolledBackError
from mailsni.host import files
from mailsni.host.commands import require_tool, run
from mailsni.probes.expectation import Expectation
from mailsni.setup import probe
from mailsni.setup.record import Edit, Record, digest
from mailsni.targets.base import Target
from mailsni.targets.postfix.target import map_type_in

_TIMEOUT = 120.0


class Step(Protocol):
    """One change of the host."""

    @property
    def title(self) -> str:
        """What it does, in one line."""

    @property
    def shown(self) -> str:
        """The change itself: a unified diff, or command lines; may be empty."""

    @property
    def places(self) -> tuple[Path, ...]:
        """The directories that it writes into."""

    @property
    def reversible(self) -> bool:
        """Whether :meth:`undo` brings back what was."""

    @property
    def record(self) -> Record:
        """What is to be remembered of it."""

    def do(self) -> tuple[str, ...]:
        """Do it; gives what a person should know.

        Raises:
            MailsniError: it could not be done, and nothing of it is left.
        """

    def undo(self) -> None:
        """Take it back."""


def carry_out(steps: Sequence[Step], on_step: Callable[[Step], None]) -> tuple[str, ...]:
    """Do all steps in order; when one fails, take back those that are done.

    Args:
        steps: what to do.
        on_step: told about each one that is done.

    Returns:
        What a person should know.

    Raises:
        MailsniError: a step failed; everything is as it was.
        RollbackFailedError: and not everything could be taken back.
    """
    done: list[Step] = []
    notes: list[str] = []
    for step in steps:
        try:
            notes += step.do()
        except BaseException as error:
            _take_back(done, error)
            raise
        done.append(step)
        on_step(step)
    return tuple(notes)


def _take_back(done: Sequence[Step], cause: BaseException) -> None:
    if not all(step.reversible for step in done):
        return
    failures = []
    for step in reversed(done):
        try:
            step.undo()
        except (MailsniError, OSError) as error:
            failures.append(f"{step.title}: {error}")
    if failures:
        raise RollbackFailedError(
            f"{'; '.join(failures)}: could not be taken back after: {cause}",
            hint="look at the servers now; `mailsni setup --dry-run` says what is in place",
        ) from cause


def difference(path: Path, before: bytes | None, after: bytes | None) -> str:
    """A unified diff of two contents of a file; None: it is not there."""
    old, new = ([] if one is None else one.decode("utf-8", "backslashreplace").splitlines() for one in (before, after))
    names = ("/dev/null" if before is None else str(path), "/dev/null" if after is None else str(path))
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


@dataclass(frozen=True, slots=True)
class MakeDirectories:
    """Make a directory and what is missing above it."""

    missing: tuple[Path, ...]
    """The outermost first."""
    mode: int = 0o755
    reversible: bool = True

    @classmethod
    def up_to(cls, path: Path) -> tuple[MakeDirectories, ...]:
        """The step that a directory needs; none when it is there."""
        missing = []
        at = path
        while not at.exists() and not at.is_symlink():
            missing.append(at)
            at = at.parent
        return (cls(tuple(reversed(missing))),) if missing else ()

    @property
    def title(self) -> str:
        """See :class:`Step`."""
        return f"make the directory {self.missing[-1]}"

    @property
    def shown(self) -> str:
        """See :class:`Step`."""
        return "\n".join(f"mkdir --mode={self.mode:04o} {path}" for path in self.missing)

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return (self.missing[0].parent,)

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        return Record(directories=tuple(map(str, self.missing)))

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        files.ensure_directory(self.missing[-1], self.mode)
        return ()

    def undo(self) -> None:
        """See :class:`Step`."""
        for path in reversed(self.missing):
            files.remove_directory(path)


@dataclass(frozen=True, slots=True)
class ChangeFile:
    """Write a file of our own, replace it, remove it, or edit one of the administrator's."""

    title: str
    path: Path
    before: bytes | None
    after: bytes | None
    mode: int | None = files.PUBLIC
    """Of a file of our own; None for an edit: the file keeps what it has."""
    reversible: bool = True

    @property
    def shown(self) -> str:
        """See :class:`Step`."""
        return difference(self.path, self.before, self.after) if self.after is not None else f"rm {self.path}"

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return (self.path.resolve().parent,)

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        if self.after is None:
            return Record()
        if self.mode is None:
            return Record(edits={str(self.path): Edit.of(self.before or b"", self.after)})
        return Record(written={str(self.path): digest(self.after)})

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        self._put(self.after, expected=self.before)
        return ()

    def undo(self) -> None:
        """See :class:`Step`."""
        self._put(self.before, expected=self.after)

    def _put(self, content: bytes | None, *, expected: bytes | None) -> None:
        real = self.path.resolve() if self.mode is None else self.path
        if files.read_private(real) != expected:
            raise RefusedError(f"{self.path}: was changed meanwhile", hint="run it again")
        if content is None:
            files.remove(self.path)
        elif self.mode is None:
            files.edit(self.path, content)
        else:
            files.replace(self.path, content, self.mode)


@dataclass(frozen=True, slots=True)
class ChangeServer:
    """Change a server's configuration: edit, let it be read, reload, and ask whether everybody still gets an answer."""

    change: ChangeFile
    settings: Settings
    target: Target
    expected: tuple[Expectation, ...]
    """What names must be shown afterwards."""
    problem: Callable[[], str | None] = field(default=lambda: None)
    """Asks the server's own tools whether the configuration would do."""
    reversible: bool = True

    @property
    def title(self) -> str:
        """See :class:`Step`."""
        return self.change.title

    @property
    def shown(self) -> str:
        """See :class:`Step`."""
        return self.change.shown

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return self.change.places

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        return self.change.record

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        where = probe.listening(self.settings, self.target)
        before = probe.ask(self.settings, self.target, where, self.expected, patient=False)
        self.change.do()
        try:
            if (complaint := self.problem()) is not None:
                raise HostError(f"{self.change.path}: {self.target.name} refuses it: {complaint}")
            self.target.reload()
            after = probe.ask(self.settings, self.target, where, self.expected, patient=True)
            if lost := newly_cut_off(before, after):
                raise RolledBackError(
                    f"{self.change.path}: {probe.story(lost)}: answered before, and cut off with the change",
                    hint="the change has been taken back",
                )
        except BaseException as error:
            try:
                self.undo()
            except (MailsniError, OSError) as second:
                raise RollbackFailedError(
                    f"{self.change.path}: could not be taken back: {second}; what led to it: {error}",
                    hint="look at the server now",
                ) from error
            raise
        if odd := after.wrong_certificates:
            return (f"{self.target.name}: {probe.story(odd)}: is shown another certificate than mailsni's",)
        return ()

    def undo(self) -> None:
        """See :class:`Step`."""
        self.change.undo()
        self.target.reload()


@dataclass(frozen=True, slots=True)
class FirstApply:
    """``mailsni apply``: builds and publishes the servers' files, and proves what is served."""

    settings: Settings
    title: str
    shown: str
    map_type: str
    """What the map must be of; main.cf will name it so. Empty without Postfix."""
    fresh: bool
    """Whether nothing was deployed before."""
    unpublish: Callable[[Settings], Sequence[Step]]
    """Plans how to take away what a first deployment wrote."""
    reversible: bool = True

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return transaction.writable_directories(self.settings)

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        return Record()

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        seen = take_snapshot(self.settings, datetime.now(UTC))
        done = transaction.apply(seen, Options())
        made = deploy_type(self.settings)
        if self.map_type and made and made != self.map_type:
            self.undo()
            raise HostError(
                f"postfix: the map was built as {made}, because {self.map_type} does not work here",
                hint=f'[postfix] map_type = "{made}" in the configuration says so',
            )
        wrong = [f"{probe.story(done.wrong)}: is not what was meant"] if done.wrong else []
        return (*done.warnings, *wrong)

    def undo(self) -> None:
        """See :class:`Step`. What an earlier deployment brought up to date stays: it was proven."""
        if self.fresh:
            for step in self.unpublish(self.settings):
                step.do()


def deploy_type(settings: Settings) -> str:
    """The type of the deployed map, as the state directory says."""
    return map_type_in(State(settings.state.directory).load().deployment.memories.get("postfix", {}))


@dataclass(frozen=True, slots=True)
class Commands:
    """Run programs of the system, such as systemctl(1)."""

    title: str
    commands: tuple[tuple[str, ...], ...]
    back: tuple[tuple[str, ...], ...] = ()
    """What takes it back; failures of these do not matter (what is not there cannot be disabled)."""
    reversible: bool = True

    @property
    def shown(self) -> str:
        """See :class:`Step`."""
        return "\n".join(" ".join(words) for words in self.commands)

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return ()

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        return Record()

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        try:
            for words in self.commands:
                done = run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)
                if done.returncode != 0:
                    talk = done.stderr.splitlines()[-1] if done.stderr else f"exit status {done.returncode}"
                    raise HostError(f"{' '.join(words)}: {talk}")
        except BaseException:
            self.undo()
            raise
        return ()

    def undo(self) -> None:
        """See :class:`Step`."""
        for words in self.back:
            with suppress(HostError):
                run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete files that nothing refers to any more, keys among them, and directories that are empty then."""

    title: str
    paths: tuple[Path, ...]
    directories: tuple[Path, ...] = ()
    """The innermost first."""
    staging: tuple[Path, ...] = ()
    """Directories in which a run that was cut off may have left its staging directory."""
    reversible: bool = False

    @property
    def shown(self) -> str:
        """See :class:`Step`."""
        lines = [f"rm {path}" for path in self.paths]
        if len(lines) > _PATHS_SHOWN:
            lines = [*lines[:_PATHS_SHOWN], f"and {len(lines) - _PATHS_SHOWN} more there"]
        return "\n".join([*lines, *(f"rmdir {path}" for path in self.directories)])

    @property
    def places(self) -> tuple[Path, ...]:
        """See :class:`Step`."""
        return tuple(dict.fromkeys(path.parent for path in self.paths))

    @property
    def record(self) -> Record:
        """See :class:`Step`."""
        return Record()

    def do(self) -> tuple[str, ...]:
        """See :class:`Step`."""
        for place in self.staging:
            files.clear_staging(place)
        for path in self.paths:
            files.remove(path)
        left = [path for path in self.directories if not files.remove_directory(path)]
        return tuple(f"{path}: stays, because there is something in it that mailsni did not write" for path in left)

    def undo(self) -> None:
        """See :class:`Step`: there is no way back."""


_PATHS_SHOWN = 8
