"""What Traefik 1 kept in a key-value store, as a cluster: one value with all certificates.

Its key is ``PREFIX/acme/account/object`` (``cluster/datastore.go`` and ``acme/account.go`` of 1.7), and it is written
in one step. The value is JSON, which the writer compressed with gzip. Consul is asked over its HTTP interface, etcd
over the JSON gateway of its version 3. (Traefik 2 and later keep no certificates there.)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from mailsni.errors import ConfigurationError, HostError, PermissionMissingError
from mailsni.host import http_client, trust
from mailsni.host.http_client import Answer, Request
from mailsni.sources import traefik
from mailsni.sources.base import StoreFiles, WatchPath
from mailsni.sources.document import (
    DOCUMENT_LIMIT,
    Content,
    DamagedDocumentError,
    DocumentStore,
    Entry,
    load_json,
    origin_of,
)

TIME_LIMIT = 20.0
"""Seconds for a scan, all requests together."""
TOKEN_TIME_LIMIT = 5.0
"""Seconds for a change token: the watcher waits for it."""
ANSWER_LIMIT = 16 << 20
"""Bytes of an answer. Consul takes values of 512 KB, etcd of 1.5 MB, unless they are told otherwise."""
_OBJECT = "acme/account/object"
_ETCD_VERSIONS = ("v3", "v3beta", "v3alpha")
"""The gateway's path: etcd 3.4 and later, 3.3, 3.2."""
_OTHERS = frozenset({404, 405, 501})
"""Statuses of a server that has no such interface."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")
_HINT = "[[sources]] token_file names a file with a token that may read the key"
_GZIP = b"\x1f\x8b"


def traefik_kv_store(url: str, prefix: str, ca_file: str, token_file: str) -> DocumentStore:
    """The store in a key-value server.

    Args:
        url: of the server; ``consul+`` or ``etcd+`` before it says which it is, else it is asked.
        prefix: Traefik's, or the whole key.
        ca_file: the authorities that may vouch for the server; empty: the system's.
        token_file: the file with a Consul token, an etcd token or an etcd ``NAME:PASSWORD``; empty: none.
    """
    word, plus, rest = url.partition("+")
    kind: Literal["", "consul", "etcd"] = ("consul" if word == "consul" else "etcd") if plus else ""
    key = prefix if prefix.endswith("/object") else f"{prefix}/{_OBJECT}"
    return DocumentStore(KeyValueDocument(kind, rest if plus else url, key, ca_file, token_file), entries)


def entries(value: bytes) -> list[Entry]:
    """The certificates of a value, whether it is compressed, in base64, or plain.

    Raises:
        DamagedDocumentError: it holds none of Traefik's.
    """
    document = _plain(value)
    found = traefik.entries(document)
    if not found and not {"domainscertificate", "certificates"} & {name.lower() for name in load_json(document)}:
        raise DamagedDocumentError("no certificates of Traefik's")
    return found


def _plain(value: bytes) -> bytes:
    """The JSON of a value."""
    if value.startswith(_GZIP):
        return _decompressed(value)
    if value.lstrip().startswith(b"{"):
        return value
    try:
        decoded = base64.b64decode(b"".join(value.split()), validate=True)
    except ValueError:
        decoded = b""
    if decoded.startswith(_GZIP):
        return _decompressed(decoded)
    if decoded.lstrip().startswith(b"{"):
        return decoded
    raise DamagedDocumentError("neither gzip nor base64 nor JSON")


def _decompressed(value: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        plain = decompressor.decompress(value, DOCUMENT_LIMIT + 1)
    except zlib.error:
        raise DamagedDocumentError("damaged gzip") from None
    if len(plain) > DOCUMENT_LIMIT:
        raise DamagedDocumentError(f"more than {DOCUMENT_LIMIT} bytes of gzip")
    if not decompressor.eof:
        raise DamagedDocumentError("gzip that is cut off")
    return plain


@dataclass(frozen=True, slots=True)
class KeyValueDocument:
    """See :class:`mailsni.sources.document.Document`."""

    kind: Literal["", "consul", "etcd"]
    """Empty: the server is asked."""
    url: str
    key: str
    ca_file: str = ""
    token_file: str = ""
    path: None = None

    @property
    def location(self) -> str:
        """The address of the value."""
        return origin_of(f"{self.url}/{self.key}")

    @property
    def origins(self) -> tuple[str, ...]:
        """The location."""
        return (self.location,)

    def fetch(self) -> Content:
        """Ask for the value."""
        value = self._get(TIME_LIMIT, with_value=True)
        if value is None:
            nobody = {"": "neither Consul nor etcd has", "consul": "Consul has not", "etcd": "etcd has not"}[self.kind]
            hint = "[[sources]] url and prefix in the configuration name the server and the key"
            raise HostError(f"{self.url}: {nobody} the key {self.key} there", hint=hint)
        return Content(value.content, self.location)

    def change_token(self) -> bytes:
        """The index of the value's last change."""
        try:
            value = self._get(TOKEN_TIME_LIMIT, with_value=False)
        except (HostError, PermissionMissingError) as error:
            return error.message.encode("utf-8", "replace")
        return repr(value and value.index).encode()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """None."""
        return ()

    def files(self) -> StoreFiles:
        """The token: who has it gets the private keys. The server is asked, to see that it answers."""
        self.fetch()
        if not self.token_file:
            return StoreFiles()
        real = Path(self.token_file).resolve()
        return StoreFiles((real,), tuple(dict.fromkeys((Path(self.token_file).parent, real.parent))))

    def _get(self, seconds: float, *, with_value: bool) -> _Value | None:
        server = _Server(self.url, self.ca_file, _token(self.token_file), time.monotonic() + seconds)
        if self.kind != "etcd":
            value = _of_consul(server, self.key, with_value=with_value, only=self.kind == "consul")
            if value is not None or self.kind == "consul":
                return value
        return _of_etcd(server, self.key, with_value=with_value, only=self.kind == "etcd")


