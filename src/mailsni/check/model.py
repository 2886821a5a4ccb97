"""What a check yields: findings with a level and a code, expiries, and what this user cannot read."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mailsni.core.expiry import DAY, critical_days, warning_days
from mailsni.core.text import ContractWord


class Level(enum.IntEnum):
    """How bad it is: the exit codes of a monitoring plugin (Monitoring Plugins Development Guidelines)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def weight(self) -> int:
        """For the worst of several: what nobody can tell is less bad than what is known to be wrong."""
        return (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL).index(self)


class Code(ContractWord):
    """The kind of a finding.

    Two more families are codes: ``wire_PROBLEM`` for each :class:`mailsni.probes.model.Problem`, and the reason
    codes of certificates that are skipped.
    """

    EXPIRED = "expired", "a deployed certificate has expired"
    EXPIRES = "expires", "a deployed certificate expires soon"
    NOT_DEPLOYED = "not_deployed", "nothing has ever been deployed"
    NO_NAMES = "no_names", "the last run removed every name"
    NOT_CONFIGURED = "not_configured", "the server's configuration does not name mailsni's file"
    SERVER_NOT_FOUND = "server_not_found", "a server that is switched on, or both servers, are not installed"
    POSTFIX_CANNOT_START = "postfix_cannot_start", "Postfix would not start again with its configuration as it is"
    DOVECOT_CANNOT_START = "dovecot_cannot_start", "Dovecot would not start again with its configuration as it is"
    MAP_MISSING = "map_missing", "main.cf, master.cf or another instance names a map that is not there"
    MAP_UNREADABLE = "map_unreadable", "Postfix cannot open the map, or its entries cannot be read"
    MAP_SOURCE_MISSING = "map_source_missing", "the text from which the map is compiled is not there"
    MAP_WRONG_TYPE = "map_wrong_type", "the map is of another type than Postfix's configuration says"
    MAP_WITHOUT_KEYS = "map_without_keys", "the map was compiled without `postmap -F`"
    MAP_ENTRY_UNUSABLE = "map_entry_unusable", "an entry of the map holds no key and chain"
    MAP_STALE = "map_stale", "the map holds another certificate than the deployed one"
    MAP_NAMES_MISSING = "map_names_missing", "deployed names are not in the map"
    MAP_NAMES_UNKNOWN = "map_names_unknown", "the map has names that nobody deployed"
    INCLUDE_MISSING = "include_missing", "Dovecot's include is not there"
    INCLUDE_EDITED = "include_edited", "somebody changed Dovecot's include; every name still has its files"
    INCLUDE_NAMES_MISSING = "include_names_missing", "somebody changed Dovecot's include; deployed names have no block"
    INCLUDE_WRONG_FILES = "include_wrong_files", "somebody changed Dovecot's include; names have other files"
    INCLUDE_DEAD_PATH = "include_dead_path", "Dovecot's include names files that are not there"
    PINNED_FILE_MISSING = "pinned_file_missing", "the pinned file of a deployed certificate is not there"
    PINNED_FILE_CHANGED = "pinned_file_changed", "the pinned file of a deployed certificate has another content"
    INSECURE_FILE = "insecure_file", "the owner or the mode of a file lets others read its keys, or change it"
    INSECURE_DIRECTORY = "insecure_directory", "the owner or the mode of a directory lets others change or list it"
    RECORD_MISSING = "record_missing", "there is no record of what was published"
    RECORD_DAMAGED = "record_damaged", "a record in the state directory is damaged, or of another version"
    CLOCK_WENT_BACK = "clock_went_back", "the last run ended at a time that the clock has not reached yet"
    RUN_INTERRUPTED = "run_interrupted", "a run was cut off while it published"
    RUN_HANGS = "run_hangs", "a run has been publishing for too long"
    RUN_FAILED = "run_failed", "the last run failed"
    START_FAILS = "start_fails", "a hook, a unit or a cron job names a program that does not start"
    UNIT_FAILED = "unit_failed", "a systemd unit of mailsni failed, or is not active"
    RUN_OVERDUE = "run_overdue", "the last run is older than the schedule allows"
    HOOK_FAILED = "hook_failed", "the last run failed, and a hook of an ACME client had started it"
    NAME_REMOVED = (
        "name_removed",
        "a run of the last seven days removed a name, and no `certbot delete` explains it",
    )
    DEPLOY_PENDING = "deploy_pending", "a name waits for the next run to deploy its certificate"
    REMOVAL_PENDING = "removal_pending", "a name waits for the next run to remove it"
    REWRITE_PENDING = "rewrite_pending", "files wait for the next run to write them again"
    CHECK_FAILED = "check_failed", "a part of the check failed"
    NOT_CHECKED = "not_checked", "the check failed as a whole"
    NOTHING_READABLE = "nothing_readable", "this user can read nothing of what is deployed"
    WIRE_NOT_PROBED = "wire_not_probed", "a server could not be probed"
    WIRE_NOT_ASKED = "wire_not_asked", "time did not suffice to probe every name at one port of each server"


