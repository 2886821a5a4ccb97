"""Stores that are one document, filled as their own tools fill them.

Beside the real kinds there is one of the tests' own: a plain list in a JSON file, which is written in place.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mailsni.core import values
from mailsni.errors import HostError
from mailsni.host.commands import Completed
from mailsni.host.http_client import Answer, Request
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


class KeyValueBuilder(DocumentBuilder):
    """What a cluster of Traefik 1 keeps in a key-value server. A file stands for the server's memory.

    Args:
        root: the directory.
        kind: of the server.
        encode: what is done to the JSON.
    """

    kind = "traefik-kv"
    has_files = False

    def __init__(self, root: Path, kind: str = "consul", encode: Callable[[bytes], bytes] = gzip.compress) -> None:
        self._encode = encode
        self._url = f"http://127.0.0.1:1{root}"
        self._word = kind
        super().__init__(root, "value")

    @property
    def settings(self) -> SourceSettings:
        return SourceSettings.of("traefik-kv", url=f"{self._word}+{self._url}")

    @property
    def location(self) -> str:
        return f"{self._url}/traefik/acme/account/object"

    @property
    def error_path(self) -> None:
        """Its errors are about no file."""

    def origin(self, name: str) -> str:
        return f"{self.location}#{name}"

    def document(self) -> object:
        certificates = [
            {
                "Domains": {"Main": name, "SANs": None},
                "Certificate": {
                    "Domain": name,
                    "CertURL": "https://acme-v02.api.letsencrypt.org/acme/cert/1",
                    "CertStableURL": "",
                    "PrivateKey": base64.b64encode(pair["key"]).decode(),
                    "Certificate": base64.b64encode(pair["chain"]).decode(),
                },
            }
            for name, pair in self.pairs.items()
        ]
        return {
            "Email": "me@a.test",
            "Registration": traefik_account()["Registration"],
            "PrivateKey": base64.b64encode(b"an account's").decode(),
            "DomainsCertificate": {"Certs": certificates},
            "ChallengeCerts": {},
            "HTTPChallenge": {},
        }

    def write(self) -> None:
        """The value changes in one step."""
        self.path.write_bytes(self._encode(json.dumps(self.document()).encode()))


def send_in_process(request: Request, *, until: float, limit: int) -> Answer:
    """What :func:`mailsni.host.http_client.send` does with a builder's server; pure tests open no port."""
    del until, limit
    url = urlsplit(request.url)
    root, _, path = url.path.rpartition("/v1/" if "/v1/" in url.path else "/v3/")
    value = Path(root, "value")
    if not Path(root).is_dir():
        raise HostError(f"{request.url}: cannot be asked: Connection refused")
    if not value.is_file():
        return Answer(500, {}, b"rpc error")
    interface = consul_answer if request.body is None else etcd_answer
    key = "traefik/acme/account/object"
    return interface(f"{path}?{url.query}", request.body, {key: (value.read_bytes(), value.stat().st_mtime_ns)})


Values = Mapping[str, tuple[bytes, int]]
"""Of a key-value server, each with the index of its last change."""


def consul_answer(target: str, _body: bytes | None, values: Values) -> Answer:
    """What Consul says to ``GET /v1/TARGET``."""
    path, _, query = target.partition("?")
    key = path.removeprefix("kv/")
    if key not in values or not path.startswith("kv/"):
        return Answer(404, {"x-consul-index": "7"}, b"")
    value, index = values[key]
    pair = {"Key": key, "ModifyIndex": index, "Value": base64.b64encode(value).decode()}
    bodies = {"raw": value, "keys": json.dumps([key]).encode(), "": json.dumps([pair]).encode()}
    return Answer(200, {"x-consul-index": str(index)}, bodies[query])


def etcd_answer(target: str, body: bytes | None, values: Values) -> Answer:
    """What etcd says to ``POST /v3/TARGET``."""
    if target.rstrip("?") != "kv/range":
        return Answer(404, {}, b"404 page not found\n")
    question = json.loads(body or b"")
    key = base64.b64decode(question["key"]).decode()
    document: dict[str, Any] = {"header": {"cluster_id": "1", "revision": "9"}}
    if key in values:
        value, index = values[key]
        pair = {"key": question["key"], "create_revision": "2", "mod_revision": str(index), "version": "1"}
        if not question.get("keys_only"):
            pair["value"] = base64.b64encode(value).decode()
        document |= {"kvs": [pair], "count": "1"}
    return Answer(200, {}, json.dumps(document).encode())


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
