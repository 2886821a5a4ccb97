"""The transaction: stage, validate, publish, reload, confirm on the wire, commit or roll back.

Whatever ends the program, both servers can be restarted at every instant: each file they read is replaced by one
rename(2) with one that was proven before, and the pinned files that the old and the new ones name are all there until
the commit. A run that was cut off leaves its journal; the next one removes the debris and publishes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from mailsni.config.settings import Settings
from mailsni.core.deployment import Deployment
from mailsni.core.model import Certificate, Progress
from mailsni.core.text import counted, summarize
from mailsni.deploy import blame, cleanup
from mailsni.deploy.confirm import Confirmation, WireCheck
from mailsni.deploy.listeners import Listener, find_listener
from mailsni.deploy.publish import CutOffError, publish, rollback
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.stage import stage
from mailsni.deploy.startup import StartupProblem, startup_problems
from mailsni.deploy.state_directory import State
from mailsni.errors import Exit, HostError, MailsniError, RefusedError
from mailsni.host import file_identity, files, lock, permissions, trust
from mailsni.probes.endpoint import Server
from mailsni.probes.expectation import Answer, Expectation, expectations
from mailsni.sources import scan_cache
from mailsni.targets import registry
from mailsni.targets.base import Target
from mailsni.targets.reload import ReloadResult

_ATTEMPTS = 3
"""Publishes of one run: before each further one certificates are set aside that cut off clients."""
_OTHER_CLIENTS = 3
"""Unchanged names that are probed to find out whether a server cuts off more than the changed ones."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line."""

    force: bool = False
    reload: bool = True
    verify: bool = True
    allow_empty: bool = False


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What apply did."""

    snapshot: Snapshot
    published: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """The new files of each server, in the order in which they were published."""
    reloads: Mapping[str, ReloadResult] | None = None
    """Of each server that has new files; None when there was nothing to do."""
    confirmations: tuple[Confirmation, ...] = ()
    not_configured: tuple[str, ...] = ()
    """Why servers do not read what was published."""
    warnings: tuple[str, ...] = ()
    """What else a person should know that is no fault of a certificate."""
    cannot_start: tuple[StartupProblem, ...] = ()
    """The servers that would not start again, whatever was published."""

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The answers of running servers that are not as expected."""
        return tuple(answer for confirmation in self.confirmations for answer in confirmation.wrong)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The names of which nobody knows how they are served, because a server does not answer in time."""
        return tuple(sorted({name for confirmation in self.confirmations for name in confirmation.unconfirmed}))

    @property
    def exit_code(self) -> Exit:
        """Whether there is something that a person should look at; FAILED when a store could not be read."""
        if self.snapshot.unreadable:
            return self.snapshot.unreadable[0].exit_code
        servers = self.wrong or self.unconfirmed or self.cannot_start or self.snapshot.left_out
        down = ReloadResult.CONTAINER_DOWN in (self.reloads or {}).values()
        return Exit.SKIPPED if servers or down or self.snapshot.selection.problems else Exit.DONE


def run(settings: Settings, options: Options, *, wait: float = 0.0, progress: Progress | None = None) -> ApplyResult:
    """Take the lock, after ``wait`` seconds at most, and deploy what should be deployed.

    Raises:
        PermissionMissingError: this user may not do it; nothing was touched.
        ConfigurationError: others can change a directory that is published into; nothing was touched.
        LockedError: another run holds the lock.
        MailsniError: what :func:`mailsni.deploy.snapshot.take_snapshot` and :func:`apply` raise.
    """
    require_places(settings)
    with lock.locked(settings.state.lock, wait):
        return deploy(settings, options, progress=progress)


def deploy(settings: Settings, options: Options, *, progress: Progress | None = None) -> ApplyResult:
    """Deploy what should be deployed. The caller holds the lock.

    Where a new certificate is the cause of clients being cut off, everything is rolled back, and that certificate is
    set aside: it counts as broken until it changes, or with ``options.force``. The others are deployed.

    Raises:
        MailsniError: what :func:`mailsni.deploy.snapshot.take_snapshot` and :func:`apply` raise.
    """
    set_aside: Mapping[str, str] | None = {} if options.force else None
    for attempts_left in reversed(range(_ATTEMPTS)):
        now = datetime.now(UTC)
        trusted = not options.force
        snapshot = take_snapshot(
            settings, now, set_aside=set_aside, progress=progress, trust_caches=trusted, allow_empty=options.allow_empty
        )
        try:
            return apply(snapshot, options, progress=progress)
        except CutOffError as error:
            causes = blame.causes(error.cut_off, snapshot)
            if not (causes and attempts_left) or _may_lack_last_good(snapshot):
                raise
            set_aside = {**snapshot.set_aside, **causes}
    raise AssertionError("the last attempt ends with a result or an error")


def _may_lack_last_good(snapshot: Snapshot) -> bool:
    """Whether something is served of unknown origin: to set its successor aside would take a name away."""
    deployed = snapshot.record.deployment
    if any(ident not in deployed.certificates for idents in deployed.names.values() for ident in idents):
        return True
    return not (snapshot.record.trusted or deployed.names) and _is_live(snapshot)


def require_places(settings: Settings) -> None:
    """Make sure that this user can write wherever a run writes, and that nobody but root can where it publishes.

    Raises:
        PermissionMissingError: this user cannot.
        HostError: not even root can.
        ConfigurationError: others can; the hint is the command that ends it.
    """
    permissions.require_writable(writable_directories(settings))
    for directory in (settings.state.directory, *registry.writable_directories(settings)):
        trust.require(directory)


def writable_directories(settings: Settings) -> tuple[Path, ...]:
    """The directories that a run writes into, those that it makes included."""
    return (settings.state.directory, settings.state.lock.parent, *registry.writable_directories(settings))


def apply(snapshot: Snapshot, options: Options, *, progress: Progress | None = None) -> ApplyResult:
    """Deploy what a snapshot plans. The caller holds the lock.

    Raises:
        RefusedError: nothing is left to serve, and there was something before.
        HostError: it failed before or while it published; the previous deployment is live.
        CutOffError: clients were cut off; the previous deployment is live again.
        RolledBackError: the servers did not serve what was published; the previous deployment is live again.
        RollbackFailedError: the previous deployment could not be restored.
    """
    if not snapshot.targets:
        raise HostError(
            registry.NO_SERVER,
            hint="[postfix] enabled = true in the configuration builds the map all the same",
        )
    if not snapshot.plan.pending and not options.force:
        _remember_set_aside(snapshot)
        warnings = (*snapshot.warnings, *_try_save_readings(snapshot), *cleanup.try_clean_up(snapshot))
        return ApplyResult(snapshot, warnings=warnings, cannot_start=startup_problems(snapshot.targets))
    require_not_empty(snapshot, allow=options.allow_empty)
    return _deploy(snapshot, options, progress)


def _try_save_readings(snapshot: Snapshot) -> tuple[str, ...]:
    """Spare the next scan what this one read, though there is nothing to publish; gives a warning when it cannot."""
    if not snapshot.readings_changed:
        return ()
    try:
        scan_cache.save(State(snapshot.settings.state.directory).readings, snapshot.inventory.cached, snapshot.now)
    except MailsniError as error:
        return (f"the next run reads the certificates again: {error.message}",)
    return ()


def require_not_empty(snapshot: Snapshot, *, allow: bool) -> None:
    """Refuse to remove all names because a store is empty: it may just not be mounted.

    Raises:
        RefusedError: nothing is left to serve, and something is served now.
    """
    if allow or snapshot.selection.winners or not (snapshot.record.deployment.names or _is_live(snapshot)):
        return
    names = len(snapshot.record.deployment.names)
    raise RefusedError(
        f"nothing is left to serve, and {names or 'some'} names are served now: not published",
        hint="`mailsni status --skipped` says why; --allow-empty takes the names away",
    )


def _is_live(snapshot: Snapshot) -> bool:
    """Whether a live file has more than comments: without a record only that shows a deployment."""
    lines = (line for target in snapshot.targets for line in (files.read_private(target.path) or b"").splitlines())
    return any(line.strip() and not line.startswith(b"#") for line in lines)


def _remember_set_aside(snapshot: Snapshot) -> None:
    """Record what is set aside, where nothing else changes."""
    record = snapshot.record
    if record.trusted and snapshot.set_aside != record.deployment.set_aside:
        State(snapshot.settings.state.directory).commit(replace(record.deployment, set_aside=snapshot.set_aside))


def _deploy(snapshot: Snapshot, options: Options, progress: Progress | None) -> ApplyResult:
    changed = {change.server for change in snapshot.plan.artifacts}
    targets = tuple(target for target in snapshot.targets if options.force or target.name in changed)
    state = State(snapshot.settings.state.directory)
    old = snapshot.record.deployment
    files.ensure_directory(snapshot.pins.path, 0o700)
    with ExitStack() as directories, rollback() as undo:
        if not snapshot.record.interrupted:
            # The last step back, once the live files are all old again. Before that the journal must stay, so that the
            # next run does not believe the files.
            undo.append(lambda _: state.clear_journal())
        undo.append(lambda _: directories.close())
        state.begin_journal(Deployment.of(snapshot.selection, snapshot.pins.path))
        scan_cache.save(state.readings, snapshot.inventory.cached, snapshot.now)
        cleanup.reinstate(snapshot)
        with cleanup.discarding_new_pins(snapshot):
            stages = stage(snapshot, targets, directories)
        left_out = [target.name for target in targets if target.name not in stages]
        targets = tuple(target for target in targets if target.name in stages)
        staged = [file for each in stages.values() for file in each.files]
        memories = {**old.memories, **{server: each.memory for server, each in stages.items()}}
        not_configured = _why_not_configured(targets, memories)
        probed = [target for target in targets if target.name not in not_configured]
        wire, wire_warnings = _wire_check(snapshot, options, probed, progress)
        reloads, confirmations = publish(staged, targets, wire, undo, reload=options.reload)
    published = {server: tuple(file.destination for file in each.files) for server, each in stages.items()}
    wire_warnings += tuple(_silence(snapshot, reloads, wire))
    warnings = (*snapshot.warnings, *_lonely_leaves(snapshot), *wire_warnings)
    warnings += tuple(
        f"{server}: nothing new is published there: its own configuration is broken" for server in left_out
    )
    warnings += tuple(_slowness(each, snapshot.settings.verify.timeout) for each in confirmations if each.unconfirmed)
    result = ApplyResult(snapshot, published, reloads, confirmations, tuple(not_configured.values()), warnings)
    paths = [file.destination for file in staged]
    try:
        # A server that is left out may run with other files than it has, after a run that was cut off.
        unsettled = bool(left_out or snapshot.left_out) and snapshot.record.interrupted
        state.commit(_deployed(snapshot, targets, paths, memories), keep_journal=unsettled)
        cleanup.clean_up(snapshot, reloads)
    except MailsniError as error:
        # It is live and proven. Without a commit the journal stays, and the next run does it all again.
        return replace(result, warnings=(*result.warnings, f"not everything could be put in order: {error.message}"))
    doubtful = (target for target in snapshot.targets if target.name not in stages or not stages[target.name].starts)
    return replace(result, cannot_start=startup_problems(doubtful))


def _silence(snapshot: Snapshot, reloads: Mapping[str, ReloadResult], wire: WireCheck) -> Iterator[str]:
    """That a container went down, or that it runs, and no port of its server answers on this host."""
    for server, result in reloads.items():
        if result is ReloadResult.CONTAINER_DOWN:
            yield f"{server}: its container went down after the publish: it reads the new files when it starts"
    reloaded = [server for server, result in reloads.items() if result is ReloadResult.RELOADED]
    silent = [server for server in reloaded if wire.endpoints.get(server) == () and server in get_args(Server)]
    for server, container in registry.containers(snapshot.settings).items():
        if server in silent and snapshot.settings.verify.after_apply:
            yield (
                f"{server}: no port of container {container} answers here, so nothing was probed: [verify] endpoints "
                "names the ports that are published"
            )


def _lonely_leaves(snapshot: Snapshot) -> Iterator[str]:
    """That new material lacks the issuer's certificate, where the leaf says that a client needs it."""
    lonely = [pair.certificate for pair in snapshot.plan.pins if pair.certificate.issuer_missing]
    if lonely:
        sources = summarize([certificate.source for certificate in lonely])
        yield (
            f"{sources}: published without the issuer's certificate: clients that do not have it reject the chain; "
            "the file with the chain is named fullchain.pem by certbot, and `mailsni doctor` says what to do"
        )


