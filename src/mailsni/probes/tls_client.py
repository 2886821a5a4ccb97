"""The proof on the wire: which certificate a port of a mail server shows to a client that asks for a name.

A probe trusts nothing that it is told: one deadline for the whole conversation, bounded lines, nothing of what the
server says is quoted, no certificate is checked (what it is is the question, whether it is valid is asked elsewhere).
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mailsni.core.model import Algorithm
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.starttls import _DIALOGUES, Outcome, _Deadline, _Dialogue, _EndedError

DETAIL_LIMIT: Final = 200

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask.

    Attributes:
        endpoint: whom.
        name: the SNI name, A-labels; None sends no SNI, as many SMTP clients do.
        algorithm: the only kind of certificate to accept; None leaves the choice to the server.
        trusting: only a chain that the system's trust store leads to is accepted, as by a mail client. (The name is
            not looked at: whether a certificate is for a name can be seen without asking.)

    Raises:
        ValueError: the name cannot be sent as SNI: an address, a wildcard, not ASCII (RFC 6066, section 3).
    """

    endpoint: Endpoint
    name: str | None = None
    algorithm: Algorithm | None = None
    trusting: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and not _can_be_sent(self.name):
            raise ValueError(f"{self.name[:80]!a} cannot be sent as SNI")


