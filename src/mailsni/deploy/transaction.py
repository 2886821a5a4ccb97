"""The transaction: stage, validate, publish, reload, ask the servers, commit or roll back.

Whatever ends the program, both servers can be restarted at every instant: each file they read is replaced by one
rename(2) with one that was proven before, and the pinned files that the old and the new ones name are all there until
the commit. A run that was cut off leaves its journal; the next one removes the debris and publishes again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.core.deployment import Deployment
from mailsni.core.model import Certificate, FileIdentity, Progress
from mailsni.core.text import summarize
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Answer, Confirmation
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, MailsniError, RefusedError, RollbackFailedError, RolledBackError
from mailsni.host import file_identity, files, lock, permissions
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation, expectations, sni_name
from mailsni.sources import scan_cache
from mailsni.targets import registry
from mailsni.targets.base import StagedFile, Target
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.reload import ReloadResult

_IDENT = re.compile(rb"/([0-9a-f]{64}-[0-9a-f]{16})\.pem\b")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    force: bool = False
    reload: bool = True
    verify: bool = True
    allow_empty: bool = False


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What was done."""

    snapshot: Snapshot
    published: tuple[Path, ...] = ()
    reloads: Mapping[str, ReloadResult] | None = None
    """What was done to each server that has new artifacts; None when nothing was to do at all."""
    confirmations: tuple[Confirmation, ...] = ()
    not_configured: tuple[str, ...] = ()
    """Why servers do not read what was published."""
    warnings: tuple[str, ...] = ()
    """What else a person should know that is no fault of a certificate."""

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The answers of running servers that are not as expected."""
        return tuple(answer for confirmation in self.confirmations for answer in confirmation.wrong)


def run(settings: Settings, options: Options, *, wait: float = 0.0, progress: Progress | None = None) -> ApplyResult:
    """The whole job: take the lock, look, and make what is deployed what it should be.

    Args:
        settings: what to do it with.
        options: what the command line asks for.
        wait: seconds to wait for another run to end.
        progress: told about what takes long.

    Raises:
        PermissionMissingError: this user may not do it; nothing was touched.
        LockedError: another run holds the lock.
        MailsniError: what :func:`mailsni.deploy.snapshot.take_snapshot` and :func:`apply` raise.
    """
    _require_permission(settings)
    with lock.locked(settings.state.lock, wait):
        return apply(take_snapshot(settings, datetime.now(UTC), progress=progress), options, progress=progress)


def _require_permission(settings: Settings) -> None:
    permissions.require_writable(writable_directories(settings))


def writable_directories(settings: Settings) -> tuple[Path, ...]:
    """The directories that a run writes into, those that it makes included."""
    return (settings.state.directory, settings.state.lock.parent, *registry.writable_directories(settings))


def apply(snapshot: Snapshot, options: Options, *, progress: Progress | None = None) -> ApplyResult:
    """Make what is deployed what it should be. The caller holds the lock.

    Raises:
        RefusedError: nothing is left to serve, and there was something before.
        HostError: it could not be done; what was live is live.
        RolledBackError: the servers did not serve what was published; what was live is live again.
        RollbackFailedError: and it could not be brought back.
    """
    if not snapshot.targets:
        raise HostError(
            registry.NO_SERVER,
            hint="[postfix] enabled = true in the configuration builds the map all the same",
        )
    if not snapshot.plan.pending and not options.force:
        return ApplyResult(snapshot, warnings=_cleared_up(snapshot))
    require_not_empty(snapshot, allow=options.allow_empty)
    return _Transaction(snapshot, options, progress).run()


def require_not_empty(snapshot: Snapshot, *, allow: bool) -> None:
    """Do not take all names away because a store is empty: it may only not be mounted.

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


def _is_live(seen: Snapshot) -> bool:
    """Whether a live file says more than comments: without a record that is how a deployment is known."""
    lines = (line for target in seen.targets for line in (files.read_private(target.path) or b"").splitlines())
    return any(line.strip() and not line.startswith(b"#") for line in lines)


def _cleared_up(seen: Snapshot) -> tuple[str, ...]:
    """Remove what a run left that was cut off after its commit. Says what could not be removed."""
    try:
        _clear_up(seen)
    except MailsniError as error:
        return (f"not everything could be cleared up: {error.message}",)
    return ()


def _clear_up(seen: Snapshot) -> None:
    """Remove staging directories, and the keys of what is not served any more.

    Raises:
        HostError: something cannot be removed.
        RefusedError: something lies at the name of a staging directory that no run made.
    """
    for place in dict.fromkeys((seen.pins.path, *(target.path.parent for target in seen.targets))):
        files.clear_staging(place)
    served = {one.ident for one in seen.selection.certificates}
    for directory in dict.fromkeys((str(seen.pins.path), seen.record.deployment.pin_directory)):
        pins = PinDirectory(Path(directory))
        if directory and pins.list_unused(served):
            pins.remove_unused(served | _mentioned(seen.settings))


