"""Postfix: the source of ``tls_server_sni_maps``, the map compiled from it, and the proof that it holds what it should.

``postmap -F`` cannot be believed: it exits 0 after it dropped entries, stores an empty value for an empty file, and
(lmdb, full disk) writes nothing at all (all measured). So the map is compiled in a private directory, every line of
its talk that is not known to be harmless is a failure, and every entry is read back and compared with the bytes that
were meant. What the live map becomes by rename(2) is only ever such a proven one; smtpd(8) notices by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from mailsni.config.settings import Action, MapType, PostfixSettings
from mailsni.core.deployment import DeploymentRecord
from mailsni.core.model import PublishedFile
from mailsni.core.selection import Selection
from mailsni.errors import HostError
from mailsni.host import file_identity, files, permissions
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Endpoint
from mailsni.targets import reload
from mailsni.targets.base import Stage, StagedFile, copy_of_live
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix.endpoints import postfix_endpoints
from mailsni.targets.postfix.map_build import compile_map, empty_map
from mailsni.targets.postfix.map_read import map_entries
from mailsni.targets.postfix.map_types import map_files, parse_tables
from mailsni.targets.postfix.postconf import SNI_MAPS, Installation
from mailsni.targets.postfix.rendering import render_postfix
from mailsni.targets.reload import Controls, ReloadResult

_MAP_TYPE = "map_type"
"""What a stage remembers."""
_DEFAULT_TYPES = ("lmdb", "cdb", "hash", "btree")


@dataclass(frozen=True, slots=True)
class Postfix:
    """The Postfix of this host."""

    name: ClassVar[Literal["postfix"]] = "postfix"
    pin_directory: ClassVar[None] = None
    """The compiled map holds the keys and the chains themselves."""
    settings: PostfixSettings
    installation: Installation
    map_types: tuple[str, ...]
    """The types to compile to, in the order in which to try them; more than one only when nothing decides it."""
    is_configured: bool
    """Whether the running configuration names the map."""

    @property
    def path(self) -> Path:
        """The source of the map; the compiled one has a suffix more."""
        return self.settings.map

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """The source, and the compiled map by all the names that it may have."""
        return (self.path, *map_files(self.path))

    @property
    def installed(self) -> bool:
        return self.installation.installed

    @property
    def reload_action(self) -> Action:
        return self.settings.action

    def render(self, selection: Selection, pins: PinDirectory, templates: Path | None) -> bytes:
        return render_postfix(selection, pins, templates)

    def named_files(self, text: bytes) -> Mapping[str, tuple[Path, ...]]:
        from mailsni.targets.postfix.map_source import source_lines  # only without a record

        entries = source_lines(text.decode("utf-8", "replace"))
        return {f"*{entry.key}" if entry.key.startswith(".") else entry.key: entry.files for entry in entries}

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the live map is not what it should be; None when it is.

        The source names files by what they hold, so an equal source means an equal map, if it is still the one that
        was compiled from it: then it has not been touched since it was published.
        """
        live = files.read_private(self.path)
        if live is None:
            return "there is none yet"
        if not record.trusted:
            return record.distrust_reason
        if live != text:
            return "its source changes"
        if self.recorded_map_type(record.deployment.memories.get(self.name, {})) is None:
            return f"the map is to be of type {self.map_types[0]}"
        published = [one for one in map_files(self.path) if str(one) in record.deployment.files]
        reasons = (_why_changed(one, record.deployment.files) for one in (self.path, *published))
        return next((why for why in reasons if why is not None), None)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """Compile the map, prove it entry by entry, and copy what it replaces."""
        source = staging / self.path.name
        files.create(source, text)
        map_type, compiled = compile_map(self.installation, source, map_entries(selection, pins), self.map_types)
        live = self.path.with_name(compiled.name)
        previous = copy_of_live(live, staging / "previous")
        if previous is None:
            previous = empty_map(self.installation, staging, map_type)
        staged = [StagedFile(compiled, live, previous)]
        if compiled != source:
            old_text = copy_of_live(self.path, staging / "previous-source")
            staged.append(StagedFile(source, self.path, old_text))
        return Stage(tuple(staged), {_MAP_TYPE: map_type})

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        if self.is_configured:
            return None
        table = f"{self.recorded_map_type(memory) or self.map_types[0]}:{self.path}"
        return (
            f"postfix: tls_server_sni_maps does not name {table}, so nothing is served from it yet: "
            f"`mailsni setup` wires it in, or postconf -e tls_server_sni_maps={table}"
        )

    def recorded_map_type(self, memory: Mapping[str, str]) -> str | None:
        """The type of the map that is live; None when it is none of those that the map may have, or unknown."""
        return next((kind for kind in self.map_types if kind == map_type_in(memory)), None)

    def reload(self) -> ReloadResult:
        postfix = self.installation
        command = ("postfix", "-c", postfix.config_directory)
        # `postfix reload` tells its log, not its caller, that the mail system is not running (measured).
        controls = Controls(
            is_default=postfix.config_directory == PostfixSettings().config_directory,
            is_running=lambda: postfix.run("postfix", "status", timeout=reload.TIMEOUT).returncode == 0,
            pid_file=lambda: Path(postfix.parameters("queue_directory").get("queue_directory", ""), "pid/master.pid"),
            reload=(*command, "reload"),
            own_restart=((*command, "stop"), (*command, "start")),
            executor=postfix.executor,
        )
        return reload.perform(self.name, self.reload_action, controls)

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The services with TLS in master.cf."""
        return postfix_endpoints(self.installation, every_family=every_family)


def map_type_in(memory: Mapping[str, str]) -> str:
    """The type of the map that a stage compiled: hash and btree share a suffix, so the file does not tell."""
    return memory.get(_MAP_TYPE, "")


def _why_changed(path: Path, published: Mapping[str, PublishedFile]) -> str | None:
    why = permissions.mode_problem(path, files.PRIVATE)
    if why is None and not file_identity.is_as_published(path, published.get(str(path))):
        why = f"{path} is not as it was published"
    return why


def is_wanted(settings: PostfixSettings, executor: Executor = LOCAL) -> bool:
    """Whether to deploy to this host's Postfix: it is switched on, or ``auto`` and installed."""
    installed = Installation(settings.config_directory, executor).installed
    return settings.enabled is True or (settings.enabled == "auto" and installed)


