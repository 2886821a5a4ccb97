"""Stores of every kind, filled as their own tools fill them, for the contract that each source must pass.

Beside certbot's there is a kind of the tests' own: many certificates in one JSON file, which is written in place. It
shows that the protocol fits a store that is no directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mailsni.core import values
from mailsni.core.model import CachedLineage, Certificate, Inventory, KeyAndChain, Progress, Reason, SkippedLineage
from mailsni.core.names import RefusedNameError, safe_origin
from mailsni.core.text import printable_name
from mailsni.core.x509 import InvalidPair, validate_pair
from mailsni.errors import HostError, PermissionMissingError
from mailsni.sandbox.authority import Issued
from mailsni.sources.base import Source, StoreFiles, WatchPath
from mailsni.sources.kinds import Key, SourceKind, SourceSettings
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary, StoreFile
from tests.support.lineages import CertbotDirectory

JSON_KIND = SourceKind("tests.support.stores:JsonStore", {"path": Key(values.path)})
_RETRIES = 3


def no_pause(_seconds: float) -> None:
    """Instead of waiting for a writer."""


@dataclass(frozen=True, slots=True)
class JsonStore:
    """``[{"name": …, "chain": PEM, "key": PEM}, …]`` in one file; see :class:`mailsni.sources.base.Source`."""

    path: Path
    pause: Callable[[float], None] = no_pause

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def acme_client(self) -> None:
        """None: who fills it is not known."""

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        file, entries = self._read()
        lineages: list[CachedLineage] = []
        skipped: list[SkippedLineage] = []
        read: list[KeyAndChain] = []
        for done, entry in enumerate(entries, 1):
            if progress is not None:
                progress("reading certificates", done, len(entries))
            origin = f"{self.path}#{entry['name']}"
            cached = known.get(origin)
            outcome = cached if cached and cached.files == (file.identity,) else _pair(origin, entry)
            if isinstance(outcome, SkippedLineage):
                skipped.append(outcome)
                continue
            if isinstance(outcome, KeyAndChain):
                read.append(outcome)
            lineages.append(CachedLineage((file.identity,), outcome.certificate))
        return Inventory(
            tuple(lineage.certificate for lineage in lineages),
            tuple(skipped),
            frozenset([*(lineage.certificate.source for lineage in lineages), *(one.source for one in skipped)]),
            tuple(lineages),
            tuple(read),
        )

    def owns(self, origin: str) -> bool:
        return origin.startswith(f"{self.path}#")

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        return next((pair for pair in self.scan({}).read if pair.certificate == certificate), None)

    def change_token(self) -> bytes:
        try:
            status = self.path.stat()
            return repr((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)).encode()
        except OSError as error:
            return str(error.errno).encode()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        return (WatchPath(self.path, self.path.name),)

    def files(self) -> StoreFiles:
        self._read()
        return StoreFiles((self.path,), (self.path.parent,))

    def _read(self) -> tuple[StoreFile, list[dict[str, Any]]]:
        for _ in range(_RETRIES):
            try:
                boundary = StoreBoundary((os.path.realpath(self.path),))
                file = boundary.read(str(self.path), missing=Reason.UNREADABLE)
                return file, json.loads(file.content)
            except ReadRefusedError as error:
                kind = PermissionMissingError if self._is_forbidden() else HostError
                raise kind(f"{self.path}: {error}", path=self.path) from None
            except ValueError:
                self.pause(1.0)
        raise HostError(f"{self.path}: is half written or damaged: no JSON", path=self.path)

    def _is_forbidden(self) -> bool:
        try:
            self.path.stat()
        except OSError as error:
            return isinstance(error, PermissionError)
        return not os.access(self.path, os.R_OK)


def _pair(origin: str, entry: Mapping[str, str]) -> KeyAndChain | SkippedLineage:
    try:
        source = safe_origin(origin)
    except RefusedNameError as error:
        return SkippedLineage(printable_name(origin), Reason.BAD_NAME, str(error))
    outcome = validate_pair(source, entry["chain"].encode(), entry["key"].encode())
    if isinstance(outcome, InvalidPair):
        return SkippedLineage(source, outcome.reason, outcome.detail, outcome.names)
    return outcome


class StoreBuilder(ABC):
    """A store of one kind in a directory of its own, and what happens to it.

    Args:
        root: the directory; it need not exist.
        path: what the store's ``[[sources]]`` table names.
    """

    kind: ClassVar[str]
    separator: ClassVar[str]
    """Between the path and a certificate's name."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path

    @property
    def settings(self) -> SourceSettings:
        """What its ``[[sources]]`` table says."""
        return SourceSettings.of(self.kind, path=self.path)

    def source(self, pause: Callable[[float], None] = no_pause) -> Source:
        """The store."""
        store: Any = self.settings.open()
        source: Source = replace(store, pause=pause)
        return source

    def origin(self, name: str) -> str:
        """Of a certificate."""
        return f"{self.path}{self.separator}{name}"

    @abstractmethod
    def put(self, name: str, issued: Issued) -> None:
        """Issue or renew a certificate, to the end."""

    @abstractmethod
    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        """Replace one part of a certificate, or both."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a certificate."""

    @abstractmethod
    def interrupt(self, name: str, issued: Issued) -> None:
        """Begin a renewal and die in the middle of it."""

    @abstractmethod
    def point_outside(self, name: str, target: Path) -> None:
        """Have the store name a file that lies outside of it as a certificate's key."""

    @abstractmethod
    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        """Remove the file with a certificate's key, and put something else in its place."""

    def unmount(self) -> None:
        """Take the store away."""
        shutil.move(self.root, self.root.with_name("unmounted"))

    def mount(self) -> None:
        """Bring it back."""
        shutil.move(self.root.with_name("unmounted"), self.root)


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


class JsonBuilder(StoreBuilder):
    """The tests' own kind."""

    kind, separator = "json", "#"

    def __init__(self, root: Path) -> None:
        super().__init__(root, root / "certificates.json")
        root.mkdir()
        self._entries: dict[str, dict[str, str]] = {}
        self._write()

    def put(self, name: str, issued: Issued) -> None:
        self.damage(name, chain=issued.fullchain_pem, key=issued.key_pem)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        given = (("chain", chain), ("key", key))
        self._entries.setdefault(name, {}).update({part: pem.decode() for part, pem in given if pem is not None})
        self._write()

    def remove(self, name: str) -> None:
        del self._entries[name]
        self._write()

    def interrupt(self, name: str, issued: Issued) -> None:
        """The file is truncated first, then written."""
        self.put(name, issued)
        os.truncate(self.path, self.path.stat().st_size // 2)

    def point_outside(self, name: str, target: Path) -> None:
        self.damage(name, key=str(target).encode())

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        """All certificates are in the one file."""
        del name
        self.path.unlink()
        make(self.path)

    def _write(self) -> None:
        self.path.write_text(json.dumps([{"name": name, **parts} for name, parts in self._entries.items()]))


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
}


def digest_of_tree(root: Path) -> str:
    """Everything in a directory: names, links, contents, modes and times of change."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        digest.update(repr((path, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)).encode())
    return digest.hexdigest()
