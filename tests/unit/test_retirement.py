"""What nothing names any more stays until no server can still be about to open it, whatever the clocks do."""

from __future__ import annotations

from pathlib import Path

from mailsni.deploy.retirement import FORMAT, GRACE, Moment, may_go, retire

PIN, MAP = Path("/pins/a.pem"), Path("/etc/postfix/mailsni.cdb")
NOW = Moment("this", 5000)


def later(seconds: int) -> Moment:
    return Moment(NOW.boot, NOW.seconds + seconds)


def test_a_file_stays_until_the_time_is_over_and_a_run_after_that_removes_it() -> None:
    since = retire([PIN], {}, NOW)
    assert not may_go(since[PIN], NOW), "never in the run that retires it"
    assert not may_go(retire([PIN], since, later(GRACE - 1))[PIN], later(GRACE - 1))
    assert may_go(retire([PIN], since, later(GRACE))[PIN], later(GRACE))


def test_a_file_that_is_used_again_is_forgotten_and_waits_anew() -> None:
    since = retire([PIN, MAP], {}, NOW)
    again = retire([MAP], since, later(GRACE))
    assert set(again) == {MAP}
    assert not may_go(retire([PIN], again, later(GRACE + 1))[PIN], later(GRACE + 1))


def test_no_process_outlives_a_reboot() -> None:
    assert may_go(NOW, Moment("next", 3))


def test_a_clock_of_another_container_lets_the_wait_begin_anew() -> None:
    earlier = Moment(NOW.boot, 10)
    assert retire([PIN], {PIN: NOW}, earlier) == {PIN: earlier}


def test_a_boot_that_is_unknown_is_no_other_boot() -> None:
    for before, now in ((Moment("", 5000), later(1)), (NOW, Moment("", 5001))):
        assert retire([PIN], {PIN: before}, now) == {PIN: now}


def test_the_clock_is_none_that_somebody_sets() -> None:
    first, second = Moment.now(), Moment.now()
    assert first.boot == second.boot
    assert 0 <= second.seconds - first.seconds <= GRACE


def test_the_record_comes_back() -> None:
    retired = {PIN: NOW, MAP: later(7)}
    assert FORMAT.decode(FORMAT.encode(retired)) == retired
