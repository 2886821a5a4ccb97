"""What starts the program on this host (hooks, systemd units, OpenRC, a cron job), and whether it still does.

A program that was moved, or whose Python is another one since an upgrade, starts no run and reports nothing. So the
next one that works looks at the files that name it, at what systemd knows of its units, and at the age of the last run.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from glob import escape, glob
from pathlib import Path

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files, trust
from mailsni.host.commands import find_tool, run
from mailsni.sources.base import AcmeClient
from mailsni.sources.kinds import acme_clients

UNITS = Path("/etc/systemd/system")
CRON = Path("/etc/cron.d/mailsni")
OPENRC_SCRIPT = Path("/etc/init.d/mailsni")
SYSTEMD = Path("/run/systemd/system")
"""Exists exactly where systemd runs the system (sd_booted(3))."""
TIMER, WATCHER, SERVICE = "mailsni.timer", "mailsni-watch.service", "mailsni.service"

_TIMEOUT = 30.0
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What a hook of certbot's timer or cron job finds in its environment."""
_CALL = re.compile(
    r"[^#]*?(?<![^\s;&|('\"=])(?P<program>(?:/[^\s;&|'\"]*/)?mailsni)(?P<options>(?:[ \t]+[^\s;&|]+)*?)[ \t]+apply\b"
)
"""A line of a hook that starts a run: by an absolute path, or with the search path."""
_LINE_LIMIT = 1000
"""Characters of a line: nobody writes longer ones by hand."""
_OPTION = re.compile(r"\s--config[= ](\S+)")
_PATH_SET = re.compile(r"^PATH=(\S*)$", re.MULTILINE)
_PATH_USED = re.compile(r"\$\{PATH:\+:?\$PATH:?\}|\$PATH|\$\{PATH\}")
_CONFIGURATION = re.compile(r"\bMAILSNI_CONFIG=['\"]?([^\s'\";]+)")
_BY_SETUP = "mailsni setup --remove"
_HEAD = 2000
"""Characters: the head of a file that setup wrote says how to take it back."""
_OWN_SCHEDULE = timedelta(days=2, hours=1)
"""How old the last run may be where the administrator has set another schedule."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A file that setup writes: where, how it names the program, and how old the last run may be with it."""

    path: Path
    program: re.Pattern[str]
    most: timedelta
    schedule: Path
    """The file that says when it starts the program."""
    usual: str = ""
    """What that file holds unless the administrator has set another schedule."""


_KINDS = (
    _Kind(
        UNITS / SERVICE,
        re.compile(r"^ExecStart=(\S+) apply\b", re.MULTILINE),
        timedelta(hours=3),
        UNITS / TIMER,
        "\nOnCalendar=hourly\n",
    ),
    _Kind(UNITS / WATCHER, re.compile(r"^ExecStart=(\S+) watch\b", re.MULTILINE), timedelta(hours=13), UNITS / WATCHER),
    _Kind(OPENRC_SCRIPT, re.compile(r"^command=(\S+)$", re.MULTILINE), timedelta(hours=13), OPENRC_SCRIPT),
    _Kind(
        CRON,
        re.compile(r"^[^#\n]*\sroot (\S+) apply\b", re.MULTILINE),
        timedelta(hours=1),
        CRON,
        "\n*/15 * * * * root ",
    ),
)


@dataclass(frozen=True, slots=True)
class Starter:
    """A file that starts the program."""

    path: Path
    program: Path | None
    """None: a hook that finds no program in its search path."""
    changed: float
    """When the file was written, in seconds since the epoch."""
    most: timedelta | None = None
    """How old the last run may be as long as this starts one; None: it is a hook, and starts one on demand only."""
    configuration: Path = DEFAULT_PATH
    """The configuration file that the run reads."""
    by_setup: bool = False
    """Whether `mailsni setup` wrote it, so that it writes it anew."""


def starters(settings: Settings, root: Path = Path("/")) -> tuple[Starter, ...]:
    """The files that start the program, as far as this user can read them.

    These are the hooks of the stores' clients, whichever configuration they name, and the units and jobs below ``root``
    that name the configuration file of the settings.
    """
    hooks = (_hook(path, client) for client in acme_clients(settings.sources) for path in _hook_files(client))
    found = [*(_starter(kind, settings.file, root) for kind in _KINDS), *hooks]
    return tuple(starter for starter in found if starter is not None)


def _starter(kind: _Kind, config_file: Path, root: Path) -> Starter | None:
    path = root / kind.path.relative_to("/")
    text = _text(path)
    match = kind.program.search(text)
    if match is None or _configuration(text) != config_file:
        return None
    schedule = root / kind.schedule.relative_to("/")
    usual = kind.usual in _text(schedule) and not schedule.with_name(f"{schedule.name}.d").is_dir()
    most = kind.most if usual else _OWN_SCHEDULE
    return Starter(path, Path(match[1]), path.stat().st_mtime, most, config_file, is_by_setup(text))


def _configuration(text: str, options: str = "") -> Path:
    named = _OPTION.search(options) or _CONFIGURATION.search(text)
    return Path(named[1]) if named is not None else DEFAULT_PATH


def is_by_setup(text: str) -> bool:
    """Whether setup wrote a text."""
    return _BY_SETUP in text[:_HEAD]


def _hook_files(client: AcmeClient) -> Iterator[Path]:
    """The files in the directories of hooks of a client."""
    pattern = f"{escape(str(client.hook.parent.parent))}/*/*"
    yield from map(Path, sorted(glob(pattern)))  # noqa: PTH207  # Path.glob raises where this user may not look


