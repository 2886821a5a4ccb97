"""Postfix: the source of ``tls_server_sni_maps``, the map compiled from it, and the proof that it holds what it should.

``postmap -F`` cannot be believed: it exits 0 after it dropped entries, stores an empty value for an empty file, and
(lmdb, full disk) writes nothing at all (all measured). So the map is compiled in a private directory, every line of
its talk that is not known to be harmless is a failure, and every entry is read back and compared with the bytes that
were meant. What the live map becomes by rename(2) is only ever such a proven one; smtpd(8) notices by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from mailsni.config.settings import Action, PostfixSettings
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
from mailsni.targets.postfix.map_types import PostfixMap, map_files
from mailsni.targets.postfix.map_uses import MapUses, TypeChoice, choose_types, find_uses
from mailsni.targets.postfix.postconf import SNI_MAPS, Installation, redirects_berkeley_db
from mailsni.targets.postfix.rendering import render_postfix
from mailsni.targets.postfix.startup import startup_error
from mailsni.targets.reload import Controls, ReloadResult

_MAP_TYPES = "map_types"
"""What a stage remembers: the types that it compiled, with blanks between them."""


@dataclass(frozen=True, slots=True)
class Postfix:
    """The Postfix of this host."""

    name: ClassVar[Literal["postfix"]] = "postfix"
    pin_directory: ClassVar[None] = None
    """The compiled map holds the keys and the chains themselves."""
    settings: PostfixSettings
    installation: Installation
    types: TypeChoice
    uses: MapUses = field(default_factory=MapUses)
    redirected: bool = False
    """Whether this Postfix may open a map of another type in place of Berkeley DB."""

    @property
    def path(self) -> Path:
        """The source of the map; the compiled one has a suffix more."""
        return self.settings.map

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """The source, and the compiled map by all the names that it may have."""
        return (self.path, *map_files(self.path))

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        """The source and the maps that something names; all of them as long as that is not known for sure.

        A Postfix that nobody reloads goes on with the maps that main.cf named when it read it.
        """
        if not self.uses.uses or self.uses.unreadable or self.redirected or self.reload_action == "none":
            return self.artifacts
        made = [PostfixMap(types[0], self.path).file for types in self.types.maps]
        named = [PostfixMap(use.table.map_type, self.path).file for use in self.uses.uses]
        return tuple(dict.fromkeys((self.path, *made, *named)))

    @property
    def is_configured(self) -> bool:
        """Whether ``tls_server_sni_maps`` in main.cf names the map."""
        return self.uses.is_in_main_cf

    @property
    def installed(self) -> bool:
        return self.installation.installed

    @property
    def reload_action(self) -> Action:
        return self.settings.action

    def render(self, selection: Selection, pins: PinDirectory, templates: Path | None) -> bytes:
        return render_postfix(selection, pins, templates, naming=self._name_of_pin)

    def _name_of_pin(self, path: Path) -> Path:
        """What the source calls a pinned file. Postfix itself reads it only where the map is of type texthash.

        Raises:
            HostError: Postfix has to read it, and its container does not see it.
        """
        try:
            return self.installation.executor.inside(path)
        except HostError:
            if ("texthash",) in self.types.maps:
                raise
            return path

    def named_files(self, text: bytes) -> Mapping[str, tuple[Path, ...]]:
        from mailsni.targets.postfix.map_source import source_lines  # only without a record

        outside = self.installation.executor.outside
        entries = source_lines(text.decode("utf-8", "replace"))
        return {
            f"*{entry.key}" if entry.key.startswith(".") else entry.key: tuple(
                outside(path) or path for path in entry.files
            )
            for entry in entries
        }

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
        built = map_types_in(record.deployment.memories.get(self.name, {}))
        lacking = next((types for types in self.types.maps if not set(types) & set(built)), None)
        if lacking is not None:
            return f"the map is to be of type {lacking[0]}"
        published = [path for path in self.artifacts_in_use if str(path) in record.deployment.files]
        reasons = (_why_changed(path, record.deployment.files) for path in dict.fromkeys((self.path, *published)))
        return next((why for why in reasons if why is not None), None)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """Compile the map to each type, prove it entry by entry, and copy what it replaces."""
        entries = map_entries(selection, pins)
        compilable = self._compilable(staging, text, selection, pins)
        built: list[str] = []
        staged: dict[Path, StagedFile] = {}
        for map_types in self.types.maps:
            # Each in a directory of its own, so that the compiled file beside the source is the one of this type.
            directory = staging / map_types[0] if built else staging
            files.ensure_directory(directory, 0o700)
            source = directory / self.path.name
            files.create(source, text if map_types == ("texthash",) else compilable)
            map_type, compiled = compile_map(self.installation, source, entries, map_types)
            live = self.path.with_name(compiled.name)
            previous = copy_of_live(live, source.with_name("previous"))
            if previous is None:
                previous = empty_map(self.installation, source.parent, map_type)
            staged[live] = StagedFile(compiled, live, previous)
            built.append(map_type)
        if self.path not in staged:
            source = staging / self.path.name
            if compilable != text:
                source = staging / "source"
                files.create(source, text)
            old_text = copy_of_live(self.path, staging / "previous-source")
            staged[self.path] = StagedFile(source, self.path, old_text)
        # The source goes last: as long as it is the old one, the next run knows that the maps may be.
        in_order = sorted(staged.values(), key=lambda file: file.destination == self.path)
        return Stage(tuple(in_order), {_MAP_TYPES: " ".join(built)})

    def _compilable(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> bytes:
        """The source as postmap(1) can read it where it runs: a container need not see the pinned files."""
        executor = self.installation.executor
        if not executor.container:
            return text
        copies = PinDirectory(staging / "pins")
        files.ensure_directory(copies.path, 0o700)
        for certificate in selection.certificates:
            files.copy_new(pins.path_of(certificate), copies.path_of(certificate))
        return text.replace(f"{self._name_of_pin(pins.path)}/".encode(), f"{executor.inside(copies.path)}/".encode())

    @property
    def warnings(self) -> tuple[str, ...]:
        """The maps that are named and cannot be made, and whose names cannot be found out."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        for directory in self.uses.unreadable:
            yield f"postfix: {directory}: cannot be read, so a map that only it names is not made anew"
        for table, use in self.uses.tables().items():
            why = self.types.refused.get(table.map_type)
            if why is not None:
                yield f"postfix: {use.place} names {table}, which is not made, so clients are cut off there: {why}"

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        if self.is_configured:
            return None
        map_type = self.recorded_map_type(memory) or self.types.maps[0][0]
        executor = self.installation.executor
        table = f"{map_type}:{executor.inside(self.path)}"
        way = "`mailsni setup` wires it in, or" if not executor.container else f"in container {executor.container} say"
        return (
            f"postfix: tls_server_sni_maps does not name {table}, so nothing is served from it yet: "
            f"{way} postconf -e tls_server_sni_maps={table}"
        )

    def recorded_map_type(self, memory: Mapping[str, str]) -> str | None:
        """The type of the map that is live; None when it is none of those that main.cf may name, or unknown."""
        return next((kind for kind in self.types.maps[0] if kind in map_types_in(memory)), None)

    def startup_problem(self) -> str | None:
        return startup_error(self.installation) if self.installed else None

    def reload(self) -> ReloadResult:
        """A reload makes master(8) read its files again, and what it refuses ends it (measured): then none is made."""
        postfix = self.installation
        if isinstance(self.reload_action, str) and self.reload_action != "none" and self.startup_problem() is not None:
            return ReloadResult.REFUSED
        command = ("postfix", "-c", postfix.executor.inside(postfix.config_directory))
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

    def failure(self) -> str | None:
        return None  # master(8) tells only its log

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The services with TLS in master.cf."""
        return postfix_endpoints(self.installation, every_family=every_family)


def map_types_in(memory: Mapping[str, str]) -> tuple[str, ...]:
    """The types of the maps that a stage compiled: hash and btree share a suffix, so the files do not tell."""
    return tuple(memory.get(_MAP_TYPES, "").split())


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
    """Find the Postfix of this host, or of the container that the executor runs programs in.

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
        return Postfix(settings, postfix, TypeChoice((("hash" if asked == "auto" else asked,),), {}))
    main = postfix.parameters()
    if SNI_MAPS not in main:
        raise HostError(
            f"{settings.main_cf}: {SNI_MAPS} is unknown to this Postfix: it is older than 3.4",
            hint="upgrade Postfix, or set [postfix] enabled = false",
            path=settings.main_cf,
        )
    uses = find_uses(postfix, settings.map, main)
    types = choose_types(asked, uses.map_types, main, postfix.supported_types)
    return Postfix(settings, postfix, types, uses, redirects_berkeley_db(main))
