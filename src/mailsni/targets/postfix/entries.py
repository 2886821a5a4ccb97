"""What the compiled map must hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailsni.core.selection import Selection
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.rendering import postfix_key


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A key of the map, and the pinned files whose content it must hold."""

    key: str
    pins: tuple[Path, ...]
    digests: tuple[str, ...]
    """SHA-256 of each, hexadecimal, or the first digits of it."""


def map_entries(selection: Selection, pins: PinDirectory) -> tuple[MapEntry, ...]:
    """The entries that a map of a selection holds, ordered by name."""
    return tuple(
        MapEntry(
            postfix_key(winner.name),
            tuple(pins.path_of(certificate) for certificate in winner.certificates),
            tuple(certificate.material.digest for certificate in winner.certificates),
        )
        for winner in selection.winners
    )
