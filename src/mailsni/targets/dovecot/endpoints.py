"""Where Dovecot offers TLS, from the output of doveconf(1)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mailsni.errors import HostError
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Endpoint, Protocol, connectable, service_port
from mailsni.targets.dovecot import doveconf
from mailsni.targets.dovecot.parser import settings_in

_LOGIN_SERVICES: Final[Mapping[str, tuple[str, Protocol, Protocol]]] = {
    "imap-login": ("imap", "imap", "imaps"),
    "pop3-login": ("pop3", "pop3", "pop3s"),
    "managesieve-login": ("sieve", "sieve", "sieve"),
    "submission-login": ("submission", "smtp", "smtps"),
}
"""For each login service: its word in ``protocols``, and what a listener speaks without and with ``ssl = yes``."""


_DOVECOT_SETTINGS: Final = ("protocols", "listen", "ssl", "service")


def dovecot_endpoints(
    config_file: Path, *, every_family: bool = False, executor: Executor = LOCAL
) -> tuple[Endpoint, ...]:
    """The IMAP, POP3, ManageSieve and submission ports of a Dovecot that offer TLS; see :meth:`Target.endpoints`.

    Dovecot 2.3 spends most of its time on parts of the configuration that are not asked for, ``-m master`` spares
    that: measured with 5,000 local_name blocks, 2.0 s with and 5 s without it (0.02 s without blocks). Dovecot 2.4 has
    no ``-m``, says so within 3 ms, and needs 0.7 s for 5,000 blocks.
    """
    completed = doveconf.run(config_file, "-m", "master", *_DOVECOT_SETTINGS, executor=executor)
    if completed.returncode != 0:
        completed = doveconf.run(config_file, *_DOVECOT_SETTINGS, executor=executor)
    if completed.returncode != 0:
        why = completed.stderr or "no message"
        raise HostError(f"{' '.join(completed.argv)}: exit status {completed.returncode}: {why}")
    return parse_dovecot(completed.text, every_family=every_family)


def parse_dovecot(text: str, *, every_family: bool = False) -> tuple[Endpoint, ...]:
    """What :func:`dovecot_endpoints` gives, from the output of ``doveconf protocols listen ssl service``.

    A listener counts when its protocol is on, its port is not 0, and no PROXY header is expected of the client
    (``haproxy = yes``). With ``ssl = no`` there is none: neither release then offers STARTTLS, nor listens on the
    ports that are TLS from the first byte.

    2.3 prints all settings of a listener, ``protocols = imap pop3``, ``address``; 2.4 only the settings that were set
    or have a default of their own, ``protocols { imap = yes }``, ``listen``.
    """
    top: dict[str, str] = {}
    protocols: set[str] = set()
    listeners: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for scope, setting in settings_in(text):
        match scope:
            case ():
                top[setting.key] = setting.value
            case (("protocols", _),) if setting.value == "yes":
                protocols.add(setting.key)
            case (("service", service), ("inet_listener", name)):
                listeners[service, name][setting.key] = setting.value
            case _:
                pass
    protocols.update(top.get("protocols", "").split())
    if top.get("ssl", "yes") == "no":
        return ()
    endpoints = (
        endpoint
        for (service, _), settings in listeners.items()
        if service in _LOGIN_SERVICES and _LOGIN_SERVICES[service][0] in protocols
        for endpoint in _listener_endpoints(service, settings, top.get("listen", "*"), every_family=every_family)
    )
    return tuple(dict.fromkeys(endpoints))


def _listener_endpoints(
    service: str, settings: Mapping[str, str], listen: str, *, every_family: bool
) -> Iterator[Endpoint]:
    word, plain, wrapped = _LOGIN_SERVICES[service]
    port = service_port(settings.get("port", "0"))
    if port is None or settings.get("haproxy", "no") == "yes":
        return
    # 2.3 calls the addresses of a listener `address`, 2.4 calls them `listen`.
    own = settings.get("address") or settings.get("listen") or listen
    implicit = settings.get("ssl", "no") == "yes"
    if implicit and word == "sieve":  # there is no implicit TLS for ManageSieve (RFC 5804), nor a probe for it
        return
    for host in connectable(re.split(r"[\s,]+", own.strip()), every_family=every_family):
        yield Endpoint(wrapped if implicit else plain, host, port, "dovecot")
