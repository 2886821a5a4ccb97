"""Where the mail servers of this host take TLS connections, asked of the servers' own tools.

One :class:`Endpoint` is one question-able port. The two ``*_endpoints`` functions run ``postconf`` and ``doveconf``;
the ``parse_*`` functions beneath them are pure and take what those tools print.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast, get_args

from mailsni.errors import HostError
from mailsni.host.commands import Completed, require_tool, run

Protocol = Literal["smtp", "smtps", "imap", "imaps", "pop3", "pop3s", "sieve"]
"""``smtp``, ``imap``, ``pop3`` and ``sieve`` start TLS by command; those ending in s speak it from the first byte."""

Server = Literal["postfix", "dovecot"]

DEFAULT_PORTS: Final[Mapping[Protocol, int]] = {
    "smtp": 25,
    "smtps": 465,
    "imap": 143,
    "imaps": 993,
    "pop3": 110,
    "pop3s": 995,
    "sieve": 4190,
}
"""RFC 5321, 8314, 9051, 1939 and 5804."""

OUTPUT_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a tool's output that are looked at; a ``doveconf service`` of either release prints 15 KB."""

_NOT_GIVEN: Final = cast("Server", "")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_ENDPOINT = re.compile(r"([A-Za-z0-9]+)://(?:\[([^\[\]]*)\]|([^:\[\]/]*))(?::([0-9]{1,5}))?")

_SERVICE_PORTS: Final[Mapping[str, int]] = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}
"""For hosts without /etc/services. (``smtps`` has no entry in the one of RHEL 8 and older, nor has ``submissions``.)"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A port that shows a certificate.

    Attributes:
        protocol: what is spoken there.
        host: an address or a host name to connect to; IPv6 without brackets.
        port: 1 to 65535.
        server: whose certificates are seen there; when not given, Postfix for the SMTP protocols, Dovecot for the
            others. (Dovecot too has a submission service.)
    """

    protocol: Protocol
    host: str
    port: int
    server: Server = _NOT_GIVEN

    def __post_init__(self) -> None:
        if self.server == _NOT_GIVEN:
            object.__setattr__(self, "server", "postfix" if self.protocol in {"smtp", "smtps"} else "dovecot")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The endpoint written as ``PROTOCOL://HOST[:PORT]``, an IPv6 address in brackets; the inverse of ``str``.

        Raises:
            ValueError: the text is something else; the message says what, and quotes the text.
        """
        shown = ascii(text[:80])
        match = _ENDPOINT.fullmatch(text)
        if match is None:
            raise ValueError(f"{shown} is not PROTOCOL://HOST:PORT (an IPv6 address goes in brackets)")
        scheme, bracketed, host, digits = match.groups()
        protocol = _protocol(scheme.lower())
        if protocol is None:
            raise ValueError(f"{shown}: unknown protocol, it is one of {', '.join(DEFAULT_PORTS)}")
        if bracketed is not None:
            if _address_version(bracketed) != 6:
                raise ValueError(f"{shown}: what is in brackets is not an IPv6 address")
            host = bracketed
        elif _address_version(host) != 4 and not _is_host_name(host):
            raise ValueError(f"{shown}: the host is neither an address nor a host name")
        port = DEFAULT_PORTS[protocol] if digits is None else int(digits)
        if not 0 < port < 65536:
            raise ValueError(f"{shown}: the port is not between 1 and 65535")
        return cls(protocol, host, port)


def _protocol(text: str) -> Protocol | None:
    return cast("Protocol", text) if text in get_args(Protocol) else None


def _address_version(text: str) -> int | None:
    """4 or 6, or None when the text is no address; an address with a zone (``fe80::1%eth0``) is none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text).version
    except ValueError:
        return None


def _is_host_name(text: str) -> bool:
    """Whether it can be a host name; four numbers that are no address, such as ``127.0.0.256``, are none (RFC 3696)."""
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()


