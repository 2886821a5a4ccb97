"""Text for people: strings of any origin made fit for a terminal, short lists, counts."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from typing import Self

NAMES_SHOWN = 3
"""How many names, paths or other texts a message lists before it counts the rest."""
MESSAGE_LIMIT = 2000
"""Characters of another program's message that are quoted."""
_NAME_LIMIT = 80
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n]+")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)


class ContractWord(enum.StrEnum):
    """Words that programs read, each with its meaning for the documentation. Added to, never renamed."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        """A member that equals its word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


def printable_name(text: str | bytes) -> str:
    """A name, path or value of any origin: printable ASCII, quoted if it was not, at most 80 characters."""
    decoded = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    plain = decoded if decoded.isascii() and decoded.isprintable() else ascii(decoded)
    return plain if len(plain) <= _NAME_LIMIT else plain[: _NAME_LIMIT - 1] + "~"


def printable(text: str) -> str:
    """Another program's message: no control characters but newlines, no PEM block, bounded."""
    plain = _UNPRINTABLE.sub("?", _PEM.sub("[PEM removed]", text)).strip()
    return plain if len(plain) <= MESSAGE_LIMIT else plain[:MESSAGE_LIMIT] + " […]"


def summarize(texts: Sequence[str]) -> str:
    """The first texts, as they are, and how many more there are."""
    more = f" and {len(texts) - NAMES_SHOWN} more" if len(texts) > NAMES_SHOWN else ""
    return ", ".join(texts[:NAMES_SHOWN]) + more


def summarize_names(names: Iterable[str]) -> str:
    """The first names, made printable, and how many more there are."""
    return summarize([printable_name(name) for name in names])


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 name``, ``2 names``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
