"""How Postfix splits its files and values: logical lines, lists of words, lists of tables (postconf(5), postmap(1))."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SEPARATORS = ", \t\r\n"
"""Between the words of a list (sys_defs.h, CHARS_COMMA_SP)."""


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
        """The number of the first of its lines that matches a pattern; its beginning when none does."""
        return next((number for number, line in self.lines if re.search(pattern, line)), self.number)


def entries(text: str) -> list[Entry]:
    """The logical lines of a Postfix file: comments and empty lines are skipped and end nothing, blanks continue."""
    logical: list[list[tuple[int, str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and logical:
            logical[-1].append((number, line))
        else:
            logical.append([(number, line)])
    return [Entry(tuple(lines)) for lines in logical]


def split_words(value: str) -> list[str]:
    """The words of a list of files: commas and blanks separate them, and nothing quotes these (mystrtok(3))."""
    return [word for word in re.split(f"[{_SEPARATORS}]+", value) if word]


def split_tables(value: str) -> list[str]:
    """The tables of a list, as they are written: nothing is split between balanced braces (maps.c, mystrtokq(3)).

    So ``inline:{ {a = /x, /y}, {b = /z} }``, ``pipemap:{hash:/a, hash:/b}`` and ``${name?{a b}}`` are one table each.
    Quotes mean nothing. An unbalanced brace takes everything up to the end.
    """
    return [table for table in split_unbraced(value, _SEPARATORS) if table]


def split_unbraced(value: str, separators: str) -> list[str]:
    """The parts of a value between separators that stand outside of braces; parts may be empty."""
    parts, level = [""], 0
    for character in value:
        if level == 0 and character in separators:
            parts.append("")
            continue
        level = max(0, level + (character == "{") - (character == "}"))
        parts[-1] += character
    return parts
