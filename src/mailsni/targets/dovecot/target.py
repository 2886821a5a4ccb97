"""Dovecot: the include with the ``local_name`` blocks, and the check that the server would start with it.

``doveconf -n`` opens none of the files that a block names; ``-x`` does, and is what decides here. One file that is
missing stops the whole server at its next start, while ``doveadm reload`` exits 0 and keeps the old configuration
(all measured), so nothing is published that has not been checked in place of what is live.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.config.settings import DovecotSettings
from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.errors import HostError
from mailsni.host import file_identity, files, permissions
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Endpoint
from mailsni.targets import reload, rendering
from mailsni.targets.base import MapEntry, Stage, Staged
from mailsni.targets.dovecot import doveconf, live_include, parser
from mailsni.targets.dovecot.endpoints import dovecot_endpoints
from mailsni.targets.reload import ReloadResult
from mailsni.targets.rendering import DovecotVersion, Paths


@dataclass(frozen=True, slots=True)
class Dovecot:
    """The Dovecot of this host, as far as this program needs to know it."""

    settings: DovecotSettings
    installed: bool
    version: DovecotVersion
    executor: Executor = LOCAL

    @property
    def name(self) -> Literal["dovecot"]:
        """See :class:`mailsni.targets.base.Target`."""
        return "dovecot"

    @property
    def path(self) -> Path:
        """The include."""
        return self.settings.include_file

    def render(self, selection: Selection, paths: Paths, templates: Path | None) -> bytes:
        """The include."""
        return rendering.render_dovecot(rendering.blocks(selection, paths, self.version), self.version, templates)

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the live include is not what it should be; None when it is."""
        live = files.read_private(self.path)
        if live is None:
            return "there is none yet"
        if record.interrupted:
            return record.why_untrusted
        if live != text:
            return "its content changes"
        return permissions.mode_problem(self.path, files.PUBLIC)

    def stage(self, staging: Path, text: bytes, entries: Sequence[MapEntry]) -> Stage:
        """Write the include, let Dovecot read it in the place of the live one, and copy what it replaces."""
        del entries
        path = staging / self.path.name
        files.create(path, text, files.PUBLIC)
        previous = None
        if file_identity.of_file(self.path) is not None:
            previous = staging / "previous-include"
            files.copy_new(self.path, previous)
        self._validate(path)
        return Stage((Staged(path, self.path, previous),))

    def _validate(self, staged: Path) -> None:
        """Let Dovecot read its configuration with a staged include in the place of the live one."""
        if not self.installed:
            return
        main = self.settings.config_file
        trial = staged.with_name("dovecot.conf")
        files.create(trial, live_include.trial(main, self.path, staged).encode("utf-8", "surrogateescape"))
        error = doveconf.startup_error(trial, self.executor)
        if error is None:
            return
        if (own := doveconf.startup_error(main, self.executor)) is not None:
            raise HostError(
                f"{main}: Dovecot's configuration is broken already, so nothing new can be loaded: {own}",
                hint="mend that first: with it Dovecot does not start again once it is stopped",
            )
        raise HostError(f"{self.path}: Dovecot refuses the new include: {error}")

    def not_configured_reason(self, map_type: str) -> str | None:
        """Why the running Dovecot does not read the include, and what to do; None when it does."""
        del map_type
        main = self.settings.config_file
        if live_include.is_included(parser.read(main, without=self.path), self.path):
            return None
        return (
            f"dovecot: {main} does not include {self.path}, so nothing is served from it yet: "
            f"`mailsni setup` wires it in, or the line `!include_try {self.path}` at its end"
        )

    def signal(self) -> ReloadResult:
        """Reload, or what the configuration says."""
        return reload.reload_dovecot(self.settings, self.executor)

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The listeners with TLS."""
        return dovecot_endpoints(self.settings.config_file, every_family=every_family)


def _is_installed(executor: Executor) -> bool:
    return executor.find_tool("dovecot") is not None and executor.find_tool("doveconf") is not None


def is_wanted(settings: DovecotSettings, executor: Executor = LOCAL) -> bool:
    """Whether this host's Dovecot is to be served: switched on, or to be found by itself and installed."""
    return settings.enabled is True or (settings.enabled == "auto" and _is_installed(executor))


def find(settings: DovecotSettings, executor: Executor = LOCAL) -> Dovecot | None:
    """Look at the Dovecot of this host.

    Returns:
        None when it is not wanted.

    Raises:
        HostError: its version is unknown to this program, or cannot be asked for.
    """
    if not is_wanted(settings, executor):
        return None
    if settings.version != "auto":
        return Dovecot(settings, _is_installed(executor), settings.version, executor)
    if executor.find_tool("dovecot") is None:
        raise HostError(
            "dovecot: not installed, so its version is unknown",
            hint='[dovecot] version = "2.3" or "2.4" in the configuration says it',
        )
    text = doveconf.full_version(executor)
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (2, 3):
        raise HostError(
            f"dovecot: version {text or 'unknown'}: only 2.3 and later are known",
            hint="[dovecot] version in the configuration says which syntax to write, enabled = false leaves it out",
        )
    version: DovecotVersion = "2.3" if (int(numbers[1]), int(numbers[2])) == (2, 3) else "2.4"
    return Dovecot(settings, _is_installed(executor), version, executor)
