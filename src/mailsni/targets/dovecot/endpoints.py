"""Where Dovecot offers TLS, from the output of doveconf(1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailsni.host.commands import output_of, require_tool, run
from mailsni.probes.endpoint import Endpoint, Protocol, connectable, service_port
from mailsni.targets.dovecot.parser import Assignment, BlockEnd, BlockStart, Comment, Include, statements

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
    return parse_dovecot(output_of(completed), every_family=every_family)


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
    found = (
        endpoint
        for listener in listeners
        for endpoint in _dovecot_listener(listener, protocols, top.get("listen", "*"), every_family=every_family)
    )
    return tuple(dict.fromkeys(found))


def _dovecot_listener(
    listener: _Listener, protocols: set[str], listen: str, *, every_family: bool
) -> Iterator[Endpoint]:
    word, plain, wrapped = _LOGIN_SERVICES[listener.service]
    settings = listener.settings
    if word not in protocols or settings.get("haproxy", "no") == "yes":
        return
    port = service_port(settings.get("port", "0"))
    # 2.3 calls the addresses of a listener `address`, 2.4 calls them `listen`.
    own = settings.get("address") or settings.get("listen") or listen
    if port is None:
        return
    implicit = settings.get("ssl", "no") == "yes"
    if implicit and word == "sieve":  # there is no implicit TLS for ManageSieve (RFC 5804), nor a probe for it
        return
    for host in connectable(re.split(r"[\s,]+", own.strip()), every_family=every_family):
        yield Endpoint(wrapped if implicit else plain, host, port, "dovecot")


def _read_dovecot(text: str) -> tuple[dict[str, str], set[str], list[_Listener]]:
    """Settings outside all blocks, the protocols that are on, the listeners of the login services."""
    top: dict[str, str] = {}
    protocols: set[str] = set()
    listeners: list[_Listener] = []
    blocks: list[tuple[str, str]] = []
    current: dict[str, str] = {}
    for statement in statements(text):
        match statement:
            case BlockStart(kind=kind, name=name):
                blocks.append((kind, name))
                match blocks:
                    case [("service", service), ("inet_listener", _)] if service in _LOGIN_SERVICES:
                        current = {}
                        listeners.append(_Listener(service, current))
            case BlockEnd():
                del blocks[-1:]
            case Assignment(key=key, value=value):
                match blocks:
                    case []:
                        top[key] = value
                    case [("protocols", _)]:
                        protocols |= {key} if value == "yes" else set()
                    case [("service", service), ("inet_listener", _)] if service in _LOGIN_SERVICES:
                        current[key] = value
            case Include() | Comment():
                pass
    return top, protocols | set(top.get("protocols", "").split()), listeners
