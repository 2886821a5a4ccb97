"""What is said of answers, from servers that play a part: chains, dates, names, silence."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from mailsni.core.x509 import chain_digests
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation
from mailsni.probes.model import Problem
from mailsni.sandbox.authority import Issued
from mailsni.verify.audit import probe_and_assess
from mailsni.verify.model import Assessment, Audit, Client, KnownCertificate
from tests.support.authority import Flaw, subject_alternative_names
from tests.support.builders import authority
from tests.support.fake_servers import peer, says, tls, waits

NAME = "mail.a.test"
TIMEOUT = 5


def context(directory: Path, *pem: bytes) -> ssl.SSLContext:
    """Of a server that sends these; the key comes first."""
    file = directory / f"{len(list(directory.iterdir()))}.pem"
    file.write_bytes(b"".join(pem))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(file)
    return made


@contextmanager
def serving(directory: Path, *issued: Issued) -> Iterator[list[Endpoint]]:
    """IMAPS servers, one for each certificate."""
    with ExitStack() as stack:
        contexts = [context(directory, each.key_pem, each.fullchain_pem) for each in issued]
        yield [Endpoint("imaps", "127.0.0.1", stack.enter_context(peer(tls(each)))) for each in contexts]


def expect(issued: Issued, name: str = NAME) -> Expectation:
    return Expectation(name, issued.fingerprint, None, chain_digests(issued.fullchain_pem))


def audited(
    endpoints: Sequence[Endpoint],
    *expected: Expectation,
    now: datetime | None = None,
    known: Mapping[str, KnownCertificate] | None = None,
) -> Audit:
    found = probe_and_assess(expected, endpoints, TIMEOUT, now=now, known=known)
    assert len(found.assessments) == len(endpoints) * (len(expected) + 2)
    for one in found.assessments:
        assert one.detail.isascii()
        assert one.wrong is bool(set(one.problems) - {Problem.UNTRUSTED})
        assert bool(one.problems) is bool(one.detail)
    return found


def named(found: Audit) -> list[Assessment]:
    return [one for one in found.assessments if one.client is Client.NAMED]


def test_what_is_meant_is_right_and_an_unknown_authority_is_only_a_warning(tmp_path: Path) -> None:
    issued = authority().issue([NAME])
    with serving(tmp_path, issued) as endpoints:
        found = audited(endpoints, expect(issued))
    assert [(one.client, one.expectation.name, one.problems) for one in found.assessments] == [
        (Client.NAMED, NAME, (Problem.UNTRUSTED,)),
        (Client.WITHOUT_SNI, None, (Problem.UNTRUSTED,)),
        (Client.UNKNOWN_NAME, "mailsni-unknown.invalid", (Problem.UNTRUSTED,)),
    ]
    assert found.wrong == ()
    assert "unable to get local issuer certificate" in found.assessments[0].detail
    assert found.assessments[0].not_after == issued.not_after


def test_a_certificate_of_a_trusted_authority_has_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenSSL finds it: SSL_CERT_FILE in the place of the system's."""
    from mailsni.probes import tls_client

    root = tmp_path / "root.pem"
    root.write_bytes(authority().root_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    issued = authority().issue([NAME])
    tls_client._context.cache_clear()  # it has read the store of the tests before
    try:
        with serving(tmp_path, issued, replace(issued, fullchain_pem=issued.leaf_pem)) as endpoints:
            found = audited(endpoints, expect(issued))
    finally:
        tls_client._context.cache_clear()
    whole, alone = named(found)
    assert whole.problems == ()
    assert alone.problems == (Problem.WRONG_CHAIN, Problem.UNTRUSTED)


@pytest.mark.parametrize("known", [True, False], ids=["known authority", "unknown authority"])
def test_what_openssl_says_of_a_chain_is_wrong_whether_or_not_it_knows_the_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """Everything but that the authority is unknown. OpenSSL looks no further once it misses an issuer."""
    from mailsni.probes import tls_client

    root = tmp_path / "root.pem"
    root.write_bytes(authority().root_pem if known else authority().issue([NAME], self_signed=True).leaf_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    flawed = [authority().issue_flawed(flaw, NAME) for flaw in get_args(Flaw)]
    tls_client._context.cache_clear()
    try:
        with serving(tmp_path, *flawed) as endpoints:
            found = audited(endpoints, Expectation(NAME))
    finally:
        tls_client._context.cache_clear()
    said = {
        "expired intermediate": "certificate has expired",
        "leaf for clients": "certificate purpose",  # unsupported, or unsuitable, by release
        "intermediate without CA": "invalid CA certificate",
        "bad signature": "certificate signature failure",
        "path too long": "path length constraint exceeded",
        "name constraints": "permitted subtree violation",
    }
    for flaw, one in zip(get_args(Flaw), named(found), strict=True):
        assert set(one.problems) - {Problem.SERVERS_DISAGREE} == {Problem.INVALID_CHAIN}, flaw
        assert re.match(rf"clients reject the chain: [a-z ]*{said[flaw]};", one.detail), one.detail


def test_another_certificate_is_called_by_what_is_known_of_it(tmp_path: Path) -> None:
    meant, old, foreign = (authority().issue([NAME]) for _ in range(3))
    with serving(tmp_path, old, foreign) as endpoints:
        found = audited(
            endpoints, expect(meant), known={old.fingerprint: KnownCertificate("the certificate of /live/a")}
        )
    assert [one.problems[0] for one in named(found)] == [Problem.WRONG_CERTIFICATE] * 2
    assert named(found)[0].detail.startswith("serves the certificate of /live/a; ")
    until = f"{foreign.not_after:%Y-%m-%d}"
    assert named(found)[1].detail.startswith(
        f"serves an unknown certificate for {NAME}, issued by CN=Sandbox E1,O=mailsni sandbox, until {until}; "
    )


def test_a_certificate_outside_its_dates_is_expired_or_not_yet_valid(tmp_path: Path) -> None:
    issued = authority().issue([NAME])
    late, early = issued.not_after + timedelta(seconds=1), issued.not_before - timedelta(seconds=1)
    with serving(tmp_path, issued) as endpoints:
        for moment, problem in ((late, Problem.EXPIRED), (early, Problem.NOT_YET_VALID)):
            found = audited(endpoints, expect(issued), now=moment)
            assert [one.problems for one in found.assessments] == [(problem,)] * 3
            assert len(found.wrong) == 3


def test_a_chain_that_differs_from_the_expected_one_is_a_problem(tmp_path: Path) -> None:
    """Whole; the leaf alone; with the root at its end; another intermediate in between."""
    issued = authority().issue([NAME])
    other = authority().issue(["x.test"], issuer_name="Sandbox E2").chain_pem
    chains = (issued.chain_pem, b"", issued.chain_pem + authority().root_pem, other + issued.chain_pem)
    with serving(tmp_path, *(replace(issued, fullchain_pem=issued.leaf_pem + chain) for chain in chains)) as endpoints:
        meant = named(audited(endpoints, expect(issued)))
        free = named(audited(endpoints, Expectation(NAME)))
    assert [Problem.WRONG_CHAIN in one.problems for one in meant] == [False, True, True, True]
    assert [len(one.result.chain) for one in meant] == [2, 1, 3, 3]
    assert "1 certificate sent, 2 expected" in meant[1].detail
    assert [Problem.WRONG_CHAIN in one.problems for one in free] == [False, True, False, True]
    assert "the server sends the leaf without its intermediates" in free[1].detail
    assert "certificate 1 of 3 is not issued by the one behind it" in free[3].detail


def test_names_that_nothing_is_known_of(tmp_path: Path) -> None:
    """A certificate for it, the same everywhere: as much as can be asked of another host."""
    first, second = authority().issue(["*.a.test"]), authority().issue([NAME])
    with serving(tmp_path, first, second) as endpoints:
        for one in named(audited(endpoints[:1], Expectation(NAME))):
            assert one.problems == (Problem.UNTRUSTED,)
        for one in named(audited(endpoints, Expectation(NAME))):
            assert one.problems == (Problem.UNTRUSTED, Problem.SERVERS_DISAGREE)
        for one in named(audited(endpoints[:1], Expectation("a.test"))):
            assert one.problems == (Problem.NAME_MISMATCH, Problem.UNTRUSTED)
            assert "the certificate is for *.a.test" in one.detail


def test_a_wildcard_is_asked_for_by_a_name_below_it(tmp_path: Path) -> None:
    issued = authority().issue(["*.a.test"])
    with serving(tmp_path, issued) as endpoints:
        (one,) = named(audited(endpoints, expect(issued, "*.a.test")))
    assert (one.expectation.name, one.result.name, one.wrong) == ("*.a.test", "mailsni-probe.a.test", False)


def test_servers_that_do_not_speak_tls_are_asked_a_few_times(tmp_path: Path) -> None:
    """Two hundred names, one that hangs: it costs one time limit, not two hundred."""
    issued = authority().issue(["*.a.test"])
    connections = []
    gone = socket.create_server(("127.0.0.1", 0))

    def hang(client: socket.socket) -> None:
        connections.append(client)
        waits(client)

    def talk(client: socket.socket) -> None:
        connections.append(client)
        says(client, b"SSH-2.0-EVIL\r\n")
        waits(client)

    expected = [expect(issued, f"m{number}.a.test") for number in range(200)]
    with serving(tmp_path, issued) as good, peer(hang) as one, peer(talk) as two:
        endpoints = [
            *good,
            Endpoint("imap", "127.0.0.1", one),
            Endpoint("smtp", "127.0.0.1", two),
            Endpoint("pop3", "127.0.0.1", gone.getsockname()[1]),
        ]
        gone.close()
        begin = time.monotonic()
        found = probe_and_assess(expected, endpoints, 1)
        assert time.monotonic() - begin < 8
    assert len(connections) == 2 * 2
    by_port = {
        endpoint.port: [each for each in found.assessments if each.endpoint == endpoint] for endpoint in endpoints
    }
    assert {len(each) for each in by_port.values()} == {202}
    problems = [{problem for each in by_port[endpoint.port] for problem in each.problems} for endpoint in endpoints]
    assert problems == [
        {Problem.UNTRUSTED},
        {Problem.NO_ANSWER},
        {Problem.PROTOCOL_ERROR},
        {Problem.NOT_LISTENING},
    ]
    assert all("EVIL" not in each.detail for each in found.assessments)
    assert {each.expectation.name for each in by_port[one]} == {
        *(one.name for one in expected),
        None,
        "mailsni-unknown.invalid",
    }


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    """It answers at first, and then no more: not every name waits for the time limit."""
    issued = authority().issue(["*.a.test"])
    made = context(tmp_path, issued.key_pem, issued.fullchain_pem)
    lock = threading.Lock()
    connections = []

    def script(client: socket.socket) -> None:
        with lock:
            connections.append(client)
            number = len(connections)
        (tls(made) if number == 1 else waits)(client)

    expected = [expect(issued, f"m{number}.a.test") for number in range(1500)]
    with peer(script) as port:
        found = probe_and_assess(expected, [Endpoint("imaps", "127.0.0.1", port)], 0.2, 128)
    assert len(found.assessments) == 1502
    assert len(connections) <= 2 + 128 + 16
    (answered,) = (one for one in found.assessments if one.served)
    assert {one.problems for one in found.assessments if one is not answered} == {(Problem.NO_ANSWER,)}


def test_what_time_does_not_suffice_for_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    """A server that takes its time with each client, and one that hangs."""
    issued = authority().issue(["*.a.test"])
    made = context(tmp_path, issued.key_pem, issued.fullchain_pem)

    def slowly(client: socket.socket) -> None:
        time.sleep(0.1)
        tls(made)(client)

    expected = [expect(issued, f"m{number}.a.test") for number in range(200)]
    with peer(slowly) as slow, peer(waits) as silent:
        endpoints = [Endpoint("imaps", "127.0.0.1", slow), Endpoint("imap", "127.0.0.1", silent)]
        begin = time.monotonic()
        found = probe_and_assess(expected, endpoints, TIMEOUT, 4, until=begin + 1.5)
        assert time.monotonic() - begin < 3
        nothing = probe_and_assess(expected, endpoints, TIMEOUT, until=begin)
    assert found.wrong == ()
    assert 0 < len(found.assessments) < 60
    assert len(found.assessments) + len(found.not_asked) == 2 * 202
    assert (nothing.assessments, len(nothing.not_asked)) == ((), 2 * 202)


def test_hostile_certificates_are_shown_harmlessly(tmp_path: Path) -> None:
    """What a server shows may be anything."""
    evil = "EVIL\n\x1b[31m} {{7*7}} \u202e"
    hostile = authority().issue(
        [],
        raw_san=subject_alternative_names(b"mail.a.test\n}\n", b"x{{7*7}}"),
        common_name=evil[:60],
        issuer_name=evil[:60],
    )
    meant = Expectation(NAME, "0" * 64)
    with serving(tmp_path, hostile) as endpoints:
        found = audited(endpoints, meant)
    for one in named(found):
        assert one.problems[0] is Problem.WRONG_CERTIFICATE
        assert one.detail.isprintable()
        assert len(one.detail) < 700


def test_an_ipv6_endpoint_is_probed(tmp_path: Path) -> None:
    issued = authority().issue([NAME])
    made = context(tmp_path, issued.key_pem, issued.fullchain_pem)
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with peer(tls(made), "::1") as port:
        (one,) = named(audited([Endpoint.parse(f"imaps://[::1]:{port}")], expect(issued)))
    assert (one.result.problem, one.wrong) == (None, False)
