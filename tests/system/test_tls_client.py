"""The probes against a scripted peer on the loopback: whatever a server does wrong, no probe outlives its time."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest

from mailsni.core.model import Algorithm
from mailsni.probes.endpoint import Endpoint, Protocol
from mailsni.probes.model import Probe, ProbeResult, Problem
from mailsni.probes.tls_client import run_probes
from mailsni.sandbox.authority import Issued
from tests.support.authority import Authority
from tests.support.fake_servers import PLAIN, Script, dialogue, hears, peer, says, tls, waits


@pytest.fixture(scope="module")
def issued() -> dict[Algorithm, Issued]:
    authority = Authority()
    return {
        "ecdsa": authority.issue(["mail.a.test"], algorithm="ecdsa"),
        "rsa": authority.issue(["mail.a.test"], algorithm="rsa"),
    }


@pytest.fixture(scope="module")
def contexts(
    issued: dict[Algorithm, Issued], tmp_path_factory: pytest.TempPathFactory
) -> dict[Algorithm | None, ssl.SSLContext]:
    """Of a server with one kind of certificate; under None, of one with both."""
    directory: Path = tmp_path_factory.mktemp("pem")
    made: dict[Algorithm | None, ssl.SSLContext] = {None: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}
    for algorithm, certificate in issued.items():
        file = directory / algorithm
        file.write_bytes(certificate.key_pem + certificate.fullchain_pem)
        made[algorithm] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (made[algorithm], made[None]):
            context.load_cert_chain(file)
    return made


def probe(endpoint: Endpoint, name: str | None, *, timeout: float, algorithm: Algorithm | None = None) -> ProbeResult:
    (result,) = run_probes([Probe(endpoint, name, algorithm)], timeout=timeout)
    return result


def probe_script(
    protocol: Protocol, script: Script, *, timeout: float = 3, algorithm: Algorithm | None = None
) -> ProbeResult:
    """One probe, checked for what holds of every one."""
    with peer(script) as port:
        endpoint = Endpoint(protocol, "127.0.0.1", port)
        start = time.monotonic()
        served = probe(endpoint, "mail.a.test", timeout=timeout, algorithm=algorithm)
        assert time.monotonic() - start < timeout + 0.5
    assert (served.endpoint, served.name) == (endpoint, "mail.a.test")
    assert (served.fingerprint is not None) == (served.problem is None)
    assert served.detail.isascii()
    assert served.detail.isprintable()
    assert len(served.detail) <= 200
    assert "EVIL" not in served.detail
    return served


def probe_answers(protocol: Protocol, *answers: bytes) -> ProbeResult:
    """What comes of a peer that gives these answers, whatever it hears, then waits."""

    def script(client: socket.socket) -> None:
        for number, answer in enumerate(answers):
            if number:
                hears(client)
            says(client, answer)
        waits(client)

    return probe_script(protocol, script, timeout=1)


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("protocol", PLAIN)
def test_starttls_leads_to_the_certificate_however_slowly_the_server_talks(
    protocol: Protocol, *, bytewise: bool, contexts: dict[Algorithm | None, ssl.SSLContext], issued: dict[str, Issued]
) -> None:
    served = probe_script(protocol, dialogue(protocol, tls(contexts["ecdsa"]), bytewise=bytewise))
    assert (served.problem, served.detail) == (None, "TLSv1.3")
    assert served.fingerprint == issued["ecdsa"].fingerprint


@pytest.mark.parametrize("protocol", ["smtps", "imaps", "pop3s"])
def test_implicit_tls_leads_to_the_certificate(
    protocol: Protocol, contexts: dict[Algorithm | None, ssl.SSLContext], issued: dict[str, Issued]
) -> None:
    assert probe_script(protocol, tls(contexts["rsa"])).fingerprint == issued["rsa"].fingerprint


def test_a_server_with_two_algorithms_is_probed_for_each(
    contexts: dict[Algorithm | None, ssl.SSLContext], issued: dict[Algorithm, Issued]
) -> None:
    for algorithm, certificate in issued.items():
        served = probe_script("imaps", tls(contexts[None]), algorithm=algorithm)
        assert (served.fingerprint, served.detail) == (certificate.fingerprint, "TLSv1.2")


def test_an_algorithm_that_the_server_lacks_fails_the_handshake(
    contexts: dict[Algorithm | None, ssl.SSLContext],
) -> None:
    served = probe_script("imaps", tls(contexts["ecdsa"]), algorithm="rsa")
    assert (served.problem, served.detail) == (Problem.HANDSHAKE_FAILED, "TLS: sslv3 alert handshake failure")


def test_the_name_is_sent_as_sni(
    contexts: dict[Algorithm | None, ssl.SSLContext], issued: dict[Algorithm, Issued]
) -> None:
    heard: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def note(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        heard.append(name)
        connection.context = contexts["rsa" if name else "ecdsa"]

    context.sni_callback = note
    with peer(tls(context)) as port:
        endpoint = Endpoint("imaps", "127.0.0.1", port)
        assert probe(endpoint, "mail.a.test", timeout=3).fingerprint == issued["rsa"].fingerprint
        assert probe(endpoint, None, timeout=3).fingerprint == issued["ecdsa"].fingerprint
    assert heard == ["mail.a.test", None]


@pytest.mark.parametrize("injected", [b"X", b"250 EVIL\r\n"])
@pytest.mark.parametrize("protocol", PLAIN)
def test_plaintext_after_starttls_is_a_protocol_error(protocol: Protocol, injected: bytes) -> None:
    served = probe_script(protocol, dialogue(protocol, waits, injected=injected))
    assert (served.problem, served.detail) == (Problem.PROTOCOL_ERROR, "plaintext after STARTTLS")


@pytest.mark.parametrize("protocol", [*PLAIN, "imaps"])
def test_a_silent_server_is_a_timeout(protocol: Protocol) -> None:
    assert probe_script(protocol, waits, timeout=0.5).problem is Problem.NO_ANSWER


@pytest.mark.parametrize("protocol", PLAIN)
def test_a_server_that_falls_silent_in_the_handshake_is_a_timeout(protocol: Protocol) -> None:
    assert probe_script(protocol, dialogue(protocol, waits), timeout=0.5).problem is Problem.NO_ANSWER


@pytest.mark.parametrize("protocol", PLAIN)
def test_a_server_that_sends_byte_by_byte_without_end_is_a_timeout(protocol: Protocol) -> None:
    def script(client: socket.socket) -> None:
        while True:
            says(client, b"\x00")
            time.sleep(0.05)

    assert probe_script(protocol, script, timeout=0.5).problem is Problem.NO_ANSWER


@pytest.mark.parametrize("protocol", [*PLAIN, "imaps"])
def test_a_connection_that_is_closed_at_once_is_a_failed_handshake(protocol: Protocol) -> None:
    assert probe_script(protocol, lambda _: None).problem is Problem.HANDSHAKE_FAILED


@pytest.mark.parametrize("protocol", PLAIN)
def test_a_connection_that_is_closed_in_the_handshake_is_a_failed_handshake(protocol: Protocol) -> None:
    def close(client: socket.socket) -> None:
        client.recv(5)

    assert probe_script(protocol, dialogue(protocol, close)).problem is Problem.HANDSHAKE_FAILED


@pytest.mark.parametrize("protocol", PLAIN)
def test_an_alert_in_the_handshake_is_a_failed_handshake_with_its_name(protocol: Protocol) -> None:
    def alert(client: socket.socket) -> None:
        client.recv(4096)
        says(client, b"\x15\x03\x03\x00\x02\x02\x50")  # fatal, internal_error: Postfix with an unusable chain
        waits(client)

    served = probe_script(protocol, dialogue(protocol, alert))
    assert (served.problem, served.detail) == (Problem.HANDSHAKE_FAILED, "TLS: tlsv1 alert internal error")


@pytest.mark.parametrize("protocol", [*PLAIN, "smtps"])
@pytest.mark.parametrize(
    "garbage",
    [b"EVIL\x1b[31m\r\n", b"SSH-2.0-EVIL\r\n", b"\xff\xfe\x00\r\n", b"E" * 100_000, b"\r\n", b"220 a\r\n" * 20_000],
    ids=["escape", "ssh", "binary", "long line", "empty", "many lines"],
)
def test_garbage_is_a_protocol_error_and_never_shown(protocol: Protocol, garbage: bytes) -> None:
    def script(client: socket.socket) -> None:
        says(client, garbage)
        waits(client)

    expected = {Problem.PROTOCOL_ERROR}
    if protocol == "smtp" and garbage.startswith(b"220 "):
        expected = {Problem.NO_STARTTLS}  # a good greeting, and an answer to EHLO that came before EHLO
    if protocol == "smtps" and garbage == b"\r\n":
        expected = {Problem.NO_ANSWER}  # too short to be told from the beginning of a TLS record
    assert probe_script(protocol, script, timeout=1).problem in expected


@pytest.mark.parametrize(
    ("protocol", "greeting"),
    [
        ("smtp", b"220-x\r\n" * 20_000),
        ("imap", b"* OK x\r\n" * 20_000),
        ("sieve", b'"X" "y"\r\n' * 20_000),
        ("sieve", b'"X" {999999999}\r\n' + b"y" * 100_000),
    ],
)
def test_more_than_64_kilobytes_before_tls_is_a_protocol_error(protocol: Protocol, greeting: bytes) -> None:
    served = probe_answers(protocol, greeting)
    assert (served.problem, served.detail) == (Problem.PROTOCOL_ERROR, "more than 65536 bytes before TLS")


@pytest.mark.parametrize(
    ("protocol", "answers", "outcome"),
    [
        ("smtp", [b"421 EVIL\r\n"], Problem.HANDSHAKE_FAILED),
        ("smtp", [b"554-EVIL\r\n554 go\r\n"], Problem.HANDSHAKE_FAILED),
        ("smtp", [b"220 a\r\n", b"250 a\r\n"], Problem.NO_STARTTLS),
        ("smtp", [b"220 a\r\n", b"250-STARTTLS\r\n250 SIZE\r\n"], Problem.NO_STARTTLS),
        ("smtp", [b"220 a\r\n", b"502 EVIL\r\n"], Problem.NO_STARTTLS),
        ("smtp", [b"220 a\r\n", b"421 EVIL\r\n"], Problem.HANDSHAKE_FAILED),
        ("smtp", [b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"454 EVIL\r\n"], Problem.NO_STARTTLS),
        ("smtp", [b"220-a\r\n250 a\r\n"], Problem.PROTOCOL_ERROR),
        ("imap", [b"* BYE EVIL\r\n"], Problem.HANDSHAKE_FAILED),
        ("imap", [b"* PREAUTH hi\r\n"], Problem.NO_STARTTLS),
        ("imap", [b"* OK\r\n", b"a1 NO EVIL\r\n"], Problem.NO_STARTTLS),
        ("imap", [b"* OK\r\n", b"* x\r\na1 BAD EVIL\r\n"], Problem.NO_STARTTLS),
        ("imap", [b"* OK\r\n", b"a2 OK\r\n"], Problem.PROTOCOL_ERROR),
        ("imap", [b"* OK\r\n", b"* BYE\r\n"], Problem.HANDSHAKE_FAILED),
        ("pop3", [b"-ERR EVIL\r\n"], Problem.HANDSHAKE_FAILED),
        ("pop3", [b"+OK\r\n", b"-ERR EVIL\r\n"], Problem.NO_STARTTLS),
        ("pop3", [b"+OK\r\n", b"EVIL\r\n"], Problem.PROTOCOL_ERROR),
        ("sieve", [b'BYE "EVIL"\r\n'], Problem.HANDSHAKE_FAILED),
        ("sieve", [b'"SASL" "PLAIN"\r\nOK\r\n'], Problem.NO_STARTTLS),
        ("sieve", [b'"STARTTLS"\r\nOK\r\n', b'NO "EVIL"\r\n'], Problem.NO_STARTTLS),
        ("sieve", [b'"STARTTLS"\r\nOK\r\n', b"EVIL\r\n"], Problem.PROTOCOL_ERROR),
    ],
)
def test_a_server_that_refuses_starttls_is_told_from_one_that_breaks_the_protocol(
    protocol: Protocol, answers: list[bytes], outcome: Problem
) -> None:
    assert probe_answers(protocol, *answers).problem is outcome


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "no-such-host.invalid"])
def test_a_port_without_a_listener_is_refused(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe(Endpoint("smtp", host, port), None, timeout=5).problem is Problem.NOT_LISTENING


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "", "*.a.test", ".a.test", "a..test", "ä.test", "a" * 64, "a b"])
def test_a_name_that_no_client_sends_as_sni_cannot_be_probed(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent as SNI"):
        Probe(Endpoint("smtp", "127.0.0.1", 25), name)


def test_the_results_come_in_the_order_of_the_probes(
    contexts: dict[Algorithm | None, ssl.SSLContext], issued: dict[Algorithm, Issued]
) -> None:
    counts: list[int] = []
    with peer(tls(contexts[None])) as port, peer(lambda _: None) as closed:
        good, bad = Endpoint("imaps", "127.0.0.1", port), Endpoint("imaps", "127.0.0.1", closed)
        algorithms: tuple[Algorithm, ...] = ("rsa", "ecdsa")
        probes = [
            Probe(endpoint, f"mail{number}.test", algorithms[number % 2])
            for number in range(20)
            for endpoint in (good, bad)
        ]
        answers = run_probes(probes, timeout=5, concurrency=8, on_done=counts.append)
    assert [(answer.endpoint, answer.name) for answer in answers] == [(q.endpoint, q.name) for q in probes]
    assert [answer.fingerprint for answer in answers[::2]] == [issued[algorithms[n % 2]].fingerprint for n in range(20)]
    assert {answer.problem for answer in answers[1::2]} == {Problem.HANDSHAKE_FAILED}
    assert counts == list(range(1, 41))


def test_no_probes_give_no_results() -> None:
    assert run_probes([], timeout=1) == []
