"""The transaction: stage, validate, publish, reload, ask the servers, commit or roll back.

Whatever ends the program, both servers can be restarted at every instant: each file they read is replaced by one
rename(2) with one that was proven before, and the pinned files that the old and the new ones name are all there until
the commit. A run that was cut off leaves its journal; the next one removes the debris and publishes again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mailsni import files, services, wire
from mailsni.config import Settings
from mailsni.endpoints import Endpoint, dovecot_endpoints, postfix_endpoints
from mailsni.errors import HostError, MailsniError, RefusedError, RollbackFailedError, RolledBackError
from mailsni.inventory import Certificate
from mailsni.observation import Observation, observe
from mailsni.pins import PinDirectory
from mailsni.rendering import postfix_key
from mailsni.services import Signalled
from mailsni.sources.certbot import Progress
from mailsni.state import Deployment, State
from mailsni.targets import Staged
from mailsni.targets import dovecot as dovecot_target
from mailsni.targets import postfix as postfix_target
from mailsni.targets.postfix import SUFFIXES, MapEntry
from mailsni.wire import Answer, Survey, Verdict

_IDENT = re.compile(rb"/([0-9a-f]{64}-[0-9a-f]{16})\.pem\b")
_NAMES_IN_A_MESSAGE = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    force: bool = False
    reload: bool = True
    verify: bool = True
    allow_empty: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done."""

    observation: Observation
    published: tuple[Path, ...] = ()
    signalled: Mapping[str, Signalled] | None = None
    """What was done to each server that has new artifacts; None when nothing was to do at all."""
    surveys: tuple[Survey, ...] = ()
    notes: tuple[str, ...] = ()
    """Things a person should know that are no fault of a certificate."""

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """The answers of running servers that are not what was meant."""
        return tuple(
            answer
            for survey in self.surveys
            if not survey.silent
            for answer in survey.of(Verdict.WRONG, Verdict.CUT_OFF, Verdict.SILENT)
        )


def run(
    settings: Settings, options: Options, *, wait: float = 0.0, progress: Progress | None = None
) -> Applied:
    """The whole job: take the lock, look, and make what is deployed what it should be.

    Args:
        settings: what to do it with.
        options: what the command line asks for.
        wait: seconds to wait for another run to end.
        progress: told about every lineage that is read.

    Raises:
        PermissionMissingError: this user may not do it; nothing was touched.
        LockedError: another run holds the lock.
        MailsniError: what :func:`mailsni.observation.observe` and :func:`apply` raise.
    """
    _require_permission(settings)
    with files.locked(settings.state.lock, wait):
        return apply(observe(settings, datetime.now(UTC), progress=progress), options)


def _require_permission(settings: Settings) -> None:
    places = [settings.state.directory, settings.state.lock.parent]
    if postfix_target.is_wanted(settings.postfix):
        places.append(settings.postfix.map.parent)
    if dovecot_target.is_wanted(settings.dovecot):
        places += [settings.dovecot.include_file.parent, settings.dovecot.pin_directory]
    files.require_writable(places)


def apply(observation: Observation, options: Options) -> Applied:
    """Make what is deployed what it should be. The caller holds the lock.

    Raises:
        RefusedError: nothing is left to serve, and there was something before.
        HostError: it could not be done; what was live is live.
        RolledBackError: the servers did not serve what was published; what was live is live again.
        RollbackFailedError: and it could not be brought back.
    """
    if not observation.plan.pending and not options.force:
        return Applied(observation)
    refuse_emptiness(observation, allow=options.allow_empty)
    return _Transaction(observation, options).run()


def refuse_emptiness(observation: Observation, *, allow: bool) -> None:
    """Do not take all names away because a store is empty: it may only not be mounted.

    Raises:
        RefusedError: nothing is left to serve, and something is served now.
    """
    deployed = len(observation.record.deployment.names)
    if observation.selection.winners or not deployed or allow:
        return
    raise RefusedError(
        f"nothing is left to serve, and {deployed} names are served now: not published",
        hint="`mailsni status --skipped` says why; --allow-empty takes the names away",
    )


@dataclass(frozen=True, slots=True)
class _Server:
    """A server with new artifacts: how to make it read them, and where it can be asked."""

    name: str
    signal: Callable[[], Signalled]
    endpoints: tuple[Endpoint, ...]


