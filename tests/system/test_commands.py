"""The only door to other programs: what they see, how they end, and what of their talk comes back."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailsni.core.text import printable
from mailsni.errors import HostError
from mailsni.host import commands
from mailsni.host.commands import environment, find_tool, require_tool, run
from mailsni.runs import debounce
from mailsni.watch.apply_process import ApplyProcess
from mailsni.watch.log import Journal
from tests.support.processes import until

SHELL = "/bin/sh"


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for_end(*pids: int) -> None:
    until(lambda: not any(map(alive, pids)), "a process does not end")


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_that_ends_is_told_with_its_status_and_its_talk() -> None:
    done = run([SHELL, "-c", "cat; echo warning >&2; exit 3"], stdin=b"question")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"question", "warning")
    assert done.argv[0] == SHELL
    assert run([SHELL, "-c", "kill -TERM $$"]).returncode == -15


def test_a_program_that_does_not_end_is_killed_with_its_children_though_they_ignore_sigterm(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo $$ $! > {shlex.quote(str(pids))}; wait"
    begin = time.monotonic()
    with pytest.raises(HostError, match=r"/bin/sh: did not end within 0\.5 seconds and was killed"):
        run([SHELL, "-c", script], timeout=0.5)
    assert time.monotonic() - begin < 10
    wait_for_end(*map(int, pids.read_text().split()))


def test_an_interrupted_run_leaves_no_program_behind(tmp_path: Path) -> None:
    """Ctrl-C, or SIGTERM made an exception: the program is in a session of its own, so nobody else kills it."""
    pid = tmp_path / "pid"
    code = (
        "import signal, sys\n"
        "from mailsni.host.commands import run\n"
        "signal.signal(signal.SIGALRM, lambda *_: sys.exit(9))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.7)\n"
        f"run([{SHELL!r}, '-c', 'echo $$ > ' + {shlex.quote(str(pid))!r} + '; exec sleep 60'])\n"
    )
    assert run([sys.executable, "-c", code]).returncode == 9
    wait_for_end(int(pid.read_text()))


def test_a_program_that_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(HostError, match="cannot be started: No such file or directory"):
        run([missing])
    missing.touch(mode=0o600)
    with pytest.raises(HostError, match="cannot be started: Permission denied"):
        run([missing])


def test_a_daemon_that_stays_behind_is_not_waited_for() -> None:
    begin = time.monotonic()
    done = run([SHELL, "-c", "sleep 5 & echo talk >&2; echo out"], detached=True)
    assert time.monotonic() - begin < 4
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", "")


def test_output_that_is_not_wanted_is_not_taken() -> None:
    done = run([SHELL, "-c", "echo key; echo talk >&2"], discard=True)
    assert (done.stdout, done.stderr) == (b"", "talk")


def test_more_than_a_pipe_holds_goes_through() -> None:
    much = b"x" * (1 << 20)
    assert run(["/bin/cat"], stdin=much).stdout == much


# ── what a program sees ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_environment_is_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("LD_PRELOAD", "MAIL_CONFIG", "PYTHONPATH", "IFS", "LANGUAGE", "LC_MESSAGES", "DOVECOT_PRESERVE_ENVS"):
        monkeypatch.setenv(key, "evil")
    for key, value in (("PATH", "/tmp/evil"), ("HOME", "/tmp/evil"), ("LC_ALL", "de_DE.UTF-8"), ("TZ", "Asia/Tokyo")):
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", "/certs")
    seen = dict(line.split("=", 1) for line in run(["/usr/bin/env"]).stdout.decode().splitlines())
    assert seen == environment()
    assert seen == {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin",
        "LC_ALL": "C",
        "LANG": "C",
        "HOME": "/",
        "TZ": "Asia/Tokyo",
        "SSL_CERT_DIR": "/certs",
    }


def test_nothing_but_the_standard_descriptors_is_inherited(tmp_path: Path) -> None:
    with (tmp_path / "key").open("wb") as secret:
        os.set_inheritable(secret.fileno(), True)  # noqa: FBT003
        # The fourth is the one by which ls(1) reads the directory.
        listed = run(["/bin/ls", "/proc/self/fd"]).stdout.split()
        assert listed == [b"0", b"1", b"2", b"3"]
        assert str(secret.fileno()).encode() not in listed[:3]


def test_a_program_runs_in_the_root_directory_and_reads_nothing() -> None:
    assert run([SHELL, "-c", "pwd; cat"]).stdout == b"/\n"


def test_tools_are_found_in_system_directories_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "mailsni-test-tool"
    trap.write_text("#!/bin/sh\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("mailsni-test-tool") is None
    assert require_tool("sh").is_absolute()
    with pytest.raises(HostError, match="mailsni-test-tool: not found in /usr/sbin:"):
        require_tool("mailsni-test-tool")
    monkeypatch.setattr(commands, "SEARCH_PATH", (str(tmp_path),))
    assert find_tool("mailsni-test-tool") == trap
    trap.chmod(0o644)
    assert find_tool("mailsni-test-tool") is None


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────────

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("talk", "shown"),
    [
        ("", ""),
        ("one\ntwo\n", "one\ntwo"),
        (f"bad: {KEY}: sorry", "bad: [PEM removed]: sorry"),
        (f"{KEY}{KEY} x {KEY}", "[PEM removed][PEM removed] x [PEM removed]"),
        (KEY[:40], "[PEM removed]"),
        (f"a{KEY[:40]}\nb", "a[PEM removed]"),
        (KEY.replace("\n", "\r\n"), "[PEM removed]"),
        ("\x1b[31mred\x1b[0m \x07\x00\x9b", "?[31mred?[0m ?"),
        ("tab\tand ümlaut \u202e", "tab?and ?mlaut ?"),
    ],
)
def test_talk_is_made_fit_for_a_log(talk: str, shown: str) -> None:
    assert printable(talk) == shown


def test_the_output_that_a_message_quotes_is_bounded() -> None:
    assert len(printable("x" * 10_000)) < 2100
    assert printable("x" * 2000) == "x" * 2000


def test_bytes_that_are_no_text_come_back_as_text() -> None:
    done = run([SHELL, "-c", r"printf 'a\377\033b' >&2; printf 'a\377'"])
    assert (done.stderr, done.stdout) == ("a?b", b"a\xff")


def test_variables_are_seen_beside_the_environment() -> None:
    done = run([SHELL, "-c", 'echo "$WORD $PATH"'], variables={"WORD": "two words"})
    assert done.stdout.decode() == f"two words {environment()['PATH']}\n"


# ── life without the caller ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_end_of_a_process_is_noticed() -> None:
    with subprocess.Popen([SHELL, "-c", "read x"], stdin=subprocess.PIPE) as child:
        handle = debounce.handle(child.pid)
        assert handle is not None
        assert select.select([handle], [], [], 0.01)[0] == []
        child.communicate()
        assert select.select([handle], [], [], 300)[0] == [handle]
        os.close(handle)
    assert debounce.handle(child.pid) is None


def test_what_goes_on_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """And it has no terminal, no pipe and no directory of its caller's."""
    code = f"""
import os, time
from pathlib import Path
from mailsni.runs import debounce
os.dup2(1, 9)
os.set_inheritable(9, True)
debounce.forget_inherited()
if not debounce.go_on_in_background():
    print("caller")
    raise SystemExit
print("nobody sees this")
while not Path("{tmp_path}/go").exists():
    time.sleep(0.01)
seen = [os.readlink(f"/proc/self/fd/{{one}}") for one in (0, 1, 2)], os.path.exists("/proc/self/fd/9"), os.getcwd()
Path("{tmp_path}/part").write_text(repr((*seen, os.getsid(0) != {os.getsid(0)})))
Path("{tmp_path}/part").rename("{tmp_path}/told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("caller\n", "")
    (tmp_path / "go").touch()
    until((tmp_path / "told").exists, "the part tells nothing")
    assert (tmp_path / "told").read_text() == repr(([os.devnull] * 3, False, "/", True))


# ── a run that the watch has started ─────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_asked_to_end_and_killed_with_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pids = tmp_path / "pids"
    script = f"trap 'echo asked' TERM; sleep 60 & echo $$ $! > {shlex.quote(str(pids))}; wait; wait"
    process = ApplyProcess([SHELL, "-c", script], b"", Journal(), frozenset(), now=0)
    try:
        while not pids.exists() or not pids.read_text().endswith("\n"):
            time.sleep(0.01)
        process.finish_by(1)
        assert process.poll(0.9) is None
        assert process.poll(1) is None
        said = ""
        while "asked\n" not in said:
            assert process.poll(1.1) is None
            said += capsys.readouterr().err
        assert process.poll(100) is None
        assert process.poll(100) == -9
    finally:
        process.close()
    said += capsys.readouterr().err
    assert [line for line in said.splitlines() if line != "asked"] == [
        "mailsni: warning: the running apply is out of time: sending SIGTERM",
        "mailsni: error: the running apply ignores SIGTERM: sending SIGKILL",
    ]
    wait_for_end(*map(int, pids.read_text().split()))


def test_a_run_that_cannot_be_started_leaves_no_descriptor(tmp_path: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(HostError, match="cannot be started: No such file or directory"):
        ApplyProcess([str(tmp_path / "missing")], b"", Journal(), frozenset(), now=0)
    process = ApplyProcess(["/bin/true"], b"", Journal(), frozenset(), now=0)
    while process.poll(0) is None:
        time.sleep(0.01)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
