"""All kinds of servers that certificates can be deployed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import HostError
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Server
from mailsni.targets.base import Target
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.postfix import target as postfix

NO_SERVER = "neither Postfix nor Dovecot is installed here, or both are switched off"


_FINDERS: Mapping[Server, Callable[[Settings, Executor], Target | None]] = {
    "postfix": lambda settings, executor: postfix.find(settings.postfix, executor),
    "dovecot": lambda settings, executor: dovecot.find(settings.dovecot, executor),
}


@dataclass(frozen=True, slots=True)
class UnreadableServer:
    """A wanted server whose configuration or version cannot be read."""

    name: Server
    error: HostError


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of this host that are wanted."""

    targets: tuple[Target, ...]
    """In the order in which they are staged, published and reloaded."""
    unreadable: tuple[UnreadableServer, ...] = ()


def find_readable(settings: Settings, executor: Executor = LOCAL) -> Servers:
    """The servers of this host that are wanted, those apart that cannot be read.

    Raises:
        PermissionMissingError: this user may not read the configuration of one.
    """
    targets: list[Target] = []
    unreadable: list[UnreadableServer] = []
    for name, find in _FINDERS.items():
        try:
            target = find(settings, executor)
        except HostError as error:
            unreadable.append(UnreadableServer(name, error))
        else:
            targets += [target] if target is not None else []
    return Servers(tuple(targets), tuple(unreadable))


def find_all(settings: Settings, executor: Executor = LOCAL) -> tuple[Target, ...]:
    """The servers of this host that are wanted, in the order of :class:`Servers`.

    Raises:
        HostError: the configuration or the version of one of them cannot be read.
        PermissionMissingError: this user may not read it.
    """
    servers = find_readable(settings, executor)
    if servers.unreadable:
        raise servers.unreadable[0].error
    return servers.targets


def writable_directories(settings: Settings, executor: Executor = LOCAL) -> tuple[Path, ...]:
    """The directories that a deployment to the wanted servers writes into. Their configuration is not read."""
    directories = []
    if postfix.is_wanted(settings.postfix, executor):
        directories += [settings.postfix.map.parent]
    if dovecot.is_wanted(settings.dovecot, executor):
        directories += [settings.dovecot.include_file.parent, settings.dovecot.pin_directory]
    return tuple(directories)


def texts(settings: Settings) -> tuple[Path, ...]:
    """The text files of all servers, also of those that are switched off now."""
    return (settings.postfix.map, settings.dovecot.include_file)
