"""Certbot's hooks: files that it does not run, or runs by mistake, and commands in them that hurt.

The rules are those of certbot's source (hooks.py): it runs every executable file of a directory but those that end
in ``~``.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mailsni.doctor.checks.scripts import Script, check_script
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import quoted, run_each, writable_by_others
from mailsni.host import files
from mailsni.sources.base import certbot_directories

KINDS = ("pre", "deploy", "post")
BACKUP = re.compile(
    r".*\.(?:bak|old|orig|save|sav|backup|copy|disabled|off|swp|rpmsave|rpmnew|dpkg-\w+)\d*|.*~", re.IGNORECASE
)
_CONFIGURED_HOOK = re.compile(r"\s*(?:pre|post|renew|deploy)[-_]hook\s*=")


def hook_files(facts: Facts) -> Iterator[tuple[str, Path]]:
    """The files in the directories of hooks, each with the kind of its hook."""
    for root in certbot_directories(facts.settings.sources):
        for kind in KINDS:
            directory = root / "renewal-hooks" / kind
            yield from ((kind, directory / name) for name in files.list_names(directory))


def is_executable(path: Path) -> bool:
    """Whether certbot runs a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111) and not path.name.endswith("~")


def configured_hooks(facts: Facts) -> Iterator[Path]:
    """Certbot's files with ``renew_hook = …`` and the like: certbot runs these commands by the shell."""
    for root in certbot_directories(facts.settings.sources):
        yield root / "cli.ini"
        yield from (root / "renewal" / name for name in files.list_names(root / "renewal") if name.endswith(".conf"))


def read_configured(path: Path) -> Script:
    """The commands of the hooks in one of certbot's files."""
    script = Script.read(path)
    lines = script.lines if script is not None else ()
    return Script(
        path, tuple((at, line.partition("=")[2].strip()) for at, line in lines if _CONFIGURED_HOOK.match(line))
    )


def hooks(facts: Facts) -> Iterator[Finding]:
    """Check the files in the directories of hooks."""
    for _, path in hook_files(facts):
        yield from run_each([(f"the hook {path}", partial(_check_hook, path))], facts)


def hooks_in_configuration(facts: Facts) -> Iterator[Finding]:
    """Check the hooks in cli.ini and in the renewal configurations."""
    for path in configured_hooks(facts):
        yield from run_each([(f"the hooks in {path}", partial(_check_configured, path))], facts)


def _check_configured(path: Path, facts: Facts) -> Iterator[Finding]:
    yield from check_script(facts, read_configured(path), "hook")


def _check_hook(path: Path, facts: Facts) -> Iterator[Finding]:
    remove = Fix(quoted("rm", path))
    try:
        status = path.stat()
    except FileNotFoundError:
        yield finding("hook_dangling_link", f"{path} is a link to nothing", path, remove)
        return
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        yield finding("hook_not_regular_file", f"{path} is no regular file", path, remove)
        return
    executable, backup = bool(status.st_mode & 0o111), BACKUP.fullmatch(path.name) is not None
    if not is_executable(path):
        if executable:
            yield finding("hook_ignored", f"{path} ends in ~", path, remove)
        elif not backup and not path.name.startswith("README"):
            yield finding("hook_not_executable", f"{path} is not executable", path, Fix(quoted("chmod", "755", path)))
        return
    if backup:
        fix = Fix(quoted("chmod", "a-x", path), note="or remove it")
        yield finding("hook_backup_executable", f"{path} looks like a backup, and is executable", path, fix)
    yield from writable_by_others("hook_writable", path)
    script = Script.read(path)
    if script is not None:
        yield from check_script(facts, script, "hook")
