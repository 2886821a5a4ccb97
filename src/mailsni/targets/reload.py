"""Making a running server read what was published.

A reload goes through the server's own command, which works under every service manager. A manager matters for a
restart: to stop and start a server behind the back of what keeps it running is to have two of it, or none. So what
keeps it running is found out from the master process itself, not from what is installed.

The exit status of a reload proves nothing (``doveadm reload`` exits 0 when the new configuration is refused,
measured): what is served is asked on the wire afterwards. A server that is not running is no failure; it will read
the new files when it starts, and is not started here.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Action, DovecotSettings, PostfixSettings
from mailsni.errors import HostError
from mailsni.host.commands import LOCAL, Completed, Executor, parent, require_tool

_TIMEOUT = 120.0
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
    """What was done to a server."""

    RELOADED = "reloaded"
    RESTARTED = "restarted"
    COMMANDED = "command run"
    NOT_RUNNING = "not running"
    LEFT_ALONE = "left alone"


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """What is known of that which keeps a server's master process running."""

    unit: str | None = None
    """The systemd service that the process belongs to, where systemd runs the system."""
    supervisor_pid: int | None = None
    """The number of the process, where a supervisor starts it again when it ends."""
    openrc: bool = False
    """Whether OpenRC runs the system and has a script for the server."""
    init_script: Path | None = None
    """The script in ``/etc/init.d``."""


def unit_of(groups: str) -> str | None:
    """The systemd service of a process, from its ``/proc/PID/cgroup`` (cgroups(7)); None when it is in none."""
    units = _UNIT.findall(groups)
    return units[-1] if units else None


def restart_commands(manager: ServiceManager, own: Sequence[Command]) -> tuple[Command, ...]:
    """How to restart a server.

    Args:
        manager: what keeps it running.
        own: its own commands to stop and to start, for where nobody does.
    """
    match manager:
        case ServiceManager(unit=str(unit)):
            return (("systemctl", "restart", unit),)
        case ServiceManager(supervisor_pid=int(number)):
            # What `sv restart` and `s6-svc -r` do; but they would do it to the shell that `postfix start-fg` may leave
            # between the two, and `postfix stop` ends with SIGKILL for a master that is there again (postfix-script).
            return ((Path("/bin/sh"), "-c", f"kill -TERM {number}"),)
        case ServiceManager(openrc=True, init_script=Path() as script):
            return (("rc-service", script.name, "restart"),)
        case ServiceManager(init_script=Path() as script):
            return ((script, "restart"),)
        case _:
            return tuple(own)


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    """Of its script in ``/etc/init.d``, which knows the default configuration only."""
    is_default: bool
    is_running: Callable[[], bool]
    master: Callable[[], int | None]
    reload: Command
    own_restart: tuple[Command, ...]
    executor: Executor


def reload_postfix(settings: PostfixSettings, executor: Executor = LOCAL) -> ReloadResult:
    """Make Postfix read its new map, as ``[postfix] action`` says.

    Raises:
        HostError: the command failed for another reason than that Postfix does not run.
    """
    if not isinstance(settings.action, tuple) and executor.find_tool("postfix") is None:
        return ReloadResult.NOT_RUNNING
    command = (executor.find_tool("postfix") or "postfix", "-c", settings.config_directory)
    # `postfix reload` tells its log, not its caller, that the mail system is not running (measured).
    server = _Server(
        "postfix",
        settings.config_directory == PostfixSettings().config_directory,
        lambda: executor.run([*command, "status"], timeout=_TIMEOUT).returncode == 0,
        lambda: _number_in(_queue_directory(settings.config_directory, executor), "pid/master.pid"),
        (*command, "reload"),
        ((*command, "stop"), (*command, "start")),
        executor,
    )
    return _signal(server, settings.action)


