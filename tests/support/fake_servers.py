"""Servers that play a script: what no real server does, or none that can be had."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mailsni.probes.endpoint import Protocol

Script = Callable[[socket.socket], None]

GREETINGS: dict[Protocol, bytes] = {
    "smtp": b"220-mx.a.test ESMTP\r\n220-no spam\r\n220 please\r\n",
    "imap": b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n",
    "pop3": b"+OK ready\r\n",
    "sieve": b'"IMPLEMENTATION" "x"\r\n"SIEVE" {9}\r\nfileinto\n\r\n"STARTTLS"\r\nOK "ready"\r\n',
}
# What the client says, and what it is told.
EXCHANGES: dict[Protocol, list[tuple[bytes, bytes]]] = {
    "smtp": [
        (b"EHLO [127.0.0.1]", b"250-mx.a.test\r\n250-SIZE 10\r\n250-STARTTLS\r\n250 8BITMIME\r\n"),
        (b"STARTTLS", b"220 2.0.0 Ready\r\n"),
    ],
    "imap": [(b"a1 STARTTLS", b"* CAPABILITY IMAP4rev1\r\n* OK still here\r\na1 OK begin\r\n")],
    "pop3": [(b"STLS", b"+OK begin\r\n")],
    "sieve": [(b"STARTTLS", b'OK "begin"\r\n')],
}
PLAIN: tuple[Protocol, ...] = ("smtp", "imap", "pop3", "sieve")


@contextmanager
def peer(script: Script, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that plays a script to every client, each in a thread; gives its port."""
    threads: list[threading.Thread] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=64)
    over = threading.Event()

    def play(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(5)
            script(client)

    def serve() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                client, _ = listener.accept()
                threads.append(threading.Thread(target=play, args=(client,)))
                threads[-1].start()

    listener.settimeout(0.05)
    server = threading.Thread(target=serve)
    server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        server.join()
        for thread in threads:
            thread.join()
        listener.close()


def says(client: socket.socket, text: bytes, *, bytewise: bool = False) -> None:
    for piece in [text[at : at + 1] for at in range(len(text))] if bytewise else [text]:
        client.sendall(piece)


def hears(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        received = client.recv(1)
        if not received:
            raise ConnectionResetError
        line += received
    return line[:-2]


def waits(client: socket.socket) -> None:
    """Until the client goes away."""
    while client.recv(4096):
        pass


def dialogue(protocol: Protocol, then: Script, *, bytewise: bool = False, injected: bytes = b"") -> Script:
    """The right conversation, up to where TLS begins."""

    def script(client: socket.socket) -> None:
        if bytewise:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        says(client, GREETINGS[protocol], bytewise=bytewise)
        *before, last = EXCHANGES[protocol]
        for expected, answer in before:
            assert hears(client) == expected
            says(client, answer, bytewise=bytewise)
        assert hears(client) == last[0]
        says(client, last[1] + injected, bytewise=bytewise)
        then(client)

    return script


def tls(context: ssl.SSLContext) -> Script:
    def script(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as connection:
            waits(connection)

    return script
