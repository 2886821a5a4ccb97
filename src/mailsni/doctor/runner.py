"""Runs ``mailsni doctor``: collects the facts, runs every check on them, and sorts the findings.

A fact that cannot be found out and a check that cannot run are findings themselves; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import take_snapshot
from mailsni.doctor import helpers
from mailsni.doctor.checks import cron, dovecot, hooks, leftovers, postfix, schedule, stores
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.errors import ConfigurationError, MailsniError, PermissionMissingError
from mailsni.sources.base import SourceSettings, StoreFiles
from mailsni.targets.dovecot import target as dovecot_target
from mailsni.targets.postfix import target as postfix_target
from mailsni.targets.registry import NO_SERVER

_Fact = TypeVar("_Fact")
Check = Callable[[Facts], Iterable[Finding]]

SAME_CODE_LIMIT = 20
"""Findings of one code that are reported one by one."""
CHECKS: tuple[tuple[str, Check], ...] = (
    ("Postfix", postfix.findings),
    ("the modes of the private keys", stores.key_modes),
    ("the modes of the pinned files", stores.pin_modes),
    ("broken lineages", stores.broken_lineages),
    ("the chains in the stores", stores.incomplete_chains),
    ("the chain of Postfix's default certificate", stores.postfix_default_chain),
    ("lineages that compete for a name", stores.competing_lineages),
    ("whether certbot renews all lineages", stores.unrenewed_lineages),
    ("certbot's hooks", hooks.hooks),
    ("the hooks in certbot's configuration", hooks.hooks_in_configuration),
    ("cron", cron.cron),
    ("what starts mailsni", schedule.schedule),
    ("what panels and tutorials left", leftovers.leftovers),
    ("Dovecot", dovecot.findings),
)
"""What each check is about, for the finding that it cannot run, and the check."""


def examine(
    settings: Settings,
    now: datetime,
    *,
    root: Path = Path("/"),
    progress: Progress | None = None,
    checks: Sequence[tuple[str, Check]] = CHECKS,
) -> tuple[Finding, ...]:
    """Look for every known mistake. Nothing is written, no server is probed.

    Args:
        settings: of this host.
        now: the moment at which certificates must be valid, with a time zone.
        root: of the system: cron's tables and units are looked for below it.
        progress: called for every lineage that is read.
        checks: the checks to run.

    Returns:
        The findings, the worst first; no two of them alike.
    """
    collector = _FactCollector(settings, now, root, progress)
    facts = collector.facts()
    return in_order([*collector.problems, *run_checks(facts, checks)])


def run_checks(facts: Facts, checks: Sequence[tuple[str, Check]] = CHECKS) -> Iterator[Finding]:
    """The findings of checks, as they come; one that cannot run is a finding."""
    return helpers.run_each(*((about, partial(check, facts)) for about, check in checks))


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings fit to be shown: printable, each once, not too many of a code, the worst first."""
    unique = dict.fromkeys(helpers.sanitized(finding) for finding in findings)
    return tuple(sorted(_bounded(unique), key=lambda finding: list(Severity).index(finding.severity)))


def _bounded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """A host with thousands of blocks can have the same mistake in each of them."""
    number: Counter[str] = Counter()
    first_left_out: dict[str, Finding] = {}
    for finding in findings:
        number[finding.code] += 1
        if number[finding.code] <= SAME_CODE_LIMIT:
            yield finding
        else:
            first_left_out.setdefault(finding.code, finding)
    for code, finding in first_left_out.items():
        more = number[code] - SAME_CODE_LIMIT
        yield replace(finding, what=f"{more} more of this kind, the first of them: {finding.what}")


@dataclass(slots=True)
class _FactCollector:
    """Finds out the facts; what cannot be found out goes to :attr:`problems`."""

    settings: Settings
    now: datetime
    root: Path
    progress: Progress | None
    problems: list[Finding] = field(default_factory=list)

    def facts(self) -> Facts:
        """Everything that the checks judge."""
        settings = self.settings
        main_cf = str(settings.postfix.config_directory / "main.cf")
        found_postfix, postfix_failed = self._collect(
            "postfix_unreadable", "Postfix", lambda: postfix_target.find(settings.postfix), main_cf
        )
        found_dovecot, dovecot_failed = self._collect(
            "dovecot_unreadable",
            "Dovecot",
            lambda: dovecot_target.find(settings.dovecot),
            str(settings.dovecot.config_file),
        )
        stores = [(source, files) for source in settings.sources if (files := self._store(source)) is not None]
        # The snapshot does without a server whose configuration cannot be read, and without such a store.
        readable = replace(settings, sources=tuple(source for source, _ in stores))
        if postfix_failed:
            readable = replace(readable, postfix=replace(readable.postfix, enabled=False))
        if dovecot_failed:
            readable = replace(readable, dovecot=replace(readable.dovecot, enabled=False))
        snapshot = None
        if stores:
            snapshot, _ = self._collect(
                "snapshot_failed",
                "what is in the stores and what is deployed",
                lambda: take_snapshot(readable, self.now, progress=self.progress),
                readable.sources[0].open().location,
            )
        if not self.problems and found_postfix is None and found_dovecot is None:
            self.problems.append(_NO_SERVER)
        configuration = None
        if found_postfix is not None and found_postfix.installed:
            configuration, _ = self._collect("postfix_unreadable", "Postfix", found_postfix.installation.read, main_cf)
        return Facts(
            settings=settings,
            now=self.now,
            postfix=found_postfix,
            dovecot=found_dovecot,
            snapshot=snapshot,
            postfix_configuration=configuration,
            stores=tuple(files for _, files in stores),
            root=self.root,
        )

    def _store(self, source: SourceSettings) -> StoreFiles | None:
        store = source.open()
        files, _ = self._collect("store_missing", f"the store {store.location}", store.files, store.location)
        return files

    def _collect(self, code: str, about: str, find: Callable[[], _Fact], where: str) -> tuple[_Fact | None, bool]:
        """A fact, or None and a finding with this code; and whether it failed."""
        try:
            return find(), False
        except (MailsniError, OSError, ValueError) as problem:
            finding = replace(helpers.check_failed(about, problem), where=helpers.place_of(problem) or where)
            if not isinstance(problem, PermissionMissingError | PermissionError):
                severity = Severity.WARNING if isinstance(problem, ConfigurationError) else Severity.ERROR
                hint = problem.hint if isinstance(problem, MailsniError) else None
                fix = finding.fix if hint else _FIXES.get(code, finding.fix)
                finding = replace(finding, code=code, severity=severity, fix=fix)
            self.problems.append(finding)
            return None, True


_FIXES = {
    "store_missing": Fix(
        edit="let [[sources]] path in mailsni's configuration name the directory with one directory per certificate",
        note="certbot creates it with the first certificate",
    ),
    "postfix_unreadable": Fix("postconf -n", edit="correct that line"),
    "dovecot_unreadable": Fix("doveconf -n", edit="correct it"),
}
_NO_SERVER = Finding(
    "no_server",
    Severity.NOTE,
    NO_SERVER,
    "[postfix] enabled, [dovecot] enabled",
    "there is no server to check, and none to deploy to",
    Fix(edit="install one of them, or enable it in mailsni's configuration"),
)