def _hook(path: Path, client: AcmeClient) -> Starter | None:
    """The program that a hook calls: the one at the path that it names, or the first one in its search path."""
    text = _text(path)
    calls = (_CALL.match(line[:_LINE_LIMIT]) for line in text.splitlines())
    call = next((match for match in calls if match is not None), None)
    if call is None or path.name.endswith("~"):
        return None
    search = _USUAL_PATH
    for match in _PATH_SET.finditer(text):
        search = _PATH_USED.sub(f":{search}:", match[1])
    named = Path(call["program"])
    program = named if named.is_absolute() else _first_in(search.split(":"))
    configuration, by_setup = _configuration(text, call["options"]), path == client.hook and is_by_setup(text)
    return Starter(path, program, path.stat().st_mtime, None, configuration, by_setup)


def _first_in(directories: Iterable[str]) -> Path | None:
    for candidate in (Path(directory) / "mailsni" for directory in directories if directory.startswith("/")):
        if os.access(candidate, os.X_OK) or (not os.access(candidate.parent, os.X_OK) and candidate.parent.exists()):
            return candidate
    return None


def _text(path: Path) -> str:
    try:
        return files.read_text(path) or ""
    except (HostError, PermissionMissingError, OSError):
        return ""


def failure(program: Path | None) -> str | None:
    """Why a program would not start; None when it would.

    Raises:
        PermissionMissingError: this user cannot tell.
    """
    if program is None:
        return "there is no mailsni in its search path"
    try:
        status = program.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{program} is a link to nothing" if program.is_symlink() else f"there is no {program}"
    except PermissionError:
        raise PermissionMissingError(f"{program}: cannot be seen by this user", path=program) from None
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        return f"{program} is not executable"
    if program.resolve() in _running() or not os.access(program, os.X_OK) or why_unsafe(program) is not None:
        return None  # it does start; or nobody may start it here, this user or root
    with program.open("rb") as file:
        first = file.readline(1000).decode("utf-8", "replace").split()
    if first and first[0].startswith("#!/") and not Path(first[0][2:]).exists():
        return f"the interpreter of {program} is gone: {first[0][2:]}"
    try:
        done = run([program, "--version"], timeout=_TIMEOUT)
    except HostError as error:
        return error.message
    return None if done.returncode == 0 else f"{program} does not start: {done.complaint}"


def _running() -> frozenset[Path]:
    """The program that runs now, as far as it has a file."""
    return frozenset(path.resolve() for path in _own_places())


def own_program() -> Path | None:
    """The program that runs now, by the absolute path that others are to call it by; None when it has none.

    Links stay: the one that pipx and packages make outlives what it leads to.
    """
    called = (path for path in _own_places() if path.name == "mailsni" and path.is_file())
    return next((Path(os.path.abspath(path)) for path in called if os.access(path, os.X_OK)), None)  # noqa: PTH100


def _own_places() -> tuple[Path, Path]:
    return Path(sys.argv[0]), Path(sys.executable).with_name("mailsni")


def why_unsafe(program: Path) -> str | None:
    """Why root should not run a program from there: somebody else may replace it. None when all is well."""
    found = trust.weaknesses(program)
    return f"{program}: root will run it, and others can replace it: {found[0]}" if found else None


def why_hidden(program: Path) -> str | None:
    """Why other users than root cannot start a program; None when they can."""
    for at in dict.fromkeys((*program.parents, *program.resolve().parents)):
        if not at.stat().st_mode & stat.S_IXOTH:
            return f"{program}: other users cannot start it, because {at} is closed to them"
    readable = stat.S_IROTH | stat.S_IXOTH
    if program.stat().st_mode & readable != readable:
        return f"{program}: other users cannot start it, because of its mode"
    return None


@dataclass(frozen=True, slots=True)
class UnitFailure:
    """A unit that does not do its work."""

    unit: str
    what: str
    """A sentence without a full stop that names the unit."""
    fix: str
    """The command that starts it again, once the cause is gone."""


def unit_failures() -> tuple[UnitFailure, ...]:
    """The units of setup's that failed, or that are installed and start nothing; none where systemd does not run."""
    systemctl = find_tool("systemctl") if SYSTEMD.is_dir() else None
    if systemctl is None:
        return ()
    properties = "--property=Id,FragmentPath,ActiveState,SubState,Result,ExecMainStatus"
    done = run([systemctl, "show", "--no-pager", properties, TIMER, SERVICE, WATCHER], timeout=_TIMEOUT)
    return tuple(parse_units(done.text)) if done.returncode == 0 else ()


def parse_units(shown: str) -> Iterator[UnitFailure]:
    """The failures in the output of ``systemctl show``: a block of ``KEY=VALUE`` lines for each unit."""
    for block in shown.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = unit.get("Id", "")
        if unit.get("FragmentPath") != str(UNITS / name):
            continue
        if unit.get("ActiveState") == "failed" or unit.get("SubState") == "auto-restart":
            status = f", exit status {code}" if (code := unit.get("ExecMainStatus", "0")) != "0" else ""
            yield UnitFailure(name, f"{name} failed ({unit.get('Result')}{status})", f"systemctl restart {name}")
        elif unit.get("ActiveState") == "inactive" and name != SERVICE:
            yield UnitFailure(name, f"{name} is not active, so it starts nothing", f"systemctl enable --now {name}")


def overdue(found: Iterable[Starter], last: datetime | None, now: datetime, *, uptime: float) -> Starter | None:
    """What should have started a run since the last one; None when all is well.

    Args:
        found: what starts the program.
        last: the end of the last run.
        now: with a time zone.
        uptime: seconds since the start of the system; nothing could run before.
    """
    since = timedelta.max if last is None else now - last
    for starter in found:
        in_place = timedelta(seconds=min(uptime, now.timestamp() - starter.changed))
        if starter.most is not None and min(since, in_place) > starter.most:
            return starter
    return None


def uptime() -> float:
    """Seconds since the start of the system."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