def _token(file: str) -> str:
    """The content of a file that nobody else may change; empty where none is named."""
    if not file:
        return ""
    path = Path(file)
    try:
        content = trust.read(path).decode("utf-8", "replace").strip()
    except ConfigurationError as error:
        raise HostError(error.message, hint=error.hint, path=path) from None
    except PermissionError as error:
        raise PermissionMissingError(f"{path}: cannot be read: {error.strerror}", path=path) from None
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror}", path=path) from None
    if not _TOKEN.match(content):
        raise HostError(f"{path}: holds no token: one word of ASCII", path=path)
    return content


@dataclass(frozen=True, slots=True)
class _Value:
    content: bytes = field(repr=False)
    """Empty when it was not asked for."""
    index: str
    """It changes with the value."""


@dataclass(frozen=True, slots=True)
class _Server:
    """Where to ask, with what, and until when."""

    url: str
    ca_file: str
    token: str = field(repr=False)
    until: float

    def ask(self, path: str, headers: Mapping[str, str], body: object = None) -> Answer:
        """An answer that is neither a redirect nor a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", headers, data, self.ca_file)
        answer = http_client.send(request, until=self.until, limit=ANSWER_LIMIT)
        if answer.status in (401, 403):
            raise HostError(f"{self.url}: refuses the key: {answer.complaint}", hint=_HINT)
        if 300 <= answer.status < 400:
            raise HostError(f"{self.url}: answers with a redirect, which is not followed: status {answer.status}")
        return answer

    def error(self, name: str, answer: Answer) -> HostError:
        """That an answer is none of the server that it should be. etcd says so, too, when it wants a token."""
        return HostError(f"{self.url}: no answer of {name}: {answer.complaint}", hint=_HINT)


def _of_consul(server: _Server, key: str, *, with_value: bool, only: bool) -> _Value | None:
    """Consul's value; None when it has none, or when, unless it can ``only`` be Consul, the server is another one.

    With ``raw`` the answer is the value alone, with ``keys`` it is the names of the keys; the index is in the head.
    """
    headers = {"X-Consul-Token": server.token} if server.token else {}
    query = "raw" if with_value else "keys"
    answer = server.ask(f"v1/kv/{quote(key)}?{query}", headers)
    index = answer.headers.get("x-consul-index", "")
    if answer.status == 200:
        content = _of_envelope(answer.body) if with_value else b""
        return _Value(content, index or hashlib.sha256(answer.body).hexdigest())
    if answer.status in ({404} if only or index else _OTHERS):
        return None
    raise server.error("Consul's", answer)


def _of_envelope(body: bytes) -> bytes:
    """The value in an answer that is not raw, which something between Consul and us may give."""
    if not body.lstrip().startswith(b"["):
        return body
    try:
        (pair,) = json.loads(body)
        return base64.b64decode(pair["Value"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body


def _of_etcd(server: _Server, key: str, *, with_value: bool, only: bool) -> _Value | None:
    """Etcd's value, likewise. Some versions of Traefik wrote the key with a slash before it."""
    for version in _ETCD_VERSIONS:
        headers = _etcd_headers(server, version)
        for name in (key, f"/{key}") if headers is not None else ():
            question = {"key": base64.b64encode(name.encode()).decode(), "keys_only": not with_value}
            answer = server.ask(f"{version}/kv/range", headers or {}, question)
            if answer.status in _OTHERS:
                break
            if (value := _of_range(server, answer, with_value=with_value)) is not None:
                return value
        else:
            if headers is not None:
                return None
    if only:
        raise HostError(f"{server.url}: no answer of etcd's: it has no JSON gateway")
    return None


def _of_range(server: _Server, answer: Answer, *, with_value: bool) -> _Value | None:
    try:
        document: Any = json.loads(answer.body)
        if answer.status != 200 or "header" not in document:
            raise server.error("etcd's", answer)
        if not (pairs := document.get("kvs")):
            return None
        content = base64.b64decode(pairs[0].get("value", ""), validate=True) if with_value else b""
        return _Value(content, str(pairs[0]["mod_revision"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise server.error("etcd's", answer) from None


def _etcd_headers(server: _Server, version: str) -> Mapping[str, str] | None:
    """With a token; None when the server has no such version. A name and a password are changed for a token first."""
    name, colon, password = server.token.partition(":")
    if not colon:
        return {"Authorization": server.token} if server.token else {}
    answer = server.ask(f"{version}/auth/authenticate", {}, {"name": name, "password": password})
    if answer.status in _OTHERS:
        return None
    try:
        token = json.loads(answer.body)["token"] if answer.status == 200 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str) or not _TOKEN.match(token):
        raise HostError(f"{server.url}: etcd takes neither the name nor the password: status {answer.status}")
    return {"Authorization": token}
