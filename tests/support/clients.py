"""Mail clients that come and go: they connect, shake hands, check the chain and the host name, and say goodbye.

As a program, the clients' own process: ``python -m tests.support.clients JOB``, with a JOB of :func:`crowd`.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mailsni.sandbox.servers import LOOPBACK
from tests.support.host_guard import REPOSITORY
from tests.support.processes import LIMIT, running, until

VISIT_LIMIT = 30.0
"""Seconds that a client waits for an answer before it gives up."""
REFUSED = "refused"
SERVERS = {"postfix": ("smtp", "smtps"), "dovecot": ("imap", "imaps")}
_IMPLICIT = ("smtps", "imaps")


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection of one client, with times of the clock that all processes share (``time.monotonic``)."""

    service: str
    name: str
    begun: float
    ended: float
    fingerprint: str | None
    """Of the leaf, SHA-256 of its DER; None when the visit failed."""
    problem: str
    """:data:`REFUSED`, or what failed; empty when nothing did."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begun


def visit(service: str, port: int, name: str, context: ssl.SSLContext) -> Visit:
    """Connect, shake hands, exchange a few words, leave."""
    begun = time.monotonic()
    fingerprint, problem = None, ""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=VISIT_LIMIT) as plain:
            if service not in _IMPLICIT:
                _ask_for_tls(plain, service)
            with context.wrap_socket(plain, server_hostname=name) as tls:
                leaf = tls.getpeercert(binary_form=True) or b""
                _say_goodbye(tls, service)
        fingerprint = hashlib.sha256(leaf).hexdigest()
    except ConnectionRefusedError:
        problem = REFUSED
    except (OSError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Visit(service, name, begun, time.monotonic(), fingerprint, problem)


def _ask_for_tls(connection: socket.socket, service: str) -> None:
    if service == "smtp":
        _hear(connection, b"220 ")
        connection.sendall(b"EHLO client.test\r\n")
        _hear(connection, b"250 ")
        connection.sendall(b"STARTTLS\r\n")
        _hear(connection, b"220 ")
    else:
        _hear(connection, b"* OK")
        connection.sendall(b"a STARTTLS\r\n")
        _hear(connection, b"a OK")


def _say_goodbye(connection: socket.socket, service: str) -> None:
    if service == "smtps":
        _hear(connection, b"220 ")
    if service == "imaps":
        _hear(connection, b"* OK")
    smtp = service.startswith("smtp")
    connection.sendall(b"QUIT\r\n" if smtp else b"b LOGOUT\r\n")
    _hear(connection, b"221 " if smtp else b"b OK")


def _hear(connection: socket.socket, wanted: bytes) -> None:
    """Read lines until one begins as it should.

    Raises:
        ValueError: another kind of answer came, or the connection ended.
    """
    with connection.makefile("rb", buffering=0) as reader:
        line = reader.readline()
        while line.startswith((b"* ", b"250-")) and not line.startswith(wanted):
            line = reader.readline()
    if line.startswith(wanted):
        return
    raise ValueError(f"{line!r} instead of {wanted!r}")


@contextmanager
def crowd(
    directory: Path, ports: Mapping[str, int], names: Sequence[str], root_pem: bytes, *, pause: float = 0.002
) -> Iterator[Callable[[], list[Visit]]]:
    """Clients in a process of their own, one thread for each service, until the end of the block.

    Args:
        directory: for the file that tells of their visits.
        ports: of the services to visit.
        names: asked for at random.
        root_pem: what clients trust.
        pause: seconds between two visits of one client.

    Yields:
        What lets every client end its visit, and gives all that there were, in the order of their ends.
    """
    told = directory / "visits"
    job = json.dumps({"ports": dict(ports), "names": list(names), "trusted": root_pem.decode(), "pause": pause})

    def visits() -> list[Visit]:
        whole_lines, _, _ = told.read_text().rpartition("\n")
        return [Visit(*json.loads(line)) for line in whole_lines.splitlines()]

    words = [sys.executable, "-m", "tests.support.clients", job]
    with running(words, told, {"PYTHONPATH": str(REPOSITORY)}) as process:

        def leave() -> list[Visit]:
            process.terminate()
            process.wait(LIMIT)
            return visits()

        until(lambda: {visit.service for visit in visits()} == set(ports), told.read_text, beside=process)
        yield leave


def _be_a_crowd(job: Mapping[str, Any]) -> None:
    """The clients' own process: until it is told to end."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    writing = threading.Lock()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=job["trusted"])

    def come_and_go(service: str, port: int) -> None:
        choice = random.Random(service)  # noqa: S311
        while not over.is_set():
            line = json.dumps(astuple(visit(service, port, choice.choice(job["names"]), context)))
            with writing:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
            over.wait(job["pause"])

    clients = [threading.Thread(target=come_and_go, args=each) for each in job["ports"].items()]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


if __name__ == "__main__":
    _be_a_crowd(json.loads(sys.argv[1]))
