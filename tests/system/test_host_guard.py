"""No test reaches the host's own directories, and the proof of that notices one that does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.builders import authority
from tests.support.host_guard import REPOSITORY
from tests.support.lineages import CertbotDirectory

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a plain user cannot write there"),
    pytest.mark.skipif("MAILSNI_LAB_RELEASE" in os.environ, reason="all that the lab's tests write is thrown away"),
]

START_AS_ROOT = """\
import subprocess, sys

def test_that_starts_the_program_with_default_paths():
    command = [sys.executable, "-m", "mailsni", "--config", {config!r}, "apply", "--no-verify"]
    subprocess.run(command, check=False, timeout=60)
"""
WRITES = (
    "/etc/mailsni-was-here",
    "/etc/postfix/mailsni",
    "/etc/dovecot/mailsni-was-here",
    "/var/lib/mailsni-was-here",
    "/var/lib/mailsni/deployment.json",
    "/run/mailsni.lock",
)


def on_a_mail_host(*command: str) -> tuple[int, list[str]]:
    """Run a command on a fake mail host: its exit status, and the paths that it changed there."""
    words = [sys.executable, "-m", "tests.support.fake_mail_host", *command]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    _, _, report = done.stderr.partition("changed the host:\n")
    return done.returncode, report.split()


def pytest_on_a_mail_host(test: Path, *options: str, before: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Run a test on a fake mail host as a person would; what the words before the command do is done to it."""
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={test.parent}"]
    return on_a_mail_host(*before, *pytest_command, *options, str(test))


@pytest.fixture
def careless_test(tmp_path: Path) -> Path:
    """A test that starts ``mailsni apply`` with nothing but a store in its configuration."""
    store = CertbotDirectory(tmp_path / "letsencrypt")
    store.add("a.test", authority().issue(["mail.a.test"]))
    config = tmp_path / "config.toml"
    config.write_text(f'[[sources]]\npath = "{store.live}"\n')
    path = tmp_path / "test_careless.py"
    path.write_text(START_AS_ROOT.format(config=str(config)))
    return path


def test_without_the_guard_a_careless_test_publishes_to_the_host_and_the_proof_notices(careless_test: Path) -> None:
    status, changed = pytest_on_a_mail_host(careless_test)
    assert status == 1
    assert {"/etc/postfix/mailsni", "/etc/dovecot/conf.d/99-mailsni.conf", "/run/mailsni.lock"} <= set(changed)
    assert {"/var/lib/mailsni/deployment.json", "/run/server-commands"} <= set(changed)


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_with_the_guard_a_careless_test_changes_nothing_on_the_host(careless_test: Path, options: list[str]) -> None:
    assert pytest_on_a_mail_host(careless_test, "-p", "tests.conftest", *options) == (0, [])


def test_no_test_can_write_to_the_directories_of_the_host() -> None:
    """Neither in a process that protects itself, nor in the one that runs this."""
    write = f"""
import pathlib
for path in {WRITES!r}:
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        print(error.strerror)
"""
    _, changed = on_a_mail_host(sys.executable, "-c", write)
    assert set(WRITES) <= set(changed)
    guarded = f"from tests.support.host_guard import protect_host; protect_host(){write}"
    assert on_a_mail_host(sys.executable, "-c", guarded) == (0, [])
    for path in WRITES:
        assert not os.access(Path(path).parent, os.W_OK)
        assert not os.access(path, os.W_OK)


CHANGES = {
    "/etc/postfix/main.cf": "chmod 644 {path}",
    "/etc/postfix/mailsni": "touch {path}",
    "/etc/dovecot/dovecot.conf": "rm {path}",
    "/etc/dovecot/mailsni/planted.pem": "cp -p {path} {path}.new; mv {path}.new {path}",
    "/var/lib/mailsni/new": "mkdir {path}",
    "/run/dovecot/master.pid": "echo 2 > {path}",
}


def test_the_proof_notices_every_kind_of_change() -> None:
    script = "; ".join(command.format(path=path) for path, command in CHANGES.items())
    status, changed = on_a_mail_host("/bin/sh", "-c", script)
    assert status == 1
    assert set(CHANGES) <= set(changed)


def test_no_test_finds_the_servers_of_the_host() -> None:
    script = """
from tests.support.host_guard import HIDDEN_TOOLS, protect_host
from mailsni.host.commands import find_tool
planted = [name for name in HIDDEN_TOOLS if find_tool(name)]
protect_host()
found = [name for name in HIDDEN_TOOLS if find_tool(name)]
raise SystemExit(0 if {"postfix", "dovecot"} <= set(planted) and not found else 9)
"""
    assert on_a_mail_host(sys.executable, "-c", script) == (0, [])


def test_the_proof_of_a_command_that_fails_keeps_its_exit_code() -> None:
    assert on_a_mail_host("/bin/sh", "-c", "exit 7") == (7, [])


def test_root_who_may_not_mount_runs_no_test(tmp_path: Path) -> None:
    path = tmp_path / "test_never_run.py"
    path.write_text("def test_x():\n    pass\n")
    without = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    assert pytest_on_a_mail_host(path, "-p", "tests.conftest", before=without) == (pytest.ExitCode.USAGE_ERROR, [])
