"""Making a running server read what was published.

The exit status of a reload proves nothing (``doveadm reload`` exits 0 when the new configuration is refused,
measured): what is served is asked on the wire afterwards. A server that is not running is no failure; it will read
the new files when it starts.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.config import Action, DovecotSettings, PostfixSettings
from mailsni.errors import HostError
from mailsni.process import Completed, find_tool, require_tool, run

_TIMEOUT = 120.0
_SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd runs the system (sd_booted(3))."""


class Signalled(enum.StrEnum):
    """What was done to a server."""

    RELOADED = "reloaded"
    RESTARTED = "restarted"
    COMMANDED = "command run"
    NOT_RUNNING = "not running"
    LEFT_ALONE = "left alone"


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    is_running: Callable[[], bool]
    reload: Sequence[str | Path]
    restart: Sequence[Sequence[str | Path]]


def signal_postfix(settings: PostfixSettings) -> Signalled:
    """Make Postfix read its new map, as ``[postfix] action`` says.

    Raises:
        HostError: the command failed for another reason than that Postfix does not run.
    """
    if not isinstance(settings.action, tuple) and find_tool("postfix") is None:
        return Signalled.NOT_RUNNING
    command = [find_tool("postfix") or "postfix", "-c", settings.config_directory]
    # `postfix reload` tells its log, not its caller, that the mail system is not running (measured).
    server = _Server(
        "postfix",
        lambda: run([*command, "status"], timeout=_TIMEOUT).returncode == 0,
        [*command, "reload"],
        [[*command, "stop"], [*command, "start"]],
    )
    return _signal(server, settings.action)


def signal_dovecot(settings: DovecotSettings) -> Signalled:
    """Make Dovecot read its new configuration, as ``[dovecot] action`` says.

    Raises:
        HostError: the command failed for another reason than that Dovecot does not run.
    """
    if not isinstance(settings.action, tuple) and find_tool("doveadm") is None:
        return Signalled.NOT_RUNNING
    doveadm = [find_tool("doveadm") or "doveadm", "-c", settings.config_file]
    start = [find_tool("dovecot") or "dovecot", "-c", settings.config_file]
    server = _Server(
        "dovecot",
        lambda: _dovecot_runs(settings.config_file),
        [*doveadm, "reload"],
        [[*doveadm, "stop"], start],
    )
    return _signal(server, settings.action)


def _dovecot_runs(config_file: Path) -> bool:
    """Whether the master process that a configuration's ``base_dir`` tells of is alive; when in doubt it is."""
    done = run([require_tool("doveconf"), "-c", config_file, "-h", "base_dir"], timeout=_TIMEOUT)
    if done.returncode != 0:
        return True
    try:
        number = int((Path(done.stdout.decode().strip()) / "master.pid").read_text())
        os.kill(number, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _signal(server: _Server, action: Action) -> Signalled:
    if isinstance(action, tuple):
        _checked(run(action, timeout=_TIMEOUT))
        return Signalled.COMMANDED
    match action:
        case "none":
            return Signalled.LEFT_ALONE
        case "auto" | "reload":
            if not server.is_running():
                return Signalled.NOT_RUNNING
            _checked(run(server.reload, timeout=_TIMEOUT))
            return Signalled.RELOADED
        case "restart":
            if _SYSTEMD.is_dir():
                _checked(run([require_tool("systemctl"), "restart", server.name], timeout=_TIMEOUT))
                return Signalled.RESTARTED
            stop, start = server.restart
            if server.is_running():
                _checked(run(stop, timeout=_TIMEOUT))
            _run_detached(start)
            return Signalled.RESTARTED


def _run_detached(command: Sequence[str | Path]) -> None:
    """Start a daemon, which would keep a pipe of ours open for ever."""
    _checked(run(command, timeout=_TIMEOUT, detached=True))


def _checked(done: Completed) -> None:
    if done.returncode != 0:
        talk = done.stderr.splitlines()[-1] if done.stderr else f"exit status {done.returncode}"
        raise HostError(f"{' '.join(done.argv)}: {talk}")