class _Transaction:
    def __init__(self, observation: Observation, options: Options) -> None:
        self._seen = observation
        self._options = options
        self._settings = observation.settings
        self._state = State(self._settings.state.directory)
        self._old = observation.record.deployment
        self._new = Deployment.of(observation.selection, observation.pins.path)
        self._notes: list[str] = []
        self._changed = (
            tuple(observation.texts)
            if options.force
            else tuple(dict.fromkeys(change.server for change in observation.plan.artifacts))
        )

    def run(self) -> Applied:
        files.ensure_directory(self._seen.pins.path, 0o700)
        self._state.begin(self._new)
        added = [one for one in self._seen.plan.pins if not self._seen.pins.of(one).exists()]
        try:
            with ExitStack() as stack:
                staged = self._stage(stack)
                servers = self._servers()
                applied = self._publish(staged, servers)
        except RollbackFailedError:
            raise  # the journal stays: the next run must not believe the files
        except BaseException:
            self._take_back_pins(added)
            self._state.end()
            raise
        self._clean_up(applied.published)
        return applied

    # ── before any server can see anything ───────────────────────────────────────────────────────────────────────

    def _stage(self, stack: ExitStack) -> list[Staged]:
        seen = self._seen
        opened: dict[Path, Path] = {}

        def staging(directory: Path) -> Path:
            if directory not in opened:
                opened[directory] = stack.enter_context(files.staging(directory))
            return opened[directory]

        seen.pins.publish(seen.plan.pins, staging(seen.pins.path))
        staged: list[Staged] = []
        if seen.postfix is not None and "postfix" in self._changed:
            directory = _existing(seen.postfix.source.parent, "[postfix] map")
            text, entries = seen.texts["postfix"], self._map_entries()
            compiled, parts = postfix_target.staged_map(seen.postfix, staging(directory), text, entries)
            staged += parts
            self._new = replace(self._new, map_type=compiled.map_type)
        else:
            self._new = replace(self._new, map_type=self._old.map_type)
        if seen.dovecot is not None and "dovecot" in self._changed:
            include = seen.dovecot.settings.include_file
            directory = _existing(include.parent, "[dovecot] include_file")
            part = dovecot_target.staged_include(staging(directory), seen.texts["dovecot"], include)
            dovecot_target.validate(seen.dovecot, part.path)
            staged.append(part)
        files.make_durable([one for part in staged for one in (part.path, part.previous) if one is not None])
        return staged

    def _map_entries(self) -> list[MapEntry]:
        return [
            MapEntry(postfix_key(winner.name), tuple(one.material for one in winner.certificates))
            for winner in self._seen.selection.winners
        ]

    def _servers(self) -> list[_Server]:
        """The servers to signal, and where to ask those that read what is published here."""
        servers = []
        postfix, dovecot = self._seen.postfix, self._seen.dovecot
        if postfix is not None and "postfix" in self._changed:
            wired = postfix.wired or self._unwired(
                f"postfix: tls_server_sni_maps does not name {postfix.source}: nothing is served from it yet "
                f"(postconf -e tls_server_sni_maps={self._new.map_type}:{postfix.source})"
            )
            endpoints = self._endpoints("postfix", lambda: postfix_endpoints(postfix.settings.config_directory))
            signal = services.signal_postfix
            servers.append(
                _Server("postfix", lambda: signal(postfix.settings), endpoints if wired else ())
            )
        if dovecot is not None and "dovecot" in self._changed:
            wired = not dovecot.installed or dovecot_target.is_wired(dovecot) or self._unwired(
                f"dovecot: {dovecot.settings.config_file} does not include {dovecot.settings.include_file}: nothing "
                f"is served from it yet (add the line `!include_try {dovecot.settings.include_file}`)"
            )
            endpoints = self._endpoints("dovecot", lambda: dovecot_endpoints(dovecot.settings.config_file))
            servers.append(
                _Server("dovecot", lambda: services.signal_dovecot(dovecot.settings), endpoints if wired else ())
            )
        return servers

    def _unwired(self, note: str) -> bool:
        self._notes.append(note)
        return False

    def _endpoints(self, server: str, find: Callable[[], tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
        wanted = self._options.verify and self._settings.verify.after_apply and self._options.reload
        installed = {"postfix": self._seen.postfix, "dovecot": self._seen.dovecot}[server]
        action = {"postfix": self._settings.postfix.action, "dovecot": self._settings.dovecot.action}[server]
        if not wanted or action == "none" or installed is None or not installed.installed:
            return ()
        configured = self._settings.verify.endpoints
        if configured != "auto":
            return tuple(one for one in configured if one.server == server)
        try:
            return find()
        except HostError as error:
            self._notes.append(f"{server}: where it listens could not be found out: {error.message}")
            return ()

    # ── from the first rename on ─────────────────────────────────────────────────────────────────────────────────

    def _publish(self, staged: Sequence[Staged], servers: Sequence[_Server]) -> Applied:
        before = self._ask(servers, patience=0.0)
        try:
            for part in staged:
                files.publish(part.path, part.destination)
            files.make_durable(sorted({part.destination.parent for part in staged}))
            signalled = self._signal(servers)
            after = self._ask(servers, patience=self._settings.verify.timeout)
            self._judge(before, after)
            published = tuple(part.destination for part in staged)
            self._state.commit(replace(self._new, files=self._recorded_files(published)))
        except BaseException as error:
            self._roll_back(staged, servers, before, error)
            raise
        return Applied(self._seen, published, signalled, after, tuple(self._notes))

    def _signal(self, servers: Iterable[_Server]) -> dict[str, Signalled]:
        if not self._options.reload:
            return {server.name: Signalled.LEFT_ALONE for server in servers}
        return {server.name: server.signal() for server in servers}

    def _ask(self, servers: Iterable[_Server], *, patience: float) -> tuple[Survey, ...]:
        expected = wire.expectations(self._names_to_ask())
        return tuple(
            wire.ask(
                server.name,
                server.endpoints,
                expected,
                timeout=self._settings.verify.timeout,
                patience=patience,
            )
            for server in servers
            if server.endpoints and expected
        )

    def _names_to_ask(self) -> dict[str, tuple[Certificate, ...]]:
        """The changed names; every name when the files are published for another reason than a change."""
        changed = {change.name: change.new for change in self._seen.plan.effective}
        if changed and self._seen.record.trusted and not self._options.force:
            return changed
        return changed | {winner.name: winner.certificates for winner in self._seen.selection.winners}

    def _judge(self, before: Sequence[Survey], after: Sequence[Survey]) -> None:
        for old, new in zip(before, after, strict=True):
            cut_off = wire.newly_cut_off(old, new)
            if cut_off:
                raise RolledBackError(
                    f"{new.server}: {_listed(cut_off)}: answered before, and cut off with what was published: "
                    f"{cut_off[0].served.detail}",
                    hint="the previous deployment is live again",
                )
        for survey in wire.all_wrong(after):
            answers = survey.of(Verdict.WRONG)
            raise RolledBackError(
                f"{survey.server}: {_listed(answers)}: not served with the certificate that was published, and neither "
                "is any other name that changed",
                hint="the previous deployment is live again; is another configuration in front of this one?",
            )

    def _roll_back(
        self, staged: Sequence[Staged], servers: Sequence[_Server], before: Sequence[Survey], cause: BaseException
    ) -> None:
        try:
            for part in reversed(staged):
                if part.previous is None:
                    files.remove(part.destination)
                else:
                    files.publish(part.previous, part.destination)
            files.make_durable(sorted({part.destination.parent for part in staged}))
            self._signal(servers)
            if isinstance(cause, RolledBackError):
                again = self._ask_as_before(servers, before)
                lost = [one for old, new in zip(before, again, strict=True) for one in wire.newly_cut_off(old, new)]
                if lost:
                    raise HostError(f"{_listed(lost)}: still cut off")
        except MailsniError as error:
            raise RollbackFailedError(
                f"the way back failed too: {error}; what led to it: {cause}",
                hint="look at the servers now: `mailsni apply --force` publishes everything again",
            ) from cause

    def _ask_as_before(self, servers: Sequence[_Server], before: Sequence[Survey]) -> list[Survey]:
        """The questions of before, whatever the certificate: only an answer is asked for."""
        anything = tuple(replace(one, fingerprint=None) for one in wire.expectations(self._names_to_ask()))
        asked = {survey.server for survey in before}
        timeout = self._settings.verify.timeout
        return [
            wire.ask(server.name, server.endpoints, anything, timeout=timeout, patience=timeout)
            for server in servers
            if server.name in asked
        ]

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────

    def _recorded_files(self, published: Sequence[Path]) -> dict[str, files.Identity]:
        kept = {
            path: identity
            for path, identity in self._old.files.items()
            if not ("postfix" in self._changed and Path(path) in self._map_family())
        }
        found = {str(path): files.Identity.of(path) for path in published}
        return kept | {path: identity for path, identity in found.items() if identity is not None}

    def _map_family(self) -> tuple[Path, ...]:
        source = self._settings.postfix.map
        return (source, *(source.with_name(source.name + suffix) for suffix in SUFFIXES))

    def _take_back_pins(self, added: Iterable[Certificate]) -> None:
        """After a failure: no key stays that nothing refers to. Without a record nobody knows what does."""
        if not self._seen.record.trusted:
            return
        for one in added:
            if one.ident not in self._old.certificates:
                files.remove(self._seen.pins.of(one))

    def _clean_up(self, published: Sequence[Path]) -> None:
        """After the commit: remove the keys of what is not served any more."""
        referred_to = {*self._new.certificates, *self._mentioned()}
        for directory in dict.fromkeys((str(self._seen.pins.path), self._old.pin_directory)):
            if directory:
                PinDirectory(Path(directory)).collect(referred_to)
        postfix = self._seen.postfix
        if postfix is not None and postfix.wired and "postfix" in self._changed:
            for path in self._map_family():
                if str(path) in self._old.files and path not in published:
                    files.remove(path)

    def _mentioned(self) -> set[str]:
        """What the live files name: also those of a server that is switched off in the configuration now."""
        live = (self._settings.dovecot.include_file, self._settings.postfix.map)
        return {match.decode() for path in live for match in _IDENT.findall(files.read_own(path) or b"")}


def _existing(directory: Path, key: str) -> Path:
    if not directory.is_dir():
        raise HostError(f"{directory}: no such directory", hint=f"{key} in the configuration names a file in it")
    return directory


def _listed(answers: Sequence[Answer]) -> str:
    names = list(dict.fromkeys(answer.expectation.name for answer in answers))
    more = f" and {len(names) - _NAMES_IN_A_MESSAGE} more" if len(names) > _NAMES_IN_A_MESSAGE else ""
    return ", ".join(names[:_NAMES_IN_A_MESSAGE]) + more
