"""Which ``local_name`` block Dovecot takes for a name. Pure.

Measured with handshakes on 2.3.19 and 2.4.1, the same rule for both but for its end: blocks with the same text of
names (case aside) are one, which stands where the first of them stands and says what the last of them says; of the
blocks that match, 2.3 takes the first and 2.4 the last. How exact a match is has no say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailsni.targets.dovecot.parser import Block
from mailsni.targets.dovecot.rendering import DovecotVersion


def pattern_matches(pattern: str, name: str) -> bool:
    """Whether a name of a block is for a host name: ``dns_match_wildcard`` of Dovecot's ``dns-util.c``.

    ``*`` stands for the rest of one label, and only before a dot; ``?`` for one character of any kind. In lower case.
    """
    at = 0
    want = 0
    while at < len(name) and want < len(pattern):
        match pattern[want]:
            case "*":
                at = name.find(".", at)
                if at < 0 or pattern[want + 1 : want + 2] != ".":
                    return False
                want += 1
            case "?":
                pass
            case character if character != name[at]:
                return False
        at += 1
        want += 1
    return at == len(name) and pattern[want:] in ("", "*")


def can_match(pattern: str) -> bool:
    """Whether there is a host name that a name of a block is for."""
    core = pattern.removesuffix("*")
    return bool(core) and ".." not in core and "*" not in core.replace("*.", ".") and "." not in (core[0], core[-1])


@dataclass(frozen=True, slots=True)
class Conflict:
    """A block that is not what clients get for one of its names."""

    name: str
    loser: Block
    winner: Block
    same: bool
    """They are one block to Dovecot, with two values."""


def conflicts(blocks: Iterable[Block], version: DovecotVersion) -> Iterator[Conflict]:
    """Every name of a block for which another block is taken, and every block whose values another one replaces.

    A wildcard that gives way to an exact name is none: that is what both are for.

    Args:
        blocks: the ``local_name`` blocks that stand in the same outer blocks, in the order in which Dovecot reads them.
        version: decides whether the first or the last block wins.
    """
    by_text: dict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        by_text[block.name.lower()].append(block)
    groups = list(by_text.values())  # the blocks of a group are one to Dovecot; its place decides
    named = [(name, place) for place, group in enumerate(groups) for name in dict.fromkeys(group[0].names)]
    usual: dict[str, list[int]] = defaultdict(list)
    for name, place in named:
        if _is_usual(name):
            usual[name].append(place)
    odd = [(name, place) for name, place in named if not _is_usual(name)][:_ODD_LIMIT]
    choose = min if version == "2.3" else max
    for group in groups:
        for loser in group[:-1]:
            yield Conflict(group[0].names[0] if group[0].names else "", loser, group[-1], same=True)
        for name in dict.fromkeys(group[0].names):
            taken = choose(_matching(name, usual, odd), default=None)
            if taken is not None and groups[taken] is not group:
                yield Conflict(name, group[-1], groups[taken][-1], same=False)


def _matching(name: str, usual: Mapping[str, Sequence[int]], odd: Iterable[tuple[str, int]]) -> list[int]:
    """The places of the groups that match a name which a client asks for; for a wildcard, its own text leads to them.

    Args:
        name: the name of a block.
        usual: the places by name.
        odd: names of another form than ``*.example.com``, and their places.
    """
    if not _is_usual(name):
        return []
    places = [*usual.get(name, ())]
    if not name.startswith("*."):
        places += usual.get(f"*.{name.partition('.')[2]}", ())
        places += [place for pattern, place in odd if pattern_matches(pattern, name)]
    return places


def _is_usual(name: str) -> bool:
    """Whether a name has no wildcard, or is of the form ``*.example.com``."""
    return not {"*", "?"} & set(name.removeprefix("*."))


_ODD_LIMIT = 100
"""Patterns of another form than ``*.example.com`` that are compared with every name."""
