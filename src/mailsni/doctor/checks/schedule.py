"""Whether anything starts mailsni, also after a first issuance.

By certbot's source (hooks.py, main.py) the hooks of ``renewal-hooks/deploy`` run on first issuance since 5.3.0, those
of ``pre`` and ``post`` outside of ``renew`` since 3.2.0. What cli.ini says holds for every command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from mailsni.core.text import summarize
from mailsni.doctor.checks.cron import called_scripts, cron_files
from mailsni.doctor.checks.hooks import configured_hooks, hook_files, is_executable, read_configured
from mailsni.doctor.checks.scripts import Script
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.errors import MailsniError
from mailsni.host.commands import find_tool, run
from mailsni.runs import history
from mailsni.sources.base import certbot_directories

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
    hooks = list(_own_hooks(facts))
    if not hooks:
        root = next(iter(certbot_directories(facts.settings.sources)), None)
        yield finding(
            "mailsni_not_scheduled",
            "nothing starts mailsni: no certbot hook, no timer, no cron job, no watcher",
            root / "renewal-hooks/post" if root is not None else "mailsni",
            Fix("mailsni setup"),
        )
        return
    version = certbot_version()
    since = [_FIRST_ISSUANCE_SINCE.get(kind) for kind, _ in hooks]
    if version is None or any(first is not None and version >= first for first in since):
        return
    paths = summarize([str(path) for _, path in hooks])
    yield finding(
        "first_issuance_missed",
        f"certbot {'.'.join(map(str, version))} does not run {paths} for a new certificate",
        hooks[0][1],
        Fix(
            "mailsni setup",
            note="it installs a timer or a cron job as well; until then run `mailsni apply` after each "
            "`certbot certonly`",
        ),
    )


def _runs_regularly(facts: Facts) -> bool:
    if any(os.path.lexists(facts.root / unit) for unit in _UNITS):
        return True
    last = history.load(facts.settings.state.directory).last
    if last is not None and last.trigger in ("timer", "watch", "cron") and facts.now - last.ended_at < _RECENT:
        return True
    return any(_cron_starts_mailsni(facts, path) for path in cron_files(facts))


def _cron_starts_mailsni(facts: Facts, path: Path) -> bool:
    with suppress(MailsniError, OSError):  # a file that cannot be read is a finding of the check of cron
        table = Script.read(path)
        if table is not None:
            return table.starts_mailsni or any(script.starts_mailsni for _, script in called_scripts(facts, table))
    return False


def _own_hooks(facts: Facts) -> Iterator[tuple[str, Path]]:
    """The hooks that start mailsni, each with its kind."""
    for kind, path in hook_files(facts):
        with suppress(MailsniError, OSError):
            script = Script.read(path) if is_executable(path) else None
            if script is not None and script.starts_mailsni:
                yield kind, path
    for path in configured_hooks(facts):
        with suppress(MailsniError, OSError):
            if read_configured(path).starts_mailsni:
                yield path.name if path.name == "cli.ini" else "renewal", path


def certbot_version() -> tuple[int, ...] | None:
    """The version of the certbot that is installed; None when there is none, or it does not print it."""
    program = find_tool("certbot")
    if program is None:
        return None
    done = run([program, "--version"])
    # Old ones print it on standard error.
    match = re.search(r"certbot (\d+)\.(\d+)\.(\d+)", f"{done.stdout.decode('ascii', 'replace')} {done.stderr}")
    return tuple(int(part) for part in match.groups()) if match is not None else None
