"""What a host has: its servers, its stores and its deployment, as far as this user can find it out."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from mailsni.config.settings import PostfixSettings, Settings
from mailsni.core.model import Progress
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.errors import MailsniError, PermissionMissingError
from mailsni.sources.base import SourceSettings, StoreFiles
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix import target as postfix
from mailsni.targets.postfix.target import Postfix

_Fact = TypeVar("_Fact")


class Part(enum.Enum):
    """A part of a host that can be unreadable."""

    POSTFIX = enum.auto()
    DOVECOT = enum.auto()
    STORE = enum.auto()
    SNAPSHOT = enum.auto()


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
    """Needs root, a readable store and both servers' configurations in order."""
    stores: tuple[StoreFiles, ...] = ()
    """The files of every store that can be listed; only of a partial gathering."""
    failures: tuple[Failure, ...] = ()

    @property
    def has_server(self) -> bool:
        """Whether there is a server, or may be one that cannot be read."""
        failed = any(failure.part in (Part.POSTFIX, Part.DOVECOT) for failure in self.failures)
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
        partial: take the snapshot also without the stores and servers that cannot be read. Such a snapshot judges
            certificates and never what is pending: names of a store that is left out look like names to remove.
        progress: called for every lineage that is read.
    """
    failures: list[Failure] = []
    main_cf, dovecot_conf = settings.postfix.main_cf, settings.dovecot.config_file
    postfix_server = attempt(failures, Part.POSTFIX, main_cf, lambda: _find_postfix(settings.postfix))
    dovecot_server = attempt(failures, Part.DOVECOT, dovecot_conf, lambda: dovecot.find(settings.dovecot))
    stores: list[StoreFiles] = []
    readable = settings
    if partial:
        listed = [(source, files) for source in settings.sources if (files := _list(failures, source)) is not None]
        stores = [files for _, files in listed]
        readable = replace(
            settings,
            sources=tuple(source for source, _ in listed),
            postfix=replace(settings.postfix, enabled=settings.postfix.enabled if postfix_server else False),
            dovecot=replace(settings.dovecot, enabled=settings.dovecot.enabled if dovecot_server else False),
        )
    snapshot = None
    if stores or not partial:
        location = next((source.open().location for source in readable.sources), "")
        snapshot = attempt(failures, Part.SNAPSHOT, location, lambda: take_snapshot(readable, now, progress=progress))
    return HostFacts(settings, now, postfix_server, dovecot_server, snapshot, tuple(stores), tuple(failures))


def _list(failures: list[Failure], source: SourceSettings) -> StoreFiles | None:
    store = source.open()
    return attempt(failures, Part.STORE, store.location, store.files)


def _find_postfix(settings: PostfixSettings) -> Postfix | None:
    if settings.main_cf.exists() and not os.access(settings.main_cf, os.R_OK):
        raise PermissionMissingError(f"{settings.main_cf}: cannot be read by this user", path=settings.main_cf)
    return postfix.find(settings)
