"""``mailsni watch``: stay running, and apply when certificates change.

One thread does everything: it waits for the next moment of the :mod:`mailsni.watch.schedule`, a signal, an event of the
stores, or what a run says. Each apply is a child process: keys leave the memory with it, what goes wrong in it stops
nothing here, and it is the very program that hooks and people run.

The configuration is read here and handed to the child, so that a file that is wrong, or half written, takes effect
only when it can be read and somebody has asked for it (SIGHUP).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from mailsni.config import parser, settings
from mailsni.config.settings import Settings
from mailsni.core import log
from mailsni.core.log import Level
from mailsni.errors import Exit, HostError, MailsniError
from mailsni.sources.base import Source, WatchPath
from mailsni.watch.child import Child, start
from mailsni.watch.events import StoreEvents
from mailsni.watch.log import Journal
from mailsni.watch.schedule import Schedule, Timing
from mailsni.watch.sd_notify import Notifier

WAIT_FOR_OTHERS = 300
"""Seconds that an apply waits for another run to end."""
GRACE = 80.0
"""Seconds that an apply has for ending by itself when the watch is to end: systemd gives 90 to all of it."""
GRACE_AFTER_SIGTERM = 8.0
"""And then, for taking back what it has begun."""
RUN_LIMIT = 3600.0
"""Seconds after which an apply hangs."""
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 13
_POLL = 0.25
"""Seconds between two looks for the end of a child where the kernel has no pidfd_open(2)."""
_GOOD = (Exit.DONE, Exit.SKIPPED)


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """Where the configuration is read from; ``required`` when somebody named it."""

    path: Path
    required: bool

    def read(self) -> tuple[bytes, Settings]:
        """What it holds, and what that says.

        Raises:
            ConfigurationError: it is wrong.
            PermissionMissingError: this user may not read it.
        """
        content = parser.read(self.path, required=self.required)
        return content, parser.parse_file(content, self.path)


@dataclass
class _Asked:
    """What signals ask for. Set by handlers, read by the loop."""

    stops: int = 0
    reload: bool = False


@dataclass
class _Touched:
    """How many events there were, counted by watchdog's threads alone; the loop compares, so that none is ever lost."""

    all: int = 0
    certain: int = 0


