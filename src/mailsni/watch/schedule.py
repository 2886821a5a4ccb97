"""When to scan the stores and when to apply: pure, with every moment given from outside.

Three things call for an apply: a change that has settled, a failure that is due for another try, and age (certificates
become valid and expire without any change of files). A change is announced by a file event, or found by a scan, which
here only compares the stores' change tokens. Scans come regularly whether or not there are events, before each apply,
and after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from mailsni.config.settings import WatchSettings

RETRIES = (60.0, 120.0, 300.0, 900.0)
"""Seconds from a failure to the next try; the last one for all further ones."""
REFRESH = 12 * 3600.0
"""Seconds after which an apply is due though nothing happened."""
BURST = 20
"""Applies that changes may cause in a row; beyond that there is one in each maximum wait, as for one long trickle."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is known at one moment. Moments are seconds of any clock that never goes back.

    Attributes:
        timing: the times that the configuration gives.
        due: when an apply is due whatever the stores hold: the first one, another try, the refresh.
        applied_token: the stores' change token when the last apply started; None before the first.
        token: that of the last scan.
        scanned_at: when that was.
        first_change: the first change that is not applied; None when there is none.
        last_change: the last such change.
        announced: whether an event told of it: then it has settled when the events have.
        certain: whether an event told of a change that the token may not show.
        running: whether an apply runs now.
        failures: applies that failed in a row.
        credit: how many applies changes may cause at once, as of ``credit_at``.
    """

    timing: WatchSettings
    due: float
    applied_token: bytes | None = None
    token: bytes | None = None
    scanned_at: float = -inf
    first_change: float | None = None
    last_change: float | None = None
    announced: bool = False
    certain: bool = False
    running: bool = False
    failures: int = 0
    credit: float = BURST
    credit_at: float = -inf

    def apply_requested(self, now: float, timing: WatchSettings) -> Schedule:
        """Somebody wants an apply at once, and other times from now on."""
        requested = replace(self, timing=timing, due=now)
        return requested.event_seen(now, certain=True) if self.running else requested

    def event_seen(self, now: float, *, certain: bool) -> Schedule:
        """A file event came.

        Args:
            now: the moment.
            certain: a key or a chain was changed; else the next scan decides whether there is a change.
        """
        first = now if self.first_change is None else self.first_change
        return replace(self, first_change=first, last_change=now, announced=True, certain=certain or self.certain)

    def scanned(self, now: float, token: bytes) -> Schedule:
        """The stores were scanned."""
        scanned = replace(self, token=token, scanned_at=now)
        if token == self.applied_token:
            return scanned if self.certain else replace(scanned, first_change=None, last_change=None, announced=False)
        if self.first_change is None or self.last_change is None:
            return replace(scanned, first_change=now, last_change=now, announced=False)
        return scanned if self.announced or token == self.token else replace(scanned, last_change=now)

    def apply_started(self, now: float) -> Schedule:
        """An apply was started, after a scan."""
        by_change = now < self.due
        return replace(
            self,
            applied_token=self.token,
            scanned_at=now,
            first_change=None,
            last_change=None,
            announced=False,
            certain=False,
            running=True,
            credit=self._credit(now) - 1 if by_change else self._credit(now),
            credit_at=now,
        )

    def apply_ended(self, now: float, *, good: bool) -> Schedule:
        """The apply has ended. A scan is due: events of its time may have been lost."""
        failures = 0 if good else self.failures + 1
        wait = REFRESH if good else RETRIES[min(failures, len(RETRIES)) - 1]
        return replace(self, running=False, failures=failures, due=now + wait, scanned_at=-inf)

    def _credit(self, now: float) -> float:
        earned = (now - self.credit_at) / self.timing.max_wait
        return min(float(BURST), self.credit + earned)

    def _settled_at(self) -> float:
        """When the changes are to be applied."""
        if self.first_change is None or self.last_change is None:
            return inf
        lacking = 1 - self.credit
        allowed = self.credit_at + lacking * self.timing.max_wait if lacking > 0 else -inf
        return max(min(self.last_change + self.timing.quiet, self.first_change + self.timing.max_wait), allowed)

    @property
    def resting(self) -> bool:
        """Whether the last scan found no change, and no apply runs."""
        return self.first_change is None and not self.running and self.scanned_at > -inf and self.token is not None

    @property
    def apply_at(self) -> float:
        """When the next apply is due, as far as is known; infinite while one runs."""
        return inf if self.running else min(self._settled_at(), self.due)

    @property
    def scan_at(self) -> float:
        """When the next scan is due: in time, and before each apply."""
        return min(self.scanned_at + self.timing.scan, self.apply_at)
