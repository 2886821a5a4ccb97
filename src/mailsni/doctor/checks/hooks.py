"""Looks at what starts things: certbot's hooks, cron, units, and what hand-written tutorials and panels left behind.

What certbot does with hooks is in its own source (hooks.py, main.py): every executable file of a directory runs but
those that end in ``~``; the hooks of ``renewal-hooks/deploy`` run on first issuance since 5.3.0, those of ``pre`` and
``post`` outside of ``renew`` since 3.2.0; and certbot holds its lock all the while.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from mailsni.core.text import printable_name, summarize
from mailsni.doctor import helpers
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.helpers import quoted
from mailsni.host import text_files
from mailsni.host.commands import find_tool, run
from mailsni.runs import history
from mailsni.sources.base import certbot_directories
from mailsni.targets.postfix.postconf import Configuration

KINDS = ("pre", "deploy", "post")
_DEPLOY_ON_FIRST = (5, 3, 0)
_POST_ON_FIRST = (3, 2, 0)
_RECENT = timedelta(days=2)
"""A timer, cron and the watcher have applied within this time, if they are there."""
BACKUP = re.compile(
    r".*\.(?:bak|old|orig|save|sav|backup|copy|disabled|off|swp|rpmsave|rpmnew|dpkg-\w+)\d*|.*~", re.IGNORECASE
)
_OURS = re.compile(r"\bmailsni\b")
CERTBOT = re.compile(r"(?:^|[;&|(`]|\bexec|\bsudo|\bthen|\bdo)\s*(?:/\S*/)?certbot\s+(?:-|[a-z])")
RESTART = re.compile(
    r"\bsystemctl\s+(?:-\S+\s+)*(?:try-)?restart\s+(?:[\w@.-]+\s+)*?(?P<a>postfix|dovecot)(?:@-)?(?:\.service)?(?![\w-])"
    r"|\b(?:service|rc-service|invoke-rc\.d)\s+(?P<b>postfix|dovecot)\s+restart\b"
    r"|/etc/init\.d/(?P<c>postfix|dovecot)\s+restart\b"
    r"|\bpostfix\s+stop\b"
)
_POSTMAP = re.compile(r"\bpostmap\b(?P<words>[^;&|\n]*)")
_SHEBANG = "#!"
_RELOADS = {"postfix": "postfix reload", "dovecot": "doveadm reload"}
_CRON_PLACES = ("etc/crontab", "etc/cron.d", "etc/cron.hourly", "etc/cron.daily", "etc/cron.weekly", "etc/cron.monthly")
_CRONTABS = ("var/spool/cron/crontabs", "var/spool/cron")
_UNITS = (
    "etc/systemd/system/timers.target.wants/mailsni.timer",
    "etc/systemd/system/multi-user.target.wants/mailsni-watch.service",
    "etc/runlevels/default/mailsni",
)
_LINES_READ = 10_000

LEFT_IN_POSTFIX = {
    "vmail_ssl.map": "CyberPanel and aaPanel write it",
    "sni_map": "Virtualmin writes it",
    "sni": "YunoHost and a HowtoForge tutorial write it",
    "sni.map": "mailcow writes it",
    "sni_maps": "Hermes SEG writes it",
    "sni_cert_map": "scripts for docker-mailserver write it",
}
"""Sources of tables that panels and tutorials make in Postfix's directory (measured or read in their code)."""
_KNOWN_SCRIPTS = {
    "go-keyhelp-mail-sni": "keyhelp-mail-sni: compiles a table in place and restarts both servers",
    "cyberpanel-mail-ssl-fix": "a repair script for CyberPanel: compiles vmail_ssl.map in place and restarts both "
    "servers",
    "CyberCP/plogical/renew.py": "CyberPanel: compiles vmail_ssl.map in place and restarts both servers every night",
}


def findings(facts: Facts, configuration: Configuration | None, root: Path = Path("/")) -> Iterator[Finding]:
    """Everything that is wrong with what starts things.

    Args:
        facts: what is known of the host.
        configuration: of Postfix.
        root: of the system: cron and units are looked for below it.
    """
    looks = _Looks(facts, configuration, root)
    yield from helpers.each(
        ("certbot's hooks", looks.hooks),
        ("hooks in certbot's renewal configurations", looks.renewal_hooks),
        ("cron", looks.cron),
        ("what starts mailsni", looks.starts),
        ("what panels and tutorials left", looks.leftovers),
    )


