"""``mailsni watch``: stay running, and apply when certificates change.

One thread does everything. It waits for the next moment of the :mod:`mailsni.watch.schedule`, for a request
(:mod:`mailsni.watch.requests`), or for the run that it has started. Each apply is a child process: keys leave the
memory with it, an error in it stops nothing here, and it is the same program that hooks and people run.

The configuration is read here and handed to the child. A file that is wrong or half written takes effect only when it
can be read and SIGHUP asks for it.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsni.config import parser, settings
from mailsni.config.settings import WatchSettings
from mailsni.core import log
from mailsni.core.log import Level
from mailsni.errors import Exit, HostError, MailsniError
from mailsni.sources.base import Source, WatchPath
from mailsni.watch.apply_process import ApplyProcess
from mailsni.watch.child import start
from mailsni.watch.events import StoreEvents
from mailsni.watch.log import Journal
from mailsni.watch.requests import EventCount, Requests
from mailsni.watch.schedule import Schedule
from mailsni.watch.sd_notify import Notifier

WAIT_FOR_OTHERS = 300
"""Seconds that an apply waits for another run to end."""
GRACE = 80.0
"""Seconds that a running apply has when the watch is to end: systemd gives 90 for all of it."""
_LONGEST_WAIT = 3600.0
_GOOD = (Exit.DONE, Exit.SKIPPED)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that could be read."""

    content: bytes
    """What the file held: a run reads the same."""
    sources: tuple[Source, ...]
    timing: WatchSettings

    @property
    def watch_paths(self) -> list[WatchPath]:
        """Of all stores."""
        return [path for source in self.sources for path in source.watch_paths()]

    @property
    def locations(self) -> str:
        """Where the stores are, for people."""
        return ", ".join(source.location for source in self.sources)

    def change_token(self) -> bytes:
        """Of all stores together."""
        return b"".join(source.change_token() for source in self.sources)


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """Where the configuration is read from; ``required`` when somebody named it."""

    path: Path
    required: bool

    def read(self) -> Configuration:
        """What it says.

        Raises:
            ConfigurationError: it is wrong.
            PermissionMissingError: this user may not read it.
        """
        content = parser.read(self.path, required=self.required)
        found = parser.parse_file(content, self.path)
        return Configuration(content, tuple(source.open() for source in found.sources), found.watch)


