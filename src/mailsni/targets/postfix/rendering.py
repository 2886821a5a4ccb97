"""Renders the source of the Postfix map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailsni.core.names import host_name, is_wildcard
from mailsni.core.selection import Selection
from mailsni.host.commands import LOCAL
from mailsni.host.templates import render
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.rendering import Naming, RenderedCertificate, rendered


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the Postfix map source. The key of a wildcard is ``.example.com``: Postfix never looks up ``*``."""

    key: str
    certificates: tuple[RenderedCertificate, ...]


def postfix_key(name: str) -> str:
    """A name as Postfix looks it up (postconf(5), tls_server_sni_maps)."""
    checked = host_name(name)
    return checked[1:] if is_wildcard(checked) else checked


def render_postfix(
    selection: Selection, pins: PinDirectory, templates: Path | None, *, naming: Naming = LOCAL.inside
) -> bytes:
    """The source of the Postfix map, ordered by name."""
    entries = [
        Entry(postfix_key(winner.name), tuple(rendered(each, pins, naming=naming) for each in winner.certificates))
        for winner in selection.winners
    ]
    return render("postfix-sni.j2", templates, entries=entries)
