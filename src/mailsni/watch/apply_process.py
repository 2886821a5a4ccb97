"""One run of ``mailsni apply`` that the watch has started, from its start to its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, cast

from mailsni.config.settings import FROM_STDIN
from mailsni.core import log
from mailsni.core.log import Level
from mailsni.errors import HostError
from mailsni.host.commands import environment, kill_group
from mailsni.watch.log import Journal

RUN_LIMIT = 3600.0
"""Seconds after which a run hangs."""
GRACE_AFTER_SIGTERM = 8.0
"""Seconds that it has after SIGTERM for undoing what it has begun; then it is killed."""
_VARIABLES = {"MAILSNI_STARTED_BY": "watch", FROM_STDIN: "1", log.LEVELS_WANTED: "1"}
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 13
_POLL = 0.25
"""Seconds between two polls for the end of a run: the end of its output announces it, but for what it left behind."""


class ApplyProcess:
    """Passes on what a run says, and terminates it when its time is over.

    It runs in a session of its own, so that Ctrl-C is ours alone.

    Args:
        command: the absolute path of the program, then its arguments.
        configuration: what it reads.
        journal: where its lines go.
        reported: warnings that are not repeated: a broken lineage is reported once, not at every renewal of another.
        now: when it is started; moments are seconds of a clock that never goes back.

    Raises:
        HostError: it could not be started.
    """

    def __init__(
        self, command: Sequence[str], configuration: bytes, journal: Journal, reported: frozenset[str], now: float
    ) -> None:
        self._process = _start(command, configuration)
        self._output = cast("IO[bytes]", self._process.stdout)
        os.set_blocking(self._output.fileno(), False)
        self._journal = journal
        self._reported = reported
        self._warnings: set[str] = set()
        self._deadline = now + RUN_LIMIT
        self._terminate_sent = False
        self._partial_line = b""
        self._output_closed = False

    @property
    def warnings(self) -> frozenset[str]:
        """Those of this run, repeated or not."""
        return frozenset(self._warnings)

    def finish_by(self, moment: float) -> None:
        """Terminate the run at a moment, unless it ends, or would be terminated, earlier."""
        if not self._terminate_sent:
            self._deadline = min(self._deadline, moment)

    def register(self, poller: select.poll, now: float) -> float:
        """Have a poller wake for its output. Returns when :meth:`poll` is due in any case."""
        if not self._output_closed:
            poller.register(self._output, select.POLLIN)
        return min(self._deadline, now + _POLL)

    def poll(self, now: float) -> int | None:
        """Pass on its output, and terminate it, then kill it, when its time is over.

        Returns:
            Its exit status (negative: the signal that ended it); None while it runs.
        """
        code = self._process.poll()
        self._forward_output()
        if code is None:
            if now >= self._deadline:
                self._terminate(now)
            return None
        if self._partial_line:
            self._forward(self._partial_line)
        self.close()
        return code

    def close(self) -> None:
        """Kill it if it still runs, with what it has started in its own process group, and give back the descriptor."""
        if self._process.poll() is None:
            kill_group(self._process)
        self._output.close()

    def _terminate(self, now: float) -> None:
        if self._terminate_sent:
            self._journal.say(Level.ERROR, "the running apply ignores SIGTERM: sending SIGKILL")
            kill_group(self._process)
        else:
            self._journal.say(Level.WARNING, "the running apply is out of time: sending SIGTERM")
            self._process.send_signal(signal.SIGTERM)
        self._terminate_sent = True
        self._deadline = now + GRACE_AFTER_SIGTERM

    def _forward_output(self) -> None:
        while not self._output_closed and (chunk := self._output.read(_CHUNK)) is not None:
            self._output_closed = not chunk
            *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
            for line in lines:
                self._forward(line)
            if len(self._partial_line) > _LONGEST_LINE:
                self._forward(self._partial_line)
                self._partial_line = b""

    def _forward(self, line: bytes) -> None:
        level, text = log.parse(line.decode("utf-8", "replace").rstrip())
        if not text:
            return
        if level is Level.WARNING:
            self._warnings.add(text)
            if text in self._reported:
                return
        self._journal.pass_on(level, text)


def _start(command: Sequence[str], configuration: bytes) -> subprocess.Popen[bytes]:
    try:
        # No pipe: a program that does not read, or has died, could not take more than the pipe holds.
        with os.fdopen(os.memfd_create("stdin"), "w+b") as stdin:
            stdin.write(configuration)
            stdin.seek(0)
            return subprocess.Popen(
                command,
                bufsize=0,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment() | _VARIABLES,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise HostError(f"{command[0]}: cannot be started: {error.strerror}") from error
