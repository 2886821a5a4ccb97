"""A test that is not pure fails in the directories of the quick tests, and nowhere else."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.host_guard import REPOSITORY
from tests.support.purity import impure_events


def connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()


IMPURE: dict[str, tuple[Callable[[], object], set[str]]] = {
    "a process": (lambda: subprocess.run(["/bin/true"], check=True), {"subprocess.Popen"}),
    "a connection": (connect, {"socket.bind", "socket.connect", "socket.getaddrinfo"}),
}


@pytest.mark.parametrize(("act", "expected"), IMPURE.values(), ids=IMPURE)
def test_what_is_impure_is_noticed(act: Callable[[], object], expected: set[str]) -> None:
    with impure_events() as events:
        act()
    assert expected <= set(events)


def test_files_are_pure_and_so_is_what_happens_later(tmp_path: Path) -> None:
    with impure_events() as events:
        (tmp_path / "file").write_text("x")
    connect()
    assert events == []


@pytest.mark.parametrize(("directory", "status"), [("unit", 1), ("system", 0)])
def test_a_test_that_starts_a_process_fails_where_only_pure_ones_belong(
    tmp_path: Path, directory: str, status: int
) -> None:
    test = tmp_path / directory / "test_it.py"
    test.parent.mkdir()
    test.write_text("import subprocess\n\ndef test_it():\n    subprocess.run(['/bin/true'], check=True)\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    done = subprocess.run(
        [*words, f"--rootdir={tmp_path}", str(test)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stdout
