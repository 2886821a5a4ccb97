"""Findings of ``mailsni doctor``, and the facts that its checks judge."""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from mailsni.core.model import Reason
from mailsni.deploy.host_facts import HostFacts
from mailsni.targets.postfix.postconf import Configuration


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Clients are disconnected, get a wrong certificate, or a key is open: now, or at the next start or renewal."""
    WARNING = "warning"
    """It affects some clients, or will affect them one day."""
    NOTE = "note"
    """For information; nothing need be done."""


@dataclass(frozen=True, slots=True)
class Fix:
    """How to repair a mistake; at least one part is given. First the edit, then the command."""

    command: str | None = None
    """A command line for a POSIX shell that can be run as it stands: no placeholder in it."""
    edit: str | None = None
    """What a person has to change, in a file or elsewhere, before the command."""
    note: str | None = None
    """What else to know, and other ways."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake. The runner makes its texts printable and bounded; they hold no content of a key."""

    code: str
    """Its kind, for programs: one of :func:`kinds`."""
    severity: Severity
    what: str
    """A short phrase with the name, the file or the value concerned."""
    where: str
    """``/path:LINE``, ``/path`` or a setting's name; never empty."""
    why: str
    """What it does to clients, or will do."""
    fix: Fix


@dataclass(frozen=True, slots=True)
class Kind:
    """What the findings of one code have in common."""

    meaning: str
    """A sentence for the documentation."""
    severity: Severity
    why: str | None = None
    """None where it always depends on the case."""


_NO_FINDING = frozenset(
    {Reason.KEPT_LAST_GOOD, Reason.NO_MATCHING_NAME, Reason.STAGING, Reason.SELF_SIGNED, Reason.LOST_TO_OTHER}
)
"""The first stands beside another reason; nothing need be done about the others."""
_SKIPPED = [reason for reason in Reason if reason not in _NO_FINDING]


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind of finding by its code, from ``findings.toml``."""
    tables = tomllib.loads(Path(__file__).with_name("findings.toml").read_text(encoding="utf-8"))
    read = {}
    for code, table in tables.items():
        kind = Kind(**{**table, "severity": Severity(table["severity"])})
        for reason in _SKIPPED if "REASON" in code else ("",):
            read[code.replace("REASON", reason)] = replace(kind, meaning=kind.meaning.replace("REASON", reason))
    return read


def finding(
    code: str, what: str, where: str | Path, fix: Fix, *, severity: Severity | None = None, why: str | None = None
) -> Finding:
    """A :class:`Finding` of a kind; ``severity`` and ``why`` where they are not those of the kind."""
    kind = kinds()[code]
    why = why or kind.why
    if why is None:
        raise LookupError(f"a finding {code} has no why")
    return Finding(code, severity or kind.severity, what, str(where), why, fix)


@dataclass(frozen=True)
class Facts:
    """What the checks judge. What could not be found out is None or empty, and is a finding already."""

    host: HostFacts
    postfix_configuration: Configuration | None = None
    root: Path = Path("/")
    """Of the system: cron's tables and units are looked for below it."""

    @cached_property
    def postfix_tables(self) -> frozenset[str]:
        """The paths of the tables that main.cf or a service names for SNI."""
        configuration = self.postfix_configuration
        return frozenset(str(table.source) for table in configuration.named_tables()) if configuration else frozenset()