def reload_dovecot(settings: DovecotSettings, executor: Executor = LOCAL) -> ReloadResult:
    """Make Dovecot read its new configuration, as ``[dovecot] action`` says.

    Raises:
        HostError: the command failed for another reason than that Dovecot does not run.
    """
    if not isinstance(settings.action, tuple) and executor.find_tool("doveadm") is None:
        return ReloadResult.NOT_RUNNING
    doveadm = (executor.find_tool("doveadm") or "doveadm", "-c", settings.config_file)
    server = _Server(
        "dovecot",
        settings.config_file == DovecotSettings().config_file,
        lambda: _dovecot_runs(settings.config_file, executor),
        lambda: _number_in(_base_directory(settings.config_file, executor), "master.pid"),
        (*doveadm, "reload"),
        ((*doveadm, "stop"), (executor.find_tool("dovecot") or "dovecot", "-c", settings.config_file)),
        executor,
    )
    return _signal(server, settings.action)


def _dovecot_runs(config_file: Path, executor: Executor) -> bool:
    """Whether the master process that a configuration's ``base_dir`` tells of is alive; when in doubt it is."""
    base = _base_directory(config_file, executor)
    if base is None:
        return True
    try:
        number = int((Path(base) / "master.pid").read_text())
        os.kill(number, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _queue_directory(config_directory: Path, executor: Executor) -> str | None:
    return _said(executor, "postconf", "-c", config_directory, "-h", "queue_directory")


def _base_directory(config_file: Path, executor: Executor) -> str | None:
    return _said(executor, "doveconf", "-c", config_file, "-h", "base_dir")


def _said(executor: Executor, tool: str, *words: str | Path) -> str | None:
    """The line that a program prints; None when it fails."""
    done = executor.run([require_tool(tool, executor), *words], timeout=_TIMEOUT)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _number_in(directory: str | None, name: str) -> int | None:
    """The number of a process that a file tells."""
    try:
        return int((Path(directory or "/nonexistent") / name).read_text())
    except (OSError, ValueError):
        return None


def _detect_service_manager(server: _Server) -> ServiceManager:
    script = _INIT_SCRIPTS / server.name
    installed = script if server.is_default and os.access(script, os.X_OK) else None
    number = server.master()
    if number is None:
        return ServiceManager(openrc=_OPENRC.exists(), init_script=installed)
    unit = None
    if _SYSTEMD.is_dir():
        with suppress(OSError, ValueError):
            unit = unit_of((Path("/proc") / str(number) / "cgroup").read_text())
    return ServiceManager(unit, number if _is_supervised(number) else None, _OPENRC.exists(), installed)


def _is_supervised(number: int) -> bool:
    """Whether a supervisor is among the nearest processes above one."""
    with suppress(OSError, ValueError):
        for _ in range(_LEVELS):
            number = parent(number)
            if (Path("/proc") / str(number) / "comm").read_text().strip() in _SUPERVISORS:
                return True
    return False


def _signal(server: _Server, action: Action) -> ReloadResult:
    executor = server.executor
    if isinstance(action, tuple):
        _checked(executor.run(action, timeout=_TIMEOUT))
        return ReloadResult.COMMANDED
    if action == "none":
        return ReloadResult.LEFT_ALONE
    if not server.is_running():
        return ReloadResult.NOT_RUNNING
    if action == "restart":
        for command in restart_commands(_detect_service_manager(server), server.own_restart):
            # A daemon that is started by a command itself would keep a pipe of ours open for ever.
            detached = command[0] != "systemctl"
            argv = [_absolute(command[0], executor), *command[1:]]
            _checked(executor.run(argv, timeout=_TIMEOUT, detached=detached))
        return ReloadResult.RESTARTED
    _checked(executor.run(server.reload, timeout=_TIMEOUT))
    return ReloadResult.RELOADED


def _absolute(tool: str | Path, executor: Executor) -> Path:
    return tool if isinstance(tool, Path) else require_tool(tool, executor)


def _checked(done: Completed) -> None:
    if done.returncode != 0:
        talk = done.stderr.splitlines()[-1] if done.stderr else f"exit status {done.returncode}"
        raise HostError(f"{' '.join(done.argv)}: {talk}")
