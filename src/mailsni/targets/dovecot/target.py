"""Dovecot: the include with the ``local_name`` blocks, and the check that the server would start with it.

``doveconf -n`` opens none of the files that a block names; ``-x`` does, and is what decides here. One file that is
missing stops the whole server at its next start, while ``doveadm reload`` exits 0 and keeps the old configuration
(all measured), so nothing is published that has not been checked in place of what is live.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from mailsni.config.settings import Action, DovecotSettings
from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.errors import HostError, ServerConfigurationError
from mailsni.host import files, permissions
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Endpoint
from mailsni.targets import reload
from mailsni.targets.base import Stage, StagedFile, copy_of_live
from mailsni.targets.dovecot import doveconf, live_include, parser, readers
from mailsni.targets.dovecot.endpoints import dovecot_endpoints
from mailsni.targets.dovecot.rendering import DovecotVersion, render_dovecot
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.reload import Controls, ReloadResult

_STATUS_TIMEOUT = 10.0
_LATE_READERS = 120.0
"""Seconds to wait for starts that read the configuration."""


@dataclass(frozen=True, slots=True)
class Dovecot:
    """The Dovecot of this host."""

    name: ClassVar[Literal["dovecot"]] = "dovecot"
    settings: DovecotSettings
    installed: bool
    version: DovecotVersion
    executor: Executor = LOCAL

    @property
    def path(self) -> Path:
        """The include."""
        return self.settings.include_file

    @property
    def artifacts(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        return self.artifacts

    @property
    def reload_action(self) -> Action:
        return self.settings.action

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def pin_directory(self) -> Path | None:
        """Below /etc/dovecot, where SELinux and AppArmor let Dovecot read; None when its blocks name the stores."""
        return self.settings.pin_directory if self.settings.certificates == "pinned" else None

    def render(self, selection: Selection, pins: PinDirectory, templates: Path | None) -> bytes:
        live = self.settings.certificates == "live"
        return render_dovecot(selection, pins, self.version, templates, live=live, naming=self.executor.inside)

    def named_files(self, text: bytes) -> Mapping[str, tuple[Path, ...]]:
        blocks = live_include.blocks_of(text.decode("utf-8", "replace"))
        outside = self.executor.outside
        return {name: tuple(outside(path) or path for path in block.paths) for block in blocks for name in block.names}

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        live = files.read_private(self.path)
        if live is None:
            return "there is none yet"
        if record.interrupted:
            return record.distrust_reason
        if live != text:
            return "its content changes"
        return permissions.mode_problem(self.path, files.PUBLIC)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """Write the include, let Dovecot read it in the place of the live one, and copy what it replaces."""
        del selection, pins  # the text says it all
        path = staging / self.path.name
        files.create(path, text, files.PUBLIC)
        previous = copy_of_live(self.path, staging / "previous-include")
        self._validate(path)
        return Stage((StagedFile(path, self.path, previous),), starts=self.installed)

    def _validate(self, staged: Path) -> None:
        """Let Dovecot read its configuration with a staged include in the place of the live one."""
        if not self.installed:
            return
        main = self.settings.config_file
        trial = staged.with_name("dovecot.conf")
        files.create(trial, self._trial(staged).encode("utf-8", "surrogateescape"))
        error = doveconf.startup_error(trial, self.executor)
        if error is None:
            return
        if (own := self.startup_problem()) is not None:
            raise ServerConfigurationError(
                f"{main}: Dovecot's configuration is broken already, so nothing new can be loaded: {own}",
                hint="mend that first: with it Dovecot does not start again once it is stopped",
            )
        raise HostError(f"{self.path}: Dovecot refuses the new include: {error}")

    def _trial(self, staged: Path) -> str:
        return live_include.trial(self.settings.config_file, self.path, staged, self.executor)

    @property
    def is_configured(self) -> bool:
        main, own = self.settings.config_file, self.path
        return live_include.is_included(parser.read(main, without=own, executor=self.executor), own)

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        del memory  # nothing is remembered
        if self.is_configured:
            return None
        line = live_include.include_line(self.executor.inside(self.path))
        way = "`mailsni setup` wires it in, or" if not self.executor.container else "what wires it in is"
        return (
            f"dovecot: {self.settings.config_file} does not include {self.path}, so nothing is served from it yet: "
            f"{way} the line `{line}` at its end"
        )

    def startup_problem(self) -> str | None:
        if not self.installed:
            return None
        return doveconf.startup_error(self.settings.config_file, self.executor)

    def reload(self) -> ReloadResult:
        options = ("-c", self.executor.inside(self.settings.config_file))
        controls = Controls(
            is_default=self.settings.config_file == DovecotSettings().config_file,
            is_running=self._is_running,
            pid_file=self._pid_file,
            reload=("doveadm", *options, "reload"),
            own_restart=(("doveadm", *options, "stop"), ("dovecot", *options)),
            executor=self.executor,
        )
        return reload.perform(self.name, self.reload_action, controls)

    def _pid_file(self) -> Path | None:
        config_file = self.settings.config_file
        done = doveconf.run(config_file, "-h", "base_dir", executor=self.executor, timeout=reload.TIMEOUT)
        return Path(done.text.strip()) / "master.pid" if done.returncode == 0 else None

    def late_reader(self, moment: float) -> str | None:
        """Wait until no Dovecot that starts reads the configuration from before a moment (seconds of CLOCK_BOOTTIME).

        Returns:
            Which one still does after two minutes; None when none does.
        """
        late = readers.outlasting(moment, _LATE_READERS)
        return f"a Dovecot that starts is reading the former configuration (process {late[0]})" if late else None

    def _is_running(self) -> bool:
        """Whether the master process that the configuration's ``base_dir`` tells of is alive; when in doubt it is."""
        file = self._pid_file()
        if self.executor.container:
            words = ["/bin/sh", "-c", 'kill -0 "$(cat "$1")"', "sh", file or ""]
            return self.executor.run(words).returncode == 0
        try:
            if file is not None:
                os.kill(int(file.read_text()), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        except (OSError, ValueError):
            return True
        return True

    def failure(self) -> str | None:
        """Ask the master process whether services that clients need fail to start (doveadm-service(1)).

        It then waits longer and longer before it tries again ("throttling"), and clients wait for an answer.
        """
        doveadm = self.executor.find_tool("doveadm")
        if doveadm is None:
            return None
        options = ("-c", self.executor.inside(self.settings.config_file), "-f", "tab")
        try:
            done = self.executor.run([doveadm, *options, "service", "status"], timeout=_STATUS_TIMEOUT)
        except HostError:
            return None
        header, *rows = [line.split("\t") for line in done.text.splitlines()] or [[]]
        services = [dict(zip(header, row, strict=False)) for row in rows]
        throttled = (each.get("name", "") for each in services if each.get("throttle_secs", "0") != "0")
        failing = [name for name in throttled if name == "config" or name.endswith("-login")]
        return f"its services fail to start: {', '.join(failing)}" if failing else None

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The login services; see :func:`dovecot_endpoints`.

        Where they listen does not depend on the include: when Dovecot refuses that, it is asked without.
        """
        ask = partial(dovecot_endpoints, every_family=every_family, executor=self.executor)
        main = self.settings.config_file
        try:
            return ask(main)
        except HostError as error:
            with files.scratch(include=b"") as directory, suppress(HostError):
                trial = directory / "dovecot.conf"
                text = live_include.trial(main, self.path, directory / "include", self.executor)
                files.create(trial, text.encode("utf-8", "surrogateescape"))
                return ask(trial)
            raise error from None


def _is_installed(executor: Executor) -> bool:
    return executor.find_tool("dovecot") is not None and executor.find_tool("doveconf") is not None


def is_wanted(settings: DovecotSettings, executor: Executor = LOCAL) -> bool:
    """Whether to deploy to this host's Dovecot: it is switched on, or ``auto`` and installed."""
    return settings.enabled is True or (settings.enabled == "auto" and _is_installed(executor))


def find(settings: DovecotSettings, executor: Executor = LOCAL) -> Dovecot | None:
    """Find the Dovecot of this host, or of the container that the executor runs programs in.

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
