"""Whether what is deployed is right, and will be tomorrow: the looks of ``mailsni check``, and what they add up to.

Nothing is written, and without ``--wire`` no server is asked. A look that cannot be taken does not stop the others:
what this user may not see is said, and what is broken is a finding.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mailsni.config.settings import Settings
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.core.model import Progress
from mailsni.core.names import RefusedNameError
from mailsni.core.plan import Kind
from mailsni.core.text import printable_name, summarize_names
from mailsni.core.x509 import parse_leaf
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.errors import Exit, MailsniError, PermissionMissingError
from mailsni.host import file_identity, files, lock, permissions
from mailsni.runs import history as runs
from mailsni.targets.dovecot import live_include
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix import map_read, map_types, postconf
from mailsni.targets.postfix import target as postfix
from mailsni.targets.postfix.entries import MapEntry
from mailsni.targets.postfix.map_read import Difference, Discrepancy
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.target import Postfix
from mailsni.targets.registry import NO_SERVER
from mailsni.targets.rendering import postfix_key

if TYPE_CHECKING:
    from mailsni.verify.model import Assessment, Audit

WARNING_DAYS, CRITICAL_DAYS = 14.0, 7.0
"""Before the end of a certificate: by then its renewal has failed for weeks."""
WARNING_SHARE, CRITICAL_SHARE = 1 / 4, 1 / 8
"""Of a certificate's lifetime, where that is less: certbot renews when a third, or a half, of it is left."""
PATIENCE = 5.0
"""Seconds to wait for the end of a run that goes on at this moment."""
_PAUSE = 0.25
_LONGEST_RUN = timedelta(minutes=15)
_DAY = timedelta(days=1)
_HOOKS = ("certbot-post", "certbot-deploy", "acme.sh", "lego", "caddy", "dehydrated")
"""What the hooks that come with this program call themselves."""

_Seen = TypeVar("_Seen")


class Level(enum.IntEnum):
    """How bad it is: the exit codes of a monitoring plugin (Monitoring Plugins Development Guidelines)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def weight(self) -> int:
        """For the worst of several: what cannot be seen is less bad than what is seen to be wrong."""
        return (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know. Its texts are printable, and hold no content of a key."""

    level: Level
    code: str
    """Its kind, for programs: ``map_stale``. Added to, never renamed."""
    text: str
    """A sentence without a full stop that names what it is about."""
    names: tuple[str, ...] = ()
    """All names concerned."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When what a name is served expires first, whichever server serves it, and when that is told."""

    name: str
    not_after: datetime
    warning: float
    """Days before."""
    critical: float

    def level(self, now: datetime) -> Level:
        """Of the time that is left."""
        left = (self.not_after - now) / _DAY
        if left <= self.critical:
            return Level.CRITICAL
        return Level.WARNING if left <= self.warning else Level.OK


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many days before the end of a certificate that is told; None: as its lifetime says."""

    warning: float | None = None
    critical: float | None = None

    def expiry(self, name: str, not_before: datetime | None, not_after: datetime) -> Expiry:
        """When it is told that a certificate expires.

        Args:
            name: that is served with it.
            not_before: start of its validity, where that is known.
            not_after: end of its validity.
        """
        lifetime = (not_after - not_before) / _DAY if not_before is not None else float("inf")
        critical = min(CRITICAL_DAYS, lifetime * CRITICAL_SHARE) if self.critical is None else self.critical
        warning = min(WARNING_DAYS, lifetime * WARNING_SHARE) if self.warning is None else self.warning
        if self.critical is None:
            critical = min(critical, warning)
        return Expiry(name, not_after, max(warning, critical), critical)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the looks add up to."""

    now: datetime
    findings: tuple[Finding, ...]
    """The worst first."""
    expiries: tuple[Expiry, ...] = ()
    """Of each name that is deployed, the next first."""
    names: int = 0
    """How many are deployed."""
    pending: int | None = None
    """How many wait for the next run; None when that could not be seen."""
    unseen: tuple[str, ...] = ()
    """What this user may not see."""
    on_the_wire: int | None = None
    """How many answers of servers were looked at; None without ``--wire``."""

    @property
    def level(self) -> Level:
        """The worst of all."""
        return max((finding.level for finding in self.findings), key=lambda level: level.weight, default=Level.OK)

    def count(self, level: Level) -> int:
        """How many findings there are of a level."""
        return sum(finding.level is level for finding in self.findings)


