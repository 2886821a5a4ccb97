"""Runs the program under strace, again and again, without paying for its start each time (run as a script).

Reads one line of JSON for each run from standard input::

    {"argv": ["mailsni", "apply"], "strace": ["-e", "trace=rename"], "output": "/file", "log": "/file"}

For each it forks; the child lets strace(1) attach to it, and is from there on what ``mailsni`` is, to its last call.
When it has ended, and everything that it started, ``[status, killed]`` is written: an exit status, or the number of the
signal that killed it. Nothing that a run did in its memory reaches the next one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import sys
import time

import mailsni
from mailsni.cli.main import load, main
from mailsni.host.commands import require_tool

PR_SET_CHILD_SUBREAPER = 36


def attach(options: list[str], log: str) -> None:
    """Have strace follow this process, and wait until it does.

    Nothing here makes a call that strace counts while it may be attaching or not: the same run has the same numbers.
    """
    words = [str(require_tool("strace")), "-qq", "-y", "-s", "16", "-o", log, *options, "-p", str(os.getpid())]
    status = os.open("/proc/self/status", os.O_RDONLY)
    # Not waited for: it ends when this process has ended.
    os.posix_spawn(words[0], words, os.environ, setsid=True)
    while b"TracerPid:\t0\n" in os.pread(status, 1 << 16, 0):
        time.sleep(0.002)
    os.close(status)


def serve() -> bool:
    """Fork for each line that comes. Gives True in a child, and False when no more lines come."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for descriptor, number in ((null, 0), (output, 1), (output, 2)):
                os.dup2(descriptor, number)
            os.closerange(3, max(output, null) + 1)
            sys.argv = order["argv"]
            attach(order["strace"], order["log"])
            return True
        answer: list[int | None] = [None, None]
        try:
            while True:  # strace, and whatever the child left behind, are children of this process then
                ended, status = os.wait()
                if ended == child:
                    code = os.waitstatus_to_exitcode(status)
                    answer = [None, -code] if code < 0 else [code, None]
        except ChildProcessError:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    return False


if __name__ == "__main__":
    load("apply")
    for module in pkgutil.walk_packages(mailsni.__path__, "mailsni."):  # what is imported late
        if module.name != "mailsni.__main__":
            importlib.import_module(module.name)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if serve():
        main()
