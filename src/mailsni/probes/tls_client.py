"""Runs probes: connects to a port, starts TLS, and reads the certificates that the server sends.

A probe trusts nothing that it receives: one deadline for the whole conversation, bounded lines, and no word of the
server in a result. It verifies no certificate unless the probe requires trust.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Any, Final, Protocol, cast

from mailsni.core.model import Algorithm
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation, Question
from mailsni.probes.model import Probe, ProbeResult, Problem
from mailsni.probes.starttls import Deadline, ProbeEndedError, start_tls

DETAIL_LIMIT: Final = 200
"""Characters of a result's detail."""
CONCURRENCY: Final = 32
"""Connections at a time: probes wait for the network, and both servers take 100 clients by default."""


_CONNECTING: Final = "connecting"
_STARTING_TLS: Final = "asking for STARTTLS"
_IN_HANDSHAKE: Final = "in the handshake"


def run_probes(
    probes: Sequence[Probe],
    *,
    timeout: float,
    concurrency: int = CONCURRENCY,
    on_done: Callable[[int], None] | None = None,
) -> list[ProbeResult]:
    """Run many probes at once.

    Nothing that a server or the network does raises. Each conversation ends with a close right after the handshake,
    without a word of farewell: Postfix logs it at level info as "lost connection after STARTTLS" ("after CONNECT"
    where TLS came first), Dovecot as a disconnect without a login attempt (measured, 3.7, 3.10, 2.3, 2.4).

    Args:
        probes: the results are in their order.
        timeout: seconds for each one, from the connect to the end of the handshake. Only the resolver, when the host
            of the endpoint is a name, has limits of its own.
        concurrency: how many connections are open at a time.
        on_done: called in the caller's thread after each probe, with the number of those done so far.

    Raises:
        HostError: the system starts no more threads.
    """
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="probe") as pool:
        try:
            futures = [pool.submit(_run, probe, timeout) for probe in probes]
        except RuntimeError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise HostError(f"the servers cannot be probed: {error}") from error
        try:
            for done, _ in enumerate(as_completed(futures), start=1):
                if on_done is not None:
                    on_done(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def probe_expectations(
    pairs: Sequence[tuple[Expectation, Endpoint]],
    *,
    timeout: float,
    concurrency: int = CONCURRENCY,
    on_done: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Run the probe of each expectation at its endpoint; see :func:`run_probes`."""
    probes = [expectation.probe(endpoint) for expectation, endpoint in pairs]
    results = run_probes(probes, timeout=timeout, concurrency=concurrency, on_done=on_done)
    return [Answer(expectation, result) for (expectation, _), result in zip(pairs, results, strict=True)]


class Schedule(Protocol):
    """Decides what to ask next. All calls come from one thread."""

    def next(self) -> Question | None:
        """The next question; None: none is due before another answer comes, or at all."""

    def take(self, question: Question, result: ProbeResult) -> None:
        """Take the result of the question's probe."""


def run_schedule(
    schedule: Schedule, *, timeout: float, concurrency: int = CONCURRENCY, until: float = math.inf
) -> None:
    """Ask as a schedule wants it; see :func:`run_probes`.

    At ``until``, in the time of ``time.monotonic``, all probes end. The schedule gets no result of those that would
    have had more time: they do not show that a server is silent.

    Raises:
        HostError: the system starts no more threads.
    """
    finished = SimpleQueue[tuple[Question, Future[ProbeResult]]]()

    def ask(question: Question) -> ProbeResult:
        return _run(question.probe, min(timeout, max(0.0, until - time.monotonic())))

    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="probe") as pool:

        def begin(question: Question) -> None:
            try:
                future = pool.submit(ask, question)
            except RuntimeError as error:
                raise HostError(f"the servers cannot be probed: {error}") from error
            future.add_done_callback(lambda future: finished.put((question, future)))

        under_way = 0
        while True:
            while under_way < concurrency and time.monotonic() < until and (question := schedule.next()) is not None:
                begin(question)
                under_way += 1
            if not under_way:
                return
            question, future = finished.get()
            under_way -= 1
            result = future.result()
            if result.problem is not Problem.NO_ANSWER or time.monotonic() < until:
                schedule.take(question, result)


def _run(probe: Probe, timeout: float) -> ProbeResult:
    stage = _CONNECTING
    try:
        deadline = Deadline(timeout)
        with _connect(probe.endpoint, deadline) as connection:
            stage = _STARTING_TLS
            start_tls(probe.endpoint.protocol, connection, deadline)
            stage = _IN_HANDSHAKE
            chain, tls_version = _handshake(connection, probe, deadline)
    except ProbeEndedError as ended:
        return _failure(probe, ended.problem, ended.detail, stage)
    except TimeoutError:
        return _failure(probe, Problem.NO_ANSWER, f"no end within {timeout:g} s, {stage}", stage)
    except OSError as error:
        # The connection, once made, broke: reset, broken pipe. (ssl.SSLError is an OSError too, told apart earlier.)
        return _failure(probe, Problem.HANDSHAKE_FAILED, f"{_why(error)}, {stage}", stage)
    fingerprint = hashlib.sha256(chain[0]).hexdigest()
    shared_chain = tuple(map(_one_copy, chain))
    return ProbeResult(probe.endpoint, probe.name, None, fingerprint, _printable(tls_version), shared_chain)


def _failure(probe: Probe, problem: Problem, detail: str, stage: str) -> ProbeResult:
    in_handshake = stage is _IN_HANDSHAKE
    return ProbeResult(probe.endpoint, probe.name, problem, None, _printable(detail), in_handshake=in_handshake)


@functools.lru_cache(maxsize=4096)
def _one_copy(der: bytes) -> bytes:
    """Equal bytes as one object: the same certificates come with thousands of answers."""
    return der


def _printable(detail: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", detail)[:DETAIL_LIMIT]


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _connect(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    """Connect to the first address of the host that answers."""
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ProbeEndedError(Problem.NOT_LISTENING, "the host name does not resolve") from error
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
            # TimeoutError stands for our own deadline, and for ETIMEDOUT, with which the kernel says: nobody there.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            why = _why(error)
        else:
            return connection
    raise ProbeEndedError(Problem.NOT_LISTENING, why)


@functools.lru_cache(maxsize=256)
def _context(algorithm: Algorithm | None, *, require_trust: bool, anchor: bytes) -> ssl.SSLContext:
    """Settings of a client from TLS 1.2 up, which takes any certificate, or any of one kind, or only trusted ones.

    Level 0 lets OpenSSL read what it otherwise refuses, such as a key of 1,024 bits; a client that requires trust is as
    strict as this system's OpenSSL is by default. No session is ever resumed: a resumed one carries no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    verifies = require_trust or bool(anchor)
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    level = "" if verifies else ":@SECLEVEL=0"
    if require_trust:
        context.load_default_certs()
    if anchor:
        context.load_verify_locations(cadata=anchor)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if algorithm is None:
        context.set_ciphers(f"DEFAULT{level}")
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers({"rsa": "aRSA", "ecdsa": "aECDSA"}[algorithm] + f":!eNULL{level}")
    return context


_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
"""What X509_verify_cert(3) says where the chain may be good, and only its end is not known here: no issuer is found (2,
20), a self-signed certificate is the leaf (18) or the end of the chain (19), the leaf stands alone (21)."""
_DER: Final = 2
"""``_ssl.ENCODING_DER``"""
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"}
)
"""The reasons that OpenSSL 1.1 and 3 give for bytes that are no TLS."""


def _handshake(connection: socket.socket, probe: Probe, deadline: Deadline) -> tuple[Sequence[bytes], str]:
    """The certificates that the server sends, in DER, the leaf first, and the version of TLS."""
    connection.settimeout(deadline.left())
    try:
        context = _context(probe.algorithm, require_trust=probe.require_trust, anchor=probe.anchor)
    except ssl.SSLError as error:
        raise ProbeEndedError(Problem.INVALID_CHAIN, "a certificate of the chain cannot be decoded") from error
    try:
        tls = context.wrap_socket(connection, server_hostname=probe.name, do_handshake_on_connect=False)
    except OSError as error:  # wrap_socket inspects the socket first; the server may have closed it
        raise ProbeEndedError(Problem.HANDSHAKE_FAILED, f"{_why(error)}, before the handshake") from error
    with tls:
        try:
            tls.settimeout(deadline.left())
            tls.do_handshake()  # the timeout is one for the whole handshake, not for each read (Modules/_ssl.c)
        except ssl.SSLEOFError as error:
            raise ProbeEndedError(Problem.HANDSHAKE_FAILED, "closed in the handshake") from error
        except ssl.SSLCertVerificationError as error:
            unknown = error.verify_code in _UNKNOWN_AUTHORITY
            problem = Problem.UNTRUSTED if unknown else Problem.INVALID_CHAIN
            raise ProbeEndedError(problem, error.verify_message) from error
        except ssl.SSLError as error:
            reason = error.reason or "unknown"
            problem = Problem.PROTOCOL_ERROR if reason in _NOT_TLS else Problem.HANDSHAKE_FAILED
            raise ProbeEndedError(problem, f"TLS: {reason.lower().replace('_', ' ')}") from error
        chain = _chain(tls)
        if not chain:
            raise ProbeEndedError(Problem.HANDSHAKE_FAILED, "the server sent no certificate")
        return chain, tls.version() or "TLS"


def _chain(tls: ssl.SSLSocket) -> Sequence[bytes]:
    """The certificates in DER, as they were sent. Python's public way to them is new in 3.13."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return cast("Sequence[bytes]", public())
    inner: Any = getattr(tls, "_sslobj", None)
    return [certificate.public_bytes(_DER) for certificate in inner.get_unverified_chain() or ()]
