"""The steps of setup and of its removal: each shows what it changes, does it, and undoes it.

A step that fails leaves nothing of itself behind; :func:`carry_out` undoes those before it. The last steps of a
removal delete keys and cannot be undone: no server refers to what they delete any more.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from mailsni.config.settings import Settings
from mailsni.deploy import transaction
from mailsni.deploy.confirm import newly_cut_off
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.transaction import Options
from mailsni.errors import HostError, MailsniError, RefusedError, RollbackFailedError, RolledBackError
from mailsni.host import files
from mailsni.host.commands import require_tool, run
from mailsni.probes.expectation import Expectation
from mailsni.setup import probe
from mailsni.setup.record import Edit, Record, digest
from mailsni.targets.base import Target

_TIMEOUT = 120.0
_PATHS_SHOWN = 8


class Step(ABC):
    """One change of the host."""

    __slots__ = ()

    title: str
    """What it does, in one line."""
    reversible: ClassVar[bool] = True
    """Whether :meth:`undo` brings back what was there before."""

    @property
    @abstractmethod
    def change(self) -> str:
        """A unified diff, or command lines; may be empty."""

    @property
    def places(self) -> tuple[Path, ...]:
        """The directories that it writes into."""
        return ()

    @property
    def record(self) -> Record:
        """What the removal needs to know of it."""
        return Record()

    @abstractmethod
    def do(self) -> tuple[str, ...]:
        """Do it.

        Returns:
            What a person should look at.

        Raises:
            MailsniError: it could not be done, and nothing of it is left.
        """

    @abstractmethod
    def undo(self) -> None:
        """Undo it."""


def carry_out(steps: Sequence[Step], on_step: Callable[[Step], None]) -> tuple[str, ...]:
    """Do all steps in order; when one fails, undo those that are done.

    Args:
        steps: what to do.
        on_step: called after each step.

    Returns:
        What a person should look at.

    Raises:
        MailsniError: a step failed; everything is as it was.
        RollbackFailedError: a step failed, and not everything could be undone.
    """
    done: list[Step] = []
    warnings: list[str] = []
    for step in steps:
        try:
            warnings += step.do()
        except BaseException as error:
            _undo_all(done, error)
            raise
        done.append(step)
        on_step(step)
    return tuple(warnings)


def _undo_all(done: Sequence[Step], cause: BaseException) -> None:
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
            f"{'; '.join(failures)}: could not be undone after: {cause}",
            hint="look at the servers now; `mailsni setup --dry-run` shows what is in place",
        ) from cause


def difference(path: Path, before: bytes | None, after: bytes | None) -> str:
    """A unified diff of two contents of a file; None: it does not exist."""
    old, new = (
        [] if content is None else content.decode("utf-8", "backslashreplace").splitlines()
        for content in (before, after)
    )
    names = ("/dev/null" if before is None else str(path), "/dev/null" if after is None else str(path))
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


@dataclass(frozen=True, slots=True)
class MakeDirectories(Step):
    """Makes a directory and the missing ones above it."""

    missing: tuple[Path, ...]
    """The outermost first."""
    title: str
    mode: int = 0o755

    @classmethod
    def up_to(cls, path: Path) -> tuple[MakeDirectories, ...]:
        """The step that a directory needs; none when it exists."""
        missing = files.missing_directories(path)
        return (cls(missing, f"make the directory {path}"),) if missing else ()

    @property
    def change(self) -> str:
        """The commands that make them."""
        return "\n".join(f"mkdir --mode={self.mode:04o} {path}" for path in self.missing)

    @property
    def places(self) -> tuple[Path, ...]:
        """The directory that the outermost one lies in."""
        return (self.missing[0].parent,)

    @property
    def record(self) -> Record:
        """The removal removes them too."""
        return Record(directories=tuple(map(str, self.missing)))

    def do(self) -> tuple[str, ...]:
        """Make them."""
        files.ensure_directory(self.missing[-1], self.mode)
        return ()

    def undo(self) -> None:
        """Remove those that are empty."""
        for path in reversed(self.missing):
            files.remove_directory(path)


@dataclass(frozen=True, slots=True)
class ChangeFile(Step):
    """Writes a file of our own, replaces it, removes it, or edits one of the administrator's."""

    title: str
    path: Path
    before: bytes | None
    after: bytes | None
    mode: int | None = files.PUBLIC
    """Of a file of our own; None for an edit: the file keeps its mode."""

    @property
    def change(self) -> str:
        """A diff, or the command that removes the file."""
        return difference(self.path, self.before, self.after) if self.after is not None else f"rm {self.path}"

    @property
    def places(self) -> tuple[Path, ...]:
        """The directory of the file."""
        return (self.path.resolve().parent,)

    @property
    def record(self) -> Record:
        """What an edited file was before, or the digest of a written one."""
        if self.after is None:
            return Record()
        if self.mode is None:
            return Record(edits={str(self.path): Edit.of(self.before or b"", self.after)})
        return Record(written={str(self.path): digest(self.after)})

    def do(self) -> tuple[str, ...]:
        """Write it."""
        self._put(self.after, expected=self.before)
        return ()

    def undo(self) -> None:
        """Write what it was before."""
        self._put(self.before, expected=self.after)

    def _put(self, content: bytes | None, *, expected: bytes | None) -> None:
        real = self.path.resolve() if self.mode is None else self.path
        if files.read_private(real) != expected:
            raise RefusedError(f"{self.path}: was changed meanwhile", hint="run it again", path=self.path)
        if content is None:
            files.remove(self.path)
        elif self.mode is None:
            files.edit(self.path, content)
        else:
            files.replace(self.path, content, self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeServer(ChangeFile):
    """Changes a server's configuration: edits it, has it checked, reloads, and probes whether clients still connect."""

    settings: Settings
    target: Target
    expected: tuple[Expectation, ...]
    """What names must be served afterwards."""
    problem: Callable[[], str | None] | None = None
    """Asks the server's own tools why the configuration would not do; None when it would."""

    def do(self) -> tuple[str, ...]:
        """Change it; undo the change when a client that connected before no longer can."""
        wire = probe.wire_check(self.settings, self.target, self.expected)
        (before,) = wire.now()
        ChangeFile.do(self)
        try:
            if self.problem is not None and (problem := self.problem()) is not None:
                raise HostError(f"{self.path}: {self.target.name} refuses it: {problem}", path=self.path)
            self.target.reload()
            (after,) = wire.confirm()
            if lost := newly_cut_off(before, after):
                raise RolledBackError(
                    f"{self.path}: {probe.summarize_answers(lost)}: connected before, and not after the change",
                    hint="the change was undone",
                    path=self.path,
                )
        except BaseException as error:
            try:
                self.undo()
            except (MailsniError, OSError) as second:
                raise RollbackFailedError(
                    f"{self.path}: could not be undone: {second}; the cause: {error}",
                    hint="look at the server now",
                    path=self.path,
                ) from error
            raise
        if wrong := after.wrong_certificates:
            return (f"{self.target.name}: {probe.summarize_answers(wrong)}: gets another certificate than mailsni's",)
        return ()

    def undo(self) -> None:
        """Bring the configuration back, and reload."""
        ChangeFile.undo(self)
        self.target.reload()


@dataclass(frozen=True, slots=True)
class FirstApply(Step):
    """``mailsni apply``: builds and publishes the servers' files, and confirms what is served."""

    settings: Settings
    title: str
    changes: str
    """The names and files that it publishes."""
    fresh: bool
    """Whether nothing was deployed before."""
    unpublish: Callable[[Settings], Sequence[Step]]
    """Plans how to remove what a first deployment wrote."""
    problem: Callable[[], HostError | None] | None = None
    """Why a server's configuration, as the next steps write it, would not fit what was published."""

    @property
    def change(self) -> str:
        """The names and files that it publishes."""
        return self.changes

    @property
    def places(self) -> tuple[Path, ...]:
        """The directories that a deployment writes into."""
        return transaction.writable_directories(self.settings)

    def do(self) -> tuple[str, ...]:
        """Publish."""
        done = transaction.apply(take_snapshot(self.settings, datetime.now(UTC)), Options())
        if self.problem is not None and (problem := self.problem()) is not None:
            self.undo()
            raise problem
        wrong = [f"{probe.summarize_answers(done.wrong)}: is not the expected certificate"] if done.wrong else []
        return (*done.warnings, *wrong)

    def undo(self) -> None:
        """Remove a first deployment. What an earlier one was updated to stays: it was confirmed."""
        if self.fresh:
            for step in self.unpublish(self.settings):
                step.do()


@dataclass(frozen=True, slots=True)
class Commands(Step):
    """Runs programs of the system, such as systemctl(1)."""

    title: str
    commands: tuple[tuple[str, ...], ...]
    back: tuple[tuple[str, ...], ...] = ()
    """What undoes them; it may fail (what does not exist cannot be disabled)."""

    @property
    def change(self) -> str:
        """The command lines."""
        return "\n".join(" ".join(words) for words in self.commands)

    def do(self) -> tuple[str, ...]:
        """Run them in order."""
        try:
            for words in self.commands:
                done = run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)
                if done.returncode != 0:
                    message = done.stderr.splitlines()[-1] if done.stderr else f"exit status {done.returncode}"
                    raise HostError(f"{' '.join(words)}: {message}")
        except BaseException:
            self.undo()
            raise
        return ()

    def undo(self) -> None:
        """Run what undoes them."""
        for words in self.back:
            with suppress(HostError):
                run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Delete(Step):
    """Deletes files that nothing refers to any more, keys among them, and directories that are empty then."""

    title: str
    paths: tuple[Path, ...]
    directories: tuple[Path, ...] = ()
    """The innermost first."""
    staging: tuple[Path, ...] = ()
    """Directories in which an interrupted run may have left its staging directory."""
    reversible: ClassVar[bool] = False

    @property
    def change(self) -> str:
        """The commands that delete them."""
        lines = [f"rm {path}" for path in self.paths]
        if len(lines) > _PATHS_SHOWN:
            lines[_PATHS_SHOWN:] = [f"and {len(lines) - _PATHS_SHOWN} more there"]
        return "\n".join([*lines, *(f"rmdir {path}" for path in self.directories)])

    @property
    def places(self) -> tuple[Path, ...]:
        """The directories of the files."""
        return tuple(dict.fromkeys(path.parent for path in self.paths))

    def do(self) -> tuple[str, ...]:
        """Delete them."""
        for place in self.staging:
            files.clear_staging(place)
        for path in self.paths:
            files.remove(path)
        left = [path for path in self.directories if not files.remove_directory(path)]
        return tuple(f"{path}: is kept, because it contains something that mailsni did not write" for path in left)

    def undo(self) -> None:
        """Nothing: a deletion cannot be undone."""
