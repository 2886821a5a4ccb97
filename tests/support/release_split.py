"""Which part of the tests is this release's: ``MAILSNI_SHARED=1`` shares some of them out between the lab's releases.

Faults, and tests marked ``shared``, say the same on both releases, so that one of them is enough for each run of all
tests; what depends on the servers' versions is not shared. ``make lab MAILSNI_SHARED=0`` runs everything on both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

RELEASES = ("bookworm", "trixie")

_Tried = TypeVar("_Tried")


def own_part() -> int | None:
    """The number of this release among those that share; None when nothing is shared."""
    release = os.environ.get("MAILSNI_LAB_RELEASE", "")
    return RELEASES.index(release) if os.environ.get("MAILSNI_SHARED") == "1" and release in RELEASES else None


def is_of(release: str) -> bool:
    """Whether what one release is to run is run here."""
    part = own_part()
    return part is None or RELEASES[part] == release


def share(everything: Iterable[_Tried]) -> list[_Tried]:
    """Those that are tried here."""
    part = own_part()
    return list(everything) if part is None else list(everything)[part :: len(RELEASES)]
