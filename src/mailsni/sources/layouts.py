"""The kinds of store that are only a layout: where each tool leaves keys and chains.

The facts are from the source code of the tools, and each has a builder in ``tests/support/stores.py`` which lays a
store out exactly as its tool does, with what is no certificate beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailsni.sources.layout import FileLayout, Files


@dataclass(frozen=True, slots=True)
class LayoutKind:
    """A kind of store: see :class:`mailsni.sources.kinds.SourceKind`."""

    what: str
    layout: FileLayout
    path: str = ""
    """The default; empty: the configuration must name it."""
    usual_places: tuple[str, ...] = ()


LAYOUT_KINDS: Mapping[str, LayoutKind] = {
    # certs_storage.go of v4.25, internal/storage of v5.3: .crt, .issuer.crt, .key and last .json are written in place.
    # With --no-bundle the .crt has the leaf alone.
    "lego": LayoutKind(
        "lego (v4 and v5): what --path names",
        FileLayout(
            (
                Files(
                    key="*.key",
                    chain=("*.crt", "*.issuer.crt"),
                    directory="",
                    bases=("certificates", ""),
                    commit="*.json",
                    authority="*.json",
                ),
            )
        ),
        usual_places=("/var/lib/lego", "/etc/lego", "/root/.lego", "/home/*/.lego", ".lego", "lego", "*/lego"),
    ),
    # sign_domain of 0.7: new files beside the old ones, then links, each replaced by rename.
    "dehydrated": LayoutKind(
        "dehydrated: BASEDIR or CERTDIR",
        FileLayout((Files(key="privkey.pem", chain=("fullchain.pem",), bases=("certs", "")),)),
        path="/var/lib/dehydrated",
        usual_places=("/var/lib/dehydrated", "/etc/dehydrated", "dehydrated", "*/dehydrated"),
    ),
}
