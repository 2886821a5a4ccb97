"""Cron's tables, and the scripts that they call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mailsni.doctor.checks.scripts import Script, check_script
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import run_each
from mailsni.host import files

_PLACES = (
    *("etc/crontab", "etc/cron.d", "etc/cron.hourly", "etc/cron.daily", "etc/cron.weekly", "etc/cron.monthly"),
    *("var/spool/cron/crontabs", "var/spool/cron"),
)
_PATH = re.compile(r"(?<![\w.])/[\w./+-]+")
_PANEL_SCRIPTS = {
    "go-keyhelp-mail-sni": "keyhelp-mail-sni: compiles a table in place and restarts both servers",
    "cyberpanel-mail-ssl-fix": "a repair script for CyberPanel: compiles vmail_ssl.map in place and restarts both "
    "servers",
    "CyberCP/plogical/renew.py": "CyberPanel: compiles vmail_ssl.map in place and restarts both servers every night",
}
"""Known by parts of their paths."""


def cron_files(facts: Facts) -> Iterator[Path]:
    """Cron's tables, and the scripts that run every so often."""
    for place in _PLACES:
        path = facts.root / place
        if path.is_dir():
            yield from (path / name for name in files.list_names(path) if (path / name).is_file())
        elif path.is_file():
            yield path


def called_scripts(facts: Facts, table: Script) -> Iterator[tuple[int, Script]]:
    """The scripts that a table names, with the number of its line; known ones of panels are not opened."""
    for number, line in table.lines:
        if _panel_script(line) is None:
            for word in _PATH.findall(line):
                path = facts.root / word.lstrip("/")
                if _is_script(path) and (script := Script.read(path)) is not None:
                    yield number, script


def cron(facts: Facts) -> Iterator[Finding]:
    """Check cron's tables and the scripts that they call."""
    for path in cron_files(facts):
        yield from run_each([(f"cron's {path}", partial(_check_file, path))], facts)


def _check_file(path: Path, facts: Facts) -> Iterator[Finding]:
    table = Script.read(path)
    if table is None:
        return
    yield from check_script(facts, table, "cron")
    for number, line in table.lines:
        if (program := _panel_script(line)) is not None:
            fix = Fix(edit="switch SNI off in the panel, or remove the line, once `mailsni apply` serves these names")
            yield finding("cron_panel_script", f"cron starts {program}", f"{path}:{number}", fix)
    for number, script in called_scripts(facts, table):
        yield from check_script(facts, script, "cron", f"{path}:{number}")


def _panel_script(line: str) -> str | None:
    return next((what for name, what in _PANEL_SCRIPTS.items() if name in line), None)


def _is_script(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > files.TEXT_LIMIT:
        return False
    with path.open("rb") as file:
        return file.read(2) == b"#!"
