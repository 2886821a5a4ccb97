"""What a host has: its servers, its stores and its deployment, as far as this user can find it out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.sources.base import StoreFiles
from mailsni.targets import registry
from mailsni.targets.base import Target
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix.target import Postfix

_Fact = TypeVar("_Fact")
Part = Literal["postfix", "dovecot", "store", "snapshot"]
"""A part of a host that can be unreadable."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that could not be read."""

    part: Part
    place: str
    """The file or the store that the part is about."""
    error: MailsniError | OSError | ValueError


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host has. A part that could not be read is None or left out, and a failure says why."""

    settings: Settings
    now: datetime
    """With a time zone."""
    postfix: Postfix | None = None
    dovecot: Dovecot | None = None
    snapshot: Snapshot | None = None
    """Needs root and a readable store. A server that cannot be read is left out."""
    stores: tuple[StoreFiles, ...] = ()
    """The files of every store that can be listed; only of a partial gathering."""
    failures: tuple[Failure, ...] = ()

    @property
    def has_server(self) -> bool:
        """Whether there is a server, or may be one that cannot be read."""
        failed = any(failure.part in ("postfix", "dovecot") for failure in self.failures)
        return failed or self.postfix is not None or self.dovecot is not None


def attempt(failures: list[Failure], part: Part, place: object, read: Callable[[], _Fact]) -> _Fact | None:
    """A fact; None, and one failure more, when it cannot be found out."""
    try:
        return read()
    except (MailsniError, OSError, ValueError) as error:
        failures.append(Failure(part, str(place), error))
        return None


def gather(settings: Settings, now: datetime, *, partial: bool = False, progress: Progress | None = None) -> HostFacts:
    """Read both servers' configurations, the stores and the record.

    Args:
        settings: of this host.
        now: the moment at which certificates must be valid, with a time zone.
        partial: list the files of the stores, and take the snapshot without the stores that cannot be read. It does
            not tell what is pending: names of a store that is left out look like names to remove.
        progress: called for every lineage that is read.
    """
    failures: list[Failure] = []
    main_cf, dovecot_conf = settings.postfix.main_cf, settings.dovecot.config_file
    postfix_server = attempt(failures, "postfix", main_cf, lambda: _find_postfix(settings))
    dovecot_server = attempt(failures, "dovecot", dovecot_conf, lambda: registry.find_dovecot(settings))
    sources = [source.open() for source in settings.sources]
    stores: list[StoreFiles] = []
    if partial:
        listings = [(source, attempt(failures, "store", source.location, source.files)) for source in sources]
        sources = [source for source, files in listings if files is not None]
        stores = [files for _, files in listings if files is not None]
    snapshot = None
    servers = (postfix_server, dovecot_server)
    readable = not failures or (any(servers) and all(isinstance(failure.error, HostError) for failure in failures))
    if sources if partial else readable:
        folders = attempt(failures, "snapshot", settings.mailcow.directory, lambda: registry.find_mailcow(settings))
        targets: list[Target] = [target for target in (*servers, folders) if target is not None]
        place = sources[0].location if sources else ""
        read = functools.partial(take_snapshot, settings, now, targets=targets, sources=sources, progress=progress)
        snapshot = attempt(failures, "snapshot", place, read)
    return HostFacts(settings, now, postfix_server, dovecot_server, snapshot, tuple(stores), tuple(failures))


def _find_postfix(settings: Settings) -> Postfix | None:
    main_cf = settings.postfix.main_cf
    if not settings.postfix.container and main_cf.exists() and not os.access(main_cf, os.R_OK):
        raise PermissionMissingError(f"{main_cf}: cannot be read by this user", path=main_cf)
    return registry.find_postfix(settings)
