"""Runs ``mailsni doctor``: collects the facts, runs every check on them, and sorts the findings.

A fact that cannot be found out and a check that cannot run are findings themselves; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import take_snapshot
from mailsni.doctor import helpers
from mailsni.doctor.checks import dovecot, hooks, leftovers, postfix, schedule, stores
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding, kinds
from mailsni.errors import ConfigurationError, MailsniError, PermissionMissingError
from mailsni.sources.base import SourceSettings, StoreFiles
from mailsni.targets.dovecot import target as dovecot_target
from mailsni.targets.postfix import target as postfix_target
from mailsni.targets.registry import NO_SERVER

_Fact = TypeVar("_Fact")

SAME_CODE_LIMIT = 20
"""Findings of one code that are reported one by one."""
CHECKS: helpers.Checks[Facts] = (
    ("Postfix", postfix.findings),
    ("the modes of the private keys", stores.key_modes),
    ("the modes of the pinned files", stores.pin_modes),
    ("broken lineages", stores.broken_lineages),
    ("the chains in the stores", stores.incomplete_chains),
    ("lineages that compete for a name", stores.competing_lineages),
    ("whether certbot renews all lineages", stores.unrenewed_lineages),
    ("certbot's hooks", hooks.hooks),
    ("the hooks in certbot's configuration", hooks.hooks_in_configuration),
    ("cron", hooks.cron),
    ("what starts mailsni", schedule.schedule),
    ("what panels and tutorials left", leftovers.leftovers),
    ("Dovecot", dovecot.findings),
)


def examine(
    settings: Settings,
    now: datetime,
    *,
    root: Path = Path("/"),
    progress: Progress | None = None,
    checks: helpers.Checks[Facts] = CHECKS,
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
    return in_order([*collector.problems, *helpers.run_each(checks, facts)])


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings fit to be shown: printable, each once, not too many of a code, the worst first."""
    unique = dict.fromkeys(helpers.sanitized(each) for each in findings)
    return tuple(sorted(_bounded(unique), key=lambda each: list(Severity).index(each.severity)))


def _bounded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """A host with thousands of blocks can have the same mistake in each of them."""
    left_out: dict[str, list[Finding]] = {}
    number: Counter[str] = Counter()
    for each in findings:
        number[each.code] += 1
        if number[each.code] <= SAME_CODE_LIMIT:
            yield each
        else:
            left_out.setdefault(each.code, []).append(each)
    for first, *more in left_out.values():
        yield replace(first, what=f"{len(more) + 1} more of this kind, the first of them: {first.what}")


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
        main_cf = settings.postfix.main_cf
        postfix_server = self._collect(
            "postfix_unreadable", "Postfix", lambda: postfix_target.find(settings.postfix), main_cf
        )
        dovecot_server = self._collect(
            "dovecot_unreadable", "Dovecot", lambda: dovecot_target.find(settings.dovecot), settings.dovecot.config_file
        )
        stores = [(source, files) for source in settings.sources if (files := self._store(source)) is not None]
        # The snapshot does without a server that is not wanted or cannot be asked, and without such a store.
        readable = replace(
            settings,
            sources=tuple(source for source, _ in stores),
            postfix=replace(settings.postfix, enabled=settings.postfix.enabled if postfix_server else False),
            dovecot=replace(settings.dovecot, enabled=settings.dovecot.enabled if dovecot_server else False),
        )
        snapshot = None
        if stores:
            snapshot = self._collect(
                "snapshot_failed",
                "what is in the stores and what is deployed",
                lambda: take_snapshot(readable, self.now, progress=self.progress),
                readable.sources[0].open().location,
            )
        if not self.problems and postfix_server is None and dovecot_server is None:
            fix = Fix(edit="install one of them, or enable it in mailsni's configuration")
            self.problems.append(finding("no_server", NO_SERVER, "[postfix] enabled, [dovecot] enabled", fix))
        configuration = None
        if postfix_server is not None and postfix_server.installed:
            configuration = self._collect("postfix_unreadable", "Postfix", postfix_server.installation.read, main_cf)
        return Facts(
            settings=settings,
            now=self.now,
            postfix=postfix_server,
            dovecot=dovecot_server,
            snapshot=snapshot,
            postfix_configuration=configuration,
            stores=tuple(files for _, files in stores),
            root=self.root,
        )

    def _store(self, source: SourceSettings) -> StoreFiles | None:
        store = source.open()
        return self._collect("store_missing", f"the store {store.location}", store.files, store.location)

    def _collect(self, code: str, about: str, find: Callable[[], _Fact], where: str | Path) -> _Fact | None:
        """A fact; None, and a finding with this code, when it cannot be found out."""
        try:
            return find()
        except (MailsniError, OSError, ValueError) as problem:
            failure = helpers.check_failed(about, problem, where)
            if not isinstance(problem, PermissionMissingError | PermissionError):
                severity = Severity.WARNING if isinstance(problem, ConfigurationError) else kinds()[code].severity
                hint = problem.hint if isinstance(problem, MailsniError) else None
                fix = failure.fix if hint else _FIXES.get(code, failure.fix)
                failure = replace(failure, code=code, severity=severity, fix=fix)
            self.problems.append(failure)
            return None


_FIXES = {
    "store_missing": Fix(
        edit="let [[sources]] path in mailsni's configuration name the directory with one directory per certificate",
        note="certbot creates it with the first certificate",
    ),
    "postfix_unreadable": Fix("postconf -n", edit="correct that line"),
    "dovecot_unreadable": Fix("doveconf -n", edit="correct it"),
}
