"""What is wrong with mail and SNI on this host, looked for by name: the field's known mistakes, one function each.

Nothing is written and no server is asked on the wire. A look that cannot be taken is a finding of its own, and the
others go on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from mailsni.config.settings import Settings
from mailsni.deploy.snapshot import Snapshot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix.target import Postfix


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Clients are cut off, shown a wrong certificate, or a key is open: now, or at the next start or renewal."""
    WARNING = "warning"
    """It will hurt one day, or hurts some clients."""
    NOTE = "note"
    """Worth to know; nothing need be done."""


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
    """A mistake that was found. All texts are printable, bounded, and hold no content of a key."""

    code: str
    """Its kind, for programs: ``default_certificate_missing``. Added to, never renamed."""
    severity: Severity
    what: str
    """In a few words, with the name, the file or the value concerned."""
    where: str
    """``/path:LINE``, ``/path`` or a setting's name; never empty."""
    why: str
    """What it does to clients, or will do."""
    fix: Fix


@dataclass(frozen=True, slots=True)
class Facts:
    """What the looks start from. What could not be found out is None, and is a finding already."""

    settings: Settings
    now: datetime
    """With a time zone."""
    postfix: Postfix | None
    dovecot: Dovecot | None
    snapshot: Snapshot | None
    """Needs root, a readable store and both servers' configurations in order."""
