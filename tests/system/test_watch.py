"""The loop of ``mailsni watch``, with small scripts for applies, and events that fail it: scans find every change."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, EventEmitter

from mailsni.core.log import Level
from mailsni.watch.events import StoreEvents
from mailsni.watch.log import Journal
from mailsni.watch.loop import Configuration, Watch
from mailsni.watch.requests import Request
from mailsni.watch.sd_notify import Notifier
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.processes import LIMIT, running, until

QUIET = 0.2
CALM = 4 * QUIET
"""Seconds in which an apply would have begun, if there were a reason for one."""


class Log(Journal):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def pass_on(self, level: Level, line: str) -> None:
        """Keep it, unless it is for debugging."""
        if level <= Level.INFO:
            self.lines.append(f"{level.name} {line}")


class Host:
    """A watch in a thread, on a store of its own; each of its applies leaves a line in ``applies``."""

    def __init__(self, directory: Path, *, scan: float, script: str = "") -> None:
        self.directory = directory
        self.authority = Authority()
        self.store = CertbotDirectory(directory / "letsencrypt")
        self.config = directory / "config.toml"
        self.applies = directory / "applies"
        self.applies.touch()
        self.log = Log()
        self.configure(scan)
        self.command = ["/bin/sh", "-c", f"echo apply >> {self.applies}; {script}"]

    def configure(self, scan: float) -> None:
        """Write the configuration."""
        self.config.write_text(
            f"[[sources]]\npath = {json.dumps(str(self.store.live))}\n"
            "[postfix]\nenabled = false\n[dovecot]\nenabled = false\n"
            f"[state]\ndirectory = {json.dumps(str(self.directory / 'state'))}\n"
            f"lock = {json.dumps(str(self.directory / 'lock'))}\n"
            f"[watch]\nquiet = {QUIET}\nmax_wait = 5\nscan = {scan}\n"
        )

    @contextmanager
    def watching(self, observer: Callable[[], BaseObserver]) -> Iterator[Watch]:
        """Run the loop until the end of the block."""
        watch = Watch(
            partial(Configuration.read, self.config, required=True),
            self.command,
            journal=self.log,
            notifier=Notifier(),
            events=partial(StoreEvents, observer=observer),
        )
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            yield watch
        finally:
            watch.requests.add(Request.STOP)
            thread.join(LIMIT)
            assert not thread.is_alive()

    def count(self) -> int:
        """How many applies there were."""
        return len(self.applies.read_text().splitlines())

    def until(self, true: Callable[[], bool], log: Callable[[], object] | None = None) -> None:
        """Wait for something; a failure shows a log, that of the watch in this process if no other is given."""
        until(true, log or (lambda: self.log.lines))


class BlindObserver(BaseObserver):
    """Accepts every watch, and never tells of anything: a network file system."""

    def __init__(self) -> None:
        super().__init__(EventEmitter)


def refusing(number: int) -> Callable[[], BaseObserver]:
    """An observer that cannot be made for want of something."""

    def make() -> BaseObserver:
        raise OSError(number, os.strerror(number))

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_without_inotify_scans_find_every_change_and_one_warning_says_so(tmp_path: Path, number: int) -> None:
    host = Host(tmp_path, scan=0.3)
    with host.watching(refusing(number)):
        host.until(lambda: host.count() == 1)
        for turn in range(3):
            host.store.add(f"lineage{turn}", host.authority.issue(["mail.test"]))
            host.until(lambda wanted=turn + 2: host.count() == wanted)  # type: ignore[misc]
    why = f"{os.strerror(number)}: the stores are scanned every 0.3 seconds"
    assert host.log.lines.count(f"WARNING mailsni: warning: no file events: {why}") == 1


def test_without_events_a_scan_finds_the_renewal(tmp_path: Path) -> None:
    host = Host(tmp_path, scan=0.3)
    host.store.add("lineage", host.authority.issue(["mail.test"]))
    with host.watching(BlindObserver):
        host.until(lambda: host.count() == 1)
        time.sleep(CALM)
        assert host.count() == 1
        host.store.renew("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() == 2)


def test_an_inotify_queue_that_overflowed_starts_a_scan(tmp_path: Path) -> None:
    """The library tells its log, and nobody else."""
    host = Host(tmp_path, scan=3600)
    with host.watching(BlindObserver):
        host.until(lambda: host.count() == 1)
        host.until(lambda: watch_rests(host))
        host.store.add("lineage", host.authority.issue(["mail.test"]))
        time.sleep(CALM)
        assert host.count() == 1
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
        host.until(lambda: host.count() == 2)


def watch_rests(host: Host) -> bool:
    """Whether no apply runs, and the scan after it is over."""
    before = host.log.lines.copy()
    time.sleep(1)
    return before == host.log.lines


def test_events_start_an_apply_and_reading_is_no_event(tmp_path: Path) -> None:
    host = Host(tmp_path, scan=3600, script=f"cat {tmp_path}/letsencrypt/live/*/*.pem > /dev/null")
    host.store.add("lineage", host.authority.issue(["mail.test"]))
    with host.watching(Observer):
        host.until(lambda: host.count() == 1)
        time.sleep(CALM)
        assert host.count() == 1
        host.store.renew("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() == 2)
        archived = host.store.archive / "lineage" / "privkey2.pem"
        archived.write_bytes(archived.read_bytes())
        host.until(lambda: host.count() == 3)
        time.sleep(CALM)
        assert host.count() == 3
        host.store.delete("lineage")
        host.until(lambda: host.count() == 4)


def test_a_store_behind_a_link_is_followed_when_the_link_is_swapped(tmp_path: Path) -> None:
    host = Host(tmp_path, scan=3600)
    real = CertbotDirectory(tmp_path / "one")
    other = CertbotDirectory(tmp_path / "two")
    (host.store.live / "README").unlink()
    host.store.live.rmdir()
    host.store.live.symlink_to(real.live)
    with host.watching(Observer):
        host.until(lambda: host.count() == 1)
        real.add("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() == 2)
        other.add("lineage", host.authority.issue(["mail.test"]))
        new = host.store.root / "new"
        new.symlink_to(other.live)
        new.rename(host.store.live)
        host.until(lambda: host.count() == 3)
        other.renew("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() == 4)


def test_a_store_that_comes_back_while_its_absence_is_being_watched_is_found(tmp_path: Path) -> None:
    """No event tells of that."""
    host = Host(tmp_path, scan=3600)
    host.store.add("lineage", host.authority.issue(["mail.test"]))
    away = tmp_path / "away"

    def observer() -> BaseObserver:
        if away.exists():
            away.rename(host.store.root)
        return Observer()

    with host.watching(observer):
        host.until(lambda: host.count() == 1)
        host.until(lambda: watch_rests(host))
        host.store.root.rename(away)
        host.until(host.store.root.exists)
        host.until(lambda: watch_rests(host))
        before = host.count()
        host.store.renew("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() > before)


def test_what_an_apply_says_is_passed_on_and_a_warning_once(tmp_path: Path) -> None:
    talk = (
        "echo '<4>mailsni: warning: it is broken' >&2; echo '<3>mailsni: error: no' >&2; printf 'half a line'; exit 1"
    )
    host = Host(tmp_path, scan=3600, script=talk)
    with host.watching(Observer):
        host.until(lambda: any("failed" in line for line in host.log.lines))
        host.store.add("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: sum("failed" in line for line in host.log.lines) == 2)
    said = ["WARNING mailsni: warning: it is broken", "ERROR mailsni: error: no", "INFO half a line"]
    assert sorted(line for line in host.log.lines if line in said) == sorted([*said, *said[1:]])
    again = "failed with exit code 1: next try in 60 seconds, or when something changes"
    assert f"WARNING mailsni: warning: apply: {again}" in host.log.lines


def test_an_apply_that_closes_its_output_makes_no_busy_loop(tmp_path: Path) -> None:
    host = Host(tmp_path, scan=3600, script="exec >&- 2>&-; sleep 1")
    with host.watching(Observer):
        host.until(lambda: host.count() == 1)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.25


def test_a_configuration_reaches_the_apply_as_it_was_read(tmp_path: Path) -> None:
    host = Host(tmp_path, scan=3600, script=f"cat > {tmp_path}/given; env > {tmp_path}/environment")
    host.config.write_text(host.config.read_text() + "# " + "x" * 100_000 + "\n")  # more than a pipe holds
    good = host.config.read_text()
    with host.watching(Observer) as watch:
        host.until(lambda: (tmp_path / "environment").exists())
        host.config.write_text("[watch]\nquite = 1\n")
        watch.requests.add(Request.RELOAD)
        host.until(lambda: any("did you mean quiet?" in line for line in host.log.lines))
        host.store.add("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: host.count() == 2)
        host.until(lambda: (tmp_path / "given").read_text() == good)
    refusal = "ERROR mailsni: error: configuration refused, keeping the old one: "
    assert f"{refusal}{host.config}: line 2: [watch] quite: unknown key" in host.log.lines
    assert "MAILSNI_STARTED_BY=watch\n" in (tmp_path / "environment").read_text()


def test_the_program_scans_when_the_kernel_has_no_watches_left(tmp_path: Path) -> None:
    """The real program, in a user name space whose limit is zero."""
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    probe = "echo 0 > /proc/sys/user/max_inotify_instances"
    if subprocess.run([*limited, probe], capture_output=True, check=False).returncode != 0:
        pytest.skip("user name spaces are not to be had")
    host = Host(tmp_path, scan=0.5)
    talk = tmp_path / "talk"
    words = f"{probe}; exec {sys.executable} -m mailsni --config {host.config} watch"
    with running([*limited, words], talk) as process:
        host.until(lambda: talk.read_text().count("apply: failed") == 1, talk.read_text)
        host.store.add("lineage", host.authority.issue(["mail.test"]))
        host.until(lambda: talk.read_text().count("apply: failed") == 2, talk.read_text)
        process.terminate()
        assert process.wait(LIMIT) == 0
    assert talk.read_text().count("warning: no file events: ") == 1
