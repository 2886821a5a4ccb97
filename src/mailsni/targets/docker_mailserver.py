"""docker-mailserver: Postfix and Dovecot in its container, wired in by the override files that its documentation names.

``docker-data/dms/config`` is mounted as ``/tmp/docker-mailserver``. When the container starts, ``postfix-main.cf`` is
added to main.cf, and ``dovecot.cf`` is copied to ``/etc/dovecot/local.conf``, which dovecot.conf includes at its end
("Override the Default Configs", and ``target/scripts/startup/setup.d/{postfix,dovecot}.sh``). While it runs nothing
looks at them again (``check-for-changes.sh`` watches other files). So both files are written for the next start, and
what that start will do with them is done at once, inside, before the reload: no restart is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.host.containers import ContainerError
from mailsni.probes.endpoint import Endpoint
from mailsni.targets.base import Stage, StagedFile, copy_of_live
from mailsni.targets.dovecot import live_include
from mailsni.targets.dovecot.endpoints import dovecot_endpoints
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.postfix.map_types import PostfixMap, parse_tables
from mailsni.targets.postfix.postconf import SNI_MAPS
from mailsni.targets.postfix.target import Postfix, map_types_in
from mailsni.targets.reload import ReloadResult

IN_IMAGE = (Path("/etc/postfix"), Path("/etc/dovecot"))
"""Where the configuration of both servers lies in the container, and nowhere else."""
_LOCAL_CONF = "/etc/dovecot/local.conf"
_MARK = "# mailsni writes the next line"
_OURS = re.compile(rf"^{_MARK}\n.*\n?", re.MULTILINE)


def postfix_of(found: Postfix, config: Path) -> DockerMailserverPostfix:
    """The Postfix of docker-mailserver; ``config`` is its ``docker-data/dms/config``."""
    return DockerMailserverPostfix(
        found.settings, found.installation, found.types, found.uses, found.redirected, config / "postfix-main.cf"
    )


def dovecot_of(found: Dovecot, config: Path) -> DockerMailserverDovecot:
    """The Dovecot of docker-mailserver; ``config`` is its ``docker-data/dms/config``."""
    return DockerMailserverDovecot(
        found.settings, found.installed, found.version, found.executor, config / "dovecot.cf"
    )


def with_line(text: str, line: str) -> str:
    """An override file with our line at its end, and with no other line of ours."""
    others = _OURS.sub("", text)
    separator = "" if others.endswith("\n") or not others else "\n"
    return f"{others}{separator}{_MARK}\n{line}\n"


def _staged_override(override: Path, line: str, staging: Path, mode: int) -> Iterator[StagedFile]:
    """The override file with our line; nothing when it is as it should be."""
    content = files.read_text(override) or ""
    wanted = with_line(content, line)
    if content == wanted:
        return
    staged = staging / override.name
    files.create(staged, wanted.encode("utf-8", "surrogateescape"), mode)
    yield StagedFile(staged, override, copy_of_live(override, staging / f"previous-{override.name}"))


@dataclass(frozen=True)
class DockerMailserverPostfix(Postfix):
    """The Postfix in docker-mailserver's container. Its map lies beside the override file."""

    override: Path = Path()
    """``postfix-main.cf``."""

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """Those of the map, and the override file."""
        return (*super().artifacts, self.override)

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        """Those of the map, and the override file."""
        return (*super().artifacts_in_use, self.override)

    @property
    def is_configured(self) -> bool:
        """A deployment wires the map in itself."""
        return True

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        """A deployment wires the map in itself."""
        del memory
        return None

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the map or the override file must be published again, or the running Postfix be told of the map."""
        map_type = self.recorded_map_type(record.deployment.memories.get(self.name, {}))
        content = files.read_text(self.override) or ""
        if map_type is None or with_line(content, self._line(map_type)) != content:
            return f"{self.override} does not name the map"
        if not self._is_named():
            return "the running Postfix does not name the map"
        return super().change_reason(record, text)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """The map, then the override file that names it."""
        made = super().stage(staging, text, selection, pins)
        line = self._line(map_types_in(made.memory)[0])
        override = _staged_override(self.override, line, staging, files.PRIVATE)
        return replace(made, files=(*made.files, *override))

    def reload(self) -> ReloadResult:
        """Do what the next start of the container will do with the override file, then reload."""
        map_type = next(iter(self._built_types()), None)
        try:
            if map_type is not None and not self._is_named():
                done = self.installation.run("postconf", "-e", self._line(map_type))
                if done.returncode != 0:
                    raise HostError(f"postfix: postconf cannot name the map: {done.complaint}")
        except ContainerError:
            return ReloadResult.CONTAINER_DOWN
        return super().reload()

    def _built_types(self) -> Iterator[str]:
        """The types that the override file names our map with."""
        for line in _OURS.findall(files.read_text(self.override) or ""):
            for table in parse_tables(line.partition("=")[2]):
                if table.source == self.installation.executor.inside(self.path):
                    yield table.map_type

    def _is_named(self) -> bool:
        """Whether the main.cf that the running Postfix has names the map."""
        return any(table.source == self.path for table in self.installation.sni_tables())

    def _line(self, map_type: str) -> str:
        """Our line of main.cf: the administrator's tables stay, and their names win."""
        tables = self.installation.sni_tables(expanded=False)
        ours = self.installation.name_of(PostfixMap(map_type, self.path))
        named = [table.written for table in tables if table.source != self.path]
        return f"{SNI_MAPS} = {', '.join([*named, ours])}"


@dataclass(frozen=True)
class DockerMailserverDovecot(Dovecot):
    """The Dovecot in docker-mailserver's container. Its include lies beside the override file."""

    override: Path = Path()
    """``dovecot.cf``."""

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """The include and the override file."""
        return (self.path, self.override)

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        """The include and the override file."""
        return self.artifacts

    @property
    def is_configured(self) -> bool:
        """A deployment wires the include in itself."""
        return True

    @property
    def _line(self) -> str:
        return live_include.include_line(self.executor.inside(self.path))

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the include or the override file must be published again, or the running Dovecot be told of it."""
        content = files.read_text(self.override) or ""
        if with_line(content, self._line) != content:
            return f"{self.override} does not include it"
        if not self._is_copied():
            return "the running Dovecot does not include it"
        return super().change_reason(record, text)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """The include, then the override file that includes it."""
        made = super().stage(staging, text, selection, pins)
        return replace(made, files=(*made.files, *_staged_override(self.override, self._line, staging, files.PUBLIC)))

    def _trial(self, staged: Path) -> str:
        """The configuration in the image, and the staged include after it: each block of a name counts."""
        return f"!include {self.settings.config_file}\n!include {self.executor.inside(staged)}\n"

    def reload(self) -> ReloadResult:
        """Do what the next start of the container will do with the override file, then reload."""
        try:
            if not self._is_copied():
                self._shell("cp", _LOCAL_CONF)
        except ContainerError:
            return ReloadResult.CONTAINER_DOWN
        return super().reload()

    def _is_copied(self) -> bool:
        """Whether the container runs with the override file as it is."""
        return self._shell("cmp -s", _LOCAL_CONF) == 0

    def _shell(self, command: str, destination: str) -> int:
        """The exit status of a command in the container for the override file and another one."""
        override = str(self.executor.inside(self.override))
        words = ["/bin/sh", "-c", f'{command} "$1" "$2"', "sh", override, destination]
        return self.executor.run(words).returncode

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The login services; see :func:`dovecot_endpoints`."""
        return dovecot_endpoints(self.settings.config_file, every_family=every_family, executor=self.executor)