_FILE_CODES = frozenset(code for code in Code if code.startswith(("map_", "include_", "pinned_file_")))
DAMAGE_CODES: Final = (_FILE_CODES | {Code.INSECURE_FILE}) - {Code.INCLUDE_DEAD_PATH}
"""Files are not as they were published. That they wait for the next run to write them again is then no news."""


MISSING_CODES: Final = frozenset({Code.INCLUDE_DEAD_PATH, Code.PINNED_FILE_MISSING})
"""Files without which Dovecot does not start: that it would not is then no news."""
CANNOT_START_CODES: Final[Mapping[str, Code]] = {
    "postfix": Code.POSTFIX_CANNOT_START,
    "dovecot": Code.DOVECOT_CANNOT_START,
}
"""By server."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know. Its text is printable, and holds no content of a key."""

    level: Level
    code: str
    """A :class:`Code`, or of one of the two families that stand there."""
    text: str
    """A sentence without a full stop that names its object."""
    names: tuple[str, ...] = ()
    """All names concerned."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate of a name expires, and how long before that the check warns."""

    name: str
    not_after: datetime
    warning: float
    """Days before."""
    critical: float

    def level(self, now: datetime) -> Level:
        """The level for the time that is left."""
        left = (self.not_after - now) / DAY
        if left <= self.critical:
            return Level.CRITICAL
        return Level.WARNING if left <= self.warning else Level.OK


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part that this user may not read."""

    part: str


Result = Finding | Expiry | Unreadable
"""What a check yields."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many days before the end of a certificate the check warns; None: as its lifetime says."""

    warning: float | None = None
    critical: float | None = None

    def expiry(self, name: str, not_before: datetime | None, not_after: datetime) -> Expiry:
        """The expiry of a certificate of a name; without ``not_before`` it counts as long-lived."""
        critical = critical_days(not_before, not_after) if self.critical is None else self.critical
        warning = warning_days(not_before, not_after) if self.warning is None else self.warning
        if self.critical is None:
            critical = min(critical, warning)
        return Expiry(name, not_after, max(warning, critical), critical)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What all checks add up to."""

    now: datetime
    findings: tuple[Finding, ...]
    """The worst first."""
    expiries: tuple[Expiry, ...] = ()
    """Of each name that is deployed the first one, the next first."""
    names: int = 0
    """How many are deployed."""
    pending: int | None = None
    """How many names wait for the next run; None when this user cannot tell."""
    unreadable: tuple[str, ...] = ()
    """The parts that this user may not read."""
    probed: int | None = None
    """How many answers of servers were assessed; None without ``--wire``."""
    not_asked: int | None = None
    """How many probes the total time did not suffice for; None without ``--wire``."""

    @property
    def level(self) -> Level:
        """The worst of all."""
        return max((finding.level for finding in self.findings), key=lambda level: level.weight, default=Level.OK)


def unknown(now: datetime, why: str) -> CheckResult:
    """The result when no check could run."""
    return CheckResult(now, (Finding(Level.UNKNOWN, Code.NOT_CHECKED, why),))


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, ordered by level, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: -finding.level.weight))
