"""Everything up to the plan: looks at the stores, the servers and what is deployed, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mailsni import files, plan, rendering
from mailsni.config import Settings
from mailsni.inventory import Certificate, Inventory, merged
from mailsni.pins import PinDirectory
from mailsni.plan import ArtifactChange, Plan
from mailsni.rendering import Paths
from mailsni.selection import Selection, select
from mailsni.sources import certbot
from mailsni.sources.certbot import Progress
from mailsni.state import Deployment, Record, State
from mailsni.targets import dovecot as dovecot_target
from mailsni.targets import postfix as postfix_target
from mailsni.targets.dovecot import Dovecot
from mailsni.targets.postfix import Postfix


@dataclass(frozen=True, slots=True)
class Observation:
    """What there is, what should be, and the difference."""

    settings: Settings
    now: datetime
    inventory: Inventory
    """With the last good certificates of broken lineages in it."""
    selection: Selection
    record: Record
    postfix: Postfix | None
    dovecot: Dovecot | None
    pins: PinDirectory
    texts: Mapping[str, bytes]
    """What each server's file should hold, by the server's name."""
    plan: Plan


def observe(settings: Settings, now: datetime, *, progress: Progress | None = None) -> Observation:
    """Look at everything.

    Args:
        settings: where to look.
        now: the moment at which certificates must be valid, with a time zone.
        progress: told about every lineage that is read.

    Raises:
        HostError: a store or a server's configuration cannot be read.
        PermissionMissingError: this user may not read what it takes.
        ConfigurationError: an administrator's template is wrong.
    """
    postfix = postfix_target.find(settings.postfix)
    dovecot = dovecot_target.find(settings.dovecot)
    record = State(settings.state.directory).load()
    pins = PinDirectory(_pin_directory(settings, dovecot))
    found = merged([certbot.scan(source.path, progress=progress) for source in settings.sources])
    inventory = replace(found, certificates=(*found.certificates, *_last_good(found, record.deployment, now)))
    selection = select(inventory, settings.names, now)
    texts = _texts(settings, selection, postfix, dovecot, pins)
    difference = Plan(
        changes=plan.changes(selection, record.deployment, inventory.lineages),
        artifacts=(*_postfix_changes(postfix, record, texts), *_dovecot_changes(dovecot, record, texts)),
        pins=pins.missing(selection.certificates),
    )
    return Observation(
        settings, now, inventory, selection, record, postfix, dovecot, pins, texts, difference
    )


def _pin_directory(settings: Settings, dovecot: Dovecot | None) -> Path:
    if dovecot is not None and settings.dovecot.certificates == "pinned":
        return settings.dovecot.pin_directory
    return settings.state.directory / "pinned"


def _last_good(found: Inventory, deployed: Deployment, now: datetime) -> list[Certificate]:
    """The deployed certificates of lineages that exist and have none that is valid now."""
    whole = {one.source for one in found.certificates if one.valid_at(now)}
    pins = PinDirectory(Path(deployed.pin_directory or "/"))
    kept = []
    for ident in sorted(deployed.certificates):
        old = deployed.certificates[ident]
        if old.source in found.lineages and old.source not in whole and old.not_before <= now < old.not_after:
            certificate = pins.last_good(old)
            if certificate is not None:
                kept.append(certificate)
    return kept


def _texts(
    settings: Settings, selection: Selection, postfix: Postfix | None, dovecot: Dovecot | None, pins: PinDirectory
) -> dict[str, bytes]:
    paths = Paths(pins.of, live=settings.dovecot.certificates == "live")
    texts = {}
    if postfix is not None:
        texts["postfix"] = rendering.render_postfix(rendering.entries(selection, paths), settings.templates)
    if dovecot is not None:
        blocks = rendering.blocks(selection, paths, dovecot.version)
        texts["dovecot"] = rendering.render_dovecot(blocks, dovecot.version, settings.templates)
    return texts


def _postfix_changes(postfix: Postfix | None, record: Record, texts: Mapping[str, bytes]) -> list[ArtifactChange]:
    if postfix is None:
        return []
    path = postfix.source

    def change(why: str) -> list[ArtifactChange]:
        return [ArtifactChange("postfix", path, why)]

    if not record.trusted:
        return change(_why_untrusted(record))
    if files.read_own(path) != texts["postfix"]:
        return change("its source changes" if files.Identity.of(path) else "there is none yet")
    # The source names files by what they hold, so an equal source means an equal map, if it is the map it was.
    if record.deployment.map_type not in postfix.map_types:
        return change(f"the map is to be of type {postfix.map_types[0]}")
    maps = [path.with_name(path.name + suffix) for suffix in postfix_target.SUFFIXES]
    for one in (path, *(one for one in maps if str(one) in record.deployment.files)):
        if (why := _why_changed(one, record.deployment, files.PRIVATE)) is not None:
            return change(why)
    return []


def _dovecot_changes(dovecot: Dovecot | None, record: Record, texts: Mapping[str, bytes]) -> list[ArtifactChange]:
    if dovecot is None:
        return []
    path = dovecot.settings.include_file
    if record.interrupted:
        return [ArtifactChange("dovecot", path, _why_untrusted(record))]
    live = files.read_own(path)
    if live != texts["dovecot"]:
        return [ArtifactChange("dovecot", path, "there is none yet" if live is None else "its content changes")]
    if (why := _why_loose(path, files.PUBLIC)) is not None:
        return [ArtifactChange("dovecot", path, why)]
    return []


def _why_untrusted(record: Record) -> str:
    return "the last run was cut off" if record.interrupted else "there is no record of what was published"


def _why_changed(path: Path, deployed: Deployment, mode: int) -> str | None:
    identity = files.Identity.of(path)
    if identity is None:
        return f"{path} is gone"
    if (why := _why_loose(path, mode)) is not None:
        return why
    return None if identity == deployed.files.get(str(path)) else f"{path} is not as it was published"


def _why_loose(path: Path, mode: int) -> str | None:
    identity = files.Identity.of(path)
    if identity is None or identity.owner != os.geteuid():
        return f"{path} belongs to somebody else"
    return None if identity.mode == mode else f"{path} has mode {identity.mode:04o} instead of {mode:04o}"
