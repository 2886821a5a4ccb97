"""What setup and its removal are planned as, and how both tell files of ours from others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import RefusedError
from mailsni.host import files
from mailsni.setup import autostart
from mailsni.setup.steps import Step
from mailsni.targets.dovecot import target as dovecot


@dataclass(frozen=True, slots=True)
class Wiring:
    """A plan."""

    settings: Settings
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    """What was found, for information."""
    warnings: tuple[str, ...] = ()
    """What a person should look at."""


@dataclass(frozen=True, slots=True)
class WhyBroken:
    """Asks doveconf(1)."""

    config_file: Path

    def __call__(self) -> str | None:
        """Its complaint; None when Dovecot would start."""
        return dovecot.complaint_of(self.config_file)


def ours_at(path: Path) -> bytes | None:
    """The content of a file of ours; None when nothing lies there.

    Raises:
        RefusedError: something lies there that setup did not write.
    """
    if not os.path.lexists(path):
        return None
    content = files.read_own(path)
    shipped = autostart.shipped_hook().encode()
    if content is None or not (autostart.is_ours(content) or content == shipped):
        raise RefusedError(
            f"{path}: was not written by `mailsni setup`, so it is not overwritten",
            hint="look at it, and move it away if mailsni may write its own there",
        )
    return content


def known_at(path: Path) -> bytes | None:
    """The content of a file if setup wrote it; None when it did not, or there is none."""
    content = files.read_own(path)
    return content if content is not None and autostart.is_ours(content) else None
