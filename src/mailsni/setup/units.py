"""What starts the program by itself: systemd units, a cron job, an OpenRC service.

The paths that go into them have passed the strict grammar (:func:`mailsni.core.names.safe_path`), which knows neither
blanks nor ``%``, so nothing has to be escaped for systemd.unit(5) or crontab(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.names import RefusedNameError, safe_path
from mailsni.errors import UsageError
from mailsni.host.templates import render

Kind = Literal["timer", "watch"]
_DEFAULT_STATE = Path("/var/lib/mailsni")
_OF_POSTFIX = (Path("/var/spool/postfix"), Path("/var/lib/postfix"))
"""What ``postfix reload`` writes: postsuper(1) tidies the queue, master(8) has its lock file (measured)."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A systemd unit."""

    name: str
    text: str


def render_units(program: Path, config_file: Path | None, settings: Settings, kind: Kind) -> tuple[UnitFile, ...]:
    """The units that run the program.

    Args:
        program: its absolute path.
        config_file: the configuration to name; None for the default one.
        settings: what they may write is taken from here.
        kind: ``timer`` for a run every hour, ``watch`` for one that stays.

    Raises:
        UsageError: a path has characters that cannot be written into a unit.
        ConfigurationError: an administrator's template is wrong.
    """
    names = ("mailsni.service", "mailsni.timer") if kind == "timer" else ("mailsni-watch.service",)
    values = {
        **_what_to_run(program, config_file),
        "writable": [_safe(path) for path in _writable(settings)],
        "state_directory": settings.state.directory == _DEFAULT_STATE,
    }
    return tuple(UnitFile(name, render(f"{name}.j2", settings.templates, **values).decode("ascii")) for name in names)


def render_cron(program: Path, config_file: Path | None, templates: Path | None = None) -> str:
    """The text of ``/etc/cron.d/mailsni``. Arguments and errors are those of :func:`render_units`."""
    return render("mailsni.cron.j2", templates, **_what_to_run(program, config_file)).decode("ascii")


def render_openrc(program: Path, config_file: Path | None, templates: Path | None = None) -> str:
    """The text of ``/etc/init.d/mailsni``. Arguments and errors are those of :func:`render_units`."""
    return render("mailsni.openrc.j2", templates, **_what_to_run(program, config_file)).decode("ascii")


def _what_to_run(program: Path, config_file: Path | None) -> dict[str, object]:
    named = None if config_file in (None, DEFAULT_PATH) else config_file
    return {"program": _safe(program), "config_file": None if named is None else _safe(named)}


def _safe(path: Path) -> str:
    try:
        return safe_path(path)
    except RefusedNameError as error:
        raise UsageError(str(error)) from None


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
