"""What starts the program by itself on this host: the ACME client's hook, and systemd units, an OpenRC service or cron.

The paths that go into these files have passed the strict grammar (:func:`mailsni.core.names.safe_path`), which knows
neither blanks nor ``%``, so nothing has to be escaped for systemd.unit(5) or crontab(5).
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.names import RefusedNameError, safe_path
from mailsni.errors import ConfigurationError, HostError, UsageError
from mailsni.host.commands import SEARCH_PATH, find_tool
from mailsni.host.templates import render, shipped_directory
from mailsni.runs.starters import (
    CRON,
    OPENRC_SCRIPT,
    SERVICE,
    SYSTEMD,
    TIMER,
    UNITS,
    WATCHER,
    is_by_setup,
    own_program,
)
from mailsni.setup.steps import Step, run_commands
from mailsni.sources.kinds import acme_clients
from mailsni.targets.registry import containers

Manager = Literal["systemd", "openrc", "cron"]
Kind = Literal["timer", "watch"]

_DEFAULT_STATE = Path("/var/lib/mailsni")
_OF_POSTFIX = (Path("/var/spool/postfix"), Path("/var/lib/postfix"))
"""What ``postfix reload`` writes: postsuper(1) tidies the queue, master(8) has its lock file (measured)."""

OPENRC = Path("/run/openrc")
_STARTING_UNITS = (TIMER, WATCHER)
"""The units that are enabled: one of them is."""
RELOAD_UNITS = ("systemctl", "daemon-reload")
_START_OPENRC = (("rc-update", "add", "mailsni", "default"), ("rc-service", "mailsni", "restart"))
_STOP_OPENRC = (("rc-service", "mailsni", "stop"), ("rc-update", "del", "mailsni", "default"))
_SHEBANG = "#!/bin/sh\n"


def is_ours(content: bytes) -> bool:
    """Whether a file was written by setup: its head says how to take it back."""
    return is_by_setup(content.decode("utf-8", "replace"))


def program() -> Path:
    """The program as hooks and units are to call it: the one that runs now, by an absolute path.

    Raises:
        HostError: it has none that can be called.
    """
    own = own_program()
    if own is not None:
        return Path(safe(own, "the program"))
    raise HostError(
        f"{Path(sys.executable).with_name('mailsni')}: no such program: hooks and units need one to call",
        hint="install mailsni as docs/setup.md says, and run setup as `mailsni setup`",
    )


def manager() -> Manager | None:
    """What starts things regularly on this host; None when nothing that setup knows does."""
    if SYSTEMD.is_dir() and find_tool("systemctl") is not None:
        return "systemd"
    if OPENRC.is_dir() and find_tool("rc-update") is not None:
        return "openrc"
    return "cron" if CRON.parent.is_dir() else None


def places(settings: Settings) -> tuple[Path, ...]:
    """Every place of a file that setup may have written to start the program."""
    units = (UNITS / name for name in (*_STARTING_UNITS, SERVICE))
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
            unit = WATCHER if kind == "watch" else TIMER
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


@dataclass(frozen=True, slots=True)
class Startup:
    """A file that starts the program."""

    path: Path
    text: bytes
    mode: int


def startup_files(
    manager: Manager, kind: Kind, program: Path, config_file: Path | None, settings: Settings
) -> tuple[Startup, ...]:
    """The files with which a service manager starts the program.

    Args:
        manager: which one.
        kind: ``timer`` for regular runs, ``watch`` for one that stays; OpenRC knows the latter only.
        program: its absolute path.
        config_file: the configuration to name; None for the default one.
        settings: what systemd's sandbox may write is taken from here.

    Raises:
        UsageError: this service manager cannot keep the program running.
        ConfigurationError: a path has characters that cannot be written there, or an administrator's template is wrong.
    """
    if manager == "systemd":
        names = (SERVICE, TIMER) if kind == "timer" else (WATCHER,)
        files = [(UNITS / name, name, 0o644) for name in names]
    elif manager == "openrc":
        files = [(OPENRC_SCRIPT, "mailsni.openrc", 0o755)]
    elif kind == "timer":
        files = [(CRON, "mailsni.cron", 0o644)]
    else:
        raise UsageError(
            "--watch: needs systemd or OpenRC to keep it running, and neither runs this system",
            hint="without --watch, cron runs `mailsni apply` regularly",
        )
    named = None if config_file in (None, DEFAULT_PATH) else config_file
    values = {
        "program": safe(program, "the program"),
        "config_file": None if named is None else safe(named, "the configuration file"),
        "writable": [safe(path, "the configuration") for path in _writable(settings)],
        "state_directory": settings.state.directory == _DEFAULT_STATE,
        "sandboxed": not (containers(settings) and Path(settings.container.engine).name == "podman"),
    }
    return tuple(
        Startup(path, render(f"{template}.j2", settings.templates, **values), mode) for path, template, mode in files
    )


def safe(path: Path, what: str) -> str:
    """A path that needs no quotes in a script or a unit.

    Raises:
        ConfigurationError: it has other characters.
    """
    try:
        return safe_path(path)
    except RefusedNameError as error:
        raise ConfigurationError(f"{what}: {error}") from None


def _writable(settings: Settings) -> tuple[Path, ...]:
    """The directories that a run writes in; of those that it makes itself the ones above them."""
    own = () if settings.state.directory == _DEFAULT_STATE else (settings.state.directory.parent,)
    found = {
        settings.postfix.map.parent,
        settings.dovecot.include_file.parent,
        settings.dovecot.pin_directory.parent,
        settings.state.lock.parent,
        *own,
        *_OF_POSTFIX,
    }
    return tuple(sorted(path for path in found if not found.intersection(path.parents)))