class Watch:
    """The loop.

    Args:
        file: the configuration.
        command: what one apply is, as a command; it reads the configuration from its standard input.
        journal: where it says what happens.
        notifier: the service manager.
        events: makes the watches: :class:`StoreEvents`, or in tests something less reliable.
        clock: seconds that never go back.

    Attributes:
        wake_writer: a byte that is written here makes the loop look at what it was asked.

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
        self._content, self._settings = file.read()
        self._asked = _Asked()
        self._touched = _Touched()
        self._taken = _Touched()
        self._wake_reader, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._events = events(self._on_event, self._on_no_events)
        self._schedule = Schedule(self._timing(), due=clock())
        self._child: Child | None = None
        self._began = 0.0
        self._stopping: float | None = None
        self._nudged: float | None = None
        self._alive_at = clock()
        self._talk = b""
        self._silent = False
        """Whether the run that goes on has closed its output: there is nothing to wait for there."""
        self._warnings: set[str] = set()
        self._earlier_warnings: set[str] = set()
        self._last = "none yet"

    # ── from outside the loop ────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """End; from any thread, or a signal handler. The second time: and do not wait for the apply that runs."""
        self._asked.stops += 1
        self._wake()

    def reload(self) -> None:
        """Read the configuration again; from any thread, or a signal handler."""
        self._asked.reload = True
        self._wake()

    def _on_event(self, certain: bool) -> None:  # noqa: FBT001  # called by watchdog's threads
        if certain:
            self._touched.certain += 1
        self._touched.all += 1
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake
            os.write(self.wake_writer, b"\0")

    def _on_no_events(self, why: str) -> None:
        self._journal.say(
            Level.WARNING,
            f"no file events: {why}: changes are found by a look every {self._settings.watch.scan:g} seconds",
        )

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Until it is told to stop."""
        self._events.arm(self._watch_paths(), self._clock())
        self._journal.say(Level.INFO, f"watching {self._watched()}")
        self._notifier.ready(self._status())
        try:
            while not self._over():
                self._wait()
                self._turn()
        finally:
            self._events.disarm()
            if self._child is not None:
                self._child.close()
            os.close(self._wake_reader)
            os.close(self.wake_writer)
        self._journal.say(Level.INFO, "ended")

    def _over(self) -> bool:
        return self._stopping is not None and self._child is None

    def _wait(self) -> None:
        now = self._clock()
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        until = [self._schedule.look_at if self._stopping is None else now + GRACE]
        if self._notifier.interval is not None:
            until.append(self._alive_at)
        if self._child is not None:
            if not self._silent:
                poller.register(self._child.output, select.POLLIN)
            until.append(self._nudge_at())
            if self._child.ending is None:
                until.append(now + _POLL)
            else:
                poller.register(self._child.ending, select.POLLIN)
        seconds = min(max(0.0, min(until) - now), RUN_LIMIT)
        poller.poll(int(seconds * 1000) + 1 if seconds else 0)
        with suppress(BlockingIOError):
            while len(os.read(self._wake_reader, _CHUNK)) == _CHUNK:
                pass

    def _turn(self) -> None:
        now = self._clock()
        if self._notifier.interval is not None and now >= self._alive_at:
            self._notifier.alive()
            self._alive_at = now + self._notifier.interval
        if self._child is not None:
            self._listen(self._child)
            self._end_or_nudge(self._child, now)
        if self._asked.stops and self._stopping is None:
            self._begin_to_stop(now)
        if self._stopping is not None:
            return
        if self._asked.reload:
            self._asked.reload = False
            self._reload(now)
        self._take_events(now)
        if now >= self._schedule.look_at:
            self._look(now)
            if now >= self._schedule.apply_at:
                self._apply(now)

    def _take_events(self, now: float) -> None:
        found = replace(self._touched)
        if found == self._taken:
            return
        self._schedule = self._schedule.touched(now, certain=found.certain != self._taken.certain)
        self._taken = found

    def _look(self, now: float) -> None:
        self._events.arm(self._watch_paths(), now)  # before the look: what changes after it makes an event
        before = self._schedule
        self._schedule = before.saw(now, b"".join(source.change_token() for source in self._sources()))
        unannounced = before.seen is not None and before.seen != self._schedule.seen and self._touched == self._taken
        silent = unannounced and before.first is None and not before.running and before.looked > float("-inf")
        if silent:
            self._journal.say(Level.DEBUG, "a change was found by a look; no event told of it")
            self._events.arm(self._watch_paths(), now, anew=True)

    def _sources(self) -> list[Source]:
        return [source.open() for source in self._settings.sources]

    def _watch_paths(self) -> list[WatchPath]:
        return [path for source in self._sources() for path in source.watch_paths()]

    def _timing(self) -> Timing:
        times = self._settings.watch
        return Timing(times.quiet, times.max_wait, times.scan)

    def _watched(self) -> str:
        return ", ".join(source.location for source in self._sources())

    def _status(self) -> str:
        doing = "applying" if self._schedule.running else f"watching {self._watched()}"
        return f"{doing}; last apply: {self._last}"

    # ── an apply ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _apply(self, now: float) -> None:
        self._schedule = self._schedule.began(now, self._schedule.seen or b"")
        self._earlier_warnings, self._warnings = self._warnings, set()
        self._talk, self._silent = b"", False
        self._began = now
        self._nudged = None
        also = {"MAILSNI_STARTED_BY": "watch", settings.FROM_STDIN: "1", log.LEVELS_WANTED: "1"}
        try:
            self._child = start(self._command, stdin=self._content, also=also)
        except HostError as error:
            self._journal.say(Level.ERROR, error.message)
            self._ended(now, Exit.FAILED)
        self._notifier.status(self._status())

    def _listen(self, child: Child) -> None:
        """Pass on what the run says, line by line."""
        for chunk in _chunks(child.output):
            if not chunk:
                self._silent = True
                return
            *lines, self._talk = (self._talk + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line)
            if len(self._talk) > _LONGEST_LINE:
                self._pass_on(self._talk)
                self._talk = b""

    def _pass_on(self, line: bytes) -> None:
        level, shown = log.parse(line.decode("utf-8", "replace").rstrip())
        if not shown:
            return
        if level is Level.WARNING:
            # A lineage that is broken is said once, not at every renewal of another.
            self._warnings.add(shown)
            if shown in self._earlier_warnings:
                return
        self._journal.pass_on(level, shown)

    def _end_or_nudge(self, child: Child, now: float) -> None:
        code = child.returncode()
        if code is not None:
            self._listen(child)
            if self._talk:
                self._pass_on(self._talk)
            child.close()
            self._child = None
            self._ended(now, code)
            self._notifier.status(self._status())
        elif now >= self._nudge_at():
            if self._nudged is None:
                self._journal.say(Level.WARNING, "the apply that runs is told to end")
                self._nudged = now
                child.ask_to_end()
            else:
                self._journal.say(Level.ERROR, "the apply that runs does not end: killed")
                self._nudged = now
                child.kill()

    def _nudge_at(self) -> float:
        """When the apply that runs is to be told to end, and then is killed."""
        if self._nudged is not None:
            return self._nudged + GRACE_AFTER_SIGTERM
        limit = self._began + RUN_LIMIT
        if self._stopping is not None:
            limit = self._stopping if self._asked.stops > 1 else min(limit, self._stopping + GRACE)
        return limit

    def _ended(self, now: float, code: int) -> None:
        good = code in _GOOD
        self._schedule = self._schedule.ended(now, good=good)
        self._last = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}, {_outcome(code)}"
        if not good and self._stopping is None:
            wait = self._schedule.due - now
            again = f"tried again in {wait:.0f} seconds, or when something changes"
            self._journal.say(Level.WARNING, f"apply: {_outcome(code)}: {again}")

    # ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_to_stop(self, now: float) -> None:
        self._stopping = now
        busy = self._child is not None
        self._notifier.stopping("waiting for the apply that runs" if busy else "ending")
        if busy:
            self._journal.say(Level.INFO, f"stopping: the apply that runs has {GRACE:g} seconds to end")

    def _reload(self, now: float) -> None:
        self._notifier.reloading()
        try:
            self._content, self._settings = self._file.read()
        except MailsniError as error:
            self._journal.say(Level.ERROR, f"the configuration is refused, the old one is kept: {error.message}")
            if error.hint:
                self._journal.say(Level.NOTICE, error.hint)
        else:
            self._schedule = self._schedule.asked(now, self._timing())
            self._events.arm(self._watch_paths(), now, anew=True)
            self._journal.say(Level.INFO, f"configuration read again, watching {self._watched()}")
        self._notifier.ready(self._status())


