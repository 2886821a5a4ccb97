"""Renders the Dovecot include."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.core.names import host_name, is_wildcard
from mailsni.core.selection import Selection, Winner
from mailsni.host.templates import render
from mailsni.targets.rendering import Paths, RenderedCertificate

DovecotVersion = Literal["2.3", "2.4"]


@dataclass(frozen=True, slots=True)
class Block:
    """A Dovecot ``local_name`` block: the names it is for (one only for 2.4), and one or two certificates."""

    names: tuple[str, ...]
    certificates: tuple[RenderedCertificate, ...]


def blocks(selection: Selection, paths: Paths, version: DovecotVersion) -> tuple[Block, ...]:
    """The blocks of the Dovecot include, in the order in which this version lets an exact name win.

    Dovecot 2.3 takes the first block that matches, and a block costs 147 KB, so names of one certificate share one;
    2.4 takes the last and accepts one name for each (both measured).
    """
    exact = [winner for winner in selection.winners if not is_wildcard(winner.name)]
    wildcards = [winner for winner in selection.winners if is_wildcard(winner.name)]
    if version == "2.4":
        return tuple(_block((winner,), paths) for winner in (*wildcards, *exact))
    return tuple(_block(group, paths) for group in (*_grouped(exact), *_grouped(wildcards)))


def render_dovecot(parts: Sequence[Block], version: DovecotVersion, templates: Path | None) -> bytes:
    """The Dovecot include."""
    return render(f"dovecot-{version}.conf.j2", templates, blocks=parts)


def _grouped(winners: Iterable[Winner]) -> list[tuple[Winner, ...]]:
    groups: dict[tuple[str, ...], list[Winner]] = defaultdict(list)
    for winner in winners:
        groups[tuple(one.ident for one in winner.certificates)].append(winner)
    return [tuple(group) for group in groups.values()]


def _block(group: Sequence[Winner], paths: Paths) -> Block:
    names = tuple(host_name(winner.name) for winner in group)
    return Block(names, tuple(paths.of(one) for one in group[0].certificates))
