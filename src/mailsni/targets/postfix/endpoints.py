"""Where Postfix offers TLS, from main.cf and master.cf."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mailsni.probes.endpoint import Endpoint, connectable, service_port
from mailsni.targets.postfix.lines import split_words
from mailsni.targets.postfix.postconf import Installation, Override, Service, offers_tls, values_of

_TLS_PARAMETERS: Final = (
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


def postfix_endpoints(postfix: Installation, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """The SMTP ports of a Postfix that offer TLS, in the order of master.cf; see :meth:`Target.endpoints`."""
    services, overrides = postfix.services(), postfix.overrides(*_TLS_PARAMETERS)
    main = postfix.parameters("inet_interfaces", "inet_protocols", *_TLS_PARAMETERS)
    return endpoints_of(services, overrides, main, every_family=every_family)


def endpoints_of(
    services: Iterable[Service], overrides: Sequence[Override], main: Mapping[str, str], *, every_family: bool = False
) -> tuple[Endpoint, ...]:
    """What :func:`postfix_endpoints` gives, from what postconf(1) says.

    A service counts when its command is smtpd or postscreen, TLS is on (``smtpd_tls_wrappermode``, else a security
    level other than ``none``, else the older ``smtpd_use_tls`` and ``smtpd_enforce_tls``; ``-o`` over main.cf), and
    no PROXY header is expected of the client. A parameter that this Postfix does not know has no value in main.cf.
    """
    endpoints = (
        endpoint
        for service in services
        if service.type == "inet" and service.command in {"smtpd", "postscreen"}
        for endpoint in _service_endpoints(service, values_of(service, overrides, main), every_family=every_family)
    )
    return tuple(dict.fromkeys(endpoints))


def _service_endpoints(service: Service, values: Mapping[str, str], *, every_family: bool) -> Iterator[Endpoint]:
    program = service.command
    listened, _, name = service.name.removeprefix("inet:").rpartition(":")
    port = service_port(name)
    if port is None or not offers_tls(values, program) or values.get(f"{program}_upstream_proxy_protocol"):
        return
    wrapped = program == "smtpd" and values.get("smtpd_tls_wrappermode", "").lower() == "yes"
    for host in connectable([listened] if listened else _interfaces(values), every_family=every_family):
        yield Endpoint("smtps" if wrapped else "smtp", host, port)


def _interfaces(main: Mapping[str, str]) -> list[str]:
    """What ``inet_interfaces`` makes Postfix listen on."""
    interfaces = split_words(main.get("inet_interfaces", "all"))
    if {"all", "loopback-only"} & {word.lower() for word in interfaces}:
        protocols = main.get("inet_protocols", "all").lower()
        families = {"ipv4": "127.0.0.1", "ipv6": "::1"}
        return [host for family, host in families.items() if family in protocols or "all" in protocols]
    return interfaces
