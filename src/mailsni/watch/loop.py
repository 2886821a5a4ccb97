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

from mailsni.config import parser
from mailsni.config.settings import WatchSettings
from mailsni.core.log import Level
from mailsni.errors import Exit, HostError, MailsniError
from mailsni.sources.base import Source, WatchPath
from mailsni.watch.apply_process import ApplyProcess
from mailsni.watch.events import OnEvent, StoreEvents
from mailsni.watch.log import Journal
from mailsni.watch.requests import Request, Requests
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
    """What a configuration file says."""

    content: bytes
    """What the file held: a run reads the same."""
    sources: tuple[Source, ...]
    timing: WatchSettings

    @classmethod
    def read(cls, path: Path, *, required: bool) -> Configuration:
        """Read the file, which may be absent unless it is ``required``, because somebody named it.

        Raises:
            ConfigurationError: it is wrong.
            PermissionMissingError: this user may not read it.
        """
        content = parser.read(path, required=required)
        settings = parser.parse_file(content, path)
        return cls(content, tuple(source.open() for source in settings.sources), settings.watch)

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


class Watch:
    """The loop.

    Args:
        read: reads the configuration.
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
        read: Callable[[], Configuration],
        command: Sequence[str],
        *,
        journal: Journal,
        notifier: Notifier,
        events: Callable[[OnEvent, Callable[[str], None]], StoreEvents] = StoreEvents,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._command = command
        self._journal = journal
        self._notifier = notifier
        self._clock = clock
        self._configuration = read()
        self.requests = Requests()
        self._store_events = events(self.requests.add, self._warn_without_events)
        self._schedule = Schedule(self._configuration.timing, due=clock())
        self._process: ApplyProcess | None = None
        self._reported: frozenset[str] = frozenset()
        self._last_result = "none yet"
        self._keepalive_at = clock() + notifier.interval
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
        moments = [now + _LONGEST_WAIT if self._stopping else self._schedule.scan_at, self._keepalive_at]
        if self._process is not None:
            moments.append(self._process.register(poller, now))
        seconds = min(max(0.0, min(moments) - now), _LONGEST_WAIT)
        poller.poll(int(seconds * 1000) + 1 if seconds else 0)

    def _step(self, now: float) -> None:
        if now >= self._keepalive_at:
            self._notifier.alive()
            self._keepalive_at = now + self._notifier.interval
        requests = self.requests.take()
        for _ in range(requests.count(Request.STOP)):
            self._stop(now)
        if self._process is not None:
            self._poll(self._process, now)
        if self._stopping:
            return
        if Request.RELOAD in requests:
            self._reload(now)
        certain = Request.APPLY in requests
        if certain or Request.SCAN in requests:
            self._schedule = self._schedule.event_seen(now, certain=certain)
        if now >= self._schedule.scan_at:
            self._scan(now)
            if now >= self._schedule.apply_at:
                self._apply(now)

    def _scan(self, now: float) -> None:
        # The watches come first: what changes after the token was taken makes an event.
        self._store_events.arm(self._configuration.watch_paths, now)
        before = self._schedule
        self._schedule = before.scanned(now, self._configuration.change_token())
        if before.resting and before.token != self._schedule.token and not self.requests.pending():
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
        try:
            content = self._configuration.content
            self._process = ApplyProcess(self._command, content, self._journal, self._reported, now)
        except HostError as error:
            self._journal.say(Level.ERROR, error.message)
            self._apply_ended(now, Exit.FAILED)
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
        if self._stopping:
            if self._process is not None:
                self._process.finish_by(now)
            return
        self._stopping = True
        self._notifier.stopping("stopping" if self._process is None else "waiting for the running apply")
        if self._process is not None:
            self._process.finish_by(now + GRACE)
            self._journal.say(Level.INFO, f"stopping: the running apply has {GRACE:g} seconds to end")

    def _reload(self, now: float) -> None:
        self._notifier.reloading()
        try:
            self._configuration = self._read()
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