def unknown(now: datetime, why: str) -> Checked:
    """For a check that could not be made at all."""
    return Checked(now, (Finding(Level.UNKNOWN, "not_checked", why),))


def check(
    settings: Settings,
    thresholds: Thresholds,
    now: datetime,
    *,
    wire: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Take all looks. A run that goes on meanwhile is waited for, a few seconds long, and they are taken again.

    Args:
        settings: where to look.
        thresholds: when it is told that a certificate expires.
        now: the moment at which certificates must be valid, with a time zone.
        wire: ask the running servers, too.
        progress: told about what takes long.
    """
    state = State(settings.state.directory)
    deadline = time.monotonic() + PATIENCE
    while True:
        before = _trace(state)
        found = _Look(settings, thresholds, now, progress).take()
        moving = before != _trace(state) or _is_running(state, settings)
        if found.level is Level.OK or not moving or time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    return _Wire(found, settings, now, progress).take() if wire else found


def _trace(state: State) -> object:
    try:
        return state.change_token()
    except OSError:
        return None


def _is_running(state: State, settings: Settings) -> bool:
    """Whether a run is publishing: it has written its journal, and holds the lock."""
    try:
        journal = state.change_token()[1]
    except OSError:
        return False
    return journal is not None and lock.is_locked(settings.state.lock)


def expired(expiries: Iterable[Expiry], now: datetime) -> list[Finding]:
    """What there is to say of names whose certificates expire, in three findings at most."""
    groups: dict[tuple[Level, str, str], list[Expiry]] = defaultdict(list)
    for one in sorted(expiries, key=lambda one: (one.not_after, one.name)):
        if one.not_after <= now:
            groups[Level.CRITICAL, "expired", "expired"].append(one)
        elif (level := one.level(now)) is not Level.OK:
            groups[level, "expires", "expires"].append(one)
    found = []
    for (level, code, word), several in groups.items():
        first = several[0]
        days = abs(first.not_after - now) / _DAY
        when = f"{days:.1f} days ago" if word == "expired" else f"in {days:.1f} days"
        names = tuple(one.name for one in several)
        rest = ", the first of them" if len({one.not_after for one in several}) > 1 else ""
        text = (
            f"{summarize_names(names)}: the deployed certificate {word}{rest} {when} "
            f"({first.not_after:%Y-%m-%d %H:%M} UTC)"
        )
        found.append(Finding(level, code, text, names))
    return found


def of_run(last: runs.Run | None) -> Finding | None:
    """What there is to say of the last run: that it failed."""
    if last is None or last.good:
        return None
    level = Level.CRITICAL if last.exit_code in (Exit.ROLLED_BACK, Exit.ROLLBACK_FAILED) else Level.WARNING
    hook = last.trigger in _HOOKS
    who = f"the hook {last.trigger} failed" if hook else f"the last run failed, started by {last.trigger}"
    if last.exit_code == Exit.CONFIGURATION:
        who += " with a wrong configuration"
    when = f"{last.ended_at:%Y-%m-%d %H:%M} UTC"
    return Finding(
        level, "hook_failed" if hook else "run_failed", f"{who}, on {when}: {last.summary} (exit code {last.exit_code})"
    )


def of_inspection(found: Audit, deployed: Deployment) -> list[Finding]:
    """What there is to say of what the running servers show: one finding for each server and kind of trouble.

    Args:
        found: held against what the stores have.
        deployed: what servers may show until the next run; that it waits is said by another look.
    """
    from mailsni.probes.expectation import Problem
    from mailsni.verify.model import Client

    groups: dict[tuple[Level, str, Problem], list[Assessment]] = defaultdict(list)
    for one in found.assessments:
        for concern in one.problems:
            # Whoever sends no name, or one that nobody has, cannot expect more of the default certificate.
            if concern is Problem.UNTRUSTED and (one.case.client is not Client.NAMED or _is_of_ones_own_authority(one)):
                continue
            current = {known.fingerprint for known in deployed.certificates_for(one.case.name or "")}
            if concern is Problem.WRONG_CERTIFICATE and one.result.fingerprint in current:
                continue
            level = Level.WARNING if concern is Problem.UNTRUSTED else Level.CRITICAL
            groups[level, one.case.endpoint.server, concern].append(one)
    result = [Finding(Level.UNKNOWN, "wire_not_asked", f"on the wire: {note}") for note in found.notes]
    for (level, server, trouble), answers in groups.items():
        where = summarize_names(sorted({str(one.case.endpoint) for one in answers}))
        names = tuple(dict.fromkeys(one.case.name or "(no name)" for one in answers))
        about = where if trouble is Problem.NOT_LISTENING else f"{summarize_names(names)} at {where}"
        why = f" ({answers[0].detail})" if answers[0].detail else ""
        text = f"{server} on the wire: {about}: {trouble.replace('_', ' ')}{why}"
        result.append(Finding(level, f"wire_{trouble}", text, names))
    return result


def _is_of_ones_own_authority(one: Assessment) -> bool:
    """Whether a certificate comes from an authority of a company, which this system need not know.

    Those of public authorities say where their issuer's certificate can be fetched (Baseline Requirements, 7.1.2.7.7).
    """
    leaf = parse_leaf(one.result.chain[0]) if one.result.chain else None
    return leaf is not None and not leaf.self_signed and not leaf.has_issuer_address


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -finding.level.weight))


class _Look:
    """All looks but that on the wire, one after the other."""

    def __init__(
        self, settings: Settings, thresholds: Thresholds, now: datetime, progress: Progress | None = None
    ) -> None:
        self._settings = settings
        self._thresholds = thresholds
        self._now = now
        self._progress = progress
        self._state = State(settings.state.directory)
        self._findings: list[Finding] = []
        self._unseen: list[str] = []
        self._expiries: dict[str, Expiry] = {}
        self._owner = self._whose()
        self._running = _is_running(self._state, settings)
        self._record: DeploymentRecord | None = None
        self._snapshot: Snapshot | None = None
        self._names: Mapping[str, tuple[str, ...]] | None = None
        """What is to be live: the idents of each name's certificates; None when that cannot be known."""
        self._damaged = False
        """Whether the artifacts of a server are not as they were published: then that they are to be is no news."""
        self._dovecot_reads_pins = False

    def take(self) -> Checked:
        servers = self._servers()
        pinned = self._settings.dovecot.certificates == "pinned"
        self._dovecot_reads_pins = pinned and any(isinstance(server, Dovecot) for server in servers)
        self._snapshot = self._look("the certificate stores", self._observed)
        if self._snapshot is not None:
            self._record = self._snapshot.record
        else:
            self._record = self._look("the record of what is deployed", self._state.load)
        self._names = self._expected()
        if self._nothing_deployed():
            self._say(Level.CRITICAL, "not_deployed", "nothing is deployed yet: `mailsni setup` does it")
        for server in servers:
            if isinstance(server, Postfix):
                self._look("the map", partial(self._map, server))
            else:
                self._look("the include", partial(self._include, server))
        self._look("the pinned files", self._pins)
        self._say_expiries()
        self._look("the records", self._records)
        self._look("the last run", self._runs)
        pending = self._plan()
        if self._unseen and not self._findings and not self._expiries and not self._names:
            text = "nothing of what is deployed can be seen by this user"
            self._say(Level.UNKNOWN, "nothing_seen", text)
        return Checked(
            self._now,
            _ordered(self._findings),
            tuple(sorted(self._expiries.values(), key=lambda one: (one.not_after, one.name))),
            0 if self._nothing_deployed() else len(self._names if self._names is not None else self._expiries),
            pending,
            tuple(dict.fromkeys(self._unseen)),
        )

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, what: str, look: Callable[[], _Seen]) -> _Seen | None:
        """Take a look; what keeps this user from it is remembered, and what else is in the way is a finding."""
        try:
            return look()
        except PermissionMissingError:
            self._unseen.append(what)
        except MailsniError as problem:
            self._say(Level.UNKNOWN, "look_failed", f"{what}: {problem.message}")
        except OSError as error:
            self._say(Level.UNKNOWN, "look_failed", f"{what}: {error.filename or ''}: {error.strerror or error}")
        return None

    def _say(self, level: Level, code: str, text: str, names: Sequence[str] = ()) -> None:
        finding = Finding(level, code, text, tuple(names))
        if finding not in self._findings[-1:]:
            self._findings.append(finding)

    def _whose(self) -> int:
        """Who must own the files: root, or the user whose state directory it is."""
        try:
            return os.geteuid() and self._settings.state.directory.stat().st_uid
        except OSError:
            return 0

    def _servers(self) -> list[Postfix | Dovecot]:
        found: list[Postfix | Dovecot] = []
        looks: tuple[tuple[str, Callable[[], Postfix | Dovecot | None]], ...] = (
            ("Postfix", self._find_postfix),
            ("Dovecot", lambda: dovecot.find(self._settings.dovecot)),
        )
        failed = False
        for name, look in looks:
            before = (len(self._findings), len(self._unseen))
            server = self._look(name, look)
            failed = failed or (len(self._findings), len(self._unseen)) != before
            if server is not None:
                found.append(server)
                if not server.installed:
                    self._say(Level.UNKNOWN, "server_not_found", f"{name} is not installed here")
        if not found and not failed:
            text = NO_SERVER
            self._say(Level.UNKNOWN, "server_not_found", text)
        return found

    def _find_postfix(self) -> Postfix | None:
        main = self._settings.postfix.config_directory / "main.cf"
        if main.exists() and not os.access(main, os.R_OK):
            raise PermissionMissingError(str(main))
        return postfix.find(self._settings.postfix)

    def _observed(self) -> Snapshot:
        return take_snapshot(self._settings, self._now, progress=self._progress)

    def _expected(self) -> Mapping[str, tuple[str, ...]] | None:
        if self._record is None:
            return None
        if self._record.deployment.names or self._snapshot is None:
            return self._record.deployment.names
        if self._record.trusted:
            return {}
        winners = self._snapshot.selection.winners
        return {winner.name: tuple(one.ident for one in winner.certificates) for winner in winners}

    def _nothing_deployed(self) -> bool:
        if self._record is None or self._record.deployment.names or self._record.trusted or self._record.interrupted:
            return False
        places = (self._settings.postfix.map, self._settings.dovecot.include_file)
        return not any(os.path.lexists(path) for path in places)

    @property
    def _deployment(self) -> Deployment:
        return self._record.deployment if self._record is not None else Deployment()

    @property
    def _in_doubt(self) -> bool:
        """Whether the files may be those before a run or those after it."""
        return self._running or (self._record is not None and self._record.interrupted)

    # ── Postfix ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _map(self, server: Postfix) -> None:
        source, directory = server.path, server.settings.config_directory
        self._loose(source, *map_types.map_files(source))
        self._loose_directory(source.parent)
        tables = postconf.sni_tables(directory) if server.installed else ()
        named = [table.map for table in tables if table.map is not None]
        for table in named:
            if table.source != source and _absent(table.file) and not table.other_files:
                self._map_missing(table)
        ours = next((table for table in named if table.source == source), None)
        if ours is None:
            if self._nothing_deployed():
                return
            memory = self._deployment.memories.get(server.name, {})
            kind = server.recorded_map_type(memory) or server.map_types[0]
            ours = PostfixMap(kind, source)
            if server.installed and not server.is_configured:
                self._say(Level.CRITICAL, "not_wired", server.not_configured_reason(memory) or "postfix: not wired")
        file = self._map_file(server, ours)
        if file is None:
            self._damaged = True
            return
        if not os.access(file, os.R_OK):
            self._unseen.append("the entries of the map")
            return
        if not file.is_file():
            self._damaged = True
            text = f"postfix: {file} is no regular file: clients that send a name are cut off"
            self._say(Level.CRITICAL, "map_unreadable", text)
            return
        if not self._nothing_deployed() and file_identity.of_file(source) is None:
            self._damaged = True
            self._say(Level.CRITICAL, "source_missing", f"postfix: {source} is gone, or is no regular file")
        says = map_read.type_of(file)
        wrong = says is not None and file == ours.file and says != ours.map_type
        # A texthash is opened by what lists it, and slowly while it is new (it waits for the clock's next second).
        asked = server.installed and not wrong and ours.map_type != "texthash"
        complaint = map_read.open_error(ours, directory) if asked else None
        if wrong:
            text = f"postfix: {file} is of type {says}, and main.cf says {ours}: clients that send a name are cut off"
            self._say(Level.CRITICAL, "map_wrong_type", text)
            self._damaged = True
        elif complaint is not None:
            text = f"postfix: {ours} cannot be opened, so clients that send a name are cut off: {complaint}"
            self._say(Level.CRITICAL, "map_unreadable", text)
            self._damaged = True
        elif self._names is not None:
            self._entries(ours, file, directory)

    def _map_file(self, server: Postfix, table: PostfixMap) -> Path | None:
        """What a server opens for our table."""
        if not _absent(table.file):
            return table.file
        directory = server.settings.config_directory
        redirected = server.installed and postconf.redirects_berkeley_db(
            postconf.parameters(directory, "non_bdb_migration_level")
        )
        if (file := table.existing_file(redirected=redirected)) is not None:
            return file
        if server.is_configured or not self._nothing_deployed():
            self._map_missing(table)
        return None

    def _map_missing(self, table: PostfixMap) -> None:
        others = table.other_files
        there = f" (there is {others[0].name}, of another type)" if others else ""
        text = f"postfix: {table} is named, and there is no {table.file}{there}: clients that send a name are cut off"
        self._say(Level.CRITICAL, "map_missing", text)

    def _entries(self, table: PostfixMap, file: Path, directory: Path) -> None:
        found: dict[Difference, list[str]] = defaultdict(list)
        try:
            for one in map_read.discrepancies(table, file, self._intended(table), directory):
                if not self._excused(one):
                    name = f"*{one.key}" if one.key.startswith(".") else one.key
                    found[one.difference].append(name)
                    self._served_by(name, one.leaf)
        except MailsniError as problem:
            self._damaged = True
            self._say(Level.CRITICAL, "map_unreadable", f"postfix: {problem.message}")
        lacking = len(found.get(Difference.MISSING, ())) + len(found.get(Difference.UNUSABLE, ()))
        usable = lacking < len(self._names or ())
        for difference in found:
            several = sorted(found[difference])
            self._damaged = True
            self._say(Level.CRITICAL, *_of_map(difference, file, several, usable=usable), several)

    def _intended(self, table: PostfixMap) -> Iterator[MapEntry]:
        """What the map should hold. Which files that came from matters only where the map itself names them."""
        pins = Path(self._deployment.pin_directory or self._pin_directory())
        for name, idents in (self._names or {}).items():
            try:
                key = postfix_key(name)
            except RefusedNameError:
                continue  # in a record that somebody damaged
            paths = (pins / f"{ident}.pem" for ident in idents if table.map_type == "texthash")
            yield MapEntry(key, tuple(paths), tuple(ident.partition("-")[2] for ident in idents))

    def _excused(self, found: Discrepancy) -> bool:
        """Whether an entry is one of the two that it may be while a run publishes, or after it was cut off."""
        if not self._in_doubt:
            return False
        known = {ident.partition("-")[2] for ident in self._deployment.certificates}
        whole = found.difference is Difference.OTHER and (
            not found.digests or any(digest[:16] in known for digest in found.digests)
        )
        return whole or found.difference in (Difference.MISSING, Difference.ADDITIONAL)

    # ── Dovecot ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _include(self, server: Dovecot) -> None:
        path = server.path
        self._loose(path, mode=files.PUBLIC)
        self._loose_directory(path.parent)
        if self._nothing_deployed():
            return
        main = server.settings.config_file
        if server.installed and not os.access(main, os.R_OK):
            self._unseen.append(f"whether {main} includes it")
        elif server.installed and (unwired := server.not_configured_reason({})) is not None:
            if self._record is None:  # one of the files between them may be one that this user may not read
                self._unseen.append(f"whether {main} includes it")
            else:
                self._say(Level.CRITICAL, "not_wired", unwired)
        content = files.read_private(path)
        if content is None:
            if not _absent(path) or os.access(path.parent, os.X_OK):
                self._damaged = True
                text = f"dovecot: {path} is gone, or is no regular file: clients get the default certificate"
                self._say(Level.CRITICAL, "include_missing", text)
            return
        text = content.decode("utf-8", "replace")
        blocks = live_include.blocks_of(text)
        for block in blocks:
            for name in block.names:
                known = {ident.partition("-")[0] for ident in (self._names or {}).get(name, ())}
                for one in block.certificates:
                    if one.fingerprint not in known:
                        self._expires(name, None, one.not_after)
        if self._record is not None and not self._in_doubt:
            self._edits(path, content, text, blocks)
        named = dict.fromkeys(one for block in blocks for one in block.paths)
        pins = str(self._deployment.pin_directory or self._pin_directory())
        dead = [str(one) for one in named if str(one.parent) != pins and _absent(one)]
        if dead:
            what = (
                f"dovecot: {path} names files that are not there, so Dovecot does not start again: "
                f"{summarize_names(dead)}"
            )
            self._say(Level.CRITICAL, "include_dead_path", what)

    def _edits(self, path: Path, content: bytes, text: str, blocks: Sequence[live_include.LiveBlock]) -> None:
        """Whether somebody else wrote the include. That it is to be another one is no edit."""
        if file_identity.of_file(path) == self._deployment.files.get(str(path)):
            return
        if self._snapshot is not None and content == self._snapshot.texts.get("dovecot"):
            return
        self._damaged = True
        served = {name: block.paths for block in blocks for name in block.names}
        words = set(re.split(r'[\s"{}]+', text))
        lost = [name for name in self._names or () if name not in served and name not in words]
        pinned = self._settings.dovecot.certificates == "pinned"
        other = [
            name
            for name, idents in (self._names or {}).items()
            if pinned and served.get(name) and not any(one.stem in idents for one in served[name])
        ]
        changed = f"dovecot: {path} was edited, or replaced: it is not as it was published"
        if lost:
            text = f"{changed}, and has no block for {summarize_names(lost)}"
            self._say(Level.CRITICAL, "include_lacks_names", text, lost)
        if other:
            text = f"{changed}, and names other files for {summarize_names(other)}"
            self._say(Level.CRITICAL, "include_names_others", text, other)
        if not lost and not other:
            self._say(Level.WARNING, "include_edited", changed)

    # ── the pinned files, and who may read and write ─────────────────────────────────────────────────────────────────

    def _pin_directory(self) -> Path:
        if self._snapshot is not None:
            return self._snapshot.pins.path
        return self._settings.dovecot.pin_directory

    def _pins(self) -> None:
        directory = Path(self._deployment.pin_directory or self._pin_directory())
        self._loose_directory(directory)
        why = permissions.excess_permissions(directory, 0o700, self._owner) if directory.is_dir() else None
        if why is not None and permissions.excess_permissions(directory, 0o755, self._owner) is None:
            self._say(Level.WARNING, "loose_directory", f"{why}: others may list it")
        if self._record is None or (directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK)):
            raise PermissionMissingError(str(directory))
        using: dict[str, list[str]] = defaultdict(list)
        for name, idents in (self._names or {}).items():
            for ident in idents:
                using[ident].append(name)
        missing: list[str] = []
        changed: list[str] = []
        if self._deployment.names:
            for ident, names in using.items():
                path = directory / f"{ident}.pem"
                identity = file_identity.of_file(path)
                if identity is None:
                    missing += names
                    continue
                self._loose(path)
                if identity != self._deployment.pins.get(ident):
                    content = files.read_private(path) or b""
                    if not hashlib.sha256(content).hexdigest().startswith(ident.partition("-")[2]):
                        changed += names
        if missing:
            harm = ": Dovecot does not start again" if self._dovecot_reads_pins else ""
            text = f"the pinned file of {summarize_names(missing)} is gone from {directory}{harm}"
            self._say(Level.CRITICAL, "pin_missing", text, missing)
        if changed:
            text = f"the pinned file of {summarize_names(changed)} in {directory} was changed"
            self._say(Level.CRITICAL, "pin_changed", text, changed)
        self._damaged = self._damaged or bool(missing or changed)

    def _loose(self, *paths: Path, mode: int = files.PRIVATE) -> None:
        for path in paths:
            why = permissions.excess_permissions(path, mode, self._owner)
            if why is not None:
                self._damaged = True
                harm = "others may read its keys" if mode == files.PRIVATE else "others may change it"
                self._say(Level.CRITICAL, "loose_file", f"{why}: {harm}")

    def _loose_directory(self, directory: Path) -> None:
        why = permissions.excess_permissions(directory, 0o755, self._owner)
        if why is not None:
            self._say(Level.CRITICAL, "loose_directory", f"{why}: others may replace what lies in it")

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _served_by(self, name: str, leaf: bytes | None) -> None:
        found = parse_leaf(leaf) if leaf is not None else None
        if found is not None:
            self._expires(name, found.not_before, found.not_after)

    def _expires(self, name: str, not_before: datetime | None, not_after: datetime) -> None:
        known = self._expiries.get(name)
        if known is None or not_after < known.not_after:
            self._expiries[name] = self._thresholds.expiry(name, not_before, not_after)

    def _say_expiries(self) -> None:
        for name in self._names or ():
            for one in self._deployment.certificates_for(name):
                self._expires(name, one.not_before, one.not_after)
        self._findings += expired(self._expiries.values(), self._now)

    # ── what was done, and what waits ────────────────────────────────────────────────────────────────────────────────

    def _records(self) -> None:
        for why in self._state.problems():
            self._say(Level.WARNING, "record_damaged", f"{why}: the next run publishes everything again")
        if self._record is None:
            return
        if self._record.interrupted:
            self._interrupted()
        elif not self._record.trusted and not self._nothing_deployed() and not self._said("record_damaged"):
            text = "there is no record of what was published: the next run publishes it again"
            self._say(Level.WARNING, "no_record", text)
        elif self._record.trusted and not self._record.deployment.names:
            self._say(Level.WARNING, "no_names", "no name is served: the last run took all of them away")

    def _interrupted(self) -> None:
        journal = self._state.change_token()[1]
        since = self._now - timedelta(
            seconds=max(0.0, self._now.timestamp() - (journal.mtime_ns if journal else 0) / 1e9)
        )
        if not self._running:
            text = f"a run was cut off while it published, on {since:%Y-%m-%d %H:%M} UTC: the next one mends it"
            self._say(Level.WARNING, "run_interrupted", text)
        elif self._now - since > _LONGEST_RUN:
            self._say(Level.WARNING, "run_hangs", f"a run has been going on since {since:%Y-%m-%d %H:%M} UTC")

    def _runs(self) -> None:
        directory = self._settings.state.directory
        if (why := runs.complaint(directory)) is not None:
            self._say(Level.WARNING, "record_damaged", f"{why}: how the last run ended is not known")
        history = runs.load(directory)
        if (finding := of_run(history.last)) is not None:
            self._findings.append(finding)
        gone: dict[str, list[str]] = defaultdict(list)
        for name, one in history.removed.items():
            recent = timedelta() <= self._now - one.when < runs.REMOVAL_RETENTION
            if recent and name not in (self._names or ()) and self._settings.names.match(name):
                gone[f"{one.why}, and was removed on {one.when:%Y-%m-%d}"].append(name)
        for why, names in gone.items():
            text = f"{summarize_names(names)}: not served any more: {printable_name(why)}"
            self._say(Level.WARNING, "name_removed", text, names)

    def _plan(self) -> int | None:
        """What waits for the next run, and what cannot be served: how many names wait."""
        seen = self._snapshot
        if seen is None:
            return None
        waiting: dict[tuple[Kind, str], list[str]] = defaultdict(list)
        for change in seen.plan.effective:
            waiting[change.kind, change.why].append(change.name)
        known = seen.record.trusted and not self._running
        for (kind, why), names in waiting.items() if known else ():
            if kind is Kind.REMOVE:
                self._say(Level.WARNING, "leaving", f"{summarize_names(names)}: {why}: the next run removes it", names)
            else:
                self._say(
                    Level.WARNING, "not_deployed_yet", f"{summarize_names(names)}: {why}, but not deployed yet", names
                )
        for one in seen.selection.problems:
            about = f" ({summarize_names(one.names)})" if one.names else ""
            self._say(Level.WARNING, one.reason, f"{one.source}: {one.reason}: {one.detail}{about}", one.names)
        if known and not waiting and not self._damaged:
            for artifact in seen.plan.artifacts:
                text = f"{artifact.server}: {artifact.path} waits to be written again: {artifact.why}"
                self._say(Level.WARNING, "pending", text)
            if seen.plan.pins and not seen.plan.artifacts:
                self._say(Level.WARNING, "pending", f"{len(seen.plan.pins)} pinned files wait to be written again")
        return len(seen.plan.effective) if known else None

    def _said(self, code: str) -> bool:
        return any(finding.code == code for finding in self._findings)


