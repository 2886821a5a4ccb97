"""Renders the Dovecot include."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.core.names import host_name, is_wildcard
from mailsni.core.selection import Selection, Winner
from mailsni.host.commands import LOCAL
from mailsni.host.templates import render
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.rendering import Naming, RenderedCertificate, rendered

DovecotVersion = Literal["2.3", "2.4"]


@dataclass(frozen=True, slots=True)
class Block:
    """A Dovecot ``local_name`` block: the names it is for (one only for 2.4), and one or two certificates."""

    names: tuple[str, ...]
    certificates: tuple[RenderedCertificate, ...]


def render_dovecot(
    selection: Selection,
    pins: PinDirectory,
    version: DovecotVersion,
    templates: Path | None,
    *,
    live: bool = False,
    naming: Naming = LOCAL.inside,
) -> bytes:
    """The Dovecot include, its blocks in the order in which this version lets an exact name win.

    Dovecot 2.3 takes the first block that matches, and a block costs 147 KB, so names of one certificate share one;
    2.4 takes the last and accepts one name for each (both measured). ``live`` and ``naming``: see :func:`rendered`.
    """
    exact = [winner for winner in selection.winners if not is_wildcard(winner.name)]
    wildcards = [winner for winner in selection.winners if is_wildcard(winner.name)]
    if version == "2.4":
        groups = [[winner] for winner in (*wildcards, *exact)]
    else:
        groups = [*_grouped(exact), *_grouped(wildcards)]
    blocks = [
        Block(
            names=tuple(host_name(winner.name) for winner in group),
            certificates=tuple(rendered(each, pins, live=live, naming=naming) for each in group[0].certificates),
        )
        for group in groups
    ]
    return render(f"dovecot-{version}.conf.j2", templates, blocks=blocks)


def _grouped(winners: Iterable[Winner]) -> Iterable[list[Winner]]:
    """The winners with the same certificates together."""
    groups: dict[tuple[str, ...], list[Winner]] = defaultdict(list)
    for winner in winners:
        groups[tuple(each.ident for each in winner.certificates)].append(winner)
    return groups.values()
