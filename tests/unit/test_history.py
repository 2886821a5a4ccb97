"""The record of the last run: what is written is read again, and whatever else lies there is none."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.errors import Exit
from mailsni.runs import history as runs
from mailsni.runs.history import EMPTY_HISTORY, RemovedName, Run
from tests.support.records import signed

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
GOOD = Run(NOW, NOW + timedelta(seconds=2), 4, "3 names served", "certbot-post", 3, {"expired": 2, "staging": 1})
BAD = Run(NOW, NOW + timedelta(days=1), 5, "dovecot: cut off", "timer", error="dovecot: cut off")


def test_what_is_recorded_is_loaded(tmp_path: Path) -> None:
    assert runs.load(tmp_path / "state") == EMPTY_HISTORY
    runs.record(tmp_path / "state", GOOD)
    assert runs.load(tmp_path / "state") == EMPTY_HISTORY.after(GOOD)
    runs.record(tmp_path / "state", BAD)
    found = runs.load(tmp_path / "state")
    assert (found.last, found.last_good) == (BAD, GOOD)


def test_what_somebody_was_told_survives_a_run(tmp_path: Path) -> None:
    told = replace(EMPTY_HISTORY.after(BAD), alerted={"key": NOW})
    assert runs.save(tmp_path, told)
    runs.record(tmp_path, GOOD)
    assert runs.load(tmp_path).alerted == {"key": NOW}


@pytest.mark.parametrize(
    ("code", "good"), [(Exit.DONE, True), (Exit.SKIPPED, True), (Exit.FAILED, False), (143, False)]
)
def test_a_run_is_good_when_the_servers_have_what_they_should(code: int, *, good: bool) -> None:
    assert replace(GOOD, exit_code=code).good is good
    assert (EMPTY_HISTORY.after(replace(GOOD, exit_code=code)).last_good is not None) is good


def test_a_clock_that_goes_back_by_more_than_a_minute_is_named() -> None:
    history = EMPTY_HISTORY.after(GOOD)
    assert EMPTY_HISTORY.clock_problem(NOW) is None
    assert history.clock_problem(GOOD.ended_at - timedelta(seconds=59)) is None
    assert history.clock_problem(GOOD.ended_at - timedelta(hours=5)) == (
        "the clock went back: the last run ended on 2026-05-04 03:02 UTC, and now it is 2026-05-03 22:02 UTC"
    )


def test_it_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    state = tmp_path / "state"
    runs.record(state, GOOD)
    (state / ".runs.json.new").write_text("what a run left that was killed")
    runs.record(state, GOOD)
    assert [path.name for path in state.iterdir()] == ["runs.json"]
    assert stat.S_IMODE((state / "runs.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_names_that_a_run_took_away_are_remembered_for_a_week_or_until_they_are_served() -> None:
    later = replace(GOOD, ended_at=GOOD.ended_at + timedelta(days=6))
    latest = replace(GOOD, ended_at=GOOD.ended_at + timedelta(days=7))
    history = EMPTY_HISTORY.after(GOOD, {"a.test": "gone", "b.test": "gone"}, {"c.test"})
    history = history.after(later, {"d.test": "expired"}, {"b.test", "c.test"})
    assert history.removed == {
        "a.test": RemovedName(GOOD.ended_at, "gone"),
        "d.test": RemovedName(later.ended_at, "expired"),
    }
    assert history.after(BAD).removed == history.removed, "a run that failed serves nothing anew"
    assert set(history.after(latest).removed) == {"d.test"}
    many = {f"{at}.test": "gone" for at in range(2000)}
    assert len(EMPTY_HISTORY.after(GOOD, many).removed) == 1000


def test_they_are_written(tmp_path: Path) -> None:
    history = EMPTY_HISTORY.after(GOOD, {"a.test": "its lineage is gone"})
    assert runs.save(tmp_path, history)
    assert runs.load(tmp_path) == history
    assert runs.problem(tmp_path) is None


SCHEMA = "mailsni.runs/2"
WHOLE: dict[str, object] = {"last": None, "last_good": None, "alerted": {}, "removed": {}}
BROKEN = {
    "empty": b"",
    "cut off": signed(SCHEMA, WHOLE)[:-2],
    "without a checksum": json.dumps({"schema": "mailsni.runs/1", **WHOLE}).encode(),
    "no object": signed(SCHEMA, []),
    "of another version": signed("mailsni.runs/3", WHOLE),
    "a member less": signed(SCHEMA, {key: value for key, value in WHOLE.items() if key != "alerted"}),
    "another kind of run": signed(SCHEMA, {**WHOLE, "last": {"started_at": 1}}),
    "another kind of removal": signed(SCHEMA, {**WHOLE, "removed": {"a.test": [1]}}),
    "another kind of name": signed(SCHEMA, {**WHOLE, "removed": {"a test": [1, "gone"]}}),
    "another kind of time": signed(SCHEMA, {**WHOLE, "alerted": {"key": "today"}}),
    "a time beyond all times": signed(SCHEMA, {**WHOLE, "alerted": {"key": 1e300}}),
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_whatever_else_lies_there_is_no_record_and_no_obstacle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "runs.json").write_bytes(signed(SCHEMA, WHOLE))
    assert runs.problem(tmp_path) is None
    (tmp_path / "runs.json").write_bytes(data)
    assert runs.load(tmp_path) == EMPTY_HISTORY
    assert str(tmp_path / "runs.json") in (runs.problem(tmp_path) or "")
    runs.record(tmp_path, GOOD)
    assert runs.load(tmp_path) == EMPTY_HISTORY.after(GOOD)


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runs.record(tmp_path / "file", GOOD)
    assert not runs.save(tmp_path / "file" / "below", EMPTY_HISTORY)
    (tmp_path / "runs.json").mkdir()
    runs.record(tmp_path, GOOD)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert runs.load(tmp_path) == EMPTY_HISTORY
