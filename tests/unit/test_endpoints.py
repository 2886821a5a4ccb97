"""Where the servers listen, out of what postconf and doveconf of Debian 12 and 13 print (cut to a few services)."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.probes import endpoint as endpoints
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.targets.dovecot.endpoints import parse_dovecot
from mailsni.targets.postfix.endpoints import parse_postfix
from tests.support.strategies import effort

# postconf -Mx; Postfix 3.7 and 3.10 print these lines alike
SERVICES = """\
smtp       inet  n       -       y       -       -       smtpd
pickup     unix  n       -       y       60      1       pickup
smtp       unix  -       -       y       -       -       smtp
relay      unix  -       -       y       -       -       smtp -o syslog_name=postfix/relay
postlog    unix-dgram n  -       n       -       1       postlogd
uucp       unix  -       n       n       -       -       pipe flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
submission inet  n       -       y       -       -       smtpd -o syslog_name=postfix/submission -o smtpd_tls_security_level=encrypt
submissions inet n       -       y       -       -       smtpd -o syslog_name=postfix/submissions -o smtpd_tls_wrappermode=yes
smtps      inet  n       -       n       -       -       smtpd -o smtpd_tls_wrappermode=yes -o {smtpd_recipient_restrictions=permit_sasl_authenticated, reject}
2525       inet  n       -       n       -       -       smtpd
127.0.0.1:2526 inet n    -       n       -       -       smtpd -o smtpd_tls_security_level=none
[::1]:2527 inet  n       -       n       -       -       smtpd -v
inet:2528  inet  n       -       n       -       1       postscreen
localhost:10026 inet n   -       n       -       -       smtpd -o smtpd_tls_wrappermode=yes
10027      inet  n       -       n       -       -       spawn user=nobody argv=/bin/smtpd
10028      inet  n       -       n       -       -       smtpd -o smtpd_tls_security_level=none
10029      inet  n       -       n       -       -       smtpd -o smtpd_tls_wrapperm -o de=YES}
"""  # noqa: E501

# postconf -x
PARAMETERS = """\
inet_interfaces = all
inet_protocols = all
smtpd_tls_wrappermode = no
smtpd_tls_security_level = may
smtpd_use_tls = no
smtpd_enforce_tls = no
smtpd_upstream_proxy_protocol =
postscreen_tls_security_level = may
postscreen_use_tls = no
postscreen_enforce_tls = no
postscreen_upstream_proxy_protocol =
"""

# doveconf protocols listen ssl service
DOVECOT_23 = """\
service imap-urlauth-login {
  chroot = token-login
  client_limit = 0
  drop_priv_before_exec = no
  executable = imap-urlauth-login
  extra_groups = 
  group = 
  idle_kill = 0
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = imap
  service_count = 1
  type = login
  unix_listener imap-urlauth {
    group = 
    mode = 0666
    user = 
  }
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
service imap-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = imap-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener imap {
    address = 
    haproxy = no
    port = 143
    reuse_port = no
    ssl = no
  }
  inet_listener imaps {
    address = 
    haproxy = no
    port = 993
    reuse_port = no
    ssl = yes
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = imap
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
service lmtp {
  chroot = 
  client_limit = 1
  drop_priv_before_exec = no
  executable = lmtp
  extra_groups = $default_internal_group
  group = 
  idle_kill = 0
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = lmtp
  service_count = 0
  type = 
  unix_listener lmtp {
    group = 
    mode = 0666
    user = 
  }
  user = 
  vsz_limit = 18446744073709551615 B
}
service managesieve-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = managesieve-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener sieve {
    address = 
    haproxy = no
    port = 4190
    reuse_port = no
    ssl = no
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = sieve
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
service pop3-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = pop3-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener pop3 {
    address = 
    haproxy = no
    port = 110
    reuse_port = no
    ssl = no
  }
  inet_listener pop3s {
    address = 
    haproxy = no
    port = 995
    reuse_port = no
    ssl = yes
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = pop3
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
service submission-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = submission-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener submission {
    address = 
    haproxy = no
    port = 587
    reuse_port = no
    ssl = no
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = submission
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
protocols =  imap lmtp sieve pop3
listen = *, ::
ssl = yes
"""  # noqa: W291
DOVECOT_24 = """\
protocols {
  imap = yes
  lmtp = yes
  sieve = yes
  pop3 = yes
}
listen = * ::
ssl = yes
service imap-urlauth-login {
  chroot = token-login
  drop_priv_before_exec = no
  executable = imap-urlauth-login
  group = 
  privileged_group = 
  protocol = imap
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  unix_listener imap-urlauth {
    mode = 0666
  }
}
service imap-login {
  imap_capability {
    IMAP4rev1 = yes
    LOGIN-REFERRALS = yes
    ID = yes
    ENABLE = yes
    IDLE = yes
    SASL-IR = yes
    LITERAL+ = yes
    LITERAL- = yes
  }
  chroot = login
  drop_priv_before_exec = no
  executable = imap-login
  group = 
  privileged_group = 
  protocol = imap
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener imap {
    port = 143
  }
  inet_listener imaps {
    port = 993
    ssl = yes
  }
  unix_listener "srv.imap-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
service lmtp {
  chroot = 
  client_limit = 1
  drop_priv_before_exec = no
  executable = lmtp
  extra_groups = $SET:default_internal_group
  group = 
  privileged_group = 
  protocol = lmtp
  restart_request_count = unlimited
  type = 
  user = 
  unix_listener lmtp {
    mode = 0666
  }
}
service managesieve-login {
  chroot = login
  drop_priv_before_exec = no
  executable = managesieve-login
  group = 
  privileged_group = 
  protocol = sieve
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener sieve {
    port = 4190
  }
  inet_listener sieve_deprecated {
    port = 2000
  }
  unix_listener "srv.managesieve-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
service pop3-login {
  chroot = login
  drop_priv_before_exec = no
  executable = pop3-login
  group = 
  privileged_group = 
  protocol = pop3
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener pop3 {
    port = 110
  }
  inet_listener pop3s {
    port = 995
    ssl = yes
  }
  unix_listener "srv.pop3-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
service submission-login {
  chroot = login
  drop_priv_before_exec = no
  executable = submission-login
  group = 
  privileged_group = 
  protocol = submission
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener submission {
    port = 587
  }
  inet_listener submissions {
    port = 465
    ssl = yes
  }
  unix_listener "srv.submission-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
"""  # noqa: W291
DOVECOT_23_CUSTOM = """\
service imap-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = imap-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener "behind proxy" {
    address = 
    haproxy = yes
    port = 10994
    reuse_port = no
    ssl = yes
  }
  inet_listener imap {
    address = 
    haproxy = no
    port = 0
    reuse_port = no
    ssl = no
  }
  inet_listener imaps {
    address = 127.0.0.2, 127.0.0.3
    haproxy = no
    port = 10993
    reuse_port = no
    ssl = yes
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = imap
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
service managesieve-login {
  chroot = login
  client_limit = 0
  drop_priv_before_exec = no
  executable = managesieve-login
  extra_groups = 
  group = 
  idle_kill = 0
  inet_listener sieve {
    address = 
    haproxy = no
    port = 4190
    reuse_port = no
    ssl = no
  }
  privileged_group = 
  process_limit = 0
  process_min_avail = 0
  protocol = sieve
  service_count = 1
  type = login
  user = $default_login_user
  vsz_limit = 18446744073709551615 B
}
protocols = imap sieve submission
listen = 192.0.2.7, 127.0.0.1
ssl = yes
"""  # noqa: W291
DOVECOT_24_CUSTOM = """\
protocols = imap sieve submission
listen = 192.0.2.7 127.0.0.1
ssl = yes
service imap-login {
  imap_capability {
    IMAP4rev1 = yes
    LOGIN-REFERRALS = yes
    ID = yes
    ENABLE = yes
    IDLE = yes
    SASL-IR = yes
    LITERAL+ = yes
    LITERAL- = yes
  }
  chroot = login
  drop_priv_before_exec = no
  executable = imap-login
  group = 
  privileged_group = 
  protocol = imap
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = 10993
    ssl = yes
    listen = 127.0.0.2 127.0.0.3
  }
  inet_listener "behind proxy" {
    haproxy = yes
    port = 10994
    ssl = yes
  }
  unix_listener "srv.imap-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
service managesieve-login {
  chroot = login
  drop_priv_before_exec = no
  executable = managesieve-login
  group = 
  privileged_group = 
  protocol = sieve
  restart_request_count = 1
  type = login
  user = $SET:default_login_user
  inet_listener sieve {
    port = 4190
  }
  inet_listener sieve_deprecated {
    port = 2000
  }
  unix_listener "srv.managesieve-login/%{pid}" {
    mode = 0600
    type = admin
  }
}
"""  # noqa: W291


def texts(endpoints: tuple[Endpoint, ...]) -> list[str]:
    return [str(endpoint) for endpoint in endpoints]


def one(line: str, **main: str) -> list[str]:
    """The endpoints of one master.cf line, with some main.cf values changed."""
    return texts(parse_postfix(line, PARAMETERS + "".join(f"{name} = {value}\n" for name, value in main.items())))


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
def test_parse(text: str, endpoint: Endpoint) -> None:
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
def test_parse_refuses(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Endpoint.parse(text)
    assert str(caught.value).isascii()


def test_a_given_server_stays() -> None:
    assert Endpoint("smtp", "127.0.0.1", 587, "dovecot").server == "dovecot"


def test_postfix() -> None:
    assert texts(parse_postfix(SERVICES, PARAMETERS)) == [
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
def test_postfix_interfaces(interfaces: str, protocols: str, host: str) -> None:
    assert one("25 inet n - n - - smtpd", inet_interfaces=interfaces, inet_protocols=protocols) == [f"smtp://{host}:25"]


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
def test_postfix_on_every_family(
    interfaces: str, protocols: str, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "_speaks_ipv6", lambda: True)
    parameters = f"{PARAMETERS}inet_interfaces = {interfaces}\ninet_protocols = {protocols}\n"
    found = parse_postfix("25 inet n - n - - smtpd", parameters, every_family=True)
    assert texts(found) == [f"smtp://{host}:25" for host in hosts]


def test_dovecot_on_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this host speaks IPv6: elsewhere neither server has such a socket, whatever its configuration says."""
    for speaks in (True, False):
        monkeypatch.setattr(endpoints, "_speaks_ipv6", lambda spoken=speaks: spoken)
        found = texts(parse_dovecot(DOVECOT_23, every_family=True))
        assert "imaps://127.0.0.1:993" in found
        assert ("imaps://[::1]:993" in found) is speaks


def test_the_host_of_an_endpoint_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """To its addresses; what has none stays as it is, and so do an address and localhost."""
    for url in (
        "imaps://192.0.2.1:993",
        "imaps://[2001:db8::1]:993",
        "imaps://no-such-host.invalid:993",
        "imaps://localhost:993",
    ):
        assert texts(resolved(Endpoint.parse(url))) == [url]

    def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        addresses = [("192.0.2.7", port), ("192.0.2.7", port), ("2001:db8::7", port, 0, 0)]
        return [(0, 0, 0, "", address) for address in addresses if host == "mail.a.test"]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert texts(resolved(Endpoint.parse("imaps://mail.a.test"))) == [
        "imaps://192.0.2.7:993",
        "imaps://[2001:db8::7]:993",
    ]


def test_postfix_tls_of_main_cf() -> None:
    line = "25 inet n - n - - smtpd"
    assert one(line, smtpd_tls_security_level="none") == []
    assert one(line, smtpd_tls_security_level="") == []
    assert one(line, smtpd_tls_security_level="", smtpd_use_tls="yes") == ["smtp://127.0.0.1:25"]
    assert one(f"{line} -o smtpd_tls_security_level=may", smtpd_tls_security_level="none") == ["smtp://127.0.0.1:25"]
    assert one(f"{line} -o {{ smtpd_tls_wrappermode = yes }}", smtpd_tls_security_level="none") == [
        "smtps://127.0.0.1:25"
    ]


def test_postfix_behind_a_proxy_is_left_out() -> None:
    assert one("25 inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy") == []
    assert one("25 inet n - n - 1 postscreen", postscreen_upstream_proxy_protocol="haproxy") == []


def test_postfix_unknown_service_is_left_out() -> None:
    assert one("no-such-service inet n - n - - smtpd") == []
    assert one("70000 inet n - n - - smtpd") == []


@pytest.mark.parametrize("text", [DOVECOT_23, DOVECOT_24], ids=["2.3", "2.4"])
def test_dovecot(text: str) -> None:
    endpoints = parse_dovecot(text)
    assert {endpoint.server for endpoint in endpoints} == {"dovecot"}
    assert set(texts(endpoints)) - {"sieve://127.0.0.1:2000"} == {
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
def test_dovecot_submission(text: str, submission: set[str]) -> None:
    found = [endpoint for endpoint in parse_dovecot(text) if endpoint.protocol in {"smtp", "smtps"}]
    assert set(texts(tuple(found))) == submission
    assert {endpoint.server for endpoint in found} == {"dovecot"}


@pytest.mark.parametrize("text", [DOVECOT_23_CUSTOM, DOVECOT_24_CUSTOM], ids=["2.3", "2.4"])
def test_dovecot_own_addresses_ports_and_proxies(text: str) -> None:
    assert set(texts(parse_dovecot(text))) - {"sieve://127.0.0.1:2000"} == {
        "imaps://127.0.0.2:10993",
        "sieve://127.0.0.1:4190",
    }


@pytest.mark.parametrize("text", [DOVECOT_23, DOVECOT_24], ids=["2.3", "2.4"])
def test_dovecot_without_tls(text: str) -> None:
    assert parse_dovecot(text.replace("\nssl = yes\n", "\nssl = no\n")) == ()


def test_dovecot_only_ipv6() -> None:
    assert "imaps://[::1]:993" in texts(parse_dovecot(DOVECOT_23.replace("listen = *, ::", "listen = ::")))


@effort(100)
@given(st.text(alphabet="{}= \nservicimap-lognt_1", max_size=400))
def test_parsers_take_anything(text: str) -> None:
    parse_dovecot(text)
    parse_dovecot(DOVECOT_24 + text)
    parse_postfix(text, text)
