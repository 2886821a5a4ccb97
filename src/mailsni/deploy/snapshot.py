"""Everything up to the plan: reads the stores, the servers and the deployment record, and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.core import plan
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.core.model import Certificate, Inventory, Progress, merged
from mailsni.core.plan import ArtifactChange, Plan
from mailsni.core.selection import Selection, select
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError
from mailsni.probes.endpoint import Server
from mailsni.sources import scan_cache
from mailsni.sources.base import Source
from mailsni.targets.base import Target
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.registry import find_all


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
    texts: Mapping[Server, bytes]
    """The text that each target should have, by its name."""
    plan: Plan


def take_snapshot(settings: Settings, now: datetime, *, progress: Progress | None = None) -> Snapshot:
    """Read everything; ``now``, with a time zone, is the moment at which certificates must be valid.

    Raises:
        HostError: a store or a server's configuration cannot be read.
        PermissionMissingError: this user may not read what it takes.
        ConfigurationError: an administrator's template is wrong.
    """
    targets = find_all(settings)
    pins = PinDirectory(_pin_directory(settings, targets))
    state = State(settings.state.directory)
    record = state.load()
    known = scan_cache.load(state.readings)
    sources = [source.open() for source in settings.sources]
    found = merged([source.scan(known, progress) for source in sources])
    inventory = replace(found, certificates=(*found.certificates, *_last_good(found, record.deployment, now)))
    selection = select(inventory, settings.names, now)
    texts = {target.name: target.render(selection, pins, settings.templates) for target in targets}
    reasons = ((target, target.change_reason(record, texts[target.name])) for target in targets)
    difference = Plan(
        changes=plan.changes(selection, record.deployment, inventory.lineages),
        artifacts=tuple(ArtifactChange(target.name, target.path, why) for target, why in reasons if why is not None),
        pins=_whole(pins.missing(selection.certificates, record.deployment.pins), sources),
    )
    return Snapshot(settings, now, inventory, selection, record, targets, pins, texts, difference)


def _whole(certificates: Iterable[Certificate], sources: Iterable[Source]) -> tuple[Certificate, ...]:
    """The certificates with key and chain: those from the scan cache are read again."""
    whole = []
    for certificate in certificates:
        current: Certificate | None = certificate
        if certificate.material.pem is None:
            owners = (source for source in sources if source.owns(certificate.source))
            current = next((again for source in owners if (again := source.reload(certificate))), None)
        if current is None:
            raise HostError(f"{certificate.source}: changed while it was read", hint="run it again")
        whole.append(current)
    return tuple(whole)


def _pin_directory(settings: Settings, targets: Sequence[Target]) -> Path:
    needed = (target.pin_directory for target in targets if target.pin_directory is not None)
    return next(needed, settings.state.directory / "pinned")


def _last_good(found: Inventory, deployed: Deployment, now: datetime) -> list[Certificate]:
    """The deployed certificates of lineages that exist and have none that can be served now."""
    whole = {one.source for one in found.certificates if one.valid_at(now) and not one.staging}
    pins = PinDirectory(Path(deployed.pin_directory or "/"))
    kept = []
    for ident in sorted(deployed.certificates):
        old = deployed.certificates[ident]
        if old.source in found.lineages and old.source not in whole and old.not_before <= now < old.not_after:
            certificate = pins.last_good(old)
            if certificate is not None:
                kept.append(certificate)
    return kept
