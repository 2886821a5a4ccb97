"""Where Postfix listens with TLS, out of what postconf of Debian 12 and 13 prints (cut to a few services)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.probes import endpoint as endpoint_module
from mailsni.targets.postfix.endpoints import endpoints_of
from mailsni.targets.postfix.postconf import Override, parse_overrides, parse_parameters, parse_services
from tests.support.data import read

SERVICES = read("postconf-M.txt")
"""Postfix 3.7 and 3.10 print these lines alike, and those of the overrides."""
OVERRIDES = parse_overrides(read("postconf-Px.txt"))
PARAMETERS = parse_parameters(read("postconf-x.txt"))


def of_service(line: str, overrides: tuple[Override, ...] = (), **main: str) -> list[str]:
    """The endpoints of one master.cf line, with some main.cf values changed."""
    return list(map(str, endpoints_of(parse_services(line), overrides, PARAMETERS | main)))


def override(parameter: str, value: str) -> tuple[Override, ...]:
    """What the service on port 25 has for itself."""
    return (Override("25/inet", parameter, value),)


def test_services_with_tls_are_found_and_those_without_are_left_out() -> None:
    assert list(map(str, endpoints_of(parse_services(SERVICES), OVERRIDES, PARAMETERS))) == [
        "smtp://127.0.0.1:25",
        "smtp://127.0.0.1:587",
        "smtps://127.0.0.1:465",
        "smtp://127.0.0.1:2525",
        "smtp://[::1]:2527",
        "smtp://127.0.0.1:2528",
        "smtps://localhost:10026",
        "smtp://127.0.0.1:10029",
    ]


@pytest.mark.parametrize(
    ("interfaces", "protocols", "host"),
    [
        ("all", "ipv4", "127.0.0.1"),
        ("all", "ipv6", "[::1]"),
        ("all", "ipv6, ipv4", "127.0.0.1"),
        ("loopback-only", "all", "127.0.0.1"),
        ("192.0.2.1, 192.0.2.2", "all", "192.0.2.1"),
        ("192.0.2.1 localhost", "all", "localhost"),
        ("[2001:db8::1]", "all", "[2001:db8::1]"),
    ],
)
def test_the_host_is_an_address_that_postfix_listens_on(interfaces: str, protocols: str, host: str) -> None:
    assert of_service("25 inet n - n - - smtpd", inet_interfaces=interfaces, inet_protocols=protocols) == [
        f"smtp://{host}:25"
    ]


@pytest.mark.parametrize(
    ("interfaces", "protocols", "hosts"),
    [
        ("all", "ipv4", ["127.0.0.1"]),
        ("all", "all", ["127.0.0.1", "[::1]"]),
        ("loopback-only", "ipv4, ipv6", ["127.0.0.1", "[::1]"]),
        ("192.0.2.1, 192.0.2.2, [2001:db8::1]", "all", ["192.0.2.1", "[2001:db8::1]"]),
        ("$myhostname, localhost", "all", ["localhost"]),
    ],
)
def test_every_family_gives_an_address_of_each(
    interfaces: str, protocols: str, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "_speaks_ipv6", lambda: True)
    parameters = PARAMETERS | {"inet_interfaces": interfaces, "inet_protocols": protocols}
    found = endpoints_of(parse_services("25 inet n - n - - smtpd"), (), parameters, every_family=True)
    assert list(map(str, found)) == [f"smtp://{host}:25" for host in hosts]


def test_main_cf_decides_about_tls_and_a_service_overrides_it() -> None:
    line = "25 inet n - n - - smtpd"
    assert of_service(line, smtpd_tls_security_level="none") == []
    assert of_service(line, smtpd_tls_security_level="") == []
    assert of_service(line, smtpd_tls_security_level="", smtpd_use_tls="yes") == ["smtp://127.0.0.1:25"]
    opportunistic, wrapped = override("smtpd_tls_security_level", "may"), override("smtpd_tls_wrappermode", "yes")
    assert of_service(line, opportunistic, smtpd_tls_security_level="none") == ["smtp://127.0.0.1:25"]
    assert of_service(line, wrapped, smtpd_tls_security_level="none") == ["smtps://127.0.0.1:25"]


def test_a_service_behind_a_proxy_is_left_out() -> None:
    assert of_service("25 inet n - n - - smtpd", override("smtpd_upstream_proxy_protocol", "haproxy")) == []
    assert of_service("25 inet n - n - 1 postscreen", postscreen_upstream_proxy_protocol="haproxy") == []


def test_a_service_without_a_known_port_is_left_out() -> None:
    assert of_service("no-such-service inet n - n - - smtpd") == []
    assert of_service("70000 inet n - n - - smtpd") == []


@given(st.text(alphabet="{}= \nsmtpinet-o_1", max_size=400))
def test_the_parser_takes_any_text(text: str) -> None:
    endpoints_of(parse_services(text), parse_overrides(text), parse_parameters(text))