def _slowness(confirmation: Confirmation, timeout: float) -> str:
    """That a server does not answer in time, how long it was asked, and what that means."""
    names = confirmation.unconfirmed
    return (
        f"{confirmation.server}: {counted(len(names), 'name')} not confirmed ({summarize(names)}): no answer within "
        f"{timeout:g} s, asked again for {confirmation.patience:g} s; what was published stays, and `mailsni verify` "
        "asks anew"
    )


def _why_not_configured(targets: Iterable[Target], memories: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Why servers of this host do not read what is published, by their names."""
    installed = (target for target in targets if target.installed)
    reasons = ((target.name, target.not_configured_reason(memories.get(target.name, {}))) for target in installed)
    return {server: reason for server, reason in reasons if reason is not None}


def _wire_check(
    snapshot: Snapshot, options: Options, targets: Iterable[Target], progress: Progress | None
) -> tuple[WireCheck, tuple[str, ...]]:
    """The probes of these servers for the names that must be confirmed, and why some servers are not probed."""
    verify = snapshot.settings.verify
    names = _names_to_confirm(snapshot, options)
    probed = targets if options.verify and options.reload and names else ()
    listeners: dict[str, Listener] = {
        target.name: find_listener(target, verify, next(iter(names))) for target in probed
    }
    endpoints = {server: found.endpoints for server, found in listeners.items() if found.endpoints is not None}
    warnings = tuple(warning for found in listeners.values() for warning in found.warnings)
    winners = snapshot.selection.winners
    unchanged = [Expectation(winner.name) for winner in winners if winner.name not in names][:_OTHER_CLIENTS]
    unproven = (name for name, new in names.items() if any(one.ident in snapshot.record.unproven for one in new))
    check = WireCheck(
        endpoints,
        expectations(names),
        verify.timeout,
        deployed=len(winners),
        unchanged=tuple(unchanged) or (Expectation(None),),
        unproven=frozenset(unproven),
        preferred=_names_of_new(snapshot, names),
        progress=progress,
    )
    return check, warnings


def _names_of_new(snapshot: Snapshot, names: Mapping[str, Sequence[Certificate]]) -> tuple[tuple[str, ...], ...]:
    """Of the names, one for each kind of certificate that no server has had, and one for each of these certificates.

    OpenSSL judges the certificates of one kind alike: a server that refuses one of them refuses them all.
    """
    name_of = {certificate.ident: name for name, certificates in names.items() for certificate in certificates}
    new = [pair for pair in snapshot.plan.pins if pair.certificate.ident in name_of]
    kinds = {pair.kind: name_of[pair.certificate.ident] for pair in new}
    return tuple(kinds.values()), tuple(name_of[pair.certificate.ident] for pair in new)


def _names_to_confirm(snapshot: Snapshot, options: Options) -> dict[str, tuple[Certificate, ...]]:
    """The changed names; every name when the files are published for another reason than a change."""
    changed = {change.name: change.new for change in snapshot.plan.effective}
    if changed and snapshot.record.trusted and not options.force:
        return changed
    return changed | {winner.name: winner.certificates for winner in snapshot.selection.winners}


def _deployed(
    snapshot: Snapshot,
    targets: Iterable[Target],
    published: Iterable[Path],
    memories: Mapping[str, Mapping[str, str]],
) -> Deployment:
    """What is deployed once everything is published. What stays from earlier deployments stays in the record."""
    replaced = {str(path) for target in targets for path in target.artifacts if not path.is_file()}
    kept = {path: file for path, file in snapshot.record.deployment.files.items() if path not in replaced}
    found = {str(path): file_identity.published(path) for path in published}
    return Deployment.of(
        snapshot.selection,
        snapshot.pins.path,
        pins=snapshot.pins.identities(snapshot.selection.certificates),
        files=kept | {path: file for path, file in found.items() if file is not None},
        memories=memories,
        set_aside=snapshot.set_aside,
    )
