"""What starts the program by itself: certbot's hook, and systemd, OpenRC or cron. Which files, with which text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.config.settings import Settings
from mailsni.core.names import RefusedNameError, safe_path
from mailsni.errors import ConfigurationError, HostError, UsageError
from mailsni.host import permissions
from mailsni.host.commands import SEARCH_PATH, find_tool
from mailsni.host.templates import shipped_directory
from mailsni.setup import units
from mailsni.setup.units import Kind
from mailsni.sources.base import certbot_directories

Manager = Literal["systemd", "openrc", "cron"]

SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd runs the system (sd_booted(3))."""
OPENRC = Path("/run/openrc")
UNITS = Path("/etc/systemd/system")
CRON = Path("/etc/cron.d/mailsni")
OPENRC_SCRIPT = Path("/etc/init.d/mailsni")
UNIT_NAMES = ("mailsni.timer", "mailsni-watch.service", "mailsni.service")
"""Every unit that setup may have written, those that are enabled first."""
HOOK_NAME = "mailsni"
_OURS = b"mailsni setup --remove"
_HEAD = 2000
_SHEBANG = "#!/bin/sh\n"


@dataclass(frozen=True, slots=True)
class Startup:
    """A file that starts the program."""

    path: Path
    text: bytes
    mode: int


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
            found = Path(os.path.abspath(path))  # noqa: PTH100
            return Path(_safe(found, "the program"))
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


def hook_directories(settings: Settings) -> tuple[Path, ...]:
    """Where certbot looks for post hooks: ``renewal-hooks/post`` in the directory of each store that it fills."""
    return tuple(directory / "renewal-hooks" / "post" for directory in certbot_directories(settings.sources))


def hook(called: Path, config_file: Path | None) -> bytes:
    """The certbot hook that is shipped, told which program and which configuration.

    Args:
        called: the program.
        config_file: None for the default one.

    Raises:
        ConfigurationError: the path of the configuration file cannot be written into a script.
    """
    shipped = shipped_hook().removeprefix(_SHEBANG)
    lines = [
        _SHEBANG.rstrip(),
        "# Written by `mailsni setup`; `mailsni setup --remove` takes it away again.",
    ]
    if str(called.parent) not in SEARCH_PATH:
        lines.append(f"PATH={called.parent}${{PATH:+:$PATH}}")
    if config_file is not None:
        lines += [f"MAILSNI_CONFIG={_safe(config_file, 'the configuration file')}", "export MAILSNI_CONFIG"]
    return ("\n".join(lines) + "\n" + shipped).encode()


def shipped_hook() -> str:
    """The text of ``hooks/certbot-post``."""
    return (shipped_directory("hooks") / "certbot-post").read_text("utf-8")


def wanted(by: Manager, kind: Kind, called: Path, config_file: Path | None, settings: Settings) -> tuple[Startup, ...]:
    """The files of a service manager that start the program.

    Raises:
        UsageError: this one cannot keep it running.
    """
    if by == "systemd":
        rendered = units.render_units(called, config_file, settings, kind)
        return tuple(Startup(UNITS / unit.name, unit.text.encode(), 0o644) for unit in rendered)
    if by == "openrc":
        return (Startup(OPENRC_SCRIPT, units.render_openrc(called, config_file, settings.templates).encode(), 0o755),)
    if kind == "watch":
        raise UsageError(
            "--watch: needs systemd or OpenRC to keep it running, and neither runs this system",
            hint="without --watch, cron runs `mailsni apply` regularly",
        )
    return (Startup(CRON, units.render_cron(called, config_file, settings.templates).encode(), 0o644),)


def enabling(by: Manager, kind: Kind) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """The commands that make a service manager use the files, and those that take it back."""
    if by == "systemd":
        unit = "mailsni-watch.service" if kind == "watch" else "mailsni.timer"
        # `enable --now` leaves one that runs as it is; it may have another text now. (Both would be one start too many:
        # a watcher that is to stop waits for its apply, which waits for the lock that setup holds.)
        return (
            (("systemctl", "daemon-reload"), ("systemctl", "enable", unit), ("systemctl", "restart", unit)),
            (("systemctl", "disable", "--now", unit),),
        )
    if by == "openrc":
        return (
            (("rc-update", "add", "mailsni", "default"), ("rc-service", "mailsni", "restart")),
            (("rc-service", "mailsni", "stop"), ("rc-update", "del", "mailsni", "default")),
        )
    return (), ()


def disabling(present: Iterable[Path]) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """The commands that make service managers let go of files before they are removed, and those that take it back.

    Args:
        present: the files of setup's that are there.
    """
    found = set(present)
    if SYSTEMD.is_dir():
        names = [name for name in UNIT_NAMES if UNITS / name in found and name != "mailsni.service"]
        if names:
            return (
                tuple(("systemctl", "disable", "--now", name) for name in names),
                (("systemctl", "daemon-reload"), *(("systemctl", "enable", "--now", name) for name in names)),
            )
    if OPENRC_SCRIPT in found and find_tool("rc-update") is not None:
        return (
            (("rc-service", "mailsni", "stop"), ("rc-update", "del", "mailsni", "default")),
            (("rc-update", "add", "mailsni", "default"), ("rc-service", "mailsni", "start")),
        )
    return (), ()


def places(settings: Settings) -> tuple[Path, ...]:
    """Every place of a file that setup may have written to start the program."""
    hooks = (directory / HOOK_NAME for directory in hook_directories(settings))
    return (*hooks, *(UNITS / name for name in UNIT_NAMES), CRON, OPENRC_SCRIPT)


def _safe(path: Path, what: str) -> str:
    try:
        return safe_path(path)
    except RefusedNameError as error:
        raise ConfigurationError(f"{what}: {error}") from None
