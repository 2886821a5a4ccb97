"""The lock of a run is held against other processes, and dies with its holder."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsni.errors import LockedError
from mailsni.host import lock as lock_module

HOLDER = """
import sys
from pathlib import Path
from mailsni.host import lock
with lock.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert select.select([holder.stdout], [], [], 30)[0], "the holder did not get the lock"
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def assert_free(path: Path, wait: float = 0.0) -> None:
    with lock_module.locked(path, wait):
        pass


def assert_taken(path: Path, wait: float = 0.0) -> None:
    with pytest.raises(LockedError, match="another run holds the lock") as caught, lock_module.locked(path, wait):
        pass
    assert caught.value.hint is not None


def test_a_lock_is_held_against_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another_process(path) as holder:
        assert_taken(path)
        begin = time.monotonic()
        assert_taken(path, 0.3)
        assert 0.3 <= time.monotonic() - begin < 5
        assert holder.stdin is not None
        holder.stdin.close()
        assert_free(path, 30)


def test_a_lock_is_free_as_soon_as_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another_process(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        assert_free(path)
