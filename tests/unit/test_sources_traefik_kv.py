"""What ``url`` and ``prefix`` of the kind ``traefik-kv`` may be."""

from __future__ import annotations

import pytest

from mailsni.core import values


@pytest.mark.parametrize(
    "url",
    [
        "https://consul.a.test:8501",
        "consul+https://consul.a.test",
        "etcd+https://10.0.0.1:2379/behind/a-proxy",
        "etcd+https://[2001:db8::1]:2379",
        "http://127.0.0.1:8500",
        "http://[::1]:8500",
        "etcd+http://localhost:2379",
    ],
)
def test_an_address_is_taken_as_it_is(url: str) -> None:
    assert values.server_url(url) == url
    assert values.server_url(f"{url}/") == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://consul.a.test:8500", "private keys"),
        ("consul+http://10.0.0.1:8500", "private keys"),
        ("http://localhost.a.test:8500", "private keys"),
        ("http://127.0.0.1.a.test:8500", "private keys"),
        ("zookeeper+https://a.test", "may stand before the address"),
        ("https://me:secret@a.test", "without a name, a password"),
        ("http://127.0.0.1:8500@a.test", "without a name, a password"),
        ("https://a.test/?token=secret", "a query"),
        ("https://a.test/#x", "a query"),
        ("https://a.test/../x y", "HOST:PORT"),
        ("https://a.test\r\nX: y", "HOST:PORT"),
        ("https://a.test\n", "HOST:PORT"),
        ("https://a.test:99999", "HOST:PORT"),
        ("https://[::1", "HOST:PORT"),
        ("https://", "HOST:PORT"),
        ("ftp://a.test", "HOST:PORT"),
        ("a.test:8500", "HOST:PORT"),
        ("", "HOST:PORT"),
        (["https://a.test"], "must be a string"),
    ],
)
def test_what_is_no_safe_address_is_refused_and_shows_no_secret(url: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        values.server_url(url)
    assert "secret" not in str(caught.value)


def test_a_prefix_is_a_key_without_slashes_around_it() -> None:
    assert values.key_prefix("/traefik/") == "traefik"
    assert values.key_prefix("a/b_c.d/object") == "a/b_c.d/object"
    for wrong in ("", "/", "a//b", "a b", "a?raw", "a#b", "ä", 1):
        with pytest.raises(ValueError, match="must be a key"):
            values.key_prefix(wrong)
