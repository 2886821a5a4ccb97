"""All kinds of servers that certificates can be deployed to."""

from __future__ import annotations

from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.host.commands import LOCAL, Executor
from mailsni.targets.base import Target
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.postfix import target as postfix

NO_SERVER = "neither Postfix nor Dovecot is installed here, or both are switched off"


def find_all(settings: Settings, executor: Executor = LOCAL) -> tuple[Target, ...]:
    """The servers of this host that are wanted, in the order in which they are staged, published and reloaded.

    Raises:
        HostError: the configuration or the version of one of them cannot be read.
    """
    targets = (postfix.find(settings.postfix, executor), dovecot.find(settings.dovecot, executor))
    return tuple(target for target in targets if target is not None)


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
