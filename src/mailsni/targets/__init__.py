"""The servers that take artifacts, one module each: find, render, stage, validate, publish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished file, the place it is to be published at, and what to put there again when it has to go back."""

    path: Path
    destination: Path
    previous: Path | None
    """A copy of what lies at the destination; None when going back means to remove it."""
