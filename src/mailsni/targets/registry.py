"""All kinds of servers that certificates can be deployed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import HostError
from mailsni.host.commands import LOCAL, Executor
from mailsni.host.containers import ContainerExecutor, container_of
from mailsni.targets import docker_mailserver, mailcow
from mailsni.targets.base import Target, TargetName
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.mailcow import Mailcow
from mailsni.targets.postfix import target as postfix
from mailsni.targets.postfix.target import Postfix

NO_SERVER = "neither Postfix nor Dovecot is installed here, or both are switched off"


def containers(settings: Settings) -> Mapping[TargetName, str]:
    """The container of each server that runs in one."""
    named: dict[TargetName, str] = {"postfix": settings.postfix.container, "dovecot": settings.dovecot.container}
    if settings.mailcow.enabled:
        named["mailcow"] = "nginx-mailcow"
    return {server: container for server, container in named.items() if container}


def executor_for(settings: Settings, container: str, host: Executor = LOCAL) -> Executor:
    """What runs the programs of a container, in mailcow those of a service; those of this host where none is named.

    Raises:
        ContainerError: mailcow has no such container.
    """
    if not container:
        return host
    shared = settings.container
    if settings.mailcow.enabled:
        project = mailcow.project_in(settings.mailcow.directory)
        container = container_of(shared.engine, project, container, host)
    in_image = docker_mailserver.IN_IMAGE if settings.docker_mailserver.enabled else ()
    return ContainerExecutor(shared.engine, container, shared.paths, host, in_image)


def find_mailcow(settings: Settings, executor: Executor = LOCAL) -> Mailcow | None:
    """The folders of mailcow; None when it is not enabled."""
    directory = settings.mailcow.directory
    if not settings.mailcow.enabled:
        return None
    stores = [Path(source.values["path"]) for source in settings.sources if source.type == "mailcow"]
    is_store = any(store.is_relative_to(directory) or directory.is_relative_to(store) for store in stores)
    return mailcow.find(directory, settings.container.engine, executor, is_store=is_store)


def find_postfix(settings: Settings, executor: Executor = LOCAL) -> Postfix | None:
    """The Postfix of the settings, on this host or in its container; see :func:`mailsni.targets.postfix.target.find`.

    ``executor`` runs the programs of this host, also those of the container engine.
    """
    found = postfix.find(settings.postfix, executor_for(settings, settings.postfix.container, executor))
    own = settings.docker_mailserver
    return docker_mailserver.postfix_of(found, own.config) if own.enabled and found is not None else found


def find_dovecot(settings: Settings, executor: Executor = LOCAL) -> Dovecot | None:
    """The same for Dovecot; see :func:`mailsni.targets.dovecot.target.find`."""
    found = dovecot.find(settings.dovecot, executor_for(settings, settings.dovecot.container, executor))
    own = settings.docker_mailserver
    return docker_mailserver.dovecot_of(found, own.config) if own.enabled and found is not None else found


_FINDERS: Mapping[TargetName, Callable[[Settings, Executor], Target | None]] = {
    "postfix": find_postfix,
    "dovecot": find_dovecot,
    "mailcow": find_mailcow,
}


@dataclass(frozen=True, slots=True)
class UnreadableServer:
    """A wanted server whose configuration or version cannot be read."""

    name: TargetName
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
    """The directories that a deployment to the wanted servers writes into. Their configuration is not read.

    A container is not asked whether its server is installed.
    """
    own, other = settings.postfix, settings.dovecot
    directories = []
    if (own.container and own.enabled) or postfix.is_wanted(own, executor):
        directories += [own.map.parent]
    if (other.container and other.enabled) or dovecot.is_wanted(other, executor):
        directories += [other.include_file.parent, other.pin_directory]
    if settings.mailcow.enabled:
        directories += [other.pin_directory.parent]
    return tuple(directories)


def texts(settings: Settings) -> tuple[Path, ...]:
    """The text files of all servers, also of those that are switched off now."""
    return (settings.postfix.map, settings.dovecot.include_file)
