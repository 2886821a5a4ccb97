"""The only door to HTTP servers: one request and its answer, bounded in time and size.

The time limit is for all of it but the name service: connecting, TLS, a head and a body that come byte by byte. No
redirect is followed and no proxy is asked. What goes wrong is told without anything of the request, which may hold a
token.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from mailsni.core.text import printable_name
from mailsni.errors import HostError
from mailsni.host import trust

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes = field(repr=False)

    @property
    def complaint(self) -> str:
        """The status, and the beginning of a body that may say why."""
        said = printable_name(self.body[:60].decode("utf-8", "replace").strip())
        return f"status {self.status}" + (f": {said}" if said else "")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. A body makes it a POST."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    ca_file: str = ""
    """The authorities that may vouch for the server; empty: the system's."""


def send(request: Request, *, until: float, limit: int) -> Answer:
    """Send a request and read the whole answer.

    Args:
        request: its address is of the grammar of :func:`mailsni.core.values.server_url`, without a word before it.
        until: the moment of ``time.monotonic`` at which it must be done.
        limit: bytes that the body may have.

    Raises:
        HostError: there is no such answer.
    """
    url = urlsplit(request.url)
    place = f"{url.scheme}://{url.netloc}"
    context = _context(request.ca_file) if url.scheme == "https" else None
    try:
        with _connected(url.hostname or "", url.port or (443 if context else 80), until) as plain:
            plain.settimeout(_left(until))
            stream = context.wrap_socket(plain, server_hostname=url.hostname) if context is not None else plain
            with stream:
                return _ask(request, stream, until, limit)
    except TimeoutError:
        raise HostError(f"{place}: gave no whole answer in time") from None
    except ssl.SSLCertVerificationError as error:
        hint = "[[sources]] ca_file names the file with its authority's certificate"
        raise HostError(f"{place}: its certificate is not trusted: {error.verify_message}", hint=hint) from None
    except OSError as error:
        raise HostError(f"{place}: cannot be asked: {error.strerror or type(error).__name__}") from None
    except http.client.HTTPException as error:
        raise HostError(f"{place}: gave no whole answer of HTTP: {type(error).__name__}") from None


def _context(ca_file: str) -> ssl.SSLContext:
    """One that verifies the chain and the name, alike on all versions of Python.

    ``ssl.create_default_context`` of 3.13 refuses certificates without key identifiers, as private authorities issue.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not ca_file:
        context.load_default_certs()
        return context
    path = Path(ca_file)
    if found := trust.weaknesses(path):
        message = f"{path}: others can change it: {'; '.join(map(str, found))}"
        raise HostError(message, hint=f"look at it, then: {trust.remedy(path, found)}", path=path)
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        reason = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise HostError(f"{path}: cannot be used: {reason}", path=path) from None
    return context


def _connected(host: str, port: int, until: float) -> socket.socket:
    """To the first of the host's addresses that answers."""
    error: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(until))
            connection.connect(address)
        except OSError as failure:
            connection.close()
            error = failure
        else:
            return connection
    raise error


def _ask(request: Request, stream: socket.socket, until: float, limit: int) -> Answer:
    url = urlsplit(request.url)
    target = urlunsplit(("", "", url.path, url.query, ""))
    connection = http.client.HTTPConnection(url.netloc)
    connection.sock = _Bounded(stream, until)  # http.client uses no more of it
    method = "GET" if request.body is None else "POST"
    headers = {"Accept-Encoding": "identity", "Connection": "close", **request.headers}
    connection.request(method, target, request.body, headers)
    with connection.getresponse() as response:
        body = response.read(limit + 1)
        if len(body) > limit:
            raise HostError(f"{request.url.partition('?')[0]}: answers with more than {limit} bytes")
        if response.length:  # what is still to come of the length that the head says
            raise http.client.IncompleteRead(b"")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class _Bounded:
    """As much of a socket as :mod:`http.client` uses. All of it together ends at a moment."""

    def __init__(self, stream: socket.socket, until: float) -> None:
        self._stream = stream
        self._until = until

    def sendall(self, data: ReadableBuffer) -> None:
        self._stream.settimeout(_left(self._until))
        self._stream.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._stream, self._until))

    def close(self) -> None:
        """Who connected closes it."""


class _Reader(io.RawIOBase):
    def __init__(self, stream: socket.socket, until: float) -> None:
        super().__init__()
        self._stream = stream
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._stream.settimeout(_left(self._until))
        return self._stream.recv_into(buffer)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
