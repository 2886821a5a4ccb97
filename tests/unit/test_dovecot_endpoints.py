"""Where Dovecot listens with TLS, out of what doveconf of Debian 12 and 13 prints (cut to a few services)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.errors import HostError
from mailsni.probes import endpoint as endpoint_module
from mailsni.targets.dovecot.endpoints import dovecot_endpoints, parse_dovecot
from tests.support.data import read
from tests.support.fake_executor import FakeExecutor

DOVECOT_23 = read("doveconf-2.3.txt")
DOVECOT_24 = read("doveconf-2.4.txt")
DOVECOT_23_CUSTOM = read("doveconf-2.3-proxies.txt")
DOVECOT_24_CUSTOM = read("doveconf-2.4-proxies.txt")


def test_every_family_gives_an_address_of_each_that_this_host_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this host speaks IPv6: elsewhere neither server has such a socket, whatever its configuration says."""
    for speaks in (True, False):
        monkeypatch.setattr(endpoint_module, "_speaks_ipv6", lambda spoken=speaks: spoken)
        found = list(map(str, parse_dovecot(DOVECOT_23, every_family=True)))
        assert "imaps://127.0.0.1:993" in found
        assert ("imaps://[::1]:993" in found) is speaks


@pytest.mark.parametrize("text", [DOVECOT_23, DOVECOT_24], ids=["2.3", "2.4"])
def test_the_listeners_of_a_default_configuration_are_found(text: str) -> None:
    endpoints = parse_dovecot(text)
    assert {endpoint.server for endpoint in endpoints} == {"dovecot"}
    assert set(map(str, endpoints)) - {"sieve://127.0.0.1:2000"} == {
        "imap://127.0.0.1:143",
        "imaps://127.0.0.1:993",
        "pop3://127.0.0.1:110",
        "pop3s://127.0.0.1:995",
        "sieve://127.0.0.1:4190",
    }


@pytest.mark.parametrize(
    ("text", "submission"),
    [
        (DOVECOT_23.replace("lmtp sieve", "submission sieve"), {"smtp://127.0.0.1:587"}),
        (DOVECOT_24.replace("lmtp = yes", "submission = yes"), {"smtp://127.0.0.1:587", "smtps://127.0.0.1:465"}),
    ],
    ids=["2.3", "2.4"],
)
def test_submission_is_found_where_it_is_switched_on(text: str, submission: set[str]) -> None:
    found = [endpoint for endpoint in parse_dovecot(text) if endpoint.protocol in {"smtp", "smtps"}]
    assert set(map(str, found)) == submission
    assert {endpoint.server for endpoint in found} == {"dovecot"}


@pytest.mark.parametrize("text", [DOVECOT_23_CUSTOM, DOVECOT_24_CUSTOM], ids=["2.3", "2.4"])
def test_own_addresses_and_ports_are_found_and_proxied_listeners_left_out(text: str) -> None:
    assert set(map(str, parse_dovecot(text))) - {"sieve://127.0.0.1:2000"} == {
        "imaps://127.0.0.2:10993",
        "sieve://127.0.0.1:4190",
    }


@pytest.mark.parametrize("text", [DOVECOT_23, DOVECOT_24], ids=["2.3", "2.4"])
def test_without_tls_there_are_no_endpoints(text: str) -> None:
    assert parse_dovecot(text.replace("\nssl = yes\n", "\nssl = no\n")) == ()


def test_a_host_that_listens_on_ipv6_only_is_probed_there() -> None:
    assert "imaps://[::1]:993" in list(map(str, parse_dovecot(DOVECOT_23.replace("listen = *, ::", "listen = ::"))))


def test_a_doveconf_that_does_not_know_an_option_is_asked_without_it() -> None:
    """``-m`` of 2.3 is none of 2.4."""
    executor = FakeExecutor({"ssl": DOVECOT_24}, failing=frozenset({"-m"}))
    assert dovecot_endpoints(Path("/d.conf"), executor=executor) == parse_dovecot(DOVECOT_24) != ()
    with pytest.raises(HostError, match="exit status 89"):
        dovecot_endpoints(Path("/d.conf"), executor=FakeExecutor(failing=frozenset({"ssl"})))


@given(st.text(alphabet="{}= \nservicimap-lognt_1", max_size=400))
def test_the_parser_takes_any_text(text: str) -> None:
    parse_dovecot(text)
    parse_dovecot(DOVECOT_24 + text)
