"""Key-value servers that listen on the loopback: good ones, and whatever a test wants to be answered."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mailsni.host.http_client import Answer
from tests.support.document_stores import Values, consul_answer, etcd_answer

KEY = "traefik/acme/account/object"


@dataclass
class Server:
    """A key-value server in a thread, which notes what it is asked."""

    answer: Callable[[str, str, bytes | None, dict[str, str]], Answer | None]
    """Gives the answer to a method, a target, a body and a head in lower case; None closes the connection."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    port: int = 0


@contextmanager
def serving(server: Server, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Listen on a port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            """Answer a request."""
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else None
            head = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append((self.command, self.path, head))
            answer = server.answer(self.command, self.path, body, head)
            self.close_connection = True
            if answer is None:
                return
            self.send_response(answer.status)
            for name, value in ({"content-length": str(len(answer.body))} | dict(answer.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do  # noqa: N815  # http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
            """Nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
            """A client that goes away is what is tested."""

    with Quiet(("127.0.0.1", 0), Handler) as listener:
        if context is not None:
            listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
        server.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


def consul(values: Values) -> Server:
    """A stand-in."""

    def answer(method: str, target: str, body: bytes | None, _head: dict[str, str]) -> Answer:
        if method != "GET" or not target.startswith("/v1/"):
            return Answer(404, {}, b"")
        return consul_answer(target.removeprefix("/v1/"), body, values)

    return Server(answer)


def etcd(values: Values, version: str = "v3") -> Server:
    """A stand-in."""

    def answer(method: str, target: str, body: bytes | None, _head: dict[str, str]) -> Answer:
        if method != "POST" or not target.startswith(f"/{version}/"):
            return Answer(404, {}, b"404 page not found\n")
        return etcd_answer(target.removeprefix(f"/{version}/"), body, values)

    return Server(answer)