def _connectable(listened: Sequence[str], *, every_family: bool = False) -> tuple[str, ...]:
    """The address to connect to, of those a server listens on: loopback where it can be, else the first.

    ``*``, ``0.0.0.0`` and ``::`` become the loopback address of their family. A socket on ``::`` takes no IPv4 here:
    both servers set IPV6_V6ONLY.

    Args:
        listened: the addresses.
        every_family: one address of IPv4 and one of IPv6, where there are both and this host speaks IPv6.
    """
    wildcards = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from a configuration
    hosts = [wildcards.get(address, address) for address in (word.strip("[]") for word in listened)]
    hosts = [host for host in hosts if _address_version(host) or _is_host_name(host)]
    nearest = sorted(hosts, key=_distance)
    if not every_family:
        return tuple(nearest[:1])
    spoken = [host for host in nearest if _address_version(host) != 6 or _speaks_ipv6()]
    families = {_address_version(host): host for host in reversed(spoken)}
    return tuple(host for host in spoken if families[_address_version(host)] == host)


@functools.cache
def _speaks_ipv6() -> bool:
    """Whether this host has an IPv6 loopback: without it a server that listens on ``::`` too has no such socket."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


def resolved(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """An endpoint whose host is a name, as one for each address of it; any other as it is.

    A name that cannot be resolved stays a name: asking it says so. Addresses of a family that this host has no address
    of are left out (AI_ADDRCONFIG). So does ``localhost``, which names both families whatever the servers listen on:
    the first address that answers will do.
    """
    if _address_version(endpoint.host) is not None or endpoint.host == "localhost":
        return (endpoint,)
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except (OSError, UnicodeError):
        return (endpoint,)
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return tuple(replace(endpoint, host=host) for host in hosts if _address_version(host)) or (endpoint,)


def _distance(host: str) -> int:
    if host.startswith("127.") or host == "localhost":
        return 0
    return 1 if host == "::1" else 2


def _unique(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(dict.fromkeys(endpoints))


def _output(completed: Completed) -> str:
    if completed.returncode != 0:
        words = " ".join(completed.argv)
        raise HostError(f"{words}: exit status {completed.returncode}: {completed.stderr or 'it says nothing'}")
    return completed.stdout[:OUTPUT_LIMIT].decode("utf-8", "replace")


# Postfix

_POSTFIX_PARAMETERS: Final = (
    "inet_interfaces",
    "inet_protocols",
    "smtpd_tls_wrappermode",
    "smtpd_tls_security_level",
    "smtpd_use_tls",
    "smtpd_enforce_tls",
    "smtpd_upstream_proxy_protocol",
    "postscreen_tls_security_level",
    "postscreen_use_tls",
    "postscreen_enforce_tls",
    "postscreen_upstream_proxy_protocol",
)
_OPTION = re.compile(r"-o\s*(?:\{\s*([a-z0-9_]+)\s*=([^{}]*)\}|([a-z0-9_]+)=(\S*))")


def postfix_endpoints(config_directory: Path, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """The SMTP ports of a Postfix that offer TLS, in the order of master.cf.

    Args:
        config_directory: where its main.cf and master.cf are.
        every_family: on IPv4 and on IPv6, where it listens on both.

    Raises:
        HostError: there is no postconf, or it fails.
    """
    postconf = require_tool("postconf")
    services = _output(run([postconf, "-c", config_directory, "-Mx"]))
    parameters = _output(run([postconf, "-c", config_directory, "-x", *_POSTFIX_PARAMETERS]))
    return parse_postfix(services, parameters, every_family=every_family)


def parse_postfix(services: str, parameters: str, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """What :func:`postfix_endpoints` gives, from the two outputs of postconf.

    A service counts when its command is smtpd or postscreen, TLS is on (``smtpd_tls_wrappermode``, else a security
    level other than ``none``, else the older ``smtpd_use_tls`` and ``smtpd_enforce_tls``; ``-o`` over main.cf), and
    no PROXY header is expected of the client.

    Args:
        services: of ``postconf -Mx``: one service a line, continuation lines joined, ``-o { a = b }`` as ``-o a=b``
            or ``-o {a=b c}``, and (by x) ``$name`` expanded.
        parameters: of ``postconf -x NAME …``: ``name = value`` lines. A name that this Postfix does not know is not
            in it.
        every_family: see :func:`postfix_endpoints`.
    """
    main = dict(_assignments(parameters.splitlines()))
    return _unique(
        endpoint
        for line in services.splitlines()
        for endpoint in _postfix_service(line.split(maxsplit=7), main, every_family=every_family)
    )


def _postfix_service(columns: Sequence[str], main: Mapping[str, str], *, every_family: bool) -> Iterator[Endpoint]:
    """The endpoints of one line of master.cf, split into its eight columns (master(5))."""
    if len(columns) < 8 or columns[1] != "inet":
        return
    command, _, arguments = columns[7].partition(" ")
    program = command.rpartition("/")[2]
    if program not in {"smtpd", "postscreen"}:
        return
    options = {
        braced or plain: (braced_value or plain_value).strip()
        for braced, braced_value, plain, plain_value in _OPTION.findall(arguments)
    }
    settings = {**main, **options}
    wrapped = program == "smtpd" and settings.get("smtpd_tls_wrappermode", "").lower() == "yes"
    if not (wrapped or _starts_tls(settings, program)) or settings.get(f"{program}_upstream_proxy_protocol"):
        return
    listened, _, service = columns[0].removeprefix("inet:").rpartition(":")
    port = _service_port(service)
    if port is None:
        return
    for host in _connectable([listened] if listened else _postfix_interfaces(main), every_family=every_family):
        yield Endpoint("smtps" if wrapped else "smtp", host, port)


def _starts_tls(settings: Mapping[str, str], program: str) -> bool:
    level = settings.get(f"{program}_tls_security_level", "").lower()
    if level:
        return level != "none"
    return any(settings.get(f"{program}_{older}", "").lower() == "yes" for older in ("use_tls", "enforce_tls"))


def _postfix_interfaces(main: Mapping[str, str]) -> list[str]:
    """What ``inet_interfaces`` makes Postfix listen on."""
    interfaces = re.split(r"[\s,]+", main.get("inet_interfaces", "all").strip())
    if {"all", "loopback-only"} & {word.lower() for word in interfaces}:
        protocols = main.get("inet_protocols", "all").lower()
        families = {"ipv4": "127.0.0.1", "ipv6": "::1"}
        return [host for family, host in families.items() if family in protocols or "all" in protocols]
    return interfaces


def _service_port(service: str) -> int | None:
    if service.isascii() and service.isdigit():
        port = int(service[:6])
    else:
        try:
            port = socket.getservbyname(service, "tcp")
        except (OSError, UnicodeError):
            port = _SERVICE_PORTS.get(service, 0)
    return port if 0 < port < 65536 else None


def _assignments(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip(), value.strip()


# Dovecot

_LOGIN_SERVICES: Final[Mapping[str, tuple[str, Protocol, Protocol]]] = {
    "imap-login": ("imap", "imap", "imaps"),
    "pop3-login": ("pop3", "pop3", "pop3s"),
    "managesieve-login": ("sieve", "sieve", "sieve"),
    "submission-login": ("submission", "smtp", "smtps"),
}
"""For each login service: its word in ``protocols``, and what a listener speaks without and with ``ssl = yes``."""

_DOVECOT_SETTINGS: Final = ("protocols", "listen", "ssl", "service")


def dovecot_endpoints(
    config_file: Path, tool: Path | None = None, *, every_family: bool = False
) -> tuple[Endpoint, ...]:
    """The IMAP, POP3, ManageSieve and submission ports of a Dovecot that offer TLS.

    Dovecot 2.3 spends most of its time on parts of the configuration that are not asked for, ``-m master`` spares
    that: measured with 5,000 local_name blocks, 2.0 s with and 5 s without it (0.02 s without blocks). Dovecot 2.4 has
    no ``-m``, says so within 3 ms, and needs 0.7 s for 5,000 blocks.

    Args:
        config_file: its dovecot.conf.
        tool: the doveconf to run; the one of this host when None.
        every_family: on IPv4 and on IPv6, where it listens on both.

    Raises:
        HostError: there is no doveconf, or it fails: the configuration is wrong.
    """
    doveconf = tool if tool is not None else require_tool("doveconf")
    command = (str(doveconf), "-c", str(config_file))
    completed = run([*command, "-m", "master", *_DOVECOT_SETTINGS])
    if completed.returncode != 0:
        completed = run([*command, *_DOVECOT_SETTINGS])
    return parse_dovecot(_output(completed), every_family=every_family)


@dataclass(frozen=True, slots=True)
class _Listener:
    service: str
    settings: Mapping[str, str]


def parse_dovecot(text: str, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """What :func:`dovecot_endpoints` gives, from the output of ``doveconf protocols listen ssl service``.

    A listener counts when its protocol is on, its port is not 0, and no PROXY header is expected of the client
    (``haproxy = yes``). With ``ssl = no`` there is none: neither release then offers STARTTLS, nor listens on the
    ports that are TLS from the first byte.

    Args:
        text: of 2.3 (all settings of a listener, ``protocols = imap pop3``, ``address``) or 2.4 (only the settings
            that were set or have a default of their own, ``protocols { imap = yes }``, ``listen``).
        every_family: see :func:`dovecot_endpoints`.
    """
    top, protocols, listeners = _read_dovecot(text)
    if top.get("ssl", "yes") == "no":
        return ()
    return _unique(
        endpoint
        for listener in listeners
        for endpoint in _dovecot_listener(listener, protocols, top.get("listen", "*"), every_family=every_family)
    )


def _dovecot_listener(
    listener: _Listener, protocols: set[str], listen: str, *, every_family: bool
) -> Iterator[Endpoint]:
    word, plain, wrapped = _LOGIN_SERVICES[listener.service]
    settings = listener.settings
    if word not in protocols or settings.get("haproxy", "no") == "yes":
        return
    port = _service_port(settings.get("port", "0"))
    # 2.3 calls the addresses of a listener `address`, 2.4 calls them `listen`.
    own = settings.get("address") or settings.get("listen") or listen
    if port is None:
        return
    implicit = settings.get("ssl", "no") == "yes"
    if implicit and word == "sieve":  # there is no implicit TLS for ManageSieve (RFC 5804), nor a probe for it
        return
    for host in _connectable(re.split(r"[\s,]+", own.strip()), every_family=every_family):
        yield Endpoint(wrapped if implicit else plain, host, port, "dovecot")


def _read_dovecot(text: str) -> tuple[dict[str, str], set[str], list[_Listener]]:
    """Settings outside all blocks, the protocols that are on, the listeners of the login services."""
    top: dict[str, str] = {}
    protocols: set[str] = set()
    listeners: list[_Listener] = []
    blocks: list[tuple[str, str]] = []
    current: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if line == "}":
            if blocks:
                blocks.pop()
        elif line.endswith("{"):
            kind, _, name = line[:-1].strip().partition(" ")
            blocks.append((kind, name.strip().strip('"')))
            match blocks:
                case [("service", service), ("inet_listener", _)] if service in _LOGIN_SERVICES:
                    current = {}
                    listeners.append(_Listener(service, current))
        else:
            for name, value in _assignments([line]):
                match blocks:
                    case []:
                        top[name] = value
                    case [("protocols", _)]:
                        protocols |= {name} if value == "yes" else set()
                    case [("service", service), ("inet_listener", _)] if service in _LOGIN_SERVICES:
                        current[name] = value
    return top, protocols | set(top.get("protocols", "").split()), listeners
