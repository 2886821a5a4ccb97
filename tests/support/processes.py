"""The program in a process of its own, as a hook or a person starts it, and how tests wait for what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mailsni.host.commands import environment

PROGRAM = Path(sys.executable).with_name("mailsni")
"""The program as it is installed; ``python -m mailsni`` looks for modules in the current directory first."""
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
"""Words before a command that a user who owns nothing is to run."""
LIMIT = 240.0
"""Seconds after which something hangs. Nothing is concluded from shorter times: the machine may be busy."""


def mailsni_command(config: Path, *arguments: str) -> list[str]:
    """The words that start the installed program."""
    return [sys.executable, "-m", "mailsni", "--config", str(config), *arguments]


def start_mailsni(
    config: Path,
    *arguments: str,
    before: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start the program with a pipe for each of its streams, and do not wait for it.

    Args:
        config: its configuration file.
        arguments: the command and its options.
        before: words before the command line, such as :data:`AS_NOBODY`.
        variables: of its environment, besides the usual ones.
    """
    usual = environment() | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        [*before, *mailsni_command(config, *arguments)],
        env=usual | dict(variables or {}),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_mailsni(
    config: Path, *arguments: str, before: Sequence[str] = (), timeout: float = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end: see :func:`start_mailsni`."""
    with start_mailsni(config, *arguments, before=before, variables=variables) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextmanager
def running(
    command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Let a command run until the end of the block, where it is killed.

    Args:
        command: its words.
        log: where both of its streams go.
        variables: of its environment, besides those that every program gets.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment() | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_command(
    words: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run any command to its end, as a script would: without a terminal.

    Args:
        words: the command and its arguments.
        env: all of its environment; what the program gives to its own children when None.
        cwd: its working directory, ``/`` when None.
        descriptors: those that it gets beside the standard ones.
    """
    return subprocess.run(
        words,
        env=environment() if env is None else env,
        cwd=cwd or "/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        pass_fds=descriptors,
    )


def until(
    condition: Callable[[], object],
    story: str | Callable[[], object],
    *,
    limit: float = LIMIT,
    beside: subprocess.Popen[str] | subprocess.Popen[bytes] | None = None,
) -> float:
    """Wait for a condition.

    Args:
        condition: asked again and again.
        story: what a failure says: a text, or where it comes from then.
        limit: seconds after which it has failed.
        beside: a process that must not end before.

    Returns:
        The seconds that it took.
    """
    begun = time.monotonic()
    while not condition():
        waits = time.monotonic() - begun < limit and (beside is None or beside.poll() is None)
        assert waits, story() if callable(story) else story
        time.sleep(0.02)
    return time.monotonic() - begun
