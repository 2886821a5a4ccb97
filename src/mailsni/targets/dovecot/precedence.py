"""Which ``local_name`` block Dovecot takes for a name. Pure.

Measured with handshakes on 2.3.19 and 2.4.1, the same rule for both but for its end: blocks with the same text of
names (case aside) are one, which stands where the first of them stands and says what the last of them says; of the
blocks that match, 2.3 takes the first and 2.4 the last. How exact a match is has no say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailsni.targets.dovecot.parser import Block, Scope
from mailsni.targets.dovecot.rendering import DovecotVersion


@dataclass(frozen=True, slots=True)
class LocalName:
    """A ``local_name`` block."""

    block: Block
    names: tuple[str, ...]
    """In lower case, as they are written; 2.4 takes only one."""
    outer: Scope
    """What it stands in."""
    ours: bool
    """It stands in the include that this program writes."""


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
class _Group:
    """The blocks that are one to Dovecot."""

    place: int
    names: tuple[str, ...]
    blocks: tuple[LocalName, ...]

    @property
    def winner(self) -> LocalName:
        return self.blocks[-1]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A block that is not what clients get for one of its names."""

    name: str
    loser: LocalName
    winner: LocalName
    same: bool
    """They are one block to Dovecot, with two values."""


class Precedence:
    """Who wins, among the blocks that stand in the same outer blocks, in the order in which Dovecot reads them."""

    def __init__(self, blocks: Sequence[LocalName], version: DovecotVersion) -> None:
        self._groups = _groups(blocks)
        self._last = version != "2.3"
        self._usual: Mapping[str, list[_Group]] = defaultdict(list)
        self._odd: list[tuple[str, _Group]] = []
        for group in self._groups:
            for name in dict.fromkeys(group.names):
                if _is_usual(name):
                    self._usual[name].append(group)
                elif len(self._odd) < _ODD_LIMIT:
                    self._odd.append((name, group))

    def conflicts(self) -> Iterator[Conflict]:
        """Every name of a block for which another block is taken, and every block whose values another one replaces.

        A wildcard that gives way to an exact name is none: that is what both are for.
        """
        for group in self._groups:
            for loser in group.blocks[:-1]:
                yield Conflict(group.names[0] if group.names else "", loser, group.winner, same=True)
            for name in dict.fromkeys(group.names):
                taken = self._taken(name)
                if taken is not None and taken is not group:
                    yield Conflict(name, group.winner, taken.winner, same=False)

    def _taken(self, name: str) -> _Group | None:
        """The group that a client gets which asks for a name; for a wildcard, which one its own text leads to."""
        if not _is_usual(name):
            return None
        matching = [*self._usual.get(name, ())]
        if not name.startswith("*."):
            matching += self._usual.get(f"*.{name.partition('.')[2]}", ())
            matching += [group for pattern, group in self._odd if pattern_matches(pattern, name)]
        choose = max if self._last else min
        return choose(matching, key=lambda group: group.place, default=None)


def _is_usual(name: str) -> bool:
    """Whether a name has no wildcard, or is of the form ``*.example.com``."""
    return not {"*", "?"} & set(name.removeprefix("*."))


_ODD_LIMIT = 100
"""Patterns of another form than ``*.example.com`` that are compared with every name."""


def _groups(blocks: Sequence[LocalName]) -> list[_Group]:
    groups: dict[str, list[LocalName]] = defaultdict(list)
    for block in blocks:
        groups[block.block.name.lower()].append(block)
    return [_Group(place, group[0].names, tuple(group)) for place, group in enumerate(groups.values())]