def command(config_file: Path | None, *, verbose: bool) -> list[str]:
    """What one apply is, as a command.

    Args:
        config_file: an absolute path; None when nobody named one.
        verbose: have it say also that there was nothing to do.
    """
    words = [sys.executable, "-m", "mailsni"]
    words += [] if config_file is None else ["--config", str(config_file)]
    words += ["--verbose"] if verbose else []
    return [*words, "apply", "--quiet", "--wait", str(WAIT_FOR_OTHERS)]


def _outcome(code: int) -> str:
    if code in _GOOD:
        return "done" if code == Exit.DONE else "done, and something is to be looked at"
    return f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _chunks(descriptor: int) -> Iterator[bytes]:
    """What can be read without waiting; an empty one at the end."""
    while True:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError as error:
            if error.errno == errno.EINTR:
                continue
            return
        yield chunk
        if not chunk:
            return


@contextmanager
def signals(watch: Watch) -> Iterator[None]:
    """SIGTERM and SIGINT end it, SIGHUP makes it read its configuration: for the main thread."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        watch.stop()

    def reload(_number: int, _frame: FrameType | None) -> None:
        watch.reload()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    # A signal that comes just before the loop goes to sleep wakes it too: Python's own handlers run only between steps.
    woken = signal.set_wakeup_fd(watch.wake_writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
