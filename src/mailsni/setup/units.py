"""The files that start the program by itself: systemd units, a cron job, an OpenRC service.

The paths that go into them have passed the strict grammar (:func:`mailsni.core.names.safe_path`), which knows neither
blanks nor ``%``, so nothing has to be escaped for systemd.unit(5) or crontab(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.names import RefusedNameError, safe_path
from mailsni.errors import ConfigurationError, UsageError
from mailsni.host.templates import render

Manager = Literal["systemd", "openrc", "cron"]
Kind = Literal["timer", "watch"]

UNITS = Path("/etc/systemd/system")
CRON = Path("/etc/cron.d/mailsni")
OPENRC_SCRIPT = Path("/etc/init.d/mailsni")
_DEFAULT_STATE = Path("/var/lib/mailsni")
_OF_POSTFIX = (Path("/var/spool/postfix"), Path("/var/lib/postfix"))
"""What ``postfix reload`` writes: postsuper(1) tidies the queue, master(8) has its lock file (measured)."""


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
        names = ("mailsni.service", "mailsni.timer") if kind == "timer" else ("mailsni-watch.service",)
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
