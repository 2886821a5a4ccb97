"""Makes a running server read what was published.

A reload goes through the server's own command, which works under every service manager. A restart does not: a server
that is stopped and started behind the back of its service manager runs twice, or not at all. So the manager is detected
from the master process itself, not from what is installed.

The exit status of a reload proves nothing (``doveadm reload`` exits 0 when the new configuration is refused,
measured): probes show afterwards what is served. A server that is not running is no failure: it reads the new files
when it starts, and is not started here.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Action
from mailsni.errors import HostError
from mailsni.host.commands import Executor, parent, require_tool
from mailsni.host.containers import ContainerError, ContainerExecutor

TIMEOUT = 120.0
"""Seconds for each command."""
_SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd runs the system (sd_booted(3))."""
_OPENRC = Path("/run/openrc/softlevel")
"""Exists where OpenRC runs the system."""
_INIT_SCRIPTS = Path("/etc/init.d")
_UNIT = re.compile(r"/([^/\s]+\.service)(?:/|$)", re.MULTILINE)

_SUPERVISORS = ("runsv", "s6-supervise", "supervise")
"""Of runit, s6 and daemontools."""
_LEVELS = 3
"""How far above a master process its supervisor is looked for."""

Command = tuple[str | Path, ...]


class ReloadResult(enum.StrEnum):
    """What a reload did to a server."""

    RELOADED = "reloaded"
    RESTARTED = "restarted"
    COMMANDED = "command run"
    NOT_RUNNING = "not running"
    CONTAINER_DOWN = "container not running"
    """Or it was started again at that moment: its server reads the new files when it starts."""
    LEFT_ALONE = "left alone"
    REFUSED = "not reloaded"


def unit_of(groups: str) -> str | None:
    """The systemd service of a process, from its ``/proc/PID/cgroup`` (cgroups(7)); None when it is in none."""
    units = _UNIT.findall(groups)
    return units[-1] if units else None


def restart_commands(
    own: tuple[Command, ...], *, unit: str | None, supervised: int | None, openrc: bool, script: Path | None
) -> tuple[Command, ...]:
    """How to restart a server: through what keeps its master process running, else by its own commands.

    Args:
        own: its own commands to stop and to start.
        unit: the systemd service that the process belongs to, where systemd runs the system.
        supervised: the number of the process, where a supervisor starts it again when it ends.
        openrc: whether OpenRC runs the system.
        script: the server's script in ``/etc/init.d``.
    """
    if unit is not None:
        return (("systemctl", "restart", unit),)
    if supervised is not None:
        # What `sv restart` and `s6-svc -r` do; but they would do it to the shell that `postfix start-fg` may leave
        # between the two, and `postfix stop` ends with SIGKILL for a master that is there again (postfix-script).
        return ((Path("/bin/sh"), "-c", f"kill -TERM {supervised}"),)
    if script is not None:
        return (("rc-service", script.name, "restart"),) if openrc else ((script, "restart"),)
    return own


@dataclass(frozen=True, slots=True)
class Controls:
    """How a server is controlled. Its commands begin with the name of a tool."""

    is_default: bool
    """Whether the server runs with the default configuration."""
    is_running: Callable[[], bool]
    pid_file: Callable[[], Path | None]
    """Where it writes the number of its master process; None when it does not say."""
    reload: Command
    own_restart: tuple[Command, ...]
    """Its own commands to stop and to start."""
    executor: Executor


def _detected_restart_commands(name: str, server: Controls) -> tuple[Command, ...]:
    script = _INIT_SCRIPTS / name  # it knows the default configuration only
    installed = script if server.is_default and os.access(script, os.X_OK) else None
    file = server.pid_file()
    number = unit = None
    with suppress(OSError, ValueError):
        number = int(file.read_text()) if file is not None else None
    if number is not None and _SYSTEMD.is_dir():
        with suppress(OSError, ValueError):
            unit = unit_of((Path("/proc") / str(number) / "cgroup").read_text())
    supervised = number if number is not None and _is_supervised(number) else None
    openrc = _OPENRC.exists()
    return restart_commands(server.own_restart, unit=unit, supervised=supervised, openrc=openrc, script=installed)


def _is_supervised(number: int) -> bool:
    """Whether a supervisor is among the nearest ancestors of a process."""
    with suppress(OSError, ValueError):
        for _ in range(_LEVELS):
            number = parent(number)
            if (Path("/proc") / str(number) / "comm").read_text().strip() in _SUPERVISORS:
                return True
    return False


def perform(name: str, action: Action, server: Controls) -> ReloadResult:
    """Reload a server, restart it, or run the administrator's command, which runs on this host in any case.

    A container that does not run needs no reload: its server reads the new files when it starts.

    Raises:
        HostError: a command failed.
    """
    if isinstance(action, tuple):
        _run(server.executor.host if isinstance(server.executor, ContainerExecutor) else server.executor, action)
        return ReloadResult.COMMANDED
    try:
        return _perform(name, action, server)
    except ContainerError:
        return ReloadResult.CONTAINER_DOWN


def _perform(name: str, action: Action, server: Controls) -> ReloadResult:
    if server.executor.find_tool(str(server.reload[0])) is None:
        return ReloadResult.NOT_RUNNING
    if action == "none":
        return ReloadResult.LEFT_ALONE
    if not server.is_running():
        return ReloadResult.NOT_RUNNING
    if action == "restart":
        for command in _detected_restart_commands(name, server):
            # A daemon that is started by a command itself would keep a pipe of ours open for ever.
            _run(server.executor, command, detached=command[0] != "systemctl")
        return ReloadResult.RESTARTED
    _run(server.executor, server.reload)
    return ReloadResult.RELOADED


def _run(executor: Executor, command: Command, *, detached: bool = False) -> None:
    tool, *arguments = command
    program = tool if Path(tool).is_absolute() else require_tool(str(tool), executor)
    done = executor.run([program, *arguments], timeout=TIMEOUT, detached=detached)
    if done.returncode != 0:
        raise HostError(f"{' '.join(done.argv)}: {done.complaint}")
