"""What starts the program by itself on this host: the ACME client's hook, and systemd, OpenRC or cron."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import HostError
from mailsni.host import permissions
from mailsni.host.commands import SEARCH_PATH, find_tool
from mailsni.host.templates import shipped_directory
from mailsni.setup.steps import Step, run_commands
from mailsni.setup.units import CRON, OPENRC_SCRIPT, UNITS, Kind, Manager, safe
from mailsni.sources.base import acme_clients

SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd runs the system (sd_booted(3))."""
OPENRC = Path("/run/openrc")
_STARTING_UNITS = ("mailsni.timer", "mailsni-watch.service")
"""The units that are enabled: one of them is."""
RELOAD_UNITS = ("systemctl", "daemon-reload")
_START_OPENRC = (("rc-update", "add", "mailsni", "default"), ("rc-service", "mailsni", "restart"))
_STOP_OPENRC = (("rc-service", "mailsni", "stop"), ("rc-update", "del", "mailsni", "default"))
_OURS = b"mailsni setup --remove"
_HEAD = 2000
_SHEBANG = "#!/bin/sh\n"


def is_ours(content: bytes) -> bool:
    """Whether a file was written by setup: its head says how to take it back."""
    return _OURS in content[:_HEAD]


def program() -> Path:
    """The program as hooks and units are to call it: the one that runs now, by an absolute path.

    Raises:
        HostError: it has none that can be called.
    """
    called = Path(sys.argv[0])
    beside = Path(sys.executable).with_name("mailsni")
    for path in (called, beside):
        if path.name == "mailsni" and path.is_file() and os.access(path, os.X_OK):
            # Not resolved: the link that pipx and packages make outlives what it leads to.
            return Path(safe(Path(os.path.abspath(path)), "the program"))  # noqa: PTH100
    raise HostError(
        f"{beside}: no such program: hooks and units need one to call",
        hint="install mailsni (pipx install mailsni), and run setup as `mailsni setup`",
    )


def why_unsafe(path: Path) -> str | None:
    """Why root should not run a program from there: somebody else may replace it. None when all is well."""
    real = path.resolve()
    for at in (real, *real.parents):
        status = at.stat()
        if status.st_uid not in (0, os.geteuid()):
            return f"{path}: root will run it, and {at} belongs to user {status.st_uid}, who can replace it"
        if permissions.others_can_replace_entries(status):
            return f"{path}: root will run it, and {at} can be written by others, who can replace it"
    return None


def manager() -> Manager | None:
    """What starts things regularly on this host; None when nothing that setup knows does."""
    if SYSTEMD.is_dir() and find_tool("systemctl") is not None:
        return "systemd"
    if OPENRC.is_dir() and find_tool("rc-update") is not None:
        return "openrc"
    return "cron" if CRON.parent.is_dir() else None


def places(settings: Settings) -> tuple[Path, ...]:
    """Every place of a file that setup may have written to start the program."""
    units = (UNITS / name for name in (*_STARTING_UNITS, "mailsni.service"))
    return (*(client.hook for client in acme_clients(settings.sources)), *units, CRON, OPENRC_SCRIPT)


def hook(client: str, called: Path, config_file: Path | None) -> bytes:
    """The hook that is shipped for an ACME client, told which program and which configuration; None: the default one.

    Raises:
        ConfigurationError: the path of the configuration file cannot be written into a script.
    """
    shipped = shipped_hook(client).removeprefix(_SHEBANG)
    lines = [
        _SHEBANG.rstrip(),
        "# Written by `mailsni setup`; `mailsni setup --remove` takes it away again.",
    ]
    if str(called.parent) not in SEARCH_PATH:
        lines.append(f"PATH={called.parent}${{PATH:+:$PATH}}")
    if config_file is not None:
        lines += [f"MAILSNI_CONFIG={safe(config_file, 'the configuration file')}", "export MAILSNI_CONFIG"]
    return ("\n".join(lines) + "\n" + shipped).encode()


def shipped_hook(client: str) -> str:
    """The text of ``hooks/CLIENT-post``."""
    return (shipped_directory("hooks") / f"{client}-post").read_text("utf-8")


def start(manager: Manager, kind: Kind) -> Step | None:
    """The step that makes a service manager use the new files; cron needs none."""
    match manager:
        case "systemd":
            unit = "mailsni-watch.service" if kind == "watch" else "mailsni.timer"
            # `enable --now` leaves one that runs as it is; it may have another text now. (Both would be one start too
            # many: a watcher that is to stop waits for its apply, which waits for the lock that setup holds.)
            commands = (RELOAD_UNITS, ("systemctl", "enable", unit), ("systemctl", "restart", unit))
            return run_commands(
                f"start it: systemctl restart {unit}", commands, (("systemctl", "disable", "--now", unit),)
            )
        case "openrc":
            return run_commands("start it: rc-service mailsni restart", _START_OPENRC, _STOP_OPENRC)
        case "cron":
            return None


def stop(present: Collection[Path]) -> Step | None:
    """The step that makes service managers let go of files before they are removed; None when none holds one."""
    title = "stop what starts mailsni"
    units = [name for name in _STARTING_UNITS if UNITS / name in present]
    if units and SYSTEMD.is_dir():
        back = (RELOAD_UNITS, *(("systemctl", "enable", "--now", name) for name in units))
        return run_commands(title, tuple(("systemctl", "disable", "--now", name) for name in units), back)
    if OPENRC_SCRIPT in present and find_tool("rc-update") is not None:
        return run_commands(title, _STOP_OPENRC, _START_OPENRC)
    return None