def _absent(path: Path) -> bool:
    """Whether nothing is there; no, where this user cannot tell."""
    return not os.path.lexists(path) and os.access(path.parent, os.X_OK)


def _of_map(difference: Difference, file: Path, names: Collection[str], *, usable: bool) -> tuple[str, str]:
    """The code and the text for entries of a map; whether it has any that holds a key and a chain."""
    several = summarize_names(list(names))
    match difference:
        case Difference.UNUSABLE if not usable:
            return "map_without_keys", (
                f"postfix: {file} was compiled without `postmap -F`: the handshakes of {several} are aborted"
            )
        case Difference.UNUSABLE:
            text = f"postfix: {file} holds no key and chain for {several}: their handshakes are aborted"
            return "map_entry_unusable", text
        case Difference.OTHER:
            return "map_stale", f"postfix: {file} holds another certificate than the deployed one for {several}"
        case Difference.MISSING:
            return "map_lacks_names", f"postfix: {file} lacks {several}: they get the default certificate"
        case Difference.ADDITIONAL:
            return "map_has_others", f"postfix: {file} has entries that nobody deployed: {several}"


@dataclass(frozen=True, slots=True)
class _Wire:
    """The look on the wire, after the others."""

    offline: Checked
    settings: Settings
    now: datetime
    progress: Progress | None = field(default=None)

    def take(self) -> Checked:
        """The same with what the running servers show."""
        from mailsni.verify.audit import audit
        from mailsni.verify.request import VerifyRequest

        try:
            seen = take_snapshot(self.settings, self.now, progress=self.progress)
            deployed = seen.record.deployment
            found = audit(seen, VerifyRequest(tuple(deployed.names)), progress=self.progress)
        except MailsniError as problem:
            text = f"the servers were not asked: {problem.message}"
            return self._with([Finding(Level.UNKNOWN, "wire_not_asked", text)], None)
        return self._with(of_inspection(found, deployed), len(found.assessments))

    def _with(self, findings: Sequence[Finding], answers: int | None) -> Checked:
        one = self.offline
        return Checked(
            one.now,
            _ordered((*findings, *one.findings)),
            one.expiries,
            one.names,
            one.pending,
            one.unseen,
            answers,
        )
