"""Whether Postfix would start with its configuration, asked without starting it.

``postfix check`` would make missing directories, and master(8) has no trial. So each part is asked of what says it
(all measured, 3.7 and 3.10): postconf(1) refuses a line of master.cf that is not of its form, and only warns of a
brace that is not closed; any program that reads main.cf to its end, such as postmap(1), refuses a value that master(8)
would refuse; where a service listens only master(8) looks at, so this module does.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mailsni.errors import ServerConfigurationError
from mailsni.host.commands import Executor
from mailsni.probes.endpoint import service_port
from mailsni.targets.postfix.postconf import Installation, MasterService, fatal_line

_DIRECTORIES: Final = ("queue_directory", "daemon_directory", "command_directory")
"""Those without which postfix(1) starts nothing."""
_FAMILIES: Final[Mapping[str, int]] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "all": socket.AF_UNSPEC}


def startup_error(postfix: Installation) -> str | None:
    """Why Postfix would not start, in one line; None when it would.

    That another program has taken a port of its is not asked.

    Raises:
        HostError: a program does not end.
        PermissionMissingError: this user may not read main.cf or master.cf.
    """
    done = postfix.run("postmap", "-q", "mailsni", "static:mailsni")
    if done.returncode != 0:
        return fatal_line(done)
    try:
        services = postfix.master_services()
    except ServerConfigurationError as error:
        return error.message
    values = postfix.parameters(*_DIRECTORIES, "inet_protocols", "maillog_file")
    return next(_problems(postfix, services, values), None)


def _problems(postfix: Installation, services: tuple[MasterService, ...], values: Mapping[str, str]) -> Iterator[str]:
    master_cf = postfix.config_directory / "master.cf"
    missing = _missing_directories([values.get(parameter, "") for parameter in _DIRECTORIES], postfix.executor)
    for parameter in _DIRECTORIES:
        if values.get(parameter, "") in missing:
            yield f"{parameter} = {values[parameter]}: no such directory"
    if values.get("maillog_file") and not any(service.name == "postlog" for service in services):
        yield f"{master_cf}: has no service postlog, which maillog_file needs: `postfix upgrade-configuration` adds it"
    protocols = values.get("inet_protocols", "all").replace(",", " ").split()
    families = {_FAMILIES[word] for word in protocols if word in _FAMILIES} or {socket.AF_UNSPEC}
    family = families.pop() if len(families) == 1 else socket.AF_UNSPEC
    for service in services:
        # The addresses of a container, and the names it knows, are its own.
        why = listening_problem(service, family) if not postfix.executor.container else None
        if why is not None:
            yield f"{master_cf}: {service.name}/{service.type}: {why}"


def _missing_directories(directories: Sequence[str], executor: Executor) -> frozenset[str]:
    """Those of some directories that are not there; none where the container does not say."""
    named = [directory for directory in directories if directory]
    if not executor.container:
        return frozenset(directory for directory in named if not Path(directory).is_dir())
    done = executor.run(["/bin/sh", "-c", 'for d; do [ -d "$d" ] || echo "$d"; done', "sh", *named])
    return frozenset(done.text.splitlines())


def listening_problem(service: MasterService, family: int) -> str | None:
    """Why master(8) cannot listen where a service of master.cf says; None when it can.

    The name of an ``inet`` service is ``[HOST:]PORT``, and an address may stand in brackets; that of another one is a
    socket's (master(5)).
    """
    if service.type != "inet":
        return "the name of a socket must have no slash" if "/" in service.name else None
    if service.private != "n":
        return "an inet service must have `n` as private"
    host, _, port = service.name.rpartition(":")
    # A number of any size is taken (measured).
    if not (port.isascii() and port.isdigit()) and service_port(port) is None:
        return f"{port}: no such service in /etc/services"
    if not host:
        return None
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(address, None, family=family, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        temporary = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        return None if temporary else f"{address}: no such host"
    return None if any(_is_local(kind, to[0]) for kind, _, _, _, to in found) else f"{address}: no address of this host"


def _is_local(family: int, address: str | int) -> bool:
    """Whether a socket can be bound to an address."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as trial:
        trial.bind((str(address), 0))
        return True
    return False
