"""The texts in tests/data: what tools of real systems printed, and what tests give to other programs."""

from __future__ import annotations

from pathlib import Path

_DIRECTORY = Path(__file__).resolve().parents[1] / "data"


def read(name: str) -> str:
    """The content of a file in tests/data."""
    return (_DIRECTORY / name).read_text()
