"""The steps of setup and of its removal: each shows what it changes, does it, and undoes it.

A step that fails leaves nothing of itself behind; :func:`carry_out` undoes those before it. The last steps of a
removal delete keys and cannot be undone: no server refers to what they delete any more.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.deploy import transaction
from mailsni.deploy.confirm import WireCheck, newly_cut_off
from mailsni.deploy.listeners import find_listener
from mailsni.deploy.transaction import Options
from mailsni.errors import HostError, MailsniError, RefusedError, RollbackFailedError, RolledBackError
from mailsni.host import files
from mailsni.host.commands import require_tool, run
from mailsni.probes.expectation import Answer, Expectation
from mailsni.runs import history
from mailsni.runs.runner import history_after
from mailsni.setup.record import Edit, Record, digest
from mailsni.targets.base import Target
from mailsni.verify.model import UNKNOWN_NAME

_TIMEOUT = 120.0
_PATHS_SHOWN = 8
CommandLines = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the host."""

    title: str
    """What it does, in one line."""
    change: str
    """A unified diff, or command lines; may be empty."""
    do: Callable[[], tuple[str, ...]]
    """Does it, and gives what a person should look at. When it raises a MailsniError, nothing of it is left."""
    undo: Callable[[], None]
    """Brings back what was there before."""
    places: tuple[Path, ...] = ()
    """The directories that it writes into."""
    record: Record = field(default_factory=Record)
    """What the removal needs to know of it."""
    reversible: bool = True
    """Whether it can be undone."""
    stays: str = ""
    """What stays of it after it is undone."""


def carry_out(steps: Sequence[Step], on_step: Callable[[Step], None]) -> tuple[str, ...]:
    """Do all steps in order, and call ``on_step`` after each; when one fails, undo those that are done.

    Returns:
        What a person should look at.

    Raises:
        MailsniError: a step failed; everything is as it was, but for what its hint says.
        RollbackFailedError: a step failed, and not everything could be undone.
    """
    done: list[Step] = []
    warnings: list[str] = []
    for step in steps:
        try:
            warnings += step.do()
        except BaseException as error:
            _undo_all(done, error)
            if isinstance(error, MailsniError):
                _add_to_hint(error, *(step.stays for step in done))
            raise
        done.append(step)
        on_step(step)
    return tuple(warnings)


def _add_to_hint(error: MailsniError, *sentences: str) -> None:
    error.hint = "; ".join(filter(None, (error.hint, *sentences))) or None


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


def make_directories(path: Path) -> Iterator[Step]:
    """The step that makes a directory and the missing ones above it; none when it exists."""
    missing = files.missing_directories(path)
    if not missing:
        return

    def do() -> tuple[str, ...]:
        files.ensure_directory(path, 0o755)
        return ()

    def undo() -> None:
        for directory in reversed(missing):
            files.remove_directory(directory)

    change = "\n".join(f"mkdir --mode=0755 {directory}" for directory in missing)
    record = Record(directories=tuple(map(str, missing)))
    yield Step(f"make the directory {path}", change, do, undo, (missing[0].parent,), record)


def change_file(
    title: str, path: Path, before: bytes | None, after: bytes | None, mode: int | None = files.PUBLIC
) -> Step:
    """The step that writes a file of our own, replaces it, removes it, or edits one of the administrator's.

    ``before`` is None when the file does not exist, ``after`` is None to remove it. An edit has no mode: the file keeps
    its own.
    """

    def put(content: bytes | None, *, expected: bytes | None) -> tuple[str, ...]:
        if files.read_private(path.resolve() if mode is None else path) != expected:
            raise RefusedError(f"{path}: was changed meanwhile", hint="run it again", path=path)
        if content is None:
            files.remove(path)
        elif mode is None:
            files.edit(path, content)
        else:
            files.replace(path, content, mode)
        return ()

    def undo() -> None:
        put(before, expected=after)

    if after is None:
        record = Record()
    elif mode is None:
        record = Record(edits={str(path): Edit.of(before or b"", after)})
    else:
        record = Record(written={str(path): digest(after)})
    change = difference(path, before, after) if after is not None else f"rm {path}"
    return Step(title, change, lambda: put(after, expected=before), undo, (path.resolve().parent,), record)