def _mentioned(settings: Settings) -> set[str]:
    """What the live files name: also those of a server that is switched off in the configuration now."""
    live = (files.read_private(path) or b"" for path in registry.texts(settings))
    return {match.decode() for text in live for match in _IDENT.findall(text)}


_Listening = Mapping[str, tuple[Endpoint, ...]]
"""Where each server to ask answers."""


class _Transaction:
    def __init__(self, snapshot: Snapshot, options: Options, progress: Progress | None) -> None:
        self._seen = snapshot
        self._progress = progress
        self._options = options
        self._settings = snapshot.settings
        self._state = State(self._settings.state.directory)
        self._old = snapshot.record.deployment
        self._warnings: list[str] = []
        self._not_configured: list[str] = []
        changed = {change.server for change in snapshot.plan.artifacts}
        self._targets = [target for target in snapshot.targets if options.force or target.name in changed]
        self._new = Deployment.of(snapshot.selection, snapshot.pins.path, self._old.memories)
        self._torn = False
        """Whether the live files may be neither all old nor all new."""

    def run(self) -> ApplyResult:
        files.ensure_directory(self._seen.pins.path, 0o700)
        added = [one for one in self._seen.plan.pins if not self._seen.pins.path_of(one).exists()]
        try:
            self._state.begin_journal(self._new)
            scan_cache.save(self._state.readings, self._seen.inventory.cached, self._seen.now)
            with ExitStack() as stack:
                staged = self._stage(stack)
                applied = self._publish(staged, self._listening())
        except BaseException:
            # Else the journal stays: the next run must not believe the files, and they may name any of the keys.
            if not self._torn and not self._seen.record.interrupted:
                self._take_back_pins(added)
                self._state.clear_journal()
            raise
        try:
            # Before the commit: afterwards nothing would tell that a map of another type was one of ours.
            self._remove_maps_of_other_types(applied.published)
            self._commit(applied.published)
            _clear_up(self._seen)
        except MailsniError as error:
            # It is live and proven. Without a commit the journal stays, and the next run does it all again.
            return replace(
                applied, warnings=(*applied.warnings, f"not everything could be put in order: {error.message}")
            )
        return applied

    # ── before any server can see anything ───────────────────────────────────────────────────────────────────────

    def _stage(self, stack: ExitStack) -> list[StagedFile]:
        seen = self._seen
        opened: dict[Path, Path] = {}

        def staging(directory: Path) -> Path:
            if directory not in opened:
                opened[directory] = stack.enter_context(files.staging(directory))
            return opened[directory]

        seen.pins.publish(seen.plan.pins, staging(seen.pins.path))
        staged: list[StagedFile] = []
        for target in self._targets:
            directory = target.path.parent
            if not directory.is_dir():
                raise HostError(f"{directory}: no such directory: {target.path.name} cannot be written there")
            stage = target.stage(staging(directory), seen.texts[target.name], seen.selection, seen.pins)
            staged += stage.files
            self._new = replace(self._new, memories={**self._new.memories, target.name: stage.memory})
        files.fsync_all([one for part in staged for one in (part.path, part.previous) if one is not None])
        return staged

    def _listening(self) -> dict[str, tuple[Endpoint, ...]]:
        """Where to ask each server that reads what is published here: nowhere means that it does not run."""
        found = ((target.name, self._endpoints(target)) for target in self._targets)
        return {name: endpoints for name, endpoints in found if endpoints is not None}

    def _endpoints(self, target: Target) -> tuple[Endpoint, ...] | None:
        """Where a server answers; None when it is not to be asked."""
        if not target.installed:
            return None
        if (reason := target.not_configured_reason(self._new.memories.get(target.name, {}))) is not None:
            self._not_configured.append(reason)
            return None
        wanted = self._options.verify and self._settings.verify.after_apply and self._options.reload
        names = list(self._names_to_ask())
        if not wanted or target.reload_action == "none" or not names:
            return None
        given = self._settings.verify.endpoints
        try:
            said = target.endpoints() if given == "auto" else tuple(one for one in given if one.server == target.name)
        except HostError as error:
            self._warnings.append(f"{target.name}: where it listens could not be found out: {error.message}")
            return None
        if not said:
            self._warnings.append(f"{target.name}: no service with TLS was found, so nothing was asked")
            return None
        good, odd = confirm.responsive_endpoints(said, sni_name(names[0]), timeout=self._settings.verify.timeout)
        self._warnings += [f"{one.endpoint}: not asked: {one.detail}" for one in odd]
        return tuple(good) if good or not odd else None

    # ── from the first rename on ─────────────────────────────────────────────────────────────────────────────────

    def _publish(self, staged: Sequence[StagedFile], listening: _Listening) -> ApplyResult:
        expected = expectations(self._names_to_ask())
        before = self._probe(listening, expected, patience=0.0)
        self._torn = True
        published: list[StagedFile] = []
        try:
            for part in staged:
                published.append(part)
                try:
                    files.publish(part.path, part.destination)
                except HostError:
                    published.pop()
                    raise
            files.fsync_all(sorted({part.destination.parent for part in staged}))
            reloads = self._signal()
            after = self._probe(listening, expected, patience=self._patience)
            self._judge(before, after)
        except BaseException as error:
            self._roll_back(published, listening, before, error)
            self._torn = False
            raise
        return ApplyResult(
            self._seen,
            tuple(part.destination for part in staged),
            reloads,
            after,
            tuple(self._not_configured),
            tuple(self._warnings),
        )

    def _signal(self) -> dict[str, ReloadResult]:
        reload = self._options.reload
        return {target.name: target.reload() if reload else ReloadResult.LEFT_ALONE for target in self._targets}

    def _probe(
        self, listening: _Listening, expected: Sequence[Expectation], *, patience: float
    ) -> tuple[Confirmation, ...]:
        timeout = self._settings.verify.timeout
        return tuple(
            confirm.probe_server(
                server, endpoints, expected, timeout=timeout, patience=patience, progress=self._progress
            )
            for server, endpoints in listening.items()
        )

    @property
    def _patience(self) -> float:
        """Seconds until the servers must have taken what was published."""
        return self._settings.verify.timeout + confirm.PATIENCE_PER_NAME * len(self._new.names)

    def _names_to_ask(self) -> dict[str, tuple[Certificate, ...]]:
        """The changed names; every name when the files are published for another reason than a change."""
        changed = {change.name: change.new for change in self._seen.plan.effective}
        if changed and self._seen.record.trusted and not self._options.force:
            return changed
        return changed | {winner.name: winner.certificates for winner in self._seen.selection.winners}

    def _judge(self, before: Sequence[Confirmation], after: Sequence[Confirmation]) -> None:
        for old, new in zip(before, after, strict=True):
            cut_off = confirm.newly_cut_off(old, new)
            if cut_off:
                raise RolledBackError(
                    f"{new.server}: {_names_of(cut_off)}: answered before, and cut off with what was published: "
                    f"{cut_off[0].result.detail}",
                    hint="the previous deployment is live again",
                )
        for confirmation in confirm.all_wrong(after):
            names = _names_of(confirmation.wrong_certificates)
            raise RolledBackError(
                f"{confirmation.server}: {names}: not served with the certificate that was published, and neither "
                "is any other name that changed",
                hint="the previous deployment is live again; is another configuration in front of this one?",
            )

    def _roll_back(
        self,
        published: Sequence[StagedFile],
        listening: _Listening,
        before: Sequence[Confirmation],
        cause: BaseException,
    ) -> None:
        try:
            for part in reversed(published):
                if part.previous is None:
                    files.remove(part.destination)
                else:
                    files.publish(part.previous, part.destination)
            files.fsync_all(sorted({part.destination.parent for part in published}))
            if not isinstance(cause, RolledBackError):
                # The servers have not been asked: they may not even know what was published.
                with suppress(HostError):
                    self._signal()
            else:
                self._signal()
                # Whatever the certificate: only that there is an answer again.
                anything = [replace(one, fingerprint=None) for one in expectations(self._names_to_ask())]
                again = self._probe(listening, anything, patience=self._patience)
                lost = [one for old, new in zip(before, again, strict=True) for one in confirm.newly_cut_off(old, new)]
                if lost:
                    raise HostError(f"{_names_of(lost)}: still cut off")
        except (MailsniError, OSError) as error:
            raise RollbackFailedError(
                f"the way back failed too: {error}; what led to it: {cause}",
                hint="look at the servers now: `mailsni apply --force` publishes everything again",
            ) from cause

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────

    def _commit(self, published: Sequence[Path]) -> None:
        pins = self._seen.pins.identities(self._seen.selection.certificates)
        self._state.commit(replace(self._new, files=self._recorded_files(published), pins=pins))

    def _recorded_files(self, published: Sequence[Path]) -> dict[str, FileIdentity]:
        replaced = {path for target in self._targets for path in target.artifacts}
        kept = {path: identity for path, identity in self._old.files.items() if Path(path) not in replaced}
        found = {str(path): file_identity.of_file(path) for path in published}
        return kept | {path: identity for path, identity in found.items() if identity is not None}

    def _take_back_pins(self, added: Iterable[Certificate]) -> None:
        """After a failure: no key stays that nothing refers to."""
        referred_to = set(self._old.certificates)
        if not self._seen.record.trusted:
            referred_to |= _mentioned(self._settings)
        for one in added:
            if one.ident not in referred_to:
                files.remove(self._seen.pins.path_of(one))

    def _remove_maps_of_other_types(self, published: Sequence[Path]) -> None:
        """Maps of a type that the running configuration does not name any more."""
        for target in self._targets:
            stale = [path for path in target.artifacts if str(path) in self._old.files and path not in published]
            if stale and target.is_configured:
                for path in stale:
                    files.remove(path)


def _names_of(answers: Iterable[Answer]) -> str:
    return summarize(list(dict.fromkeys(answer.expectation.name for answer in answers)))