def find(settings: PostfixSettings, executor: Executor = LOCAL) -> Postfix | None:
    """Find the Postfix of this host.

    Returns:
        None when it is not wanted.

    Raises:
        HostError: postconf(1) fails, for example because main.cf cannot be parsed.
    """
    if not is_wanted(settings, executor):
        return None
    asked = settings.map_type
    postfix = Installation(settings.config_directory, executor)
    if not postfix.installed:
        unknown = ("hash",) if asked == "auto" else (asked,)
        return Postfix(settings, postfix, unknown, is_configured=False)
    values = postfix.parameters(SNI_MAPS, "default_database_type")
    if SNI_MAPS not in values:
        raise HostError(
            f"{settings.main_cf}: {SNI_MAPS} is unknown to this Postfix: it is older than 3.4",
            hint="upgrade Postfix, or set [postfix] enabled = false",
            path=settings.main_cf,
        )
    own = [table for table in parse_tables(values[SNI_MAPS]) if table.source == settings.map]
    types: tuple[str, ...] = (asked,)
    if asked == "auto" and own and own[0].map_type in get_args(MapType):
        types = (own[0].map_type,)
    elif asked == "auto":
        default = values.get("default_database_type", "")
        first = (default,) if default in _DEFAULT_TYPES else ()
        types = tuple(dict.fromkeys((*first, *_DEFAULT_TYPES)))
    return Postfix(settings, postfix, types, is_configured=bool(own))
