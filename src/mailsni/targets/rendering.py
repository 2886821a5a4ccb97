"""A certificate as the templates of both servers see it.

Every value went through :mod:`mailsni.core.names`, so templates escape nothing. The same selection gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Certificate
from mailsni.core.names import safe_origin, safe_path


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
