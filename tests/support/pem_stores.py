"""Stores of the kinds ``pem-tree`` and ``files``: what people and scripts lay out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.sandbox.authority import Issued
from mailsni.sources.kinds import SourceSettings
from tests.support.builders import authority
from tests.support.layout_stores import ACCOUNT_KEY, LayoutBuilder

REQUEST = b"-----BEGIN CERTIFICATE REQUEST-----\nMIH=\n-----END CERTIFICATE REQUEST-----\n"
PARAMETERS = b"-----BEGIN DH PARAMETERS-----\nMIH=\n-----END DH PARAMETERS-----\n"
PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----\nMIH=\n-----END PUBLIC KEY-----\n"
ENCRYPTED_KEY = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH=\n-----END ENCRYPTED PRIVATE KEY-----\n"


def decoys() -> dict[str, bytes]:
    """What else lies where people keep certificates."""
    return {
        "account.key": ACCOUNT_KEY,
        "own ca/ca.crt": authority().root_pem,
        "own ca/ca.key": ENCRYPTED_KEY,
        "old/request.csr": REQUEST,
        "dhparam.pem": PARAMETERS,
        "dkim/public.pem": PUBLIC_KEY,
        "README.txt": b"where the certificates are",
        ".git/HEAD": b"ref: refs/heads/main\n",
        "data.tar": bytes(5000),
    }


class PemTreeBuilder(LayoutBuilder):
    """A directory of anything."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "pem-tree", "hosts/{}.key", "hosts/{}.pem", "hosts/", decoys=decoys())

    def origin(self, name: str) -> str:
        return f"{super().origin(name)}.pem"


class FilesBuilder(LayoutBuilder):
    """One pair, named file by file. The first certificate that is put there is the only one."""

    holds_one = True

    def __init__(self, root: Path) -> None:
        super().__init__(root, "files", "key.pem", "certificate.pem")
        self.path = root / "certificate.pem"
        self._only = ""

    @property
    def settings(self) -> SourceSettings:
        return SourceSettings.of("files", certificate=self.path, key=self.root / "key.pem")

    def origin(self, name: str) -> str:
        del name
        return str(self.path)

    def put(self, name: str, issued: Issued) -> None:
        self._only = self._only or name
        if name != self._only:
            pytest.skip("it holds one certificate")
        super().put(name, issued)
