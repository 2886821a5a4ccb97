"""The examination: finds out what there is, takes every look, and puts what was found in order.

What cannot be found out is a finding itself, and everything that does not need it is looked at all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import take_snapshot
from mailsni.doctor import helpers
from mailsni.doctor.checks import hooks, stores
from mailsni.doctor.checks import postfix as postfix_looks
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.errors import ConfigurationError, MailsniError, PermissionMissingError
from mailsni.sources.base import SourceSettings
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.postfix import postconf
from mailsni.targets.postfix import target as postfix
from mailsni.targets.postfix.postconf import Configuration
from mailsni.targets.registry import NO_SERVER

_Found = TypeVar("_Found")
_ORDER = list(Severity)


def examine(
    settings: Settings, now: datetime, *, root: Path = Path("/"), progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Look for every known mistake. Nothing is written, no server is asked on the wire.

    Args:
        settings: where to look.
        now: the moment at which certificates must be valid, with a time zone.
        root: of the system: cron's tables and units are looked for below it.
        progress: told about every lineage that is read.

    Returns:
        The findings, the worst first; no two of them alike.
    """
    inquiry = _Inquiry(settings, now, progress)
    facts = inquiry.facts()
    configuration = inquiry.configuration(facts)
    found = [*inquiry.problems, *_taken(facts, configuration, root)]
    unique = dict.fromkeys(helpers.made_safe(one) for one in found)
    return tuple(sorted(unique, key=lambda one: _ORDER.index(one.severity)))


def _taken(facts: Facts, configuration: Configuration | None, root: Path) -> Iterator[Finding]:
    yield from helpers.each(
        ("Postfix", lambda: postfix_looks.findings(facts, configuration)),
        ("the stores", lambda: stores.findings(facts, configuration)),
        ("what starts things", lambda: hooks.findings(facts, configuration, root)),
        # Loaded here and not above, so that what Dovecot's looks need is loaded after all others were taken.
        ("Dovecot", lambda: import_module("mailsni.doctor.checks.dovecot").findings(facts)),
    )


@dataclass(slots=True)
class _Inquiry:
    """Finds out what there is, and keeps what cannot be."""

    settings: Settings
    now: datetime
    progress: Progress | None
    problems: list[Finding] = field(default_factory=list)

    def facts(self) -> Facts:
        """What the looks start from."""
        postfix_found = self._tried(
            "postfix_unknown", "Postfix", lambda: postfix.find(self.settings.postfix), self._main_cf()
        )
        broken = len(self.problems)
        dovecot_found = self._tried(
            "dovecot_unknown",
            "Dovecot",
            lambda: dovecot.find(self.settings.dovecot),
            str(self.settings.dovecot.config_file),
        )
        usable = self.settings
        # What one server's configuration hides, the look at the stores goes on without.
        if broken:
            usable = replace(usable, postfix=replace(usable.postfix, enabled=False))
        if len(self.problems) > broken:
            usable = replace(usable, dovecot=replace(usable.dovecot, enabled=False))
        usable = replace(usable, sources=tuple(one for one in usable.sources if self._is_there(one)))
        seen = None
        if usable.sources:
            seen = self._tried(
                "stores_unknown",
                "what is in the stores and what is deployed",
                lambda: take_snapshot(usable, self.now, progress=self.progress),
                usable.sources[0].open().location,
            )
        if not self.problems and postfix_found is None and dovecot_found is None:
            self.problems.append(
                Finding(
                    "no_server",
                    Severity.NOTE,
                    NO_SERVER,
                    "[postfix] enabled, [dovecot] enabled",
                    "there is no server to look at, and none that is served",
                    Fix(edit="install one of them, or enable it in mailsni's configuration"),
                )
            )
        return Facts(self.settings, self.now, postfix_found, dovecot_found, seen)

    def configuration(self, facts: Facts) -> Configuration | None:
        """Of Postfix, as far as it is installed."""
        if facts.postfix is None or not facts.postfix.installed:
            return None
        directory = self.settings.postfix.config_directory
        return self._tried("postfix_unknown", "Postfix", lambda: postconf.read(directory), self._main_cf())

    def _main_cf(self) -> str:
        return str(self.settings.postfix.config_directory / "main.cf")

    def _is_there(self, source: SourceSettings) -> bool:
        store = source.open()
        files = self._tried("store_missing", f"the store {store.location}", store.files, store.location)
        return files is not None

    def _tried(self, code: str, about: str, find: Callable[[], _Found], where: str) -> _Found | None:
        """What can be found out; None, and a finding, when it cannot."""
        try:
            return find()
        except (PermissionMissingError, PermissionError) as problem:
            self.problems.append(replace(helpers.not_looked_at(about, problem), where=where))
        except (MailsniError, OSError, ValueError) as problem:
            told = helpers.not_looked_at(about, problem)
            severity = Severity.WARNING if isinstance(problem, ConfigurationError) else Severity.ERROR
            place = helpers.place_of(problem) or where
            hint = problem.hint if isinstance(problem, MailsniError) else None
            fix = told.fix if hint else _FIXES.get(code, told.fix)
            self.problems.append(replace(told, code=code, severity=severity, where=place, fix=fix))
        return None


_FIXES = {
    "store_missing": Fix(
        edit="let [[sources]] path in mailsni's configuration name the directory with one directory per certificate",
        note="certbot creates it with the first certificate",
    ),
    "postfix_unknown": Fix("postconf -n", edit="correct that line"),
    "dovecot_unknown": Fix("doveconf -n", edit="correct it"),
}
