"""What the removal would do on this host: looks at everything, changes nothing, gives the steps in order.

It goes the way of setup back: no server names a file any more when it goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.config import settings as settings_module
from mailsni.config.settings import Settings
from mailsni.deploy.confirm import Expectation
from mailsni.deploy.state_directory import State
from mailsni.errors import RefusedError
from mailsni.host import files
from mailsni.setup import autostart, record
from mailsni.setup.model import WhyBroken, Wiring, known_at
from mailsni.setup.steps import ChangeFile, ChangeServer, Commands, Delete, Step
from mailsni.targets.base import Target
from mailsni.targets.dovecot import conf_edit
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix import main_cf, map_types, postconf
from mailsni.targets.postfix import target as postfix
from mailsni.targets.postfix.target import Postfix

_WRITTEN = b"# Written by mailsni"


def plan_removal(settings: Settings) -> Wiring:
    """What has to be done until nothing of mailsni is left but the administrator's own configuration.

    Raises:
        HostError: a server's configuration cannot be read, or names our files where setup did not write it.
        PermissionMissingError: this user may not read what it takes.
    """
    settings = _all_installed(settings)
    known = record.load(settings.state.directory)
    found = (postfix.find(settings.postfix), dovecot.find(settings.dovecot))
    targets: list[Target] = [target for target in found if target is not None and target.installed]
    names = State(settings.state.directory).load().deployment.names
    expected = tuple(Expectation(name, None, None) for name in names)
    steps: list[Step] = []
    notes: list[str] = []
    for target in targets:
        if isinstance(target, Postfix):
            steps += _postfix_removal(settings, target, known, expected)
    for target in targets:
        if isinstance(target, Dovecot):
            steps += _dovecot_removal(settings, target, known, expected)
    steps += _startup_removal(settings)
    steps += _own_configuration(known, notes)
    steps += [step for step in plan_unpublishing(settings) if not isinstance(step, ChangeServer)]
    made = [Path(one) for one in known.directories if Path(one).is_dir()]
    if made:
        steps.append(Delete("remove the directories that setup made", (), tuple(reversed(made))))
    return Wiring(settings, tuple(steps), tuple(notes))


def _all_installed(settings: Settings) -> Settings:
    """The settings with no server switched off: one that was wired in before must not keep what is deleted."""
    return replace(
        settings,
        postfix=replace(settings.postfix, enabled="auto"),
        dovecot=replace(settings.dovecot, enabled="auto"),
    )


def _postfix_removal(
    settings: Settings, target: Postfix, known: record.Record, expected: tuple[Expectation, ...]
) -> list[Step]:
    own = settings.postfix
    for one in postconf.overrides(own.config_directory, (main_cf.PARAMETER,)):
        if any(main_cf.is_ours(own, table) for table in one.value.replace(",", " ").split()):
            raise RefusedError(
                f"{own.config_directory}/master.cf: {one.service} names mailsni's map: {one.parameter} = {one.value}",
                hint=f"take it out first: postconf -c {own.config_directory} -PX {one.service}/{one.parameter}",
            )
    for other in postconf.instances(own.config_directory):
        elsewhere = replace(own, config_directory=other.config_directory)
        if other.config_directory != own.config_directory and any(
            main_cf.is_ours(own, table) for table in main_cf.tables(elsewhere, expanded=True)
        ):
            raise RefusedError(
                f"{other.config_directory}/main.cf: names mailsni's map too",
                hint="take it out of that instance first",
            )
    before = main_cf.text(own)
    if not target.wired and not main_cf.is_marked(before):
        return []
    original = known.before(main_cf.path_of(own), before)
    after = original if original is not None else main_cf.without_map(own)
    title = f"take mailsni's map out of {main_cf.PARAMETER} in {main_cf.path_of(own)}, and reload Postfix"
    change = ChangeFile(title, main_cf.path_of(own), before, after, mode=None)
    return [ChangeServer(change, settings, target, expected, _StillNamed(settings))]


@dataclass(frozen=True, slots=True)
class _StillNamed:
    """Whether main.cf names the map after all."""

    settings: Settings

    def __call__(self) -> str | None:
        own = self.settings.postfix
        left = [one for one in main_cf.tables(own, expanded=True) if main_cf.is_ours(own, one)]
        return f"{main_cf.PARAMETER} would still name {left[0]}" if left else None


def _dovecot_removal(
    settings: Settings, target: Dovecot, known: record.Record, expected: tuple[Expectation, ...]
) -> list[Step]:
    own = settings.dovecot
    steps: list[Step] = []
    before = files.read_own(own.config_file.resolve())
    after = None
    if before is not None:
        original = known.before(own.config_file, before)
        after = original if original is not None else conf_edit.without_include(before, own.include_file)
    why_broken = WhyBroken(own.config_file)
    if before is not None and after is not None and before != after:
        title = f"take mailsni's line out of {own.config_file}, and reload Dovecot"
        change = ChangeFile(title, own.config_file, before, after, mode=None)
        steps.append(ChangeServer(change, settings, target, expected, why_broken))
    return [*steps, *_include_removal(settings, target, expected)]


def _include_removal(settings: Settings, target: Dovecot, expected: tuple[Expectation, ...]) -> list[Step]:
    own = settings.dovecot
    live = files.read_own(own.include_file)
    if live is None or not _is_published(settings, own.include_file, live):
        return []
    if (needed := dovecot.required_by(own.config_file, own.include_file)) is not None:
        raise RefusedError(
            f"{needed}: without {own.include_file} Dovecot would not start, so it is not removed",
            hint="take that line out first, or write !include_try instead of !include",
        )
    change = ChangeFile(f"remove {own.include_file}, and reload Dovecot", own.include_file, live, None)
    return [ChangeServer(change, settings, target, expected, WhyBroken(own.config_file))]


def _is_published(settings: Settings, path: Path, content: bytes) -> bool:
    deployed = State(settings.state.directory).load().deployment
    return content.startswith(_WRITTEN) or str(path) in deployed.files


def _startup_removal(settings: Settings) -> list[Step]:
    present = {path: content for path in autostart.places(settings) if (content := known_at(path)) is not None}
    hooks = {directory / autostart.HOOK_NAME for directory in autostart.hook_directories(settings)}
    steps = files_removal(present, hooks)
    if autostart.SYSTEMD.is_dir() and any(path.parent == autostart.UNITS for path in present):
        steps.append(Commands("tell systemd", (("systemctl", "daemon-reload"),)))
    return steps


def files_removal(present: Mapping[Path, bytes], hooks: Collection[Path]) -> list[Step]:
    """What removes files that start the program.

    Args:
        present: the files and what they hold.
        hooks: those that are hooks, for their mode if they have to come back.
    """
    steps: list[Step] = []
    commands, back = autostart.disabling(present)
    if commands:
        steps.append(Commands("stop what starts mailsni", commands, back))
    for path, content in present.items():
        mode = 0o755 if path in hooks or path == autostart.OPENRC_SCRIPT else files.PUBLIC
        steps.append(ChangeFile(f"remove {path}", path, content, None, mode))
    return steps


def _own_configuration(known: record.Record, notes: list[str]) -> list[Step]:
    """The configuration file, if setup wrote it and nobody has edited it since."""
    path = settings_module.DEFAULT_PATH
    content = files.read_own(path)
    if content is None:
        return []
    if known.written.get(str(path)) == record.digest(content):
        return [ChangeFile(f"remove {path}", path, content, None)]
    notes.append(f"{path} is yours and stays")
    return []


def plan_unpublishing(settings: Settings) -> tuple[Step, ...]:
    """What takes away the files that ``apply`` publishes and remembers, when no server names the map any more.

    Raises:
        HostError: a server's configuration cannot be read.
    """
    steps: list[Step] = []
    target = dovecot.find(settings.dovecot)
    if target is not None and target.installed:
        steps += _include_removal(settings, target, ())
    deployed = State(settings.state.directory).load().deployment
    pin_directories = list(dict.fromkeys((settings.dovecot.pin_directory, settings.state.directory / "pinned")))
    pins = [path for directory in pin_directories for path in _pins_in(directory)]
    if deployed.pin_directory and Path(deployed.pin_directory) not in pin_directories:
        pin_directories.append(Path(deployed.pin_directory))
        pins += _pins_in(Path(deployed.pin_directory))
    state = settings.state.directory
    directories = [directory for directory in pin_directories if directory.is_dir()]
    if pins or directories:
        title = f"delete {len(pins)} pinned {'file' if len(pins) == 1 else 'files'}, keys and all"
        steps.append(Delete(title, tuple(pins), tuple(directories), tuple(directories)))
    source = settings.postfix.map
    text = files.read_own(source)
    if text is not None and _is_published(settings, source, text):
        compiled = [path for path in map_types.map_files(source) if path.is_file()]
        steps.append(Delete(f"delete the map {source}", (*compiled, source), (), (source.parent,)))
    records = [path for path in sorted(state.glob("*.json")) if path.is_file()] if state.is_dir() else []
    if state.is_dir():
        steps.append(Delete(f"delete what {state} remembers", tuple(records), (state,)))
    return tuple(steps)


def _pins_in(directory: Path) -> list[Path]:
    return PinDirectory(directory).unused(())
