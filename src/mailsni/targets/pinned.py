"""Pinned files: one key+chain file per certificate, written once, never changed, named by what it holds.

A Dovecot block that names a file which vanished stops the server at its next start, and a key and a chain in two files
can be read torn. A pinned file cannot vanish with its lineage, and both servers read the very same bytes from it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.core.model import Certificate, FileIdentity, KeyAndChain
from mailsni.errors import HostError
from mailsni.host import file_identity, files

_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.pem\Z")


def is_pinned(path: Path) -> bool:
    """Whether a path has the name of a pinned file: its stem is a certificate's ident."""
    return _NAME.match(path.name) is not None


@dataclass(frozen=True, slots=True)
class PinDirectory:
    """The directory of the pinned files."""

    path: Path

    def path_of(self, certificate: Certificate) -> Path:
        """The path of a certificate's pinned file."""
        return self.path / f"{certificate.ident}.pem"

    def missing(
        self, certificates: Iterable[Certificate], known: Mapping[str, FileIdentity]
    ) -> tuple[Certificate, ...]:
        """The certificates whose pinned file is missing or wrong: content, mode, owner.

        A file whose identity is known, by ident, had the right content: it is not read again.
        """
        return tuple(one for one in certificates if not self._whole(one, known.get(one.ident)))

    def _whole(self, certificate: Certificate, known: FileIdentity | None) -> bool:
        path = self.path_of(certificate)
        identity = file_identity.of_file(path)
        if identity is None or identity.mode != files.PRIVATE or identity.owner != os.geteuid():
            return False
        if identity == known:
            return True
        return hashlib.sha256(files.read_private(path) or b"").hexdigest() == certificate.digest

    def identities(self, certificates: Iterable[Certificate]) -> dict[str, FileIdentity]:
        """The identities of the pinned files, by ident."""
        found = ((one.ident, file_identity.of_file(self.path_of(one))) for one in certificates)
        return {ident: identity for ident, identity in found if identity is not None}

    def last_good(self, ident: str, origin: str) -> KeyAndChain | None:
        """A deployed certificate, to be kept, from its pinned file; None when that is missing or wrong."""
        content = files.read_private(self.path / f"{ident}.pem")
        if content is None:
            return None
        from mailsni.core.x509 import validate_pair  # only a certificate that is kept needs cryptography

        outcome = validate_pair(origin, content, content)
        if not isinstance(outcome, KeyAndChain) or outcome.certificate.ident != ident:
            return None
        return replace(outcome, certificate=replace(outcome.certificate, kept=True))

    def publish(self, pins: Collection[KeyAndChain], staging: Path) -> None:
        """Write pinned files, durably. No server reads them yet, because no file names them.

        Args:
            pins: what each file is to hold.
            staging: a private directory below this one.

        Raises:
            HostError: they cannot be written.
        """
        staged = [(staging / f"{pin.certificate.ident}.pem", pin) for pin in pins]
        for path, pin in staged:
            files.create(path, pin.pem)
        files.fsync_all(path for path, _ in staged)
        for path, pin in staged:
            files.publish(path, self.path_of(pin.certificate))
        if pins:
            files.fsync_all([self.path])

    def list_unused(self, referred_to: Collection[str]) -> list[Path]:
        """The pinned files of other certificates than these idents. Other files in the directory are not ours."""
        try:
            found = sorted(entry.name for entry in os.scandir(self.path) if _NAME.match(entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(f"{self.path}: cannot be listed: {error.strerror}") from None
        return [self.path / name for name in found if name.removesuffix(".pem") not in referred_to]
