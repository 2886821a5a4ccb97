"""Everything up to the plan: reads the stores, the servers and the deployment record, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.core import plan
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.core.model import (
    CachedLineage,
    Certificate,
    Inventory,
    KeyAndChain,
    Progress,
    Reason,
    SkippedLineage,
    merged,
    with_set_aside,
)
from mailsni.core.plan import ArtifactChange, Plan
from mailsni.core.selection import Selection, select
from mailsni.deploy import proof, recovery, retirement
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files
from mailsni.sources import scan_cache
from mailsni.sources.base import Source
from mailsni.sources.kinds import was_deleted
from mailsni.targets.base import Target, TargetName
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.registry import Servers, UnreadableServer, find_readable
from mailsni.targets.rendering import stated_origins


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The certificates that exist, what should be deployed, what is, and the difference."""

    settings: Settings
    now: datetime
    inventory: Inventory
    """With the last good certificates of broken lineages in it."""
    selection: Selection
    record: DeploymentRecord
    targets: tuple[Target, ...]
    pins: PinDirectory
    texts: Mapping[TargetName, bytes]
    """The text that each target should have, by its name."""
    plan: Plan
    unreadable: tuple[HostError, ...] = ()
    """Why stores could not be read, where others could. What is deployed from them stays."""
    left_out: tuple[UnreadableServer, ...] = ()
    """The servers that could not be read, where others could. What is published there stays."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the records, and what that costs; what a server asks for and cannot be given; which servers
    are left out, and why."""
    readings_changed: bool = False
    """Whether the scan cache has other certificates than the stores."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """The certificates that count as broken because a server cut off their clients: why, by ident."""


def take_snapshot(
    settings: Settings,
    now: datetime,
    *,
    targets: Sequence[Target] | None = None,
    sources: Sequence[Source] | None = None,
    set_aside: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    trust_caches: bool = True,
    allow_empty: bool = False,
) -> Snapshot:
    """Read everything; ``now``, with a time zone, is the moment at which certificates must be valid.

    Without ``targets`` it finds the servers of the settings, and leaves out those that cannot be read. Without
    ``sources`` it opens the stores of the settings. ``set_aside`` has the certificates that count as broken, and why,
    by ident; without it they are those of the record. Without ``trust_caches`` it reads every certificate and every
    pinned file, whether or not it changed since the last run.

    Raises:
        HostError: no server's configuration can be read; or no store can, or one without which something that is
            deployed would have to go.
        PermissionMissingError: this user may not read what it takes.
        ConfigurationError: an administrator's template is wrong.
    """
    servers = Servers(tuple(targets)) if targets is not None else find_readable(settings)
    if servers.unreadable and not servers.targets:
        raise servers.unreadable[0].error
    sources = sources if sources is not None else [source.open() for source in settings.sources]
    take = partial(_take_snapshot, settings, now, servers, sources, set_aside, progress, allow_empty=allow_empty)
    try:
        return take(trust_caches=trust_caches)
    except _StoreChangedError:
        if not trust_caches:
            raise
        return take(trust_caches=False)


def _take_snapshot(
    settings: Settings,
    now: datetime,
    servers: Servers,
    sources: Sequence[Source],
    set_aside: Mapping[str, str] | None,
    progress: Progress | None,
    *,
    trust_caches: bool,
    allow_empty: bool,
) -> Snapshot:
    targets = servers.targets
    state = State(settings.state.directory)
    cache = scan_cache.load(state.readings)
    known = cache.content if trust_caches and cache.content is not None else {}
    loaded = state.load()
    pins = PinDirectory(_pin_directory(settings, servers, loaded.deployment))
    live_origins = frozenset[str]() if loaded.trusted or allow_empty else _live_origins(targets)
    scans = [_scan(source, known, loaded, live_origins, progress, allow_empty=allow_empty) for source in sources]
    unreadable = tuple(scan.error for scan in scans if scan.error is not None)
    if unreadable and len(unreadable) == len(scans):
        raise unreadable[0]
    stored = merged([scan.inventory for scan in scans])
    record = recovery.complete(loaded, targets, stored)
    scanned = proof.proven(stored, record.deployment.certificates, progress)
    aside = record.deployment.set_aside if set_aside is None else set_aside
    found = with_set_aside(scanned, aside)
    kept = _last_good(found, record.deployment, now, aside)
    inventory = replace(found, certificates=(*found.certificates, *(pair.certificate for pair in kept)))
    selection = select(inventory, settings.names, now, record.deployment.names)
    texts = {target.name: target.render(selection, pins, settings.templates) for target in targets}
    whole = record.deployment.pins if trust_caches else {}
    new_pins = _with_keys(pins.missing(selection.certificates, whole), (*found.read, *kept), scans)
    reasons = ((target, target.change_reason(record, texts[target.name])) for target in targets)
    difference = Plan(
        changes=plan.changes(selection, record.deployment, inventory.lineages),
        artifacts=tuple(ArtifactChange(target.name, target.path, why) for target, why in reasons if why is not None),
        pins=new_pins,
    )
    warnings = tuple(f"{problem}: everything is published again" for problem in record.problems)
    if cache.problem is not None:
        warnings += (f"{cache.problem}: every certificate is read again",)
    if (problem := retirement.FORMAT.read(state.retired).problem) is not None:
        warnings += (f"{problem}: files that nothing names any more wait anew before they go",)
    warnings += tuple(warning for target in targets for warning in target.warnings)
    warnings += tuple(map(_left_out, servers.unreadable))
    lineages = {lineage.certificate.source: lineage for lineage in found.cached}
    if not unreadable:  # of a store that could not be read nobody knows what it has
        aside = {each.ident: aside[each.ident] for each in scanned.certificates if each.ident in aside}
    return Snapshot(
        settings,
        now,
        inventory,
        selection,
        record,
        targets,
        pins,
        texts,
        difference,
        unreadable,
        servers.unreadable,
        warnings,
        readings_changed=lineages != cache.content,
        set_aside=aside,
    )


def _left_out(server: UnreadableServer) -> str:
    hint = f" ({server.error.hint})" if server.error.hint else ""
    return f"{server.name}: nothing new is published there: {server.error.message}{hint}"


_REREAD = 100
"""Certificates that are read again one by one; for more of them the stores are read once more as a whole. A store may
have to look through everything for one."""


class _StoreChangedError(HostError):
    """A store holds another certificate than the scan said."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """What a store has; where it could not be read, what is deployed from it, and the error."""

    source: Source
    inventory: Inventory
    error: HostError | None = None


def _scan(
    source: Source,
    known: Mapping[str, CachedLineage],
    record: DeploymentRecord,
    live_origins: Collection[str],
    progress: Progress | None,
    *,
    allow_empty: bool,
) -> _Scan:
    deployed = [each for each in record.deployment.certificates.values() if source.owns(each.source)]
    try:
        inventory = _inventory(source, known, progress)
        if inventory.is_bare and not allow_empty:
            live = {each.source for each in deployed}.union(filter(source.owns, live_origins))
            _require_deleted(source, live, record.deployment)
        return _Scan(source, inventory)
    except HostError as error:
        if not record.trusted:
            raise
        skipped = SkippedLineage(source.location, Reason.UNREADABLE, f"{error.message}; what is deployed from it stays")
        lineages = frozenset(certificate.source for certificate in deployed)
        return _Scan(source, Inventory(tuple(deployed), (skipped,), lineages), error)


def _inventory(source: Source, known: Mapping[str, CachedLineage], progress: Progress | None) -> Inventory:
    """Scan a store. That root may not read it is a fault of the store: network file systems and FUSE forbid it.

    Raises:
        PermissionMissingError: this user may not read it, and root may.
        HostError: it cannot be read.
    """
    try:
        return source.scan(known, progress)
    except PermissionMissingError as error:
        if os.geteuid() != 0:
            raise
        hint = "not even root may read it: is it a network file system, or another user's FUSE mount?"
        raise HostError(error.message, hint=hint, path=error.path) from None


def _require_deleted(source: Source, origins: Collection[str], deployed: Deployment) -> None:
    """Make sure that an empty directory is no store that is just not mounted.

    Raises:
        HostError: something that is live is from there, and no ACME client was told to delete it.
    """
    client = source.acme_client
    if all(client is not None and was_deleted(client, origin) for origin in origins):
        return
    served = ((name, each) for name in deployed.names for each in deployed.certificates_for(name))
    names = {name for name, certificate in served if source.owns(certificate.source)}
    served_now = "1 name is" if len(names) == 1 else f"{len(names) or 'some'} names are"
    raise HostError(
        f"{source.location}: is an empty directory, and {served_now} served now from it: it counts as not mounted "
        "(`mailsni apply --allow-empty` takes its names away)",
        hint="mount it, or remove its [[sources]] table, or let --allow-empty take its names away",
        path=Path(source.location),
    )


def _live_origins(targets: Iterable[Target]) -> frozenset[str]:
    """The origins that the live files state."""
    texts = (files.read_private(target.path) or b"" for target in targets)
    return frozenset(origin for text in texts for origin in stated_origins(text).values())


def _with_keys(
    certificates: Collection[Certificate], read: Iterable[KeyAndChain], scans: Collection[_Scan]
) -> tuple[KeyAndChain, ...]:
    """The certificates with their keys and chains. Their stores read again what is known from earlier scans.

    Raises:
        HostError: a store has another one by now, or cannot be read.
    """
    pairs = {pair.certificate.ident: pair for pair in read}
    unread = sum(certificate.ident not in pairs for certificate in certificates)
    if unread > _REREAD and all(scan.error is None for scan in scans):
        raise _StoreChangedError(f"{unread} certificates changed while they were read", hint="run it again")
    for certificate in certificates:
        if certificate.ident not in pairs:
            owners = [scan for scan in scans if scan.source.owns(certificate.source)]  # one store may lie in another
            reloaded = (scan.source.reload(certificate) for scan in owners if scan.error is None)
            pair = next((pair for pair in reloaded if pair is not None), None)
            if pair is None:
                changed = _StoreChangedError(f"{certificate.source}: changed while it was read", hint="run it again")
                raise next((scan.error for scan in owners if scan.error is not None), changed)
            pairs[certificate.ident] = pair
    return tuple(pairs[certificate.ident] for certificate in certificates)


def _pin_directory(settings: Settings, servers: Servers, deployed: Deployment) -> Path:
    if servers.unreadable and deployed.pin_directory:  # one that is left out may name the files where they are
        return Path(deployed.pin_directory)
    needed = (target.pin_directory for target in servers.targets if target.pin_directory is not None)
    return next(needed, settings.state.directory / "pinned")


def _last_good(found: Inventory, deployed: Deployment, now: datetime, set_aside: Collection[str]) -> list[KeyAndChain]:
    """The deployed certificates of lineages that exist and have none that is valid now."""
    known = {one.ident for one in found.certificates}
    whole = {one.source for one in found.certificates if one.valid_at(now) and not one.staging}
    pins = PinDirectory(Path(deployed.pin_directory or "/"))
    kept = []
    for ident in sorted(set(deployed.certificates).difference(set_aside)):
        old = deployed.certificates[ident]
        if old.source in found.lineages and old.source not in whole and ident not in known:
            pair = pins.last_good(ident, old.source)
            if pair is not None:
                kept.append(pair)
    return kept