def change_server(
    file: Step,
    path: Path,
    settings: Settings,
    target: Target,
    expected: tuple[Expectation, ...],
    problem: Callable[[], str | None] | None = None,
    late_reader: Callable[[float], str | None] | None = None,
) -> Step:
    """The step that changes a server's configuration, checks it, reloads, and probes whether clients still connect.

    Args:
        file: the step that changes a file of the configuration.
        path: of that file.
        settings: how to probe.
        target: the server.
        expected: what names must be served afterwards.
        problem: asks the server's own tools why the configuration would not do; None when it would.
        late_reader: waits until no process reads the configuration from before the change any more, and says which one
            still does; None when none does. It gets the moment of the change (CLOCK_BOOTTIME).
    """

    def do() -> tuple[str, ...]:
        wire = _wire_check(settings, target, expected)
        (before,) = wire.now()
        file.do()
        changed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            if problem is not None and (why := problem()) is not None:
                raise HostError(f"{path}: {target.name} refuses it: {why}", path=path)
            target.reload()
            (after,) = wire.confirm()
            if lost := newly_cut_off(before, after):
                raise RolledBackError(
                    f"{path}: {_summarize(lost)}: connected before, and not after the change",
                    hint="the change was undone",
                    path=path,
                )
            if late_reader is not None and (reader := late_reader(changed_at)) is not None:
                raise HostError(
                    f"{path}: {reader}", hint="the change was undone: run it again when that has ended", path=path
                )
        except BaseException as error:
            try:
                undo()
            except (MailsniError, OSError) as second:
                raise RollbackFailedError(
                    f"{path}: could not be undone: {second}; the cause: {error}",
                    hint="look at the server now",
                    path=path,
                ) from error
            raise
        if wrong := after.wrong_certificates:
            return (f"{target.name}: {_summarize(wrong)}: gets another certificate than mailsni's",)
        if after.unconfirmed:
            return (f"{target.name}: does not answer within {after.patience:g} s after the change: not confirmed",)
        return ()

    def undo() -> None:
        file.undo()
        target.reload()

    return replace(file, do=do, undo=undo)


def _wire_check(settings: Settings, target: Target, expected: Iterable[Expectation]) -> WireCheck:
    """The probes of a server for names, and for one that nobody has: a broken map cuts off its clients too.

    None where the server does not run, or the configuration forbids to probe it. A changed server needs patience:
    Postfix's programs alone wait two seconds at their start when main.cf was changed within the last one (measured).
    """
    endpoints = find_listener(target, settings.verify, UNKNOWN_NAME).endpoints
    wanted = (*expected, Expectation(UNKNOWN_NAME))
    return WireCheck({target.name: endpoints or ()}, wanted, settings.verify.timeout, len(wanted))


def _summarize(answers: Sequence[Answer]) -> str:
    """The first answer, and how many more there are."""
    first = answers[0]
    more = f" and {len(answers) - 1} more" if len(answers) > 1 else ""
    return f"{first.expectation.name} at {first.result.endpoint}{more}: {first.result.detail}"


def first_apply(
    title: str,
    change: str,
    settings: Settings,
    problem: Callable[[], HostError | None] | None,
    unpublish: Callable[[], Iterable[Step]] | None,
) -> Step:
    """The step of ``mailsni apply``: builds and publishes the servers' files, and confirms what is served.

    Args:
        title: what it does.
        change: the names and files that it publishes.
        settings: where to publish them.
        problem: why a server's configuration, as the next steps write it, would not fit what was published.
        unpublish: plans how to remove a first deployment; None for a later one: what it was updated to is confirmed,
            and stays.
    """
    stays = "" if unpublish is not None else "the certificates that it published stay, as after `mailsni apply`"

    def do() -> tuple[str, ...]:
        started_at = datetime.now(UTC)
        done = transaction.deploy(settings, Options())
        state = settings.state.directory
        history.save(state, history_after(history.load(state), settings, done, started_at, "setup"))
        if problem is not None and (why := problem()) is not None:
            undo()
            _add_to_hint(why, stays)
            raise why
        wrong = [f"{_summarize(done.wrong)}: is not the expected certificate"] if done.wrong else []
        return (*done.warnings, *wrong)

    def undo() -> None:
        for step in unpublish() if unpublish is not None else ():
            step.do()

    return Step(title, change, do, undo, transaction.writable_directories(settings), stays=stays)


def run_commands(title: str, commands: CommandLines, back: CommandLines = ()) -> Step:
    """The step that runs programs of the system in order, such as systemctl(1).

    Those that undo it may fail: what does not exist cannot be disabled.
    """

    def do() -> tuple[str, ...]:
        try:
            for words in commands:
                done = run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)
                if done.returncode != 0:
                    raise HostError(f"{' '.join(words)}: {done.complaint}")
        except BaseException:
            undo()
            raise
        return ()

    def undo() -> None:
        for words in back:
            with suppress(HostError):
                run([require_tool(words[0]), *words[1:]], timeout=_TIMEOUT)

    return Step(title, "\n".join(" ".join(words) for words in commands), do, undo)


def delete(
    title: str, paths: tuple[Path, ...], directories: tuple[Path, ...] = (), staging: tuple[Path, ...] = ()
) -> Step:
    """The step that deletes files that nothing refers to any more, keys among them. It cannot be undone.

    Directories, the innermost first, go too when they are empty then. ``staging`` are those in which an interrupted run
    may have left its staging directory.
    """

    def do() -> tuple[str, ...]:
        for place in staging:
            files.clear_staging(place)
        for path in paths:
            files.remove(path)
        left = [path for path in directories if not files.remove_directory(path)]
        return tuple(f"{path}: is kept, because it contains something that mailsni did not write" for path in left)

    lines = [f"rm {path}" for path in paths]
    if len(lines) > _PATHS_SHOWN:
        lines[_PATHS_SHOWN:] = [f"and {len(lines) - _PATHS_SHOWN} more there"]
    change = "\n".join([*lines, *(f"rmdir {path}" for path in directories)])
    places = tuple(dict.fromkeys(path.parent for path in paths))
    return Step(title, change, do, lambda: None, places, reversible=False)
