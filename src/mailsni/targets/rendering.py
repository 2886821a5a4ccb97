"""A certificate as the templates of both servers see it.

Every value went through :mod:`mailsni.core.names`, so templates escape nothing. Equal certificates of equal names give
equal bytes: whether one is the last good one of a broken lineage does not show, or a broken lineage would cost a
publish and a reload.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Certificate
from mailsni.core.names import RefusedNameError, safe_origin, safe_path
from mailsni.host.commands import LOCAL
from mailsni.targets.pinned import PinDirectory

Naming = Callable[[Path], Path]
"""Gives what a file of this host is called where the server runs; raises HostError when the server cannot see it."""

_STATED = re.compile(rb"^# (\S+): [A-Z]+, valid until .*\n# SHA-256 ([0-9a-f]{64})$", re.MULTILINE)
"""The two comment lines that the templates write for a certificate."""


@dataclass(frozen=True, slots=True)
class RenderedCertificate:
    """A certificate as templates see it."""

    source: str
    algorithm: str
    not_after: str
    fingerprint: str
    pinned_path: str
    chain_path: str
    key_path: str


def rendered(
    certificate: Certificate, pins: PinDirectory, *, live: bool = False, naming: Naming = LOCAL.inside
) -> RenderedCertificate:
    """A certificate as templates see it.

    With ``live`` the Dovecot blocks name the store's own files, where a certificate has such: a last good one has none.

    Raises:
        HostError: the server cannot see a file.
        RefusedNameError: a path is outside the grammar.
    """
    pinned = safe_path(naming(pins.path_of(certificate)))
    live = live and bool(certificate.chain_path)
    return RenderedCertificate(
        source=safe_origin(certificate.source),
        algorithm=certificate.algorithm.upper(),
        not_after=f"{certificate.not_after:%Y-%m-%d %H:%M} UTC",
        fingerprint=certificate.fingerprint,
        pinned_path=pinned,
        chain_path=safe_path(naming(Path(certificate.chain_path))) if live else pinned,
        key_path=safe_path(naming(Path(certificate.key_path))) if live else pinned,
    )


def stated_origins(text: bytes) -> dict[str, str]:
    """The origin of each certificate by its fingerprint, as the comments of a rendered text state it.

    A template of the administrator's that writes no such comments gives none.
    """
    origins = {}
    for origin, fingerprint in _STATED.findall(text):
        try:
            origins[fingerprint.decode()] = safe_origin(origin.decode("ascii", "replace"))
        except RefusedNameError:
            continue
    return origins
