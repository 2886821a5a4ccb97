"""Whether anything starts mailsni, also after a first issuance.

By certbot's source (hooks.py, main.py) the hooks of ``renewal-hooks/deploy`` run on first issuance since 5.3.0, those
of ``pre`` and ``post`` outside of ``renew`` since 3.2.0. What cli.ini says holds for every command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from mailsni.core.text import summarize
from mailsni.doctor.checks import scripts
from mailsni.doctor.checks.scripts import RootFile
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import quoted, sed_literal
from mailsni.errors import MailsniError
from mailsni.host import files
from mailsni.host.commands import find_tool, run
from mailsni.runs import history, starters
from mailsni.runs.starters import Starter
from mailsni.runs.starting import examine
from mailsni.sources.kinds import acme_clients

_FIRST_ISSUANCE_SINCE = {"deploy": (5, 3, 0), "post": (3, 2, 0), "cli.ini": (0,)}
"""From which version of certbot on a hook runs for a new certificate."""
_UNITS = (
    "etc/systemd/system/timers.target.wants/mailsni.timer",
    "etc/systemd/system/multi-user.target.wants/mailsni-watch.service",
    "etc/runlevels/default/mailsni",
)
_RECENT = timedelta(days=2)
"""A timer, cron and the watcher apply at least once within this time."""


def schedule(facts: Facts) -> Iterator[Finding]:
    """Check whether a hook, a timer, cron or the watcher starts mailsni."""
    if _runs_regularly(facts):
        return
    hooks = [*_starting_mailsni(scripts.hook_files(facts)), *_starting_mailsni(scripts.configured_hooks(facts))]
    if not hooks:
        client = next(iter(acme_clients(facts.host.settings.sources)), None)
        where = client.hook.parent if client is not None else "mailsni"
        what = "nothing starts mailsni: no certbot hook, no timer, no cron job, no watcher"
        yield finding("mailsni_not_scheduled", what, where, Fix("mailsni setup"))
        return
    version = certbot_version()
    since = [_FIRST_ISSUANCE_SINCE.get(hook.kind) for hook in hooks]
    if version is None or any(first is not None and version >= first for first in since):
        return
    paths = summarize([str(hook.path) for hook in hooks])
    what = f"certbot {'.'.join(map(str, version))} does not run {paths} for a new certificate"
    note = "it installs a timer or a cron job as well; until then run `mailsni apply` after each `certbot certonly`"
    yield finding("first_issuance_missed", what, hooks[0].path, Fix("mailsni setup", note=note))


def _runs_regularly(facts: Facts) -> bool:
    if any(os.path.lexists(facts.root / unit) for unit in _UNITS):
        return True
    last = history.load(facts.host.settings.state.directory).last
    if last is not None and last.trigger in ("timer", "watch", "cron") and facts.host.now - last.ended_at < _RECENT:
        return True
    return any(_starting_mailsni(scripts.cron_files(facts)))


def _starting_mailsni(root_files: Iterable[RootFile]) -> Iterator[RootFile]:
    for file in root_files:
        with suppress(MailsniError, OSError):  # what cannot be read is a finding of the checks of hooks and cron
            if any(script.starts_mailsni for script in file.read()):
                yield file


def starting(facts: Facts) -> Iterator[Finding]:
    """Check whether what starts mailsni starts a program that runs, and whether it did so lately."""
    found = examine(facts.host.settings, facts.host.now, facts.root)
    for starter, why in found.broken:
        yield finding("start_fails", f"{starter.path}: {why}", starter.path, _name_program(starter))
    for unit in found.failed:
        fix = Fix(unit.fix, edit=f"remove the cause that `journalctl -u {unit.unit}` tells")
        yield finding("unit_failed", unit.what, starters.UNITS / unit.unit, fix)
    if found.late is not None:
        when = f"the last run ended on {found.last:%Y-%m-%d %H:%M} UTC" if found.last else "there was no run yet"
        path = found.late.path
        yield finding("run_overdue", f"{when}, though {path} should start one", path, Fix("mailsni apply"))


def _name_program(starter: Starter) -> Fix:
    """Lets a file start the program that runs now."""
    own = starters.own_program()
    if starter.by_setup or starter.most is not None:
        return Fix("mailsni setup", note="it writes its hook, units and jobs anew, with the program that you run")
    if own is None:
        return Fix(edit="let it call a mailsni that starts, by its absolute path")
    return _replaced(str(starter.program or "mailsni"), f"{own}", starter.path)


def _replaced(call: str, instead: str, file: Path) -> Fix:
    script = f"s#\\(^\\|[[:space:];&|('\"=]\\){sed_literal(call)}\\([[:space:]]\\|$\\)#\\1{instead}\\2#g"
    return Fix(quoted("sed", "-i", script, file.resolve()), note="it then calls the program that you run")


def configured(facts: Facts) -> Iterator[Finding]:
    """Check whether the hooks in certbot's configuration name a mailsni, or a hook of it, that can be run."""
    own = starters.own_program()
    for file in scripts.configured_hooks(facts):
        for path, number, line in ((script.path, *each) for script in file.read() for each in script.lines):
            program = Path(line.split(" ")[0].strip("'\""))
            if not program.is_absolute() or "mailsni" not in str(program) or os.access(program, os.X_OK):
                continue
            instead = f"{own}" if program.name == "mailsni" else f"{own} apply --quiet"
            fix = (
                _replaced(str(program), instead, path)
                if own is not None
                else Fix(edit="let it call a mailsni that starts")
            )
            what = f"{path}: {starters.failure(program) or f'{program} cannot be run'}"
            yield finding("start_fails", what, f"{path}:{number}", fix)


def configuration(facts: Facts) -> Iterator[Finding]:
    """Check whether a hook runs mailsni with this configuration, where hooks do."""
    wanted = facts.host.settings.file.absolute()
    hooks = [starter for starter in starters.starters(facts.host.settings, facts.root) if starter.most is None]
    if any(hook.configuration == wanted for hook in hooks):
        return
    for hook in hooks:
        gone = "" if hook.configuration.exists() else ", which does not exist"
        what = f"{hook.path} runs mailsni with {hook.configuration}{gone}, not with {wanted}"
        yield finding("hook_other_configuration", what, hook.path, _name_configuration(hook, wanted))


def _name_configuration(hook: Starter, wanted: Path) -> Fix:
    """Lets a hook name a configuration file."""
    if hook.by_setup:
        return Fix("mailsni setup", note="it writes its hook anew, for the configuration that you use")
    path, named = hook.path.resolve(), str(hook.configuration)
    script = f"1a export MAILSNI_CONFIG={wanted}"
    if named in (files.read_text(path) or ""):
        script = f"s#{sed_literal(named)}#{wanted}#g"
    return Fix(quoted("sed", "-i", script, path))


def clock(facts: Facts) -> Iterator[Finding]:
    """Check whether the clock went back since the last run."""
    directory = facts.host.settings.state.directory
    if (problem := history.load(directory).clock_problem(facts.host.now)) is not None:
        edit = "set the clock, and let a time service (chrony, systemd-timesyncd) keep it right"
        yield finding("clock_went_back", problem, directory, Fix(edit=edit))


def certbot_version() -> tuple[int, ...] | None:
    """The version of the certbot that is installed; None when there is none, or it does not print it."""
    program = find_tool("certbot")
    if program is None:
        return None
    done = run([program, "--version"])
    # Old ones print it on standard error.
    match = re.search(r"certbot (\d+)\.(\d+)\.(\d+)", f"{done.stdout.decode('ascii', 'replace')} {done.stderr}")
    return tuple(int(part) for part in match.groups()) if match is not None else None
