"""When to look at the stores and when to apply: pure, with every moment given from outside.

Three things ask for an apply: a change that has settled, a failure that is due for another try, and age (certificates
become valid and expire without any change of files). A change is announced by an event, or found by a look; looks are
taken regularly whether or not there are events, before each apply, and after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

RETRIES = (60.0, 120.0, 300.0, 900.0)
"""Seconds from a failure to the next try; the last one for all further ones."""
REFRESH = 12 * 3600.0
"""Seconds after which it is applied though nothing happened."""
AT_ONCE = 20
"""Applies that changes may cause in a row; beyond that there is one in each maximum wait, as for one long trickle."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: see :class:`mailsni.config.settings.WatchSettings`."""

    quiet: float
    max_wait: float
    scan: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is known at one moment. Moments are seconds of any clock that never goes back.

    Attributes:
        timing: the times that the configuration gives.
        due: when an apply is due whatever the stores hold: the first one, another try, the refresh.
        applied: what the stores looked like when the last apply began; None before the first.
        seen: what they looked like at the last look.
        looked: when that was.
        first: the first change that is not applied; None when there is none.
        last: the last such change.
        announced: whether an event told of it: then it has settled when the events have.
        certain: whether an event told of a change that looks may not show.
        running: whether an apply runs now.
        failures: applies that failed in a row.
        credit: how many applies changes may cause at once, as of ``credited``.
    """

    timing: Timing
    due: float
    applied: bytes | None = None
    seen: bytes | None = None
    looked: float = -inf
    first: float | None = None
    last: float | None = None
    announced: bool = False
    certain: bool = False
    running: bool = False
    failures: int = 0
    credit: float = AT_ONCE
    credited: float = -inf

    def asked(self, now: float, timing: Timing | None = None) -> Schedule:
        """An apply is wanted at once, perhaps with other times from now on."""
        asked = replace(self, timing=timing or self.timing, due=now)
        return asked.touched(now, certain=True) if self.running else asked

    def touched(self, now: float, *, certain: bool) -> Schedule:
        """An event was seen.

        Args:
            now: the moment.
            certain: a key or a chain was changed; else the next look decides whether there is a change.
        """
        first = now if self.first is None else self.first
        return replace(self, first=first, last=now, announced=True, certain=certain or self.certain)

    def saw(self, now: float, seen: bytes) -> Schedule:
        """A look was taken."""
        looked = replace(self, seen=seen, looked=now)
        if seen == self.applied:
            return looked if self.certain else replace(looked, first=None, last=None, announced=False)
        if self.first is None or self.last is None:
            return replace(looked, first=now, last=now, announced=False)
        return looked if self.announced or seen == self.seen else replace(looked, last=now)

    def began(self, now: float, seen: bytes) -> Schedule:
        """An apply was started, after a look."""
        by_change = now < self.due
        return replace(
            self,
            applied=seen,
            seen=seen,
            looked=now,
            first=None,
            last=None,
            announced=False,
            certain=False,
            running=True,
            credit=self._credit(now) - 1 if by_change else self._credit(now),
            credited=now,
        )

    def ended(self, now: float, *, good: bool) -> Schedule:
        """The apply has ended. A look is due: events of its time may have been lost."""
        failures = 0 if good else self.failures + 1
        wait = REFRESH if good else RETRIES[min(failures, len(RETRIES)) - 1]
        return replace(self, running=False, failures=failures, due=now + wait, looked=-inf)

    def _credit(self, now: float) -> float:
        earned = (now - self.credited) / self.timing.max_wait
        return min(float(AT_ONCE), self.credit + earned)

    def _settled(self) -> float:
        """When the changes are to be applied."""
        if self.first is None or self.last is None:
            return inf
        lacking = 1 - self.credit
        allowed = self.credited + lacking * self.timing.max_wait if lacking > 0 else -inf
        return max(min(self.last + self.timing.quiet, self.first + self.timing.max_wait), allowed)

    @property
    def apply_at(self) -> float:
        """When the next apply is due, as far as is known; infinite while one runs."""
        return inf if self.running else min(self._settled(), self.due)

    @property
    def look_at(self) -> float:
        """When the next look is due: in time, and before each apply."""
        return min(self.looked + self.timing.scan, self.apply_at)
