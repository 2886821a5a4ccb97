"""All kinds of servers that certificates can be deployed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.host.commands import LOCAL, Executor
from mailsni.probes.endpoint import Server
from mailsni.targets.base import Target
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.postfix import target as postfix

NO_SERVER = "neither Postfix nor Dovecot is installed here, or both are switched off"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A kind of server."""

    name: Server
    title: str
    """Its name in prose."""
    find: Callable[[Settings, Executor], Target | None]
    """Look at this host's server; None when it is not wanted.

    Raises:
        HostError: its configuration or its version cannot be read.
    """
    is_wanted: Callable[[Settings, Executor], bool]
    """Whether it is switched on, or to be found by itself and installed."""
    text: Callable[[Settings], Path]
    """The text file that is written for it, also when it is not wanted."""
    directories: Callable[[Settings], tuple[Path, ...]]
    """The directories that a deployment writes into."""


KINDS = (
    ServerKind(
        "postfix",
        "Postfix",
        lambda settings, executor: postfix.find(settings.postfix, executor),
        lambda settings, executor: postfix.is_wanted(settings.postfix, executor),
        lambda settings: settings.postfix.map,
        lambda settings: (settings.postfix.map.parent,),
    ),
    ServerKind(
        "dovecot",
        "Dovecot",
        lambda settings, executor: dovecot.find(settings.dovecot, executor),
        lambda settings, executor: dovecot.is_wanted(settings.dovecot, executor),
        lambda settings: settings.dovecot.include_file,
        lambda settings: (settings.dovecot.include_file.parent, settings.dovecot.pin_directory),
    ),
)
"""In the order in which they are staged, published and reloaded."""


def find_all(settings: Settings, executor: Executor = LOCAL) -> tuple[Target, ...]:
    """The servers of this host that are wanted.

    Raises:
        HostError: the configuration or the version of one of them cannot be read.
    """
    targets = (kind.find(settings, executor) for kind in KINDS)
    return tuple(target for target in targets if target is not None)


def writable_directories(settings: Settings, executor: Executor = LOCAL) -> tuple[Path, ...]:
    """The directories that a deployment to the wanted servers writes into. Their configuration is not read."""
    wanted = (kind for kind in KINDS if kind.is_wanted(settings, executor))
    return tuple(directory for kind in wanted for directory in kind.directories(settings))


def texts(settings: Settings) -> tuple[Path, ...]:
    """The text files of all servers, also of those that are switched off now."""
    return tuple(kind.text(settings) for kind in KINDS)
