"""Gathers what the checks start from, as far as this user can read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsni.check.model import CANNOT_START_CODES, Code, Finding, Level, Result, Thresholds, Unreadable
from mailsni.config.settings import Settings
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.core.model import FileIdentity, Progress
from mailsni.core.plan import Plan
from mailsni.deploy import host_facts
from mailsni.deploy.host_facts import HostFacts, Part
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, MailsniError, PermissionMissingError, ServerConfigurationError
from mailsni.host import lock
from mailsni.targets import registry

_PARTS: Mapping[Part, str] = {"postfix": "Postfix", "dovecot": "Dovecot", "snapshot": "the certificate stores"}


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the checks start from. A part that could not be read is None, and ``problems`` says why."""

    host: HostFacts
    thresholds: Thresholds
    record: DeploymentRecord | None
    running: bool
    """Whether a run is publishing now."""
    problems: tuple[Result, ...]

    @property
    def state(self) -> State:
        """The state directory."""
        return State(self.host.settings.state.directory)

    @property
    def owner(self) -> int:
        """The user who must own the files: root, or the owner of the state directory."""
        try:
            return os.geteuid() and self.host.settings.state.directory.stat().st_uid
        except OSError:
            return 0

    @property
    def deployment(self) -> Deployment:
        """What the record says; empty when it could not be read."""
        return self.record.deployment if self.record is not None else Deployment()

    @property
    def names(self) -> Mapping[str, tuple[str, ...]] | None:
        """The idents of each name's certificates that should be live; None when nobody can tell."""
        if self.record is None:
            return None
        if self.record.deployment.names or self.host.snapshot is None or self.record.trusted:
            return self.record.deployment.names
        winners = self.host.snapshot.selection.winners
        return {winner.name: tuple(certificate.ident for certificate in winner.certificates) for winner in winners}

    @property
    def nothing_deployed(self) -> bool:
        """Whether nothing was ever deployed: no record, and no file of either server."""
        record = self.record
        if record is None or record.deployment.names or record.trusted or record.interrupted:
            return False
        return not any(os.path.lexists(path) for path in registry.texts(self.host.settings))

    @property
    def plan(self) -> Plan | None:
        """The plan, where a record says what is deployed and no run is changing it."""
        snapshot = self.host.snapshot
        return snapshot.plan if snapshot is not None and snapshot.record.trusted and not self.running else None

    @property
    def publish_in_progress(self) -> bool:
        """Whether the files may be those before a run or those after it."""
        return self.running or (self.record is not None and self.record.interrupted)

    @property
    def pin_directory(self) -> Path:
        """Where the pinned files of the deployment lie, or would."""
        if self.deployment.pin_directory:
            return Path(self.deployment.pin_directory)
        snapshot = self.host.snapshot
        return snapshot.pins.path if snapshot is not None else self.host.settings.dovecot.pin_directory


def gather(settings: Settings, thresholds: Thresholds, now: datetime, progress: Progress | None = None) -> CheckContext:
    """Read both servers' configurations, the stores and the record; certificates must be valid at ``now``."""
    running = is_publishing(settings)
    host = host_facts.gather(settings, now, progress=progress)
    problems = [
        cannot_start(each.part, each.error.message)
        if isinstance(each.error, ServerConfigurationError)
        else failure(_PARTS[each.part], each.error)
        for each in host.failures
    ]
    for target in (host.postfix, host.dovecot):
        if target is not None and not target.installed:
            text = f"{target.name.capitalize()} is not installed here"
            problems.append(Finding(Level.UNKNOWN, Code.SERVER_NOT_FOUND, text))
    if not host.has_server:
        problems.append(Finding(Level.UNKNOWN, Code.SERVER_NOT_FOUND, registry.NO_SERVER))
    record = host.snapshot.record if host.snapshot is not None else None
    if record is None:
        try:
            record = State(settings.state.directory).load()
        except (MailsniError, OSError) as error:
            problems.append(failure("the record of what is deployed", error))
    return CheckContext(host, thresholds, record, running, tuple(problems))


def cannot_start(server: str, why: str) -> Finding:
    """The finding that a server would not start again."""
    return Finding(Level.CRITICAL, CANNOT_START_CODES[server], f"{server}: would not start again: {why}")


def failure(part: str, error: Exception) -> Result:
    """The result for a part that could not be read: this user may not, or something is in the way."""
    if isinstance(error, PermissionMissingError):
        return Unreadable(part)
    problem = HostError.of(error) if isinstance(error, OSError) else error
    why = problem.message if isinstance(problem, MailsniError) else type(problem).__name__
    return Finding(Level.UNKNOWN, Code.CHECK_FAILED, f"{part}: {why}")


def records(settings: Settings) -> tuple[FileIdentity | None, FileIdentity | None]:
    """The identities of the record and of the journal, as far as this user can see them."""
    try:
        return State(settings.state.directory).change_token()
    except OSError:
        return None, None


def is_publishing(settings: Settings) -> bool:
    """Whether a run is publishing: it has written its journal, and holds the lock."""
    return records(settings)[1] is not None and lock.is_locked(settings.state.lock)
