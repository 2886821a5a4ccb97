"""Plans the removal: the way of setup back. No server names a file any more when it goes."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.text import counted
from mailsni.deploy.state_directory import State
from mailsni.host import files
from mailsni.probes.expectation import Expectation
from mailsni.runs.starters import SYSTEMD, UNITS
from mailsni.setup import autostart, dovecot, example, postfix, record, stores
from mailsni.setup.model import Caution, Item, Note, SetupPlan, is_published
from mailsni.setup.steps import Step, change_file, delete, run_commands
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix import map_types
from mailsni.targets.registry import containers, find_all


def plan_removal(settings: Settings) -> SetupPlan:
    """What has to be done until only the administrator's own configuration is left.

    Raises:
        HostError: a server's configuration cannot be read, or names our files where setup did not write it.
        PermissionMissingError: this user may not read what it takes.
    """
    settings = _nothing_switched_off(settings)
    recorded = record.load(settings.state.directory)
    known = recorded.content or record.Record()
    deployed = State(settings.state.directory).load()
    expected = tuple(Expectation(name) for name in deployed.deployment.names)
    items: list[Item] = [Caution(f"{problem}: its names are not probed") for problem in deployed.problems]
    if recorded.problem is not None:
        items.append(Caution(record.lost(recorded.problem)))
    installed = _installed(settings)
    if "postfix" in installed:
        items += postfix.plan_removal(settings, known, expected)
    if "dovecot" in installed:
        items += dovecot.plan_removal(settings, known, expected)
    items += plan_startup_removal(settings)
    if SYSTEMD.is_dir() and any(path.parent == UNITS for path in _startup_files(settings)):
        items.append(run_commands("tell systemd", (autostart.RELOAD_UNITS,)))
    items += example.plan_removal(known)
    items += stores.plan_removal(settings, known)
    items += _own_configuration(known)
    items += _published_files(settings) if not containers(settings) else [_left_to_containers(settings)]
    directories = map(Path, known.directories) if known.directories else example.directories_without_record()
    made = tuple(path for path in directories if path.is_dir())
    if made:
        items.append(delete("remove the directories that setup made", (), made[::-1]))
    return SetupPlan.of(settings, items)


def plan_unpublishing(settings: Settings) -> tuple[Step, ...]:
    """Takes away the files that ``apply`` publishes and remembers, when no server names the map any more.

    Raises:
        HostError: a server's configuration cannot be read.
    """
    if containers(settings):
        return ()  # nobody here can tell whether a server names them
    include = dovecot.plan_include_removal(settings, ()) if "dovecot" in _installed(settings) else ()
    return (*include, *_published_files(settings))


def _left_to_containers(settings: Settings) -> Caution:
    """What setup did not wire in it does not take away: a map that is named and missing cuts off clients."""
    names = ", ".join(sorted(set(containers(settings).values())))
    own, other = settings.postfix, settings.dovecot
    return Caution(
        f"what the servers in container {names} read stays: once no configuration there names them any more, delete "
        f"{own.map} with the maps beside it, {other.include_file} and {other.pin_directory}"
    )


def _nothing_switched_off(settings: Settings) -> Settings:
    """A server that was wired in and is switched off since must not keep what is deleted."""
    return replace(
        settings,
        postfix=replace(settings.postfix, enabled="auto"),
        dovecot=replace(settings.dovecot, enabled="auto"),
    )


def _installed(settings: Settings) -> frozenset[str]:
    """The installed servers that run in no container: setup changed nothing in one."""
    elsewhere = containers(settings)
    return frozenset(target.name for target in find_all(settings) if target.installed and target.name not in elsewhere)


def plan_startup_removal(settings: Settings, keep: Collection[Path] = ()) -> Iterator[Step]:
    """The steps that remove the files that start the program, except those to keep."""
    present = {path: content for path, content in _startup_files(settings).items() if path not in keep}
    if (stop := autostart.stop(present)) is not None:
        yield stop
    for path, content in present.items():
        yield change_file(f"remove {path}", path, content, None, stat.S_IMODE(path.stat().st_mode))


def _startup_files(settings: Settings) -> dict[Path, bytes]:
    """The files of setup's that start the program, and what they hold."""
    contents = {path: files.read_private(path) for path in autostart.places(settings)}
    return {path: content for path, content in contents.items() if content is not None and autostart.is_ours(content)}


def _own_configuration(known: record.Record) -> Iterator[Item]:
    """The configuration file goes if setup wrote it and nobody has edited it since."""
    path = DEFAULT_PATH
    content = files.read_private(path)
    if content is None:
        return
    if known.written.get(str(path)) == record.digest(content):
        yield change_file(f"remove {path}", path, content, None)
    elif known.before(path, content) is None:
        yield Note(f"{path} is yours and stays")


def _published_files(settings: Settings) -> Iterator[Step]:
    """Delete the pinned files, the map and the records: nothing refers to them any more."""
    state = settings.state.directory
    recorded = State(state).load().deployment.pin_directory
    pin_directories = dict.fromkeys((settings.dovecot.pin_directory, state / "pinned"))
    if recorded:
        pin_directories[Path(recorded)] = None
    pins = [path for directory in pin_directories for path in PinDirectory(directory).list_unused(())]
    present = tuple(directory for directory in pin_directories if directory.is_dir())
    if pins or present:
        title = f"delete {counted(len(pins), 'pinned file')}, keys and all"
        yield delete(title, tuple(pins), present, present)
    source = settings.postfix.map
    text = files.read_private(source)
    if text is not None and is_published(settings, source, text):
        compiled = [path for path in map_types.map_files(source) if path.is_file()]
        yield delete(f"delete the map {source}", (*compiled, source), (), (source.parent,))
    if state.is_dir():
        records = tuple(path for path in sorted(state.glob("*.json")) if path.is_file())
        yield delete(f"delete what {state} remembers", records, (state,))
