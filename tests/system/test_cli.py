"""The program as a process: its version, terminals, pipes, readers that go away, a lock that is held."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailsni import __version__
from mailsni.errors import Exit
from mailsni.host.commands import find_tool
from mailsni.sources import scan_cache
from tests.support.cli_host import CliHost, new_host
from tests.support.command_line import HIDDEN

PROGRAM = [sys.executable, "-m", "mailsni"]
ESCAPE = "\x1b["


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> CliHost:
    return new_host(tmp_path_factory.mktemp("host"))


def clean(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in HIDDEN} | more


def outside(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as another process."""
    passed = clean(**environment)
    return subprocess.run(command, env=passed, capture_output=True, text=True, check=False, timeout=60)


def test_the_version() -> None:
    done = outside([*PROGRAM, "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mailsni {__version__}\n", "")


# ── start-up ─────────────────────────────────────────────────────────────────────────────────────────────────────────

HEAVY = {"cryptography", "jinja2", "watchdog", "rich", "prometheus_client", "ssl"}
IMPORTED = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=open(sys.argv.pop(1), "w")))
from mailsni.cli import main
sys.exit(main.run(sys.argv[2:]))
"""


def imported(tmp_path: Path, *words: str, before: Sequence[str] = ()) -> set[str]:
    """The modules that a run imports."""
    report = tmp_path / "modules"
    done = outside([*before, sys.executable, "-c", IMPORTED, str(report), *words])
    assert (done.returncode, done.stderr) == (0, "")
    modules = set(report.read_text().split())
    assert "mailsni.cli.main" in modules
    return modules


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_what_asks_for_no_work_imports_nothing_that_works(tmp_path: Path, word: str) -> None:
    modules = imported(tmp_path, word)
    assert not modules & {*HEAVY, "tomllib", "mailsni.config.parser", "mailsni.deploy", "mailsni.sources.certbot"}
    assert ("mailsni.cli.apply" in modules) == (word == "--help")


def test_a_hook_call_that_another_process_waits_for_imports_nothing_that_works(tmp_path: Path, host: CliHost) -> None:
    holding = ["flock", str(host.config.with_name("lock.waiting"))]
    modules = imported(tmp_path, "--config", str(host.config), "apply", "--settle", "9", before=holding)
    assert "mailsni.runs.debounce" in modules
    assert not modules & {*HEAVY, "mailsni.deploy", "mailsni.sources.certbot", "mailsni.targets", "mailsni.cli.queries"}


@pytest.mark.skipif(find_tool("dovecot") is not None, reason="a plain user's Dovecot would be asked about its include")
def test_a_run_with_nothing_to_do_imports_only_what_compares(tmp_path: Path) -> None:
    host = new_host(tmp_path)
    shutil.rmtree(host.store.live / "torn.test")
    time.sleep(scan_cache.MIN_FILE_AGE + 0.1)
    apply = ("--config", str(host.config), "apply", "--quiet")
    assert {"cryptography", "jinja2"} <= imported(tmp_path, *apply)
    assert imported(tmp_path, *apply) & HEAVY == {"jinja2"}


# ── locks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_that_is_held_is_exit_code_75(host: CliHost) -> None:
    holding = ["flock", str(host.config.with_name("lock")), *PROGRAM, "--config", str(host.config), "apply", "--json"]
    done = outside(holding)
    assert done.returncode == Exit.LOCKED
    assert json.loads(done.stdout)["exit_code"] == Exit.LOCKED


def on_a_terminal(host: CliHost, *words: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "--config", str(host.config), *words]
    passed = clean(TERM="xterm-256color", COLUMNS="120", **environment)
    with subprocess.Popen(command, env=passed, stdout=theirs, stderr=subprocess.DEVNULL) as child:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # how Linux tells that the other end has been closed
            pass
        finally:
            os.close(ours)
        assert child.wait(60) == 0
    return shown.decode()


def test_a_terminal_has_colour_and_a_pipe_has_none_and_both_show_the_same(host: CliHost) -> None:
    for words in (["status"], ["plan", "--diff"]):
        shown = on_a_terminal(host, *words)
        piped = host.run(*words).stdout
        assert ESCAPE in shown
        assert ESCAPE not in piped
        assert re.findall(r"mail\.[abc]\.test", shown) == re.findall(r"mail\.[abc]\.test", piped) != []


def test_no_color_is_honoured(host: CliHost) -> None:
    for words in (["status", "--skipped"], ["plan", "--diff"]):
        shown = on_a_terminal(host, *words, NO_COLOR="1")
        assert "a.test" in shown
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", shown), "a colour"


def test_a_reader_that_goes_away_is_no_error_to_speak_of(host: CliHost) -> None:
    command = " ".join(map(shlex.quote, [*PROGRAM, "--config", str(host.config)]))
    script = f"{command} status | head -1; {command} status --json | head -1"
    done = outside(["/bin/sh", "-c", script])
    assert re.fullmatch(r"NAME .*STATE .*\n\{\n", done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["--version"],
        ["plan", "--quiet"],
        ["--help"],
    ],
)
def test_nor_is_one_that_has_gone_before_anything_was_said(host: CliHost, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*PROGRAM, "--config", str(host.config), *words]
    with subprocess.Popen(command, env=clean(), stdout=writing, stderr=subprocess.PIPE, text=True) as child:
        os.close(writing)
        _, talk = child.communicate(timeout=60)
    assert "Traceback" not in talk
    assert "Exception ignored" not in talk
    assert child.returncode in (Exit.DONE, Exit.FAILED)


def test_doctor_as_a_process_has_the_exit_code_and_the_document_of_the_contract(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[[sources]]\npath = "{tmp_path}/live"\n[postfix]\nenabled = false\n[dovecot]\nenabled = false\n'
        f'[state]\ndirectory = "{tmp_path}/state"\nlock = "{tmp_path}/lock"\n'
    )
    doctor = [*PROGRAM, "--config", str(config), "doctor"]
    said = outside([*doctor, "--json"])
    document = json.loads(said.stdout)
    assert (said.returncode, said.stderr, document["schema"]) == (4, "", "mailsni.doctor/1")
    assert document["findings"][0]["code"] == "store_missing"
    config.write_text("[postfix]\nenabled = 7\n")
    assert outside(doctor).returncode == Exit.CONFIGURATION