class Watch:
    """The loop.

    Args:
        file: the configuration.
        command: one apply, as a command; it reads the configuration from its standard input.
        journal: where messages go.
        notifier: the service manager.
        events: makes the watches: :class:`StoreEvents`, or in tests something less reliable.
        clock: seconds that never go back.

    Attributes:
        requests: what is asked of it, from any thread or signal handler.

    Raises:
        ConfigurationError: the configuration is wrong to begin with.
        PermissionMissingError: this user may not read it.
    """

    def __init__(
        self,
        file: ConfigurationFile,
        command: Sequence[str],
        *,
        journal: Journal,
        notifier: Notifier,
        events: Callable[[Callable[[bool], None], Callable[[str], None]], StoreEvents] = StoreEvents,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._command = command
        self._journal = journal
        self._notifier = notifier
        self._clock = clock
        self._configuration = file.read()
        self.requests = Requests()
        self._store_events = events(self.requests.count_event, self._warn_without_events)
        self._events_seen = EventCount()
        self._schedule = Schedule(self._configuration.timing, due=clock())
        self._process: ApplyProcess | None = None
        self._reported: frozenset[str] = frozenset()
        self._last_result = "none yet"
        self._keepalive_at = clock()
        self._stopping = False

    def run(self) -> None:
        """Until it is told to stop."""
        self._store_events.arm(self._configuration.watch_paths, self._clock())
        self._journal.say(Level.INFO, f"watching {self._configuration.locations}")
        self._notifier.ready(self._status())
        try:
            while not self._stopping or self._process is not None:
                self._wait(self._clock())
                self._step(self._clock())
        finally:
            self._store_events.disarm()
            if self._process is not None:
                self._process.close()
            self.requests.close()
        self._journal.say(Level.INFO, "stopped")

    def _wait(self, now: float) -> None:
        poller = select.poll()
        poller.register(self.requests.reader, select.POLLIN)
        moments = [now + _LONGEST_WAIT if self._stopping else self._schedule.scan_at]
        if self._notifier.interval is not None:
            moments.append(self._keepalive_at)
        if self._process is not None:
            moments.append(self._process.register(poller, now))
        seconds = min(max(0.0, min(moments) - now), _LONGEST_WAIT)
        poller.poll(int(seconds * 1000) + 1 if seconds else 0)
        self.requests.drain()

    def _step(self, now: float) -> None:
        if self._notifier.interval is not None and now >= self._keepalive_at:
            self._notifier.alive()
            self._keepalive_at = now + self._notifier.interval
        if self.requests.stops:
            self._stop(now)
        if self._process is not None:
            self._poll(self._process, now)
        if self._stopping:
            return
        if self.requests.take_reload():
            self._reload(now)
        self._take_events(now)
        if now >= self._schedule.scan_at:
            self._scan(now)
            if now >= self._schedule.apply_at:
                self._apply(now)

    def _take_events(self, now: float) -> None:
        events = self.requests.events
        if events != self._events_seen:
            certain = events.certain != self._events_seen.certain
            self._schedule = self._schedule.event_seen(now, certain=certain)
            self._events_seen = events

    def _scan(self, now: float) -> None:
        # The watches come first: what changes after the token was taken makes an event.
        self._store_events.arm(self._configuration.watch_paths, now)
        before = self._schedule
        self._schedule = before.scanned(now, self._configuration.change_token())
        announced = self.requests.events != self._events_seen
        if before.resting and before.token != self._schedule.token and not announced:
            self._journal.say(Level.DEBUG, "a scan found a change that no file event announced")
            self._store_events.arm(self._configuration.watch_paths, now, anew=True)

    def _warn_without_events(self, why: str) -> None:
        seconds = self._configuration.timing.scan
        self._journal.say(Level.WARNING, f"no file events: {why}: the stores are scanned every {seconds:g} seconds")

    def _status(self) -> str:
        activity = "applying" if self._schedule.running else f"watching {self._configuration.locations}"
        return f"{activity}; last apply: {self._last_result}"

    def _apply(self, now: float) -> None:
        self._schedule = self._schedule.apply_started(now)
        variables = {"MAILSNI_STARTED_BY": "watch", settings.FROM_STDIN: "1", log.LEVELS_WANTED: "1"}
        try:
            child = start(self._command, stdin=self._configuration.content, also=variables)
        except HostError as error:
            self._journal.say(Level.ERROR, error.message)
            self._apply_ended(now, Exit.FAILED)
        else:
            self._process = ApplyProcess(child, self._journal, self._reported, now)
        self._notifier.status(self._status())

    def _poll(self, process: ApplyProcess, now: float) -> None:
        code = process.poll(now)
        if code is not None:
            self._process = None
            self._reported = process.warnings
            self._apply_ended(now, code)
            self._notifier.status(self._status())

    def _apply_ended(self, now: float, code: int) -> None:
        good = code in _GOOD
        self._schedule = self._schedule.apply_ended(now, good=good)
        self._last_result = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}, {_outcome(code)}"
        if not good and not self._stopping:
            retry = f"next try in {self._schedule.due - now:.0f} seconds, or when something changes"
            self._journal.say(Level.WARNING, f"apply: {_outcome(code)}: {retry}")

    def _stop(self, now: float) -> None:
        if self.requests.stops > 1 and self._process is not None:
            self._process.finish_by(now)
        if self._stopping:
            return
        self._stopping = True
        self._notifier.stopping("stopping" if self._process is None else "waiting for the running apply")
        if self._process is not None:
            self._process.finish_by(now + GRACE)
            self._journal.say(Level.INFO, f"stopping: the running apply has {GRACE:g} seconds to end")

    def _reload(self, now: float) -> None:
        self._notifier.reloading()
        try:
            self._configuration = self._file.read()
        except MailsniError as error:
            self._journal.say(Level.ERROR, f"configuration refused, keeping the old one: {error.message}")
            if error.hint:
                self._journal.say(Level.NOTICE, error.hint)
        else:
            self._schedule = self._schedule.apply_requested(now, self._configuration.timing)
            self._store_events.arm(self._configuration.watch_paths, now, anew=True)
            self._journal.say(Level.INFO, f"configuration reloaded, watching {self._configuration.locations}")
        self._notifier.ready(self._status())


def command(config_file: Path | None, *, verbose: bool) -> list[str]:
    """One apply, as a command.

    Args:
        config_file: an absolute path; None when nobody named one.
        verbose: have it report also that there was nothing to do.
    """
    words = [sys.executable, "-m", "mailsni"]
    words += [] if config_file is None else ["--config", str(config_file)]
    words += ["--verbose"] if verbose else []
    return [*words, "apply", "--quiet", "--wait", str(WAIT_FOR_OTHERS)]


def _outcome(code: int) -> str:
    if code in _GOOD:
        return "done" if code == Exit.DONE else "done, with problems"
    return f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
