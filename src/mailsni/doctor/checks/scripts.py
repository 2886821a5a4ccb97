"""Commands in hooks and cron jobs that hurt a mail server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.text import printable_name
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.host import files

CERTBOT = re.compile(r"(?:^|[;&|(`]|\bexec|\bsudo|\bthen|\bdo)\s*(?:/\S*/)?certbot\s+(?:-|[a-z])")
RESTART = re.compile(
    r"\bsystemctl\s+(?:-\S+\s+)*(?:try-)?restart\s+(?:[\w@.-]+\s+)*?(?P<a>postfix|dovecot)(?:@-)?(?:\.service)?(?![\w-])"
    r"|\b(?:service|rc-service|invoke-rc\.d)\s+(?P<b>postfix|dovecot)\s+restart\b"
    r"|/etc/init\.d/(?P<c>postfix|dovecot)\s+restart\b"
    r"|\bpostfix\s+stop\b"
)
_OURS = re.compile(r"\bmailsni\b")
_POSTMAP = re.compile(r"\bpostmap\b(?P<words>[^;&|\n]*)")
_POSTMAP_WITH_F = re.compile(r"\s-[a-zA-Z]*F")
_POSTMAP_QUERY = re.compile(r"\s-[a-zA-Z]*[qsd]")
_SNI_NAME = re.compile(r"(?:^|[/_.-])sni|vmail_ssl")
_RELOADS = {"postfix": "postfix reload", "dovecot": "doveadm reload"}
_IGNORED = re.compile(r"\s*(?:#|\Z)")
_LINES_LIMIT = 10_000
_LINE_LIMIT = 1000
"""Characters of a line: nobody writes longer ones by hand."""


@dataclass(frozen=True, slots=True)
class Script:
    """A text that root runs."""

    path: Path
    lines: tuple[tuple[int, str], ...]
    """Without comments and empty ones, with their numbers."""

    @classmethod
    def parse(cls, path: Path, text: str) -> Script:
        """The lines of a script, as far as they are checked."""
        numbered = enumerate(text.split("\n")[:_LINES_LIMIT], 1)
        return cls(path, tuple((at, line[:_LINE_LIMIT]) for at, line in numbered if not _IGNORED.match(line)))

    @classmethod
    def read(cls, path: Path) -> Script | None:
        """A script; None when it is no regular file.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be read, or is too large.
        """
        text = files.read_text(path)
        return cls.parse(path, text) if text is not None else None

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


def check_script(facts: Facts, script: Script, kind: str, caller: str = "") -> Iterator[Finding]:
    """The commands of a script that hurt a server, or that certbot's lock stops.

    Args:
        facts: of the host.
        script: of a hook or of cron.
        kind: ``hook`` or ``cron``; the codes begin with it.
        caller: where the script is called, ``/path:LINE``.
    """
    if kind == "hook" and (renewal := script.first(CERTBOT)) is not None:
        fix = Fix(edit="remove the call", note="the renewal that runs the hook has done its work already")
        yield finding("hook_calls_certbot", f"{script.path} calls certbot", f"{script.path}:{renewal[0]}", fix)
    called = f" (called by {caller})" if caller else ""
    yield from _restarts(script, kind, called)
    for number, line in script.lines:
        for call in _POSTMAP.finditer(line):
            if not _POSTMAP_QUERY.search(call["words"]):
                yield from _postmap(facts, script, number, call["words"], kind, called)


def _restarts(script: Script, kind: str, called: str) -> Iterator[Finding]:
    restart = script.first(RESTART)
    if restart is None:
        return
    number, match = restart
    command = re.split(r"[;&|]", match.string[match.start() :])[0]
    servers = [server for server in _RELOADS if server in command]
    reload = " && ".join(_RELOADS[server] for server in servers)
    yield finding(
        f"{kind}_restarts_server",
        f"{script.path} restarts {' and '.join(servers)}{called}",
        f"{script.path}:{number}",
        Fix(edit=f"write `{reload}` instead, or remove the line", note="mailsni reloads both after each change"),
    )


def _postmap(facts: Facts, script: Script, number: int, words: str, kind: str, called: str) -> Iterator[Finding]:
    argument = next((word.strip("'\"") for word in words.split() if not word.startswith("-")), "")
    path, where = argument.rpartition(":")[2], f"{script.path}:{number}"
    if _POSTMAP_WITH_F.search(words):
        note = "`mailsni setup --take-over` then removes the table from tls_server_sni_maps"
        if path == str(facts.settings.postfix.map):
            note = "it is mailsni's own map, which nothing else should compile"
        yield finding(
            f"{kind}_compiles_in_place",
            f"{script.path} compiles {printable_name(argument) or 'a table'} in place{called}",
            where,
            Fix(edit="remove the line, once mailsni serves these names (mailsni apply)", note=note),
        )
    elif path in facts.postfix_tables or _SNI_NAME.search(argument):
        yield finding(
            f"{kind}_compiles_without_f",
            f"{script.path} compiles {printable_name(argument)} without -F{called}",
            where,
            Fix(edit="write postmap -F there, or remove the line once mailsni serves these names"),
        )
