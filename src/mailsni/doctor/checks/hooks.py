"""Certbot's hooks and cron's jobs: files that certbot does not run, or runs by mistake, and commands that hurt."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import partial

from mailsni.core.text import printable_name
from mailsni.doctor.checks import scripts
from mailsni.doctor.checks.scripts import CRON, RootFile, Script
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import quoted, run_each, writable_by_others

BACKUP = re.compile(
    r".*\.(?:bak|old|orig|save|sav|backup|copy|disabled|off|swp|rpmsave|rpmnew|dpkg-\w+)\d*|.*~", re.IGNORECASE
)
CERTBOT = re.compile(r"(?:^|[;&|(`]|\bexec|\bsudo|\bthen|\bdo)\s*(?:/\S*/)?certbot\s+(?:-|[a-z])")
RESTART = re.compile(
    r"\bsystemctl\s+(?:-\S+\s+)*(?:try-)?restart\s+(?:[\w@.-]+\s+)*?(?P<a>postfix|dovecot)(?:@-)?(?:\.service)?(?![\w-])"
    r"|\b(?:service|rc-service|invoke-rc\.d)\s+(?P<b>postfix|dovecot)\s+restart\b"
    r"|/etc/init\.d/(?P<c>postfix|dovecot)\s+restart\b"
    r"|\bpostfix\s+stop\b"
)
_POSTMAP = re.compile(r"\bpostmap\b(?P<words>[^;&|\n]*)")
_POSTMAP_WITH_F = re.compile(r"\s-[a-zA-Z]*F")
_POSTMAP_QUERY = re.compile(r"\s-[a-zA-Z]*[qsd]")
_SNI_NAME = re.compile(r"(?:^|[/_.-])sni|vmail_ssl")
_RELOADS = {"postfix": "postfix reload", "dovecot": "doveadm reload"}


def hooks(facts: Facts) -> Iterator[Finding]:
    """Check the files in the directories of hooks."""
    for hook in scripts.hook_files(facts):
        yield from run_each([(hook.about, partial(_check_hook, hook))], facts)


def hooks_in_configuration(facts: Facts) -> Iterator[Finding]:
    """Check the hooks in cli.ini and in the renewal configurations."""
    yield from _check_all(scripts.configured_hooks(facts), facts)


def cron(facts: Facts) -> Iterator[Finding]:
    """Check cron's tables and the scripts that they call."""
    yield from _check_all(scripts.cron_files(facts), facts)


def _check_all(root_files: Iterable[RootFile], facts: Facts) -> Iterator[Finding]:
    for file in root_files:
        yield from run_each([(file.about, partial(_check_commands, file))], facts)


def _check_hook(hook: RootFile, facts: Facts) -> Iterator[Finding]:
    path = hook.path
    remove = Fix(quoted("rm", path))
    try:
        status = path.stat()
    except FileNotFoundError:
        ours = "mailsni" in f"{path.name} {path.readlink()}"
        fix = Fix(f"{remove.command} && mailsni setup", note="it installs its own hook") if ours else remove
        yield finding("hook_dangling_link", f"{path} is a link to nothing", path, fix)
        return
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        yield finding("hook_not_regular_file", f"{path} is no regular file", path, remove)
        return
    executable, backup = bool(status.st_mode & 0o111), BACKUP.fullmatch(path.name) is not None
    if not scripts.is_executable(path):
        if executable:
            yield finding("hook_ignored", f"{path} ends in ~", path, remove)
        elif not backup and not path.name.startswith("README"):
            yield finding("hook_not_executable", f"{path} is not executable", path, Fix(quoted("chmod", "755", path)))
        return
    if backup:
        fix = Fix(quoted("chmod", "a-x", path), note="or remove it")
        yield finding("hook_backup_executable", f"{path} looks like a backup, and is executable", path, fix)
    yield from writable_by_others("hook_writable", [path])
    yield from _check_commands(hook, facts)


def _check_commands(file: RootFile, facts: Facts) -> Iterator[Finding]:
    """The commands that hurt a server, or that certbot's lock stops."""
    kind = CRON if file.kind == CRON else "hook"
    for script in file.read():
        if kind == "hook" and (renewal := script.first(CERTBOT)) is not None:
            fix = Fix(edit="remove the call", note="the renewal that runs the hook has done its work already")
            yield finding("hook_calls_certbot", f"{script.path} calls certbot", f"{script.path}:{renewal[0]}", fix)
        called = f" (called by {script.caller})" if script.caller else ""
        yield from _restarts(script, kind, called)
        for number, line in script.lines:
            for call in _POSTMAP.finditer(line):
                if not _POSTMAP_QUERY.search(call["words"]):
                    yield from _postmap(facts, script, number, call["words"], kind, called)
        if kind == CRON and not script.caller:
            yield from _panel_scripts(script)


def _restarts(script: Script, kind: str, called: str) -> Iterator[Finding]:
    restart = script.first(RESTART)
    if restart is None:
        return
    number, match = restart
    command = re.split(r"[;&|]", match.string[match.start() :])[0]
    servers = [server for server in _RELOADS if server in command]
    reload = " && ".join(_RELOADS[server] for server in servers)
    fix = Fix(edit=f"write `{reload}` instead, or remove the line", note="mailsni reloads both after each change")
    what = f"{script.path} restarts {' and '.join(servers)}{called}"
    yield finding(f"{kind}_restarts_server", what, f"{script.path}:{number}", fix)


def _postmap(facts: Facts, script: Script, number: int, words: str, kind: str, called: str) -> Iterator[Finding]:
    argument = next((word.strip("'\"") for word in words.split() if not word.startswith("-")), "")
    path, where = argument.rpartition(":")[2], f"{script.path}:{number}"
    compiles = f"{script.path} compiles {printable_name(argument) or 'a table'}"
    if _POSTMAP_WITH_F.search(words) and (unused := _unused(facts, path)) is not None:
        fix = Fix(edit="remove the line", note="`mailsni apply` serves the names of the stores without it")
        yield finding(f"{kind}_compiles_unused", f"{compiles}, {unused}{called}", where, fix)
    elif _POSTMAP_WITH_F.search(words):
        note = "`mailsni setup --take-over` then removes the table from tls_server_sni_maps"
        if path == str(facts.host.settings.postfix.map):
            note = "it is mailsni's own map, which nothing else should compile"
        fix = Fix(edit="remove the line, once mailsni serves these names (mailsni apply)", note=note)
        yield finding(f"{kind}_compiles_in_place", f"{compiles} in place{called}", where, fix)
    elif path in facts.postfix_tables or _SNI_NAME.search(argument):
        fix = Fix(edit="write postmap -F there, or remove the line once mailsni serves these names")
        yield finding(f"{kind}_compiles_without_f", f"{compiles} without -F{called}", where, fix)


def _unused(facts: Facts, path: str) -> str | None:
    """Why nobody is served from what a call of postmap compiles; None where somebody is, or nobody can tell."""
    if facts.postfix_configuration is None or not path.startswith("/") or "$" in path:
        return None
    if not os.path.lexists(path):
        return "which does not exist"
    return None if path in facts.postfix_tables else "which Postfix does not ask for names"


def _panel_scripts(table: Script) -> Iterator[Finding]:
    for number, line in table.lines:
        if (program := scripts.panel_script(line)) is not None:
            fix = Fix(edit="switch SNI off in the panel, or remove the line, once `mailsni apply` serves these names")
            yield finding("cron_panel_script", f"cron starts {program}", f"{table.path}:{number}", fix)
