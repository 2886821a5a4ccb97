"""Logical lines of a Postfix file (postconf(5), postmap(1))."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A logical line of a Postfix file, with its physical lines and their numbers (postconf(5), postmap(1))."""

    lines: tuple[tuple[int, str], ...]

    @property
    def number(self) -> int:
        """Where it begins, counted from 1."""
        return self.lines[0][0]

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join(line.strip() for _, line in self.lines)

    def line_with(self, pattern: str) -> int:
        """The number of the first of its lines that has something; its beginning when none has."""
        return next((number for number, line in self.lines if re.search(pattern, line)), self.number)


def entries(text: str) -> list[Entry]:
    """The logical lines of a Postfix file: comments and empty lines are skipped and end nothing, blanks continue."""
    found: list[list[tuple[int, str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and found:
            found[-1].append((number, line))
        else:
            found.append([(number, line)])
    return [Entry(tuple(lines)) for lines in found]
