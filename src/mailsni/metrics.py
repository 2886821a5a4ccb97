"""Collects what monitoring wants to know, as far as this user can read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mailsni.config.settings import Settings
from mailsni.core.model import Progress
from mailsni.deploy import host_facts
from mailsni.deploy.host_facts import HostFacts
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.startup import startup_problems
from mailsni.errors import HostError, MailsniError, ServerConfigurationError
from mailsni.probes.endpoint import Server
from mailsni.runs import history as runs
from mailsni.runs.history import History
from mailsni.targets.base import Target
from mailsni.verify.audit import audit
from mailsni.verify.model import Audit


@dataclass(frozen=True, slots=True)
class MetricsInput:
    """What the metrics are made of. A part that could not be collected is None, and ``problem`` says why."""

    history: History
    snapshot: Snapshot | None = None
    audit: Audit | None = None
    problem: MailsniError | None = None
    wire: bool = False
    """Whether the servers were to be probed."""
    every_port: bool = False
    """Whether each name at each port is of interest."""
    starts: Mapping[Server, bool] = field(default_factory=dict)
    """Of each server of this host, whether it would start again with its configuration as it is."""


def collect(
    settings: Settings,
    now: datetime,
    *,
    wire: bool,
    every_port: bool = False,
    until: float = math.inf,
    progress: Progress | None = None,
) -> MetricsInput:
    """Read the stores, the servers' configurations and the state; with ``wire`` probe the servers. Never raises.

    At ``until``, in the time of ``time.monotonic``, all probes end.
    """
    host = host_facts.gather(settings, now, progress=progress)
    problem = next((_problem(failure.error) for failure in host.failures), None)
    result = None
    if wire and host.snapshot is not None:
        try:
            result = audit(host.snapshot, until=until, progress=progress)
        except (MailsniError, OSError) as error:
            problem = _problem(error)
    history = runs.load(settings.state.directory)
    return MetricsInput(history, host.snapshot, result, problem, wire, every_port, _starts(host))


def _problem(error: Exception) -> MailsniError:
    if isinstance(error, MailsniError):
        return error
    return HostError.of(error) if isinstance(error, OSError) else HostError(type(error).__name__)


def _starts(host: HostFacts) -> dict[Server, bool]:
    servers: Mapping[Server, Target | None] = {"postfix": host.postfix, "dovecot": host.dovecot}
    installed = {name: target for name, target in servers.items() if target is not None and target.installed}
    problems = {problem.server for problem in startup_problems(installed.values())}
    starts = {name: name not in problems for name in installed}
    for failure in host.failures:
        if isinstance(failure.error, ServerConfigurationError) and failure.part in ("postfix", "dovecot"):
            starts[failure.part] = False
    return starts
