"""Endpoints as URLs, and the addresses behind their hosts."""

from __future__ import annotations

import socket

import pytest

from mailsni.probes.endpoint import Endpoint, resolved


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("smtp://127.0.0.1", Endpoint("smtp", "127.0.0.1", 25, "postfix")),
        ("SMTPS://[::1]:10465", Endpoint("smtps", "::1", 10465, "postfix")),
        ("imap://mail.example.com", Endpoint("imap", "mail.example.com", 143, "dovecot")),
        ("imaps://localhost", Endpoint("imaps", "localhost", 993, "dovecot")),
        ("pop3://h", Endpoint("pop3", "h", 110)),
        ("pop3s://h", Endpoint("pop3s", "h", 995)),
        ("sieve://[::1]", Endpoint("sieve", "::1", 4190)),
    ],
)
def test_a_url_is_an_endpoint_and_an_endpoint_a_url(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "PROTOCOL://HOST:PORT"),
        ("127.0.0.1:25", "PROTOCOL://HOST:PORT"),
        ("smtp://::1:25", "PROTOCOL://HOST:PORT"),
        ("smtp://a:25/", "PROTOCOL://HOST:PORT"),
        ("smtp://a@b", "neither an address"),
        ("smtp://", "neither an address"),
        ("smtp://127.0.0.256", "neither an address"),
        ("smtp://münchen.test", "neither an address"),
        ("http://a", "unknown protocol"),
        ("smtp://[127.0.0.1]", "not an IPv6 address"),
        ("smtp://[fe80::1%eth0]", "not an IPv6 address"),
        ("smtp://a:0", "port"),
        ("smtp://a:65536", "port"),
        ("smtp://a:25\n", "PROTOCOL://HOST:PORT"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Endpoint.parse(text)
    assert str(caught.value).isascii()


def test_the_server_of_an_endpoint_can_be_given() -> None:
    assert Endpoint("smtp", "127.0.0.1", 587, "dovecot").server == "dovecot"


def test_the_host_of_an_endpoint_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """To its addresses; what has none stays as it is, and so do an address and localhost."""

    def two_addresses(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host != "mail.a.test":
            raise socket.gaierror
        addresses = [("192.0.2.7", port), ("192.0.2.7", port), ("2001:db8::7", port, 0, 0)]
        return [(0, 0, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    for url in (
        "imaps://192.0.2.1:993",
        "imaps://[2001:db8::1]:993",
        "imaps://no-such-host.invalid:993",
        "imaps://localhost:993",
    ):
        assert list(map(str, resolved(Endpoint.parse(url)))) == [url]
    assert list(map(str, resolved(Endpoint.parse("imaps://mail.a.test")))) == [
        "imaps://192.0.2.7:993",
        "imaps://[2001:db8::7]:993",
    ]
