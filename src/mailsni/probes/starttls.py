"""STARTTLS in plain text: SMTP, IMAP, POP3, ManageSieve."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from mailsni.probes.endpoint import Protocol
from mailsni.probes.model import Problem

LINE_LIMIT: Final = 8 * 1024
"""Bytes of a line; the longest that a mail protocol promises to take is 8,192 (RFC 9051, section 4)."""
DIALOGUE_LIMIT: Final = 64 * 1024
"""Bytes that a server may send before TLS starts."""


class ProbeEndedError(Exception):
    """The probe ended before a certificate was read."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail


class Deadline:
    """The end of a probe."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, more than 0 (a socket timeout of 0 would mean: do not wait at all)."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Dialogue:
    """Lines to and from a server, before TLS."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._received = bytearray()
        self._total = 0

    @property
    def own_address(self) -> str:
        return str(self._connection.getsockname()[0])

    def send(self, line: bytes) -> None:
        self._connection.settimeout(self._deadline.left())
        self._connection.sendall(line + b"\r\n")

    def line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > LINE_LIMIT:
                break
            self._receive()
        if not 0 <= end <= LINE_LIMIT:
            _protocol_error(f"a line of more than {LINE_LIMIT} bytes")
        line = self._take(end + 1)
        return line[:-1].removesuffix(b"\r")

    def octets(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        return self._take(count)

    def require_no_plaintext(self) -> None:
        """Fail if anything came with the reply that was read last.

        After the answer to STARTTLS the client speaks next. Somebody in between put in what comes there (CVE-2011-0411
        and its kin: clients took it as if it had come under TLS).
        """
        if self._received:
            _protocol_error("plaintext after STARTTLS")

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _receive(self) -> None:
        self._connection.settimeout(self._deadline.left())
        received = self._connection.recv(4096)
        if not received:
            raise ProbeEndedError(Problem.HANDSHAKE_FAILED, "closed before TLS")
        self._total += len(received)
        if self._total > DIALOGUE_LIMIT:
            _protocol_error(f"more than {DIALOGUE_LIMIT} bytes before TLS")
        self._received += received


def _protocol_error(detail: str) -> NoReturn:
    raise ProbeEndedError(Problem.PROTOCOL_ERROR, detail)


def _turned_away(detail: str) -> NoReturn:
    raise ProbeEndedError(Problem.HANDSHAKE_FAILED, detail)


def _no_starttls(detail: str) -> NoReturn:
    raise ProbeEndedError(Problem.NO_STARTTLS, detail)


_SMTP_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


def _smtp(server: _Dialogue) -> None:
    """RFC 5321 and 3207. The client calls itself by its address, the one name that it has for certain (4.1.3)."""
    code, _ = _smtp_reply(server)
    if code != 220:
        _turned_away(f"greeted with {code}")
    own = server.own_address
    server.send(b"EHLO " + (f"[IPv6:{own}]" if ":" in own else f"[{own}]").encode("ascii"))
    code, lines = _smtp_reply(server)
    if code == 421:
        _turned_away("EHLO was answered with 421")
    if code != 250:
        _no_starttls(f"EHLO was answered with {code}")
    if not any(line.strip().upper() == b"STARTTLS" for line in lines[1:]):
        _no_starttls("STARTTLS is not offered")
    server.send(b"STARTTLS")
    code, _ = _smtp_reply(server)
    if code != 220:
        _no_starttls(f"STARTTLS was answered with {code}")
    server.require_no_plaintext()


def _smtp_reply(server: _Dialogue) -> tuple[int, list[bytes]]:
    """The code and the texts of a reply of one or more lines."""
    codes: set[bytes] = set()
    texts: list[bytes] = []
    while True:
        match = _SMTP_LINE.fullmatch(server.line())
        if match is None:
            _protocol_error("a line that is no SMTP reply")
        code, separator, text = match.groups()
        codes.add(code)
        texts.append(text or b"")
        if len(codes) > 1:
            _protocol_error("an SMTP reply with two codes")
        if separator != b"-":
            return int(code), texts


def _imap(server: _Dialogue) -> None:
    """RFC 9051. Untagged lines may come at any time (Dovecot says `* OK Waiting for authentication …`)."""
    tag, word = _words(server.line())
    if (tag, word) == (b"*", b"PREAUTH"):
        _no_starttls("greeted with PREAUTH, which rules out STARTTLS")
    _require_greeting("IMAP", word if tag == b"*" else b"", b"OK", (b"BYE",))
    server.send(b"a1 STARTTLS")
    while (words := _words(server.line()))[0] == b"*":
        if words[1] == b"BYE":
            _turned_away("STARTTLS was answered with BYE")
    tag, word = words
    _require_answer("IMAP", "STARTTLS", word if tag == b"A1" else b"", b"OK", (b"NO", b"BAD"))
    server.require_no_plaintext()


def _pop3(server: _Dialogue) -> None:
    """RFC 1939 and 2595."""
    _require_greeting("POP3", _words(server.line())[0], b"+OK", (b"-ERR",))
    server.send(b"STLS")
    _require_answer("POP3", "STLS", _words(server.line())[0], b"+OK", (b"-ERR",))
    server.require_no_plaintext()


def _sieve(server: _Dialogue) -> None:
    """RFC 5804: the greeting is a list of capabilities that an OK ends."""
    offered = False
    while (line := _sieve_line(server)).startswith(b'"'):
        offered = offered or line.upper().startswith(b'"STARTTLS"')
    _require_greeting("ManageSieve", _words(line)[0], b"OK", (b"NO", b"BYE"))
    if not offered:
        _no_starttls("STARTTLS is not offered")
    server.send(b"STARTTLS")
    _require_answer("ManageSieve", "STARTTLS", _words(_sieve_line(server))[0], b"OK", (b"NO", b"BYE"))
    server.require_no_plaintext()


def _require_greeting(protocol: str, word: bytes, good: bytes, refusals: Sequence[bytes]) -> None:
    if word in refusals:
        _turned_away(f"greeted with {word.decode('ascii')}")
    if word != good:
        _protocol_error(f"a greeting that is not of {protocol}")


def _require_answer(protocol: str, command: str, word: bytes, good: bytes, refusals: Sequence[bytes]) -> None:
    if word in refusals:
        _no_starttls(f"{command} was answered with {word.decode('ascii')}")
    if word != good:
        _protocol_error(f"a line that is no {protocol} response")


_LITERAL = re.compile(rb"\{([0-9]{1,9})\+?\}\Z")


def _sieve_line(server: _Dialogue) -> bytes:
    """A line with the literals in it (`{5}`, end of line, five octets), wherever a string may stand."""
    parts = [server.line()]
    while match := _LITERAL.search(parts[-1]):
        parts += [server.octets(int(match[1])), server.line()]
    return b"".join(parts)


def _words(line: bytes) -> tuple[bytes, bytes]:
    """The first two words, in capitals: no protocol here tells case apart. The rest does not matter."""
    first, second, *_ = *line.upper().split(maxsplit=2), b"", b""
    return first, second


_DIALOGUES: Final[dict[Protocol, Callable[[_Dialogue], None]]] = {
    "smtp": _smtp,
    "imap": _imap,
    "pop3": _pop3,
    "sieve": _sieve,
}


def start_tls(protocol: Protocol, connection: socket.socket, deadline: Deadline) -> None:
    """Bring a connection to where the TLS handshake begins; at once where the protocol has implicit TLS.

    Raises:
        ProbeEndedError: the server does not start TLS, or breaks its protocol.
        TimeoutError: the deadline has passed.
        OSError: the connection broke.
    """
    if protocol in _DIALOGUES:
        _DIALOGUES[protocol](_Dialogue(connection, deadline))
