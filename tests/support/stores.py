"""Stores of every kind, filled as their own tools fill them, for the contract that each source must pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from mailsni.sandbox.authority import Issued
from tests.support.document_stores import JsonBuilder, TraefikBuilder
from tests.support.lineages import CertbotDirectory
from tests.support.store_builder import StoreBuilder


class CertbotBuilder(StoreBuilder):
    """certbot's directory."""

    kind, separator = "certbot", "/"

    def __init__(self, root: Path) -> None:
        self._store = CertbotDirectory(root)
        super().__init__(root, self._store.live)

    def put(self, name: str, issued: Issued) -> None:
        self._store.put(name, issued)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        for kind, content in (("fullchain", chain), ("privkey", key)):
            if content is not None:
                self._store.path(name, kind).write_bytes(content)

    def remove(self, name: str) -> None:
        self._store.delete(name)

    def interrupt(self, name: str, issued: Issued) -> None:
        """The key is the new one, the chain is not there."""
        for step in self._store.renewal_steps(name, issued):
            if step == "unlink fullchain.pem":
                return

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        self._store.path(name, "privkey").unlink()
        make(self._store.path(name, "privkey"))


class LayoutBuilder(StoreBuilder):
    """A store that is only a layout, whose tool writes in place: key and chain by their names below the root.

    Args:
        root: the directory.
        key: of a certificate; ``{}`` is its name.
        chain: likewise.
        below: the directory in the root in which the origins lie.
        decoys: what else the tool leaves there, by name. A name that ends in a slash is a directory.
    """

    separator = "/"

    def __init__(
        self, root: Path, kind: str, key: str, chain: str, below: str = "", decoys: Mapping[str, bytes] | None = None
    ) -> None:
        super().__init__(root, root)
        self.kind = kind  # type: ignore[misc]  # one class for all of them
        self._key = key
        self._chain = chain
        self._below = below
        root.mkdir(parents=True)
        for name, content in (decoys or {}).items():
            _write(root / name, content)

    def origin(self, name: str) -> str:
        return f"{self.root}/{self._below}{name}"

    def key(self, name: str) -> Path:
        """Of a certificate."""
        return self.root / self._key.format(name)

    def chain(self, name: str) -> Path:
        """Likewise."""
        return self.root / self._chain.format(name)

    def put(self, name: str, issued: Issued) -> None:
        self.damage(name, chain=issued.fullchain_pem, key=issued.key_pem)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        for path, content in ((self.chain(name), chain), (self.key(name), key)):
            if content is not None:
                _write(path, content)

    def remove(self, name: str) -> None:
        self.key(name).unlink()
        self.chain(name).unlink()

    def interrupt(self, name: str, issued: Issued) -> None:
        """The key is the new one, the chain is empty."""
        self.damage(name, chain=b"", key=issued.key_pem)

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        self.key(name).unlink()
        make(self.key(name))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


ACCOUNT_KEY = b"-----BEGIN EC PRIVATE KEY-----\nan account's\n-----END EC PRIVATE KEY-----\n"


def lego(root: Path) -> StoreBuilder:
    """As lego 4.25 leaves it."""
    decoys = {
        "accounts/acme-v02.api.letsencrypt.org/me@a.test/keys/me@a.test.key": ACCOUNT_KEY,
        "certificates/README": b"",
        "archives/1700000000.old.test.key": ACCOUNT_KEY,
    }
    return LayoutBuilder(root, "lego", "certificates/{}.key", "certificates/{}.crt", "certificates/", decoys)


def dehydrated(root: Path) -> StoreBuilder:
    """As dehydrated 0.7 leaves it, but for the links."""
    decoys = {
        "accounts/abc/account_key.pem": ACCOUNT_KEY,
        "archive/old.test/privkey-1.pem": ACCOUNT_KEY,
        "chains/e1.chain": b"",
        "certs/.lock": b"",
    }
    return LayoutBuilder(root, "dehydrated", "certs/{}/privkey.pem", "certs/{}/fullchain.pem", "certs/", decoys)


BUILDERS: Mapping[str, Callable[[Path], StoreBuilder]] = {
    "certbot": CertbotBuilder,
    "json": JsonBuilder,
    "lego": lego,
    "dehydrated": dehydrated,
    "traefik": TraefikBuilder,
}


def digest_of_tree(root: Path) -> str:
    """Everything in a directory: names, links, contents, modes and times of change."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        digest.update(repr((path, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)).encode())
    return digest.hexdigest()
