"""Findings of ``mailsni doctor``, and the facts that its checks judge."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.deploy.snapshot import Snapshot
from mailsni.sources.base import StoreFiles
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix.postconf import Configuration
from mailsni.targets.postfix.target import Postfix


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
    """Its kind, for programs: one of :data:`mailsni.doctor.codes.CODES`."""
    severity: Severity
    what: str
    """A short phrase with the name, the file or the value concerned."""
    where: str
    """``/path:LINE``, ``/path`` or a setting's name; never empty."""
    why: str
    """What it does to clients, or will do."""
    fix: Fix


@dataclass(frozen=True)
class Facts:
    """What the checks judge. What could not be found out is None or empty, and is a finding already."""

    settings: Settings
    now: datetime
    """With a time zone."""
    postfix: Postfix | None = None
    dovecot: Dovecot | None = None
    snapshot: Snapshot | None = None
    """Needs root, a readable store and both servers' configurations in order."""
    postfix_configuration: Configuration | None = None
    stores: tuple[StoreFiles, ...] = ()
    """The files of every store that can be listed."""
    root: Path = Path("/")
    """Of the system: cron's tables and units are looked for below it."""

    @cached_property
    def postfix_tables(self) -> frozenset[str]:
        """The paths of the tables that main.cf or a service names for SNI."""
        configuration = self.postfix_configuration
        return frozenset(str(table.source) for table in configuration.named_tables()) if configuration else frozenset()
