"""Renders the texts of both servers from a selection, with Jinja2 templates.

The package ships the templates. The administrator's own, of the same file name in ``templates/`` beside the
configuration file, win. Every value went through :mod:`mailsni.core.names`, so templates escape nothing. The same
selection gives the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mailsni.core.model import Certificate
from mailsni.core.names import host_name, is_wildcard, safe_origin, safe_path
from mailsni.core.selection import Selection, Winner
from mailsni.host.templates import render

DovecotVersion = Literal["2.3", "2.4"]


@dataclass(frozen=True, slots=True)
class RenderedCertificate:
    """A certificate as templates see it."""

    source: str
    algorithm: str
    not_after: str
    fingerprint: str
    kept: bool
    pinned_path: str
    chain_path: str
    key_path: str


@dataclass(frozen=True, slots=True)
class Block:
    """A Dovecot ``local_name`` block: the names it is for (one only for 2.4), and one or two certificates."""

    names: tuple[str, ...]
    certificates: tuple[RenderedCertificate, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the Postfix map source. The key of a wildcard is ``.example.com``: Postfix never looks up ``*``."""

    key: str
    certificates: tuple[RenderedCertificate, ...]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the servers read a certificate: the pinned file, and what the Dovecot blocks name."""

    pinned: Callable[[Certificate], Path]
    live: bool = False
    """The blocks name the store's own files, where a certificate has such: a last good one has none."""

    def of(self, certificate: Certificate) -> RenderedCertificate:
        """A certificate as templates see it.

        Raises:
            RefusedNameError: a path is outside the grammar.
        """
        pinned = safe_path(self.pinned(certificate))
        source = safe_origin(certificate.source)
        live = self.live and bool(certificate.chain_path)
        return RenderedCertificate(
            source=source,
            algorithm=certificate.algorithm.upper(),
            not_after=f"{certificate.not_after:%Y-%m-%d %H:%M} UTC",
            fingerprint=certificate.fingerprint,
            kept=certificate.kept,
            pinned_path=pinned,
            chain_path=safe_path(certificate.chain_path) if live else pinned,
            key_path=safe_path(certificate.key_path) if live else pinned,
        )


def postfix_key(name: str) -> str:
    """A name as Postfix looks it up (postconf(5), tls_server_sni_maps)."""
    checked = host_name(name)
    return checked[1:] if is_wildcard(checked) else checked


def entries(selection: Selection, paths: Paths) -> tuple[Entry, ...]:
    """The lines of the Postfix map source, ordered by name."""
    return tuple(
        Entry(postfix_key(winner.name), tuple(paths.of(one) for one in winner.certificates))
        for winner in selection.winners
    )


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


def render_postfix(lines: Sequence[Entry], templates: Path | None) -> bytes:
    """The source of the Postfix map."""
    return render("postfix-sni.j2", templates, entries=lines)


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
