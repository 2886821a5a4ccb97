"""Where Postfix offers TLS, from main.cf and master.cf."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mailsni.probes.endpoint import Endpoint, connectable, service_port
from mailsni.targets.postfix import postconf
from mailsni.targets.postfix.lines import split_words
from mailsni.targets.postfix.postconf import Installation

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


def postfix_endpoints(postfix: Installation, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """The SMTP ports of a Postfix that offer TLS, in the order of master.cf.

    Args:
        postfix: whose ports.
        every_family: on IPv4 and on IPv6, where it listens on both.

    Raises:
        HostError: there is no postconf, or it fails.
    """
    services = postfix.services()
    return parse_postfix(services, postfix.parameters(*_POSTFIX_PARAMETERS), every_family=every_family)


def parse_postfix(services: str, main: Mapping[str, str], *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """What :func:`postfix_endpoints` gives, from what postconf(1) prints.

    A service counts when its command is smtpd or postscreen, TLS is on (``smtpd_tls_wrappermode``, else a security
    level other than ``none``, else the older ``smtpd_use_tls`` and ``smtpd_enforce_tls``; ``-o`` over main.cf), and
    no PROXY header is expected of the client.

    Args:
        services: of ``postconf -Mx``: one service a line, continuation lines joined, ``-o { a = b }`` as ``-o a=b``
            or ``-o {a=b c}``, and (by x) ``$name`` expanded.
        main: the values in main.cf. A parameter that this Postfix does not know is not among them.
        every_family: see :func:`postfix_endpoints`.
    """
    found = (
        endpoint
        for line in services.splitlines()
        for endpoint in _postfix_service(line.split(maxsplit=7), main, every_family=every_family)
    )
    return tuple(dict.fromkeys(found))


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
    if not postconf.offers_tls(settings, program) or settings.get(f"{program}_upstream_proxy_protocol"):
        return
    listened, _, service = columns[0].removeprefix("inet:").rpartition(":")
    port = service_port(service)
    if port is None:
        return
    wrapped = program == "smtpd" and settings.get("smtpd_tls_wrappermode", "").lower() == "yes"
    for host in connectable([listened] if listened else _postfix_interfaces(main), every_family=every_family):
        yield Endpoint("smtps" if wrapped else "smtp", host, port)


def _postfix_interfaces(main: Mapping[str, str]) -> list[str]:
    """What ``inet_interfaces`` makes Postfix listen on."""
    interfaces = split_words(main.get("inet_interfaces", "all"))
    if {"all", "loopback-only"} & {word.lower() for word in interfaces}:
        protocols = main.get("inet_protocols", "all").lower()
        families = {"ipv4": "127.0.0.1", "ipv6": "::1"}
        return [host for family, host in families.items() if family in protocols or "all" in protocols]
    return interfaces
