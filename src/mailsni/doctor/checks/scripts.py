"""The scripts that root runs: certbot's hooks, cron's tables, and what these call.

Certbot runs every executable file of a directory of hooks but those that end in ``~``, and the commands of the hooks
in its configuration by the shell (its source, hooks.py).
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mailsni.doctor.finding import Facts
from mailsni.host import files
from mailsni.sources.kinds import acme_clients

CRON = "cron"
_HOOK_DIRECTORIES = ("pre", "deploy", "post")
_CONFIGURED_HOOK = re.compile(r"\s*(?:pre|post|renew|deploy)[-_]hook\s*=")
_CRON_PLACES = (
    *("etc/crontab", "etc/cron.d", "etc/cron.hourly", "etc/cron.daily", "etc/cron.weekly", "etc/cron.monthly"),
    *("var/spool/cron/crontabs", "var/spool/cron"),
)
_PANEL_SCRIPTS = {
    "go-keyhelp-mail-sni": "keyhelp-mail-sni: compiles a table in place and restarts both servers",
    "cyberpanel-mail-ssl-fix": "a repair script for CyberPanel: compiles vmail_ssl.map in place and restarts both "
    "servers",
    "CyberCP/plogical/renew.py": "CyberPanel: compiles vmail_ssl.map in place and restarts both servers every night",
}
"""Known by parts of their paths."""
_PATH = re.compile(r"(?<![\w.])/[\w./+-]+")
_IGNORED = re.compile(r"\s*(?:#|\Z)")
_OURS = re.compile(r"\bmailsni\b")
_LINES_LIMIT = 10_000
_LINE_LIMIT = 1000
"""Characters of a line: nobody writes longer ones by hand."""


@dataclass(frozen=True, slots=True)
class Script:
    """A text that root runs."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    """Without comments and empty ones, with their numbers."""
    caller: str = ""
    """The line that calls it, ``/path:LINE``; empty where cron or certbot runs it."""

    @classmethod
    def parse(cls, path: Path, text: str) -> Script:
        """The lines of a script, as far as they are checked."""
        numbered = enumerate(text.split("\n")[:_LINES_LIMIT], 1)
        return cls(path, tuple((at, line[:_LINE_LIMIT]) for at, line in numbered if not _IGNORED.match(line)))

    @property
    def starts_mailsni(self) -> bool:
        """Whether it calls this program."""
        return self.first(_OURS) is not None

    def first(self, pattern: re.Pattern[str]) -> tuple[int, re.Match[str]] | None:
        """The first line that a pattern is found in, and the match."""
        for number, line in self.lines:
            if (match := pattern.search(line)) is not None:
                return number, match
        return None


@dataclass(frozen=True, slots=True)
class RootFile:
    """A file with commands that certbot or cron runs as root."""

    kind: str
    """``pre``, ``deploy``, ``post``: its directory of hooks; ``cli.ini``, ``renewal``: its hooks; :data:`CRON`."""
    path: Path
    about: str
    """What it is, for a finding that it cannot be checked."""
    read: Callable[[], Iterator[Script]]
    """Its commands, then the scripts that they call.

    Raises:
        PermissionMissingError: this user may not read one of them.
        HostError: one of them cannot be read, or is too large.
    """


def _certbot_directories(facts: Facts) -> list[Path]:
    return [client.directory for client in acme_clients(facts.host.settings.sources) if client.name == "certbot"]


def hook_files(facts: Facts) -> Iterator[RootFile]:
    """The files in certbot's directories of hooks."""
    for root in _certbot_directories(facts):
        for kind in _HOOK_DIRECTORIES:
            directory = root / "renewal-hooks" / kind
            for path in (directory / name for name in files.list_names(directory)):
                yield RootFile(kind, path, f"the hook {path}", partial(_read_hook, path))


def configured_hooks(facts: Facts) -> Iterator[RootFile]:
    """Certbot's files with ``renew_hook = …`` and the like."""
    for root in _certbot_directories(facts):
        renewal = root / "renewal"
        configured = [("renewal", renewal / name) for name in files.list_names(renewal) if name.endswith(".conf")]
        for kind, path in (("cli.ini", root / "cli.ini"), *configured):
            yield RootFile(kind, path, f"the hooks in {path}", partial(_read_configured, path))


def cron_files(facts: Facts) -> Iterator[RootFile]:
    """Cron's tables, and the scripts that run every so often."""
    for place in (facts.root / name for name in _CRON_PLACES):
        entries = [place / name for name in files.list_names(place)] if place.is_dir() else [place]
        for path in entries:
            if path.is_file():
                yield RootFile(CRON, path, f"cron's {path}", partial(_read_cron, path, facts.root))


def is_executable(path: Path) -> bool:
    """Whether certbot runs a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111) and not path.name.endswith("~")


def panel_script(line: str) -> str | None:
    """What the script of a panel does that a line calls; None where it calls none."""
    return next((what for name, what in _PANEL_SCRIPTS.items() if name in line), None)


def _read(path: Path) -> Iterator[Script]:
    text = files.read_text(path)
    if text is not None:
        yield Script.parse(path, text)


def _read_hook(path: Path) -> Iterator[Script]:
    if is_executable(path):
        yield from _read(path)


def _read_configured(path: Path) -> Iterator[Script]:
    for script in _read(path):
        hooks = (each for each in script.lines if _CONFIGURED_HOOK.match(each[1]))
        yield Script(path, tuple((at, line.partition("=")[2].strip()) for at, line in hooks))


def _read_cron(path: Path, root: Path) -> Iterator[Script]:
    for table in _read(path):
        yield table
        # Known scripts of panels are not opened.
        for number, line in (each for each in table.lines if panel_script(each[1]) is None):
            for called in (root / word.lstrip("/") for word in _PATH.findall(line)):
                if _is_script(called):
                    yield from (replace(script, caller=f"{path}:{number}") for script in _read(called))


def _is_script(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > files.TEXT_LIMIT:
        return False
    with path.open("rb") as file:
        return file.read(2) == b"#!"
