"""A port where a mail server offers TLS: how it is written, and which address to connect to."""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

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

_NOT_GIVEN: Final = cast("Server", "")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_ENDPOINT = re.compile(r"([A-Za-z0-9]+)://(?:\[([^\[\]]*)\]|([^:\[\]/]*))(?::([0-9]{1,5}))?")

_SERVICE_PORTS: Final[Mapping[str, int]] = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}
"""For hosts without /etc/services. (``smtps`` has no entry in the one of RHEL 8 and older, nor has ``submissions``.)"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A port to probe, from 1 to 65535."""

    protocol: Protocol
    host: str
    """An address or a host name to connect to; IPv6 without brackets."""
    port: int
    server: Server = _NOT_GIVEN
    """By default Postfix for the SMTP protocols and Dovecot for the others. (Dovecot too has a submission service.)"""

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
        quoted = ascii(text[:80])
        match = _ENDPOINT.fullmatch(text)
        if match is None:
            raise ValueError(f"{quoted} is not PROTOCOL://HOST:PORT (an IPv6 address goes in brackets)")
        scheme, bracketed, host, digits = match.groups()
        if scheme.lower() not in DEFAULT_PORTS:
            raise ValueError(f"{quoted}: unknown protocol; known are {', '.join(DEFAULT_PORTS)}")
        protocol = cast("Protocol", scheme.lower())
        if bracketed is not None:
            if _address_version(bracketed) != 6:
                raise ValueError(f"{quoted}: the text in brackets is not an IPv6 address")
            host = bracketed
        elif _address_version(host) != 4 and not is_host_name(host):
            raise ValueError(f"{quoted}: the host is neither an address nor a host name")
        port = DEFAULT_PORTS[protocol] if digits is None else int(digits)
        if not 0 < port < 65536:
            raise ValueError(f"{quoted}: the port is not between 1 and 65535")
        return cls(protocol, host, port)


def _address_version(text: str) -> int | None:
    """4 or 6, or None when the text is no address; an address with a zone (``fe80::1%eth0``) is none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text).version
    except ValueError:
        return None


def is_host_name(text: str) -> bool:
    """Whether it can be a host name; four numbers that are no address, such as ``127.0.0.256``, are none (RFC 3696)."""
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()


def connectable(listened: Sequence[str], *, every_family: bool = False) -> tuple[str, ...]:
    """The address to connect to, of those a server listens on: loopback where it can be, else the first.

    ``*``, ``0.0.0.0`` and ``::`` become the loopback address of their family. A socket on ``::`` takes no IPv4 here:
    both servers set IPV6_V6ONLY. With ``every_family`` it is one address of IPv4 and one of IPv6, where there are both
    and this host speaks IPv6.
    """
    wildcards = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from a configuration
    hosts = [wildcards.get(address, address) for address in (word.strip("[]") for word in listened)]
    hosts = [host for host in hosts if _address_version(host) or is_host_name(host)]
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
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def resolved(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """An endpoint whose host is a name, as one for each address of it; any other as it is.

    A name that does not resolve stays a name, and its probe says so. Addresses of a family that this host has no
    address of are left out (AI_ADDRCONFIG). ``localhost`` stays a name too, for it stands for both families whatever
    the servers listen on: the first address that responds will do.
    """
    if _address_version(endpoint.host) is not None or endpoint.host == "localhost":
        return (endpoint,)
    try:
        flags = socket.AI_ADDRCONFIG
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return (endpoint,)
    hosts = dict.fromkeys(str(address[0]) for *_, address in addresses)
    return tuple(replace(endpoint, host=host) for host in hosts if _address_version(host)) or (endpoint,)


def _distance(host: str) -> int:
    if host.startswith("127.") or host == "localhost":
        return 0
    return 1 if host == "::1" else 2


def service_port(service: str) -> int | None:
    """The TCP port of a service, which may be its number; None when nobody knows it."""
    if service.isascii() and service.isdigit():
        port = int(service[:6])
    else:
        try:
            port = socket.getservbyname(service, "tcp")
        except (OSError, UnicodeError):
            port = _SERVICE_PORTS.get(service, 0)
    return port if 0 < port < 65536 else None
