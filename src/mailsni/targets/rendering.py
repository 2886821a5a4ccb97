"""A certificate as the templates of both servers see it.

Every value went through :mod:`mailsni.core.names`, so templates escape nothing. Equal certificates of equal names give
equal bytes: whether one is the last good one of a broken lineage does not show, or a broken lineage would cost a
publish and a reload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailsni.core.model import Certificate
from mailsni.core.names import RefusedNameError, safe_origin, safe_path
from mailsni.targets.pinned import PinDirectory

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


def rendered(certificate: Certificate, pins: PinDirectory, *, live: bool = False) -> RenderedCertificate:
    """A certificate as templates see it.

    With ``live`` the Dovecot blocks name the store's own files, where a certificate has such: a last good one has none.

    Raises:
        RefusedNameError: a path is outside the grammar.
    """
    pinned = safe_path(pins.path_of(certificate))
    live = live and bool(certificate.chain_path)
    return RenderedCertificate(
        source=safe_origin(certificate.source),
        algorithm=certificate.algorithm.upper(),
        not_after=f"{certificate.not_after:%Y-%m-%d %H:%M} UTC",
        fingerprint=certificate.fingerprint,
        pinned_path=pinned,
        chain_path=safe_path(certificate.chain_path) if live else pinned,
        key_path=safe_path(certificate.key_path) if live else pinned,
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
