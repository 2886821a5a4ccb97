"""The only door to other programs.

A program is named by an absolute path in a system directory, never through the caller's ``PATH``: hooks and cron jobs
run as root with whatever environment they were given. It sees an allow-listed environment in the C locale and inherits
the three standard descriptors only. At its time limit SIGKILL ends its whole process group: ``postmap`` ignores SIGTERM
while it writes (postmap(1), measured).
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mailsni.core.text import printable
from mailsni.errors import HostError

SEARCH_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_PASSED_ON = ("TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes of a program's output that are parsed."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished program: its exit status (negative: the signal that ended it), its output and its messages."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes = field(repr=False)
    stderr: str
    """Made fit for a terminal: :func:`mailsni.core.text.printable`."""

    @property
    def text(self) -> str:
        """The output as text, not more than :data:`OUTPUT_LIMIT` bytes of it."""
        return self.stdout[:OUTPUT_LIMIT].decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last line of its messages, or the exit status of a program that said nothing."""
        return self.stderr.splitlines()[-1] if self.stderr else f"exit status {self.returncode}"


class Executor(Protocol):
    """Runs the programs of a server where that server lives: on this host, or in a container."""

    @property
    def container(self) -> str:
        """The container that the programs run in; empty for this host."""

    def find_tool(self, name: str) -> Path | None:
        """The absolute path of a system program; None when it is not installed there."""

    def inside(self, path: Path) -> Path:
        """What a path of this host is called where the programs run.

        Raises:
            HostError: the file cannot be seen from there.
        """

    def outside(self, path: Path) -> Path | None:
        """What a path that the programs print, or a configuration of theirs names, is called on this host.

        None when this host does not have the file.
        """

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        discard: bool = False,
        detached: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program to its end.

        Args:
            argv: the absolute path of the program, then its arguments.
            stdin: what it reads; nothing when None.
            timeout: seconds after which it and its children are killed.
            discard: drop its output, which may hold keys; keep its status and its messages.
            detached: it leaves a daemon behind, which would hold its output and its messages open for ever: drop both.
            variables: added to :func:`environment`.

        Raises:
            HostError: it could not be started, or did not end in time. A non-zero exit status is not an error here.
        """


def environment() -> dict[str, str]:
    """The environment that other programs see."""
    passed = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    return passed | {"PATH": ":".join(SEARCH_PATH), "LC_ALL": "C", "LANG": "C", "HOME": "/"}


class LocalExecutor:
    """This host's programs."""

    container = ""

    def inside(self, path: Path) -> Path:
        """See :class:`Executor`."""
        return path

    def outside(self, path: Path) -> Path | None:
        """See :class:`Executor`."""
        return path

    def find_tool(self, name: str) -> Path | None:
        """See :class:`Executor`."""
        for directory in SEARCH_PATH:
            candidate = Path(directory) / name
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
        return None

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        discard: bool = False,
        detached: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """See :class:`Executor`."""
        words = tuple(str(word) for word in argv)
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.DEVNULL if discard or detached else subprocess.PIPE,
                stderr=subprocess.DEVNULL if detached else subprocess.PIPE,
                env=environment() | dict(variables or {}),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"{words[0]}: cannot be started: {error.strerror}") from error
        with child:
            try:
                output, messages = child.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired as error:
                kill_group(child)
                raise HostError(f"{words[0]}: did not end within {timeout:g} seconds and was killed") from error
            except OSError as error:
                kill_group(child)
                raise HostError(f"{words[0]}: communication failed: {error.strerror}") from error
            except BaseException:
                kill_group(child)
                raise
        shown = printable((messages or b"").decode("utf-8", "replace"))
        return Completed(words, child.returncode, output or b"", shown)


LOCAL = LocalExecutor()
find_tool = LOCAL.find_tool
run = LOCAL.run


def run_bounded(argv: Sequence[str], *, timeout: float, limit: int) -> Completed:
    """Run a program of this host that may print too much, or never end. It has no standard input.

    Args:
        argv: the absolute path of the program, then its arguments.
        timeout: seconds after which it and its children are killed.
        limit: bytes of output after which they are.

    Raises:
        HostError: it could not be started, did not end in time, or printed too much. A non-zero exit status is not an
            error here.
    """
    words = tuple(argv)
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"{words[0]}: cannot be started: {error.strerror}") from error
    until = time.monotonic() + timeout
    with child:
        try:
            output, messages = _read_bounded(child, until, limit)
            if len(output) > limit:
                raise HostError(f"{words[0]}: printed more than {limit} bytes and was killed")
            child.wait(max(0.0, until - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            kill_group(child)
            raise HostError(f"{words[0]}: did not end within {timeout:g} seconds and was killed") from None
        except BaseException:
            kill_group(child)
            raise
    shown = printable(messages.decode("utf-8", "replace"))
    return Completed(words, child.returncode, bytes(output), shown)


def _read_bounded(child: subprocess.Popen[bytes], until: float, limit: int) -> tuple[bytearray, bytearray]:
    """What a program prints until both streams end or there is too much output; and the end of its messages."""
    output, messages = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, into in ((child.stdout, output), (child.stderr, messages)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, into)
        while selector.get_map() and len(output) <= limit:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for ready, _ in selector.select(left):
                chunk = os.read(ready.fd, 1 << 16)
                ready.data.extend(chunk)
                if not chunk:
                    selector.unregister(ready.fileobj)
            del messages[:-OUTPUT_LIMIT]
    return output, messages


def require_tool(name: str, executor: Executor = LOCAL) -> Path:
    """Like :meth:`Executor.find_tool`, for a program without which the run cannot go on.

    Raises:
        HostError: it is not there.
    """
    found = executor.find_tool(name)
    if found is None:
        where = f" of container {executor.container}" if executor.container else ""
        raise HostError(f"{name}: not found in {':'.join(SEARCH_PATH)}{where}")
    return found


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """End a program and everything that it started, at once, and wait for it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()
    child.wait()


def parent(number: int) -> int:
    """The process above another one; 0 above the first.

    Raises:
        OSError: there is no such process.
        ValueError: the kernel's answer cannot be read.
    """
    # "PID (NAME) STATE PPID …", and the name may hold blanks and brackets: proc(5)
    found = re.match(r".*\) \S (\d+) ", Path(f"/proc/{number}/stat").read_text(), re.DOTALL)
    if found is None:
        raise ValueError(f"/proc/{number}/stat")
    return int(found[1])