@dataclass(frozen=True, slots=True)
class Script:
    """A text that somebody runs as root."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    """Without comments and empty ones, with their numbers."""

    def first(self, pattern: re.Pattern[str]) -> tuple[int, re.Match[str]] | None:
        """The first line with something."""
        for number, line in self.lines:
            if (found := pattern.search(line)) is not None:
                return number, found
        return None


def script(path: Path, text: str) -> Script:
    """A script, as far as it is looked at."""
    numbered = enumerate(text.split("\n")[:_LINES_READ], 1)
    # Nobody writes longer lines by hand, and none is needed to find a command.
    kept = ((number, line[:1000]) for number, line in numbered if not line.lstrip().startswith("#") and line.strip())
    return Script(path, tuple(kept))


class _Looks:
    """The looks at one host."""

    def __init__(self, facts: Facts, configuration: Configuration | None, root: Path) -> None:
        self._facts = facts
        self._configuration = configuration
        self._root = root
        self._started_by: set[str] = set()
        """What starts mailsni: ``deploy``, ``post``, ``cron``, …"""
        self._our_hooks: list[Path] = []

    def hooks(self) -> Iterator[Finding]:
        for root in certbot_directories(self._facts.settings.sources):
            for kind in KINDS:
                directory = root / "renewal-hooks" / kind
                for name in text_files.names_in(directory):
                    yield from helpers.each(
                        (f"the hook {directory / name}", partial(self._hook, directory / name, kind))
                    )

    def _hook(self, path: Path, kind: str) -> Iterator[Finding]:
        """One file of a directory of hooks."""
        where, title = str(path), f"{path}"
        try:
            status = path.stat()
        except FileNotFoundError:
            yield Finding(
                "hook_dead_link",
                Severity.WARNING,
                f"{title} is a link to nothing",
                where,
                "certbot leaves it out without a word: what it was to do is not done",
                Fix(quoted("rm", path)),
            )
            return
        if stat.S_ISDIR(status.st_mode):
            return
        if not stat.S_ISREG(status.st_mode):
            yield Finding(
                "hook_no_file",
                Severity.WARNING,
                f"{title} is no regular file",
                where,
                "certbot does not run it; what reads it may wait for ever",
                Fix(quoted("rm", path)),
            )
            return
        executable = bool(status.st_mode & 0o111)
        backup = BACKUP.fullmatch(path.name) is not None
        if path.name.endswith("~"):
            if executable:
                yield Finding(
                    "hook_left_out",
                    Severity.NOTE,
                    f"{title} ends in ~",
                    where,
                    "certbot leaves such files out: an editor's backup, or a hook that never runs",
                    Fix(quoted("rm", path)),
                )
            return
        if not executable:
            if not backup and not path.name.startswith("README"):
                yield Finding(
                    "hook_not_executable",
                    Severity.WARNING,
                    f"{title} is not executable",
                    where,
                    "certbot leaves it out without a word: what it is to do is not done",
                    Fix(quoted("chmod", "755", path)),
                )
            return
        if backup:
            yield Finding(
                "hook_backup_runs",
                Severity.WARNING,
                f"{title} looks like a backup, and is executable",
                where,
                "certbot runs every executable file there but those that end in ~, so the old hook runs besides "
                "the new one",
                Fix(quoted("chmod", "a-x", path), note="or remove it"),
            )
        if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
            yield Finding(
                "hook_writable",
                Severity.ERROR,
                f"{title} can be written by others than root",
                where,
                "certbot runs it as root at the next renewal, whatever they write there",
                Fix(quoted("chown", "root", path) + " && " + quoted("chmod", "go-w", path)),
            )
        text = text_files.text_of(path)
        if text is None:
            return
        found = script(path, text)
        if found.first(_OURS):
            self._started_by.add(kind)
            self._our_hooks.append(path)
        yield from self._commands(found, "hook", in_certbot=True)

    def renewal_hooks(self) -> Iterator[Finding]:
        """``renew_hook = …`` and the others in certbot's own files: it runs them by the shell."""
        for root in certbot_directories(self._facts.settings.sources):
            renewal = (f"renewal/{name}" for name in text_files.names_in(root / "renewal") if name.endswith(".conf"))
            for name in ("cli.ini", *renewal):
                yield from helpers.each((f"the hooks in {root / name}", partial(self._configured_hooks, root / name)))

    def _configured_hooks(self, path: Path) -> Iterator[Finding]:
        lines = [
            (number, line.partition("=")[2].strip())
            for number, line in script(path, text_files.text_of(path) or "").lines
            if re.match(r"\s*(?:pre|post|renew|deploy)[-_]hook\s*=", line)
        ]
        found = Script(path, tuple(lines))
        if found.first(_OURS):
            # What cli.ini says is as if it stood on each command line: it runs on first issuance too.
            self._started_by.add("cli" if path.name == "cli.ini" else "renewal")
        yield from self._commands(found, "hook", in_certbot=True)

    def cron(self) -> Iterator[Finding]:
        """The tables of cron, and the scripts that they name."""
        for path in self._cron_files():
            yield from helpers.each((f"cron's {path}", partial(self._cron_file, path)))

    def _cron_files(self) -> Iterator[Path]:
        for place in (*_CRON_PLACES, *_CRONTABS):
            path = self._root / place
            if path.is_dir():
                yield from (path / name for name in text_files.names_in(path) if (path / name).is_file())
            elif path.is_file():
                yield path

    def _cron_file(self, path: Path) -> Iterator[Finding]:
        """One table of cron's, or a script that runs every so often."""
        text = text_files.text_of(path)
        if text is None:
            return
        found = script(path, text)
        if found.first(_OURS):
            self._started_by.add("cron")
        yield from self._commands(found, "cron", in_certbot=False)
        for number, line in found.lines:
            known = next((what for name, what in _KNOWN_SCRIPTS.items() if name in line), None)
            if known is not None:
                yield self._left_in_cron(f"{path}:{number}", known)
                continue
            for word in re.findall(r"(?<![\w.])/[\w./+-]+", line):
                named = self._root / word.lstrip("/")
                content = text_files.text_of(named) if self._is_script(named) else None
                if content is not None and content.startswith(_SHEBANG):
                    inner = script(named, content)
                    if inner.first(_OURS):
                        self._started_by.add("cron")
                    yield from self._commands(inner, "cron", in_certbot=False, called=f"{path}:{number}")

    @staticmethod
    def _is_script(path: Path) -> bool:
        if not path.is_file() or path.stat().st_size > text_files.LARGEST:
            return False
        with path.open("rb") as file:
            return file.read(2) == b"#!"

    def _left_in_cron(self, where: str, known: str) -> Finding:
        return Finding(
            "cron_of_panel",
            Severity.WARNING,
            f"cron starts {known}",
            where,
            "a client that connects meanwhile is refused, or cut off; mailsni does the same work without that",
            Fix(edit="switch SNI off in the panel, or remove the line, once `mailsni apply` serves these names"),
        )

    def _commands(self, found: Script, kind: str, *, in_certbot: bool, called: str = "") -> Iterator[Finding]:
        """What a script does that hurts."""
        by = f" (called by {called})" if called else ""
        if in_certbot and (hit := found.first(CERTBOT)) is not None:
            yield Finding(
                "hook_calls_certbot",
                Severity.WARNING,
                f"{found.path} calls certbot",
                f"{found.path}:{hit[0]}",
                "certbot holds its lock while hooks run: this call fails with `Another instance of Certbot is "
                "already running`",
                Fix(edit="remove the call", note="the renewal that runs the hook has done its work already"),
            )
        if (hit := found.first(RESTART)) is not None:
            command = re.split(r"[;&|]", hit[1].string[hit[1].start() :])[0]
            servers = [one for one in _RELOADS if one in command]
            reload = " && ".join(_RELOADS[one] for one in servers)
            yield Finding(
                f"{kind}_restarts_server",
                Severity.WARNING,
                f"{found.path} restarts {' and '.join(servers)}{by}",
                f"{found.path}:{hit[0]}",
                "a restart cuts off who is connected and refuses who connects meanwhile, and when the configuration is "
                "broken the server does not come back; a reload does neither",
                Fix(
                    edit=f"write `{reload}` instead, or remove the line",
                    note="mailsni reloads both servers after each change",
                ),
            )
        for number, line in found.lines:
            for call in _POSTMAP.finditer(line):
                yield from self._postmap(found, number, call["words"], kind, by)

    def _postmap(self, found: Script, number: int, words: str, kind: str, by: str) -> Iterator[Finding]:
        with_contents = re.search(r"\s-[a-zA-Z]*F", words) is not None
        argument = next((word.strip("'\"") for word in words.split() if not word.startswith("-")), "")
        named = argument if ":" in argument else f":{argument}"
        of_sni = (
            named.partition(":")[2] in self._named_tables()
            or re.search(r"(?:^|[/_.-])sni|vmail_ssl", argument) is not None
        )
        if with_contents and not re.search(r"\s-[a-zA-Z]*[qsd]", words):
            yield Finding(
                f"{kind}_compiles_in_place",
                Severity.WARNING,
                f"{found.path} compiles {printable_name(argument) or 'a table'} in place{by}",
                f"{found.path}:{number}",
                "clients that connect while postmap writes wait, and some are cut off; it exits 0 after leaving lines "
                "out; and what is killed half way (hash, btree) is no table any more",
                Fix(
                    edit="remove the line, once mailsni serves these names (mailsni apply)",
                    note=self._how_to_take_away(argument),
                ),
            )
        elif not with_contents and of_sni and not re.search(r"\s-[a-zA-Z]*[qsd]", words):
            yield Finding(
                f"{kind}_compiles_without_f",
                Severity.ERROR,
                f"{found.path} compiles {printable_name(argument)} without -F{by}",
                f"{found.path}:{number}",
                "the table then holds the names of the files instead of keys and certificates: Postfix cuts off every "
                "client that asks for one of its names",
                Fix(edit="write postmap -F there, or remove the line once mailsni serves these names"),
            )

    def _how_to_take_away(self, argument: str) -> str:
        own = self._facts.settings.postfix.map
        if argument.rpartition(":")[2] == str(own):
            return "it is mailsni's own map, which nothing else should compile"
        return "`mailsni setup --take-over` then removes the table from tls_server_sni_maps"

    def _named_tables(self) -> set[str]:
        """The paths of the tables that Postfix is told of."""
        configuration = self._configuration
        return {str(table.source) for table in configuration.named_tables()} if configuration is not None else set()

    # ── what starts mailsni ──────────────────────────────────────────────────────────────────────────────────────

    def starts(self) -> Iterator[Finding]:
        """Whether anything starts mailsni, and whether it does after a first issuance."""
        if any(os.path.lexists(self._root / unit) for unit in _UNITS):
            self._started_by.add("unit")
        last = history.load(self._facts.settings.state.directory).last
        regular = (
            last is not None
            and last.trigger in ("timer", "watch", "cron")
            and self._facts.now - last.ended_at < _RECENT
        )
        if regular:
            self._started_by.add("unit")
        places = [root / "renewal-hooks" for root in certbot_directories(self._facts.settings.sources)]
        if not self._started_by:
            yield Finding(
                "nothing_starts_mailsni",
                Severity.WARNING,
                "nothing starts mailsni: no hook of certbot's, no timer, no cron job, no watcher",
                str(places[0] / "post") if places else "mailsni",
                "a renewed certificate is served only when somebody runs `mailsni apply`",
                Fix("mailsni setup"),
            )
            return
        if self._started_by & {"cron", "unit"}:
            return
        version = certbot_version()
        if version is None:
            return
        runs_on_first = "cli" in self._started_by or ("deploy" in self._started_by and version >= _DEPLOY_ON_FIRST)
        runs_on_first = runs_on_first or ("post" in self._started_by and version >= _POST_ON_FIRST)
        if runs_on_first:
            return
        number = ".".join(str(part) for part in version)
        yield Finding(
            "first_issuance_not_served",
            Severity.WARNING,
            f"certbot {number} does not run {summarize([str(one) for one in self._our_hooks]) or 'the hook'} for a "
            f"new certificate",
            str(self._our_hooks[0]) if self._our_hooks else str(places[0]),
            "hooks of renewal-hooks/deploy run on first issuance since certbot 5.3.0, those of post since 3.2.0: a "
            "new name "
            "is not served before its first renewal, weeks later",
            Fix(
                "mailsni setup",
                note="it installs a timer or a cron job besides; until then run `mailsni apply` after each "
                "`certbot certonly`",
            ),
        )

    # ── what others left ─────────────────────────────────────────────────────────────────────────────────────────

    def leftovers(self) -> Iterator[Finding]:
        """Tables that panels and tutorials are known to make, which nothing names (any more)."""
        directory = self._facts.settings.postfix.config_directory
        named = self._named_tables()
        own = self._facts.settings.postfix.map
        for name, who in LEFT_IN_POSTFIX.items():
            path = directory / name
            if str(path) in named or path == own:
                continue  # it is in use: the looks at the tables are about it
            compiled = (path.with_name(name + suffix) for suffix in (".db", ".lmdb", ".cdb"))
            found = [one for one in (path, *compiled) if one.is_file()]
            if not found:
                continue
            opened = helpers.exposed(one for one in found if one != path)
            yield Finding(
                "leftover_map",
                Severity.ERROR if opened else Severity.NOTE,
                f"{summarize([str(one) for one in found])}: {who}, and tls_server_sni_maps does not name it"
                + (f"; every user of this host can read it ({opened[0][1]})" if opened else ""),
                str(found[0]),
                "a compiled table holds private keys; otherwise it does nothing",
                Fix(quoted("rm", *found), edit="switch SNI off where it comes from"),
            )


def certbot_version() -> tuple[int, ...] | None:
    """Of the certbot that is installed; None when there is none, or it does not say."""
    program = find_tool("certbot")
    if program is None:
        return None
    done = run([program, "--version"])
    # Old ones say it on standard error.
    found = re.search(r"certbot (\d+)\.(\d+)\.(\d+)", f"{done.stdout.decode('ascii', 'replace')} {done.stderr}")
    return tuple(int(part) for part in found.groups()) if found is not None else None
