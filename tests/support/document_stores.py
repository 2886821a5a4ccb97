"""Stores that are one document, filled as their own tools fill them.

Beside the real kinds there is one of the tests' own: a plain list in a JSON file, which is written in place.
"""

from __future__ import annotations

import base64
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mailsni.core import values
from mailsni.errors import HostError
from mailsni.host.commands import Completed
from mailsni.sandbox.authority import Issued
from mailsni.sources.base import Source
from mailsni.sources.document import DocumentStore, Entry, FileDocument, load_json
from mailsni.sources.kinds import Key, SourceKind, SourceSettings
from tests.support.store_builder import StoreBuilder, no_pause

JSON_KIND = SourceKind("tests.support.document_stores:json_store", {"path": Key(values.path)})


def json_store(path: Path, pause: Callable[[float], None] = no_pause) -> DocumentStore:
    """``[{"name": …, "chain": PEM, "key": PEM}, …]`` in one file."""
    return DocumentStore(FileDocument(path, "certificates.json"), _plain_entries, pause)


def _plain_entries(data: bytes) -> list[Entry]:
    return [Entry(each["name"], each["chain"].encode(), each["key"].encode()) for each in load_json(data)]


class DocumentBuilder(StoreBuilder):
    """A file with all certificates, which is written in place."""

    separator = "#"

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root, root / name)
        root.mkdir()
        self.pairs: dict[str, dict[str, bytes]] = {}
        """``chain`` and ``key`` of each certificate, by its name."""
        self.write()

    @abstractmethod
    def document(self) -> object:
        """What the file holds, as JSON has it."""

    def put(self, name: str, issued: Issued) -> None:
        self.damage(name, chain=issued.fullchain_pem, key=issued.key_pem)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        given = (("chain", chain), ("key", key))
        self.pairs.setdefault(name, {}).update({part: pem for part, pem in given if pem is not None})
        self.write()

    def remove(self, name: str) -> None:
        del self.pairs[name]
        self.write()

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

    def write(self) -> None:
        """Write the file anew."""
        self.path.write_text(json.dumps(self.document(), indent=2))


class JsonBuilder(DocumentBuilder):
    """The tests' own kind."""

    kind = "json"

    def __init__(self, root: Path) -> None:
        super().__init__(root, "certificates.json")

    def document(self) -> object:
        return [
            {"name": name, **{part: pem.decode() for part, pem in pair.items()}} for name, pair in self.pairs.items()
        ]


class TraefikBuilder(DocumentBuilder):
    """As Traefik 3 leaves it, with an account key, and a resolver that has issued nothing yet."""

    kind, separator = "traefik", "#letsencrypt/"
    key_mark = b'"key": "LS0tLS1'

    def __init__(self, root: Path) -> None:
        super().__init__(root, "acme.json")

    def document(self) -> object:
        certificates = [traefik_certificate(name, pair["chain"], pair["key"]) for name, pair in self.pairs.items()]
        return {
            "letsencrypt": {"Account": traefik_account(), "Certificates": certificates or None},
            "dns": {"Account": None, "Certificates": None},
        }


class CommandBuilder(DocumentBuilder):
    """A command that prints what is in a file, in the form of a list of Vault's secrets."""

    kind = "command"
    has_files = False

    def __init__(self, root: Path) -> None:
        super().__init__(root, "output.json")
        self._now = 0.0
        self._command = root / "print"
        self._command.write_text(f"#!/bin/sh\nexec cat {self.path}")
        self._command.chmod(0o755)

    @property
    def settings(self) -> SourceSettings:
        return SourceSettings.of("command", command=(str(self._command),), every=100.0)

    @property
    def location(self) -> str:
        return str(self._command)

    @property
    def error_path(self) -> Path:
        return self._command

    def origin(self, name: str) -> str:
        return f"{self._command}#{name}"

    def source(self, pause: Callable[[float], None] = no_pause) -> Source:
        store: Any = self.settings.open()
        document = replace(store.document, clock=lambda: self._now, time_limit=1.0)
        source: Source = replace(store, document=document, pause=pause)
        return source

    def pass_time(self) -> None:
        self._now += 100

    def document(self) -> object:
        return [
            {
                "name": name,
                "data": {"certificate": pair["chain"].decode(), "private_key": pair["key"].decode("utf-8", "replace")},
            }
            for name, pair in self.pairs.items()
        ]


def run_in_process(argv: Sequence[str], *, timeout: float, limit: int) -> Completed:
    """What :func:`mailsni.host.commands.run_bounded` does with a builder's command; pure tests start no process."""
    try:
        printed = Path(Path(argv[0]).read_text().rpartition(" ")[2])
    except OSError as error:
        raise HostError(f"{argv[0]}: cannot be started: {error.strerror}") from error
    if printed.is_fifo():
        raise HostError(f"{argv[0]}: did not end within {timeout:g} seconds and was killed")
    try:
        output = printed.read_bytes()
    except OSError as error:
        return Completed(tuple(argv), 1, b"", f"cat: {error.strerror}")
    if len(output) > limit:
        raise HostError(f"{argv[0]}: printed more than {limit} bytes and was killed")
    return Completed(tuple(argv), 0, output, "")


def traefik_certificate(name: str, chain: bytes, key: bytes) -> Mapping[str, Any]:
    """An entry of Traefik 2 and 3."""
    return {
        "domain": {"main": name, "sans": [f"www.{name}"]},
        "certificate": base64.b64encode(chain).decode(),
        "key": base64.b64encode(key).decode(),
        "Store": "default",
    }


def traefik_account(host: str = "acme-v02.api.letsencrypt.org") -> Mapping[str, Any]:
    """Of an authority."""
    return {
        "Email": "me@a.test",
        "Registration": {"body": {"status": "valid"}, "uri": f"https://{host}/acme/acct/1"},
        "PrivateKey": base64.b64encode(b"an account's").decode(),
        "KeyType": "4096",
    }