def _can_be_sent(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return len(name) <= 253 and _NAME.fullmatch(name) is not None
    return False


@dataclass(frozen=True, slots=True)
class Served:
    """The answer.

    Attributes:
        endpoint: who was asked.
        name: the SNI name that was sent, or None.
        outcome: how it ended.
        fingerprint: SHA-256 of the leaf in DER, lower-case hexadecimal, when the outcome is ``served``; else None.
        detail: for people: the TLS version, or what went wrong. Printable ASCII, at most 200 characters, in the
            words of this program or of OpenSSL, never the server's.
        chain: the certificates in DER as the server sent them, the leaf first; none where no handshake ended.
    """

    endpoint: Endpoint
    name: str | None
    outcome: Outcome
    fingerprint: str | None
    detail: str
    chain: tuple[bytes, ...] = field(default=(), repr=False)


def probe_all(
    questions: Sequence[Question],
    *,
    timeout: float,
    concurrency: int = 32,
    on_done: Callable[[int], None] | None = None,
) -> list[Served]:
    """Ask many questions at once.

    Args:
        questions: what to ask; a question may be asked more than once.
        timeout: seconds for each one.
        concurrency: how many connections are open at a time. Both servers take 100 by default.
        on_done: called in the caller's thread with the number of answers so far, after each one.

    Returns:
        the answers, in the order of the questions.

    Raises:
        HostError: there are no threads to ask with.
    """
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="probe") as pool:
        try:
            asked = [pool.submit(_ask, question, timeout) for question in questions]
        except RuntimeError as error:  # no more threads to be had
            pool.shutdown(wait=False, cancel_futures=True)
            raise HostError(f"the servers cannot be asked: {error}") from error
        try:
            for done, _ in enumerate(as_completed(asked), start=1):
                if on_done is not None:
                    on_done(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [answer.result() for answer in asked]


def probe(endpoint: Endpoint, name: str | None, *, timeout: float, algorithm: Algorithm | None = None) -> Served:
    """Ask one endpoint which certificate it shows.

    Nothing that the server or the network does raises. The conversation ends with a close right after the handshake,
    without a word of farewell: Postfix notes it at level info as "lost connection after STARTTLS" ("after CONNECT"
    where TLS came first), Dovecot as a disconnect without a login attempt (measured, 3.7, 3.10, 2.3, 2.4).

    Args:
        endpoint: whom to ask.
        name: the SNI name, A-labels; None sends no SNI.
        timeout: seconds for everything from the connect to the end of the handshake. Only the resolver, when the host
            of the endpoint is a name, has limits of its own.
        algorithm: accept only this kind of certificate; a server that has only the other aborts the handshake. It is
            asked for through the cipher suites of TLS 1.2 (those of 1.3 do not name a kind).

    Raises:
        ValueError: the name cannot be sent as SNI (see :class:`Question`).
    """
    return _ask(Question(endpoint, name, algorithm), timeout)


def _ask(question: Question, timeout: float) -> Served:
    endpoint = question.endpoint
    stage = "connecting"
    try:
        deadline = _Deadline(timeout)
        with _connection(endpoint, deadline) as connection:
            if endpoint.protocol in _DIALOGUES:
                stage = "asking for STARTTLS"
                _DIALOGUES[endpoint.protocol](_Dialogue(connection, deadline))
            stage = "in the handshake"
            chain, detail = _handshake(connection, question, deadline)
    except _EndedError as ended:
        return Served(endpoint, question.name, ended.outcome, None, _safe(ended.detail))
    except TimeoutError:
        return Served(endpoint, question.name, Outcome.TIMEOUT, None, f"no end within {timeout:g} s, {stage}")
    except OSError as error:
        # The connection, once made, broke: reset, broken pipe. (ssl.SSLError is an OSError too, told apart earlier.)
        return Served(endpoint, question.name, Outcome.ABORTED, None, _safe(f"{_why(error)}, {stage}"))
    fingerprint = hashlib.sha256(chain[0]).hexdigest()
    return Served(endpoint, question.name, Outcome.SERVED, fingerprint, _safe(detail), tuple(map(_one_copy, chain)))


@functools.lru_cache(maxsize=4096)
def _one_copy(der: bytes) -> bytes:
    """Equal bytes as one object: the same certificates come with thousands of answers."""
    return der


def _safe(detail: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", detail)[:DETAIL_LIMIT]


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


@contextmanager
def _connection(endpoint: Endpoint, deadline: _Deadline) -> Iterator[socket.socket]:
    connection = _connect(endpoint, deadline)
    with connection:
        yield connection


def _connect(endpoint: Endpoint, deadline: _Deadline) -> socket.socket:
    """Connect to the first address of the host that answers."""
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _EndedError(Outcome.REFUSED, "the host name does not resolve") from error
    why = "no address"
    for family, kind, number, _, address in addresses:
        connection = None
        try:
            connection = socket.socket(family, kind, number)
            connection.settimeout(deadline.left())
            connection.connect(address)
        except OSError as error:
            if connection is not None:
                connection.close()
            # The same class, for our own deadline and for ETIMEDOUT, by which the kernel says: nobody there.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            why = _why(error)
        else:
            return connection
    raise _EndedError(Outcome.REFUSED, why)


# TLS


@functools.cache
def _context(algorithm: Algorithm | None, *, trusting: bool) -> ssl.SSLContext:
    """Settings of a client from TLS 1.2 up, which takes any certificate, or any of one kind, or only trusted ones.

    Level 0 lets OpenSSL read what it otherwise refuses to look at, such as a key of 1,024 bits; a client that trusts
    is as strict as this system's OpenSSL is by default. No session is ever resumed: a resumed one shows no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED if trusting else ssl.CERT_NONE
    level = "" if trusting else ":@SECLEVEL=0"
    if trusting:
        context.load_default_certs()
    if algorithm is None:
        context.set_ciphers(f"DEFAULT{level}")
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers({"rsa": "aRSA", "ecdsa": "aECDSA"}[algorithm] + f":!eNULL{level}")
    return context


_DER: Final = 2
"""``_ssl.ENCODING_DER``"""
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"}
)
"""What OpenSSL 1.1 and 3 say to bytes that are no TLS."""


def _handshake(connection: socket.socket, question: Question, deadline: _Deadline) -> tuple[Sequence[bytes], str]:
    """The certificates that the server shows, in DER, the leaf first, and the version of TLS."""
    connection.settimeout(deadline.left())
    context = _context(question.algorithm, trusting=question.trusting)
    try:
        tls = context.wrap_socket(connection, server_hostname=question.name, do_handshake_on_connect=False)
    except OSError as error:  # it looks at the socket first; the server may have closed it
        raise _EndedError(Outcome.ABORTED, f"{_why(error)}, before the handshake") from error
    with tls:
        try:
            tls.settimeout(deadline.left())
            tls.do_handshake()  # the timeout is one for the whole handshake, not for each read (Modules/_ssl.c)
        except ssl.SSLEOFError as error:
            raise _EndedError(Outcome.ABORTED, "closed in the handshake") from error
        except ssl.SSLCertVerificationError as error:
            raise _EndedError(Outcome.UNTRUSTED, error.verify_message) from error
        except ssl.SSLError as error:
            reason = error.reason or "unknown"
            outcome = Outcome.GARBAGE if reason in _NOT_TLS else Outcome.ABORTED
            raise _EndedError(outcome, f"TLS: {reason.lower().replace('_', ' ')}") from error
        chain = _chain(tls)
        if not chain:
            raise _EndedError(Outcome.ABORTED, "the server showed no certificate")
        return chain, tls.version() or "TLS"


def _chain(tls: ssl.SSLSocket) -> Sequence[bytes]:
    """The certificates in DER, as they were sent (Python has a public way to them from 3.13 on)."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return cast("Sequence[bytes]", public())
    inner: Any = getattr(tls, "_sslobj", None)
    return [one.public_bytes(_DER) for one in inner.get_unverified_chain() or ()]


# The dialogues that lead to TLS
