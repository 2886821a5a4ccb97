"""A program of our own as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from mailsni.errors import HostError
from mailsni.host.commands import environment, kill_group


class Child:
    """A program of our own that runs beside us, in a session of its own so that Ctrl-C is ours alone.

    Attributes:
        output: a descriptor that never blocks, of its standard output and standard error.
        ending: a descriptor that becomes readable at its end (pidfd_open(2)); None where the kernel has none.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self.output = output.fileno()
        os.set_blocking(self.output, False)
        self.ending: int | None
        try:
            self.ending = os.pidfd_open(process.pid)
        except OSError:
            self.ending = None

    def returncode(self) -> int | None:
        """Its exit status (negative: the signal that ended it); None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """SIGTERM: a run undoes what it has begun."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, with what it has started in its own process group."""
        kill_group(self._process)

    def close(self) -> None:
        """Kill it if it still runs, and give back the descriptors."""
        if self.returncode() is None:
            self.kill()
        self._output.close()
        if self.ending is not None:
            os.close(self.ending)


def start(argv: Sequence[str | Path], *, stdin: bytes, also: Mapping[str, str]) -> Child:
    """Start a program and do not wait for it.

    Args:
        argv: the absolute path of the program, then its arguments.
        stdin: what it reads.
        also: what it sees in its environment besides :func:`environment`.

    Raises:
        HostError: it could not be started.
    """
    words = [str(word) for word in argv]
    try:
        # No pipe: a program that does not read, or has died, could not take more than the pipe holds.
        with os.fdopen(os.memfd_create("stdin"), "w+b") as question:
            question.write(stdin)
            question.seek(0)
            process = subprocess.Popen(
                words,
                stdin=question,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**environment(), **also},
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise HostError(f"{words[0]}: cannot be started: {error.strerror}") from error
    return Child(process, cast("IO[bytes]", process.stdout))
