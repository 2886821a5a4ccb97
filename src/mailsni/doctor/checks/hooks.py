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

from mailsni.doctor.checks.scripts import Script, check_certbot_calls, check_script
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
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
        yield from run_each((f"the hook {path}", partial(_check_hook, facts, path)))


def hooks_in_configuration(facts: Facts) -> Iterator[Finding]:
    """Check the hooks in cli.ini and in the renewal configurations."""
    for path in configured_hooks(facts):
        yield from run_each((f"the hooks in {path}", partial(_check_configured, facts, path)))


def _check_configured(facts: Facts, path: Path) -> Iterator[Finding]:
    yield from _check_commands(facts, read_configured(path))


def _check_commands(facts: Facts, script: Script) -> Iterator[Finding]:
    yield from check_certbot_calls(script)
    yield from check_script(facts, script, "hook")


def _check_hook(facts: Facts, path: Path) -> Iterator[Finding]:
    try:
        status = path.stat()
    except FileNotFoundError:
        yield _ignored(path, "hook_dangling_link", "is a link to nothing", Fix(quoted("rm", path)))
        return
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        yield _ignored(path, "hook_not_regular_file", "is no regular file", Fix(quoted("rm", path)))
        return
    executable, backup = bool(status.st_mode & 0o111), BACKUP.fullmatch(path.name) is not None
    if not is_executable(path):
        if executable:
            yield _ignored(path, "hook_ignored", "ends in ~", Fix(quoted("rm", path)), Severity.NOTE)
        elif not backup and not path.name.startswith("README"):
            yield _ignored(path, "hook_not_executable", "is not executable", Fix(quoted("chmod", "755", path)))
        return
    if backup:
        yield Finding(
            "hook_backup_executable",
            Severity.WARNING,
            f"{path} looks like a backup, and is executable",
            str(path),
            "certbot runs every executable file there but those that end in ~, so it runs the old hook too",
            Fix(quoted("chmod", "a-x", path), note="or remove it"),
        )
    if (writable := writable_by_others(path)) is not None:
        yield Finding(
            "hook_writable",
            Severity.ERROR,
            f"others than root can write to {path} ({writable[0]})",
            str(path),
            "certbot runs whatever they write there, as root, at the next renewal",
            writable[1],
        )
    script = Script.read(path)
    if script is not None:
        yield from _check_commands(facts, script)


def _ignored(path: Path, code: str, what: str, fix: Fix, severity: Severity = Severity.WARNING) -> Finding:
    why = "certbot does not run it, and does not say so: what the hook should do is not done"
    return Finding(code, severity, f"{path} {what}", str(path), why, fix)
