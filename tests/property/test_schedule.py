"""The schedule of ``mailsni watch``, driven by a simulated loop: no clock, no files, any history of a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from mailsni.config.settings import WatchSettings
from mailsni.watch.schedule import BURST, REFRESH, RETRIES, Schedule
from tests.support.strategies import effort

TIMES = st.floats(0.01, 100).map(lambda seconds: round(seconds, 2))
TIMINGS = st.builds(WatchSettings, quiet=TIMES, max_wait=TIMES, scan=st.floats(1, 100))
SLACK = 1e-6


@dataclass
class Host:
    """The loop, with a store that changes at given moments, and applies that take a time and end well or not.

    Attributes:
        changes: moments, and whether an event tells of each.
        outcomes: of the applies in turn; good from then on.
    """

    timing: WatchSettings
    changes: list[tuple[float, bool]]
    takes: float = 0.0
    outcomes: list[bool] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)
    """When each apply began."""
    read: list[int] = field(default_factory=list)
    """How many changes each of them saw."""
    scans: int = 0

    def live(self, until: float) -> Schedule:
        """From moment 0 on."""
        schedule = Schedule(self.timing, due=0.0)
        now, changed, end = 0.0, 0, inf
        outcomes = iter(self.outcomes)
        pending = sorted(self.changes)
        while True:
            now = max(now, min(schedule.scan_at, end, pending[0][0] if pending else inf))
            if now > until:
                return schedule
            while pending and pending[0][0] <= now:
                _, announced = pending.pop(0)
                changed += 1
                if announced:
                    schedule = schedule.event_seen(now, certain=False)
            if end <= now:
                schedule, end = schedule.apply_ended(now, good=next(outcomes, True)), inf
            if now >= schedule.scan_at:
                self.scans += 1
                assert self.scans < 100_000, "a busy loop"
                schedule = schedule.scanned(now, b"%d" % changed)
                if now >= schedule.apply_at:
                    schedule = schedule.apply_started(now)
                    self.applied.append(now)
                    self.read.append(changed)
                    end = now + self.takes


CHANGES = st.lists(st.tuples(TIMES, st.booleans()), max_size=12)


@effort(60)
@given(TIMINGS, CHANGES, st.floats(0, 20))
def test_every_change_is_applied_announced_or_not(
    timing: WatchSettings, changes: list[tuple[float, bool]], takes: float
) -> None:
    """In the end, and within the longest wait, one scan and the time of the applies."""
    host = Host(timing, changes, takes)
    limit = timing.scan + timing.quiet + timing.max_wait + 2 * takes + SLACK
    host.live(until=max([moment for moment, _ in changes], default=0.0) + limit)
    assert host.read[-1] == len(changes)
    assert host.applied[0] == 0


@effort(60)
@given(TIMINGS, CHANGES, st.floats(0, 20))
def test_nothing_is_applied_for_nothing(timing: WatchSettings, changes: list[tuple[float, bool]], takes: float) -> None:
    """Each apply but the first has something new to see."""
    host = Host(timing, changes, takes)
    host.live(until=600)
    assert host.read[1:] == sorted(set(host.read[1:]))
    assert len(host.applied) <= len(changes) + 1


@effort(60)
@given(TIMINGS, st.integers(1, 300))
def test_a_burst_is_one_apply(timing: WatchSettings, count: int) -> None:
    """Changes that come faster than the quiet period, for no longer than the maximum wait."""
    gap = min(timing.quiet / 2, timing.max_wait / (count + 1))
    burst = [(200 + number * gap, True) for number in range(count)]
    host = Host(WatchSettings(timing.quiet, timing.max_wait, 1000), burst)
    host.live(until=900)
    last = burst[-1][0]
    assert len(host.applied) == 2
    assert last <= host.applied[1] <= min(last + timing.quiet, 200 + timing.max_wait) + SLACK


@effort(60)
@given(TIMINGS)
def test_a_trickle_is_applied_within_the_maximum_wait(timing: WatchSettings) -> None:
    gap = timing.quiet / 2
    trickle = [(200 + number * gap, True) for number in range(200)]
    host = Host(WatchSettings(timing.quiet, timing.max_wait, 1000), trickle)
    host.live(until=200 + 300 * gap + timing.max_wait)
    assert 200 <= host.applied[1] <= 200 + timing.max_wait + SLACK


@effort(60)
@given(st.integers(1, 400), st.floats(1, 10))
def test_a_stream_of_single_changes_is_bounded(count: int, gap: float) -> None:
    """Three hundred renewals a few seconds apart are not three hundred publishes."""
    timing = WatchSettings(0.5, 30, 60)
    host = Host(timing, [(100 + number * gap, True) for number in range(count)], takes=1)
    host.live(until=100 + count * gap + 100)
    assert host.read[-1] == count
    assert len(host.applied) <= 2 + BURST + (count * gap + 100) / timing.max_wait


@effort(60)
@given(st.integers(1, 8), st.floats(0, 30))
def test_failures_are_tried_again_with_growing_delays(count: int, takes: float) -> None:
    host = Host(WatchSettings(0.5, 30, 60), [], takes, [False] * count)
    schedule = host.live(until=8 * 1000)
    waits = [after - before - takes for before, after in zip(host.applied, host.applied[1:], strict=False)]
    wanted = [*RETRIES, *[RETRIES[-1]] * 10][:count]
    assert [round(wait, 3) for wait in waits] == wanted[: len(waits)]
    assert len(host.applied) == count + 1
    assert schedule.failures == 0


@effort(60)
@given(st.floats(1, 50))
def test_a_change_does_not_wait_for_the_next_try(moment: float) -> None:
    host = Host(WatchSettings(0.5, 30, 60), [(moment, True)], 0.1, [False])
    host.live(until=59)
    assert host.applied == [0, moment + 0.5]


def test_it_is_applied_now_and_then_though_nothing_happens() -> None:
    host = Host(WatchSettings(0.5, 30, 60), [], 1.0)
    host.live(until=2.5 * REFRESH)
    assert host.applied == [0, 1 + REFRESH, 2 * (1 + REFRESH)]


@effort(60)
@given(st.booleans())
def test_a_change_that_scans_cannot_show_is_applied_when_an_event_is_certain_of_it(certain: bool) -> None:  # noqa: FBT001
    idle = (
        Schedule(WatchSettings(0.5, 30, 60), due=0)
        .scanned(0, b"same")
        .apply_started(0)
        .apply_ended(1, good=True)
        .scanned(1, b"same")
    )
    then = idle.event_seen(10, certain=certain).scanned(10.5, b"same")
    assert (then.apply_at <= 10.5) == certain


def test_what_is_asked_for_while_an_apply_runs_is_done_after_it() -> None:
    running = Schedule(WatchSettings(0.5, 30, 60), due=0).scanned(0, b"same").apply_started(0)
    then = running.apply_requested(5, WatchSettings(1, 30, 60)).apply_ended(6, good=True).scanned(6, b"same")
    assert then.apply_at == 6
    assert then.timing.quiet == 1
