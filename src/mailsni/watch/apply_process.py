"""One run of ``mailsni apply`` that the watch has started, from its start to its end."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from mailsni.core import log
from mailsni.core.log import Level
from mailsni.watch.child import Child
from mailsni.watch.log import Journal

RUN_LIMIT = 3600.0
"""Seconds after which a run hangs."""
GRACE_AFTER_SIGTERM = 8.0
"""Seconds that it has after SIGTERM for undoing what it has begun; then it is killed."""
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 13
_POLL = 0.25
"""Seconds between two polls for the end of a child where the kernel has no pidfd_open(2)."""


class ApplyProcess:
    """Passes on what a run says, and terminates it when its time is over.

    Args:
        child: the run.
        journal: where its lines go.
        reported: warnings that are not repeated: a broken lineage is reported once, not at every renewal of another.
        now: when it was started; moments are seconds of a clock that never goes back.
    """

    def __init__(self, child: Child, journal: Journal, reported: frozenset[str], now: float) -> None:
        self._child = child
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
        """Have a poller wake for its output and its end. Returns when :meth:`poll` is due in any case."""
        if not self._output_closed:
            poller.register(self._child.output, select.POLLIN)
        if self._child.ending is None:
            return min(self._deadline, now + _POLL)
        poller.register(self._child.ending, select.POLLIN)
        return self._deadline

    def poll(self, now: float) -> int | None:
        """Pass on its output, and terminate it, then kill it, when its time is over.

        Returns:
            Its exit status (negative: the signal that ended it); None while it runs.
        """
        code = self._child.returncode()
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
        """Kill it if it still runs, and give back the descriptors."""
        self._child.close()

    def _terminate(self, now: float) -> None:
        if self._terminate_sent:
            self._journal.say(Level.ERROR, "the running apply ignores SIGTERM: sending SIGKILL")
            self._child.kill()
        else:
            self._journal.say(Level.WARNING, "the running apply is out of time: sending SIGTERM")
            self._child.terminate()
        self._terminate_sent = True
        self._deadline = now + GRACE_AFTER_SIGTERM

    def _forward_output(self) -> None:
        if self._output_closed:
            return
        for chunk in _chunks(self._child.output):
            if not chunk:
                self._output_closed = True
                return
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


def _chunks(descriptor: int) -> Iterator[bytes]:
    """What can be read without waiting; an empty chunk at the end of file."""
    while True:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError:
            return
        yield chunk
        if not chunk:
            return
