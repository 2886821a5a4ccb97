"""The sandbox's servers, and what the tests do to them besides: reload, restart."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailsni.errors import HostError
from mailsni.host.commands import require_tool, run
from mailsni.sandbox import servers
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import LOOPBACK
from mailsni.targets.dovecot.rendering import DovecotVersion

_LASTING_LOGINS: dict[DovecotVersion, str] = {
    "2.3": "service imap-login {\n  service_count = 0\n  process_min_avail = 2\n}\n",
    "2.4": "service imap-login {\n  restart_request_count = unlimited\n  process_min_avail = 2\n}\n",
}


_FIRST_PORT, _BLOCK, _BLOCKS = 10_000, 1000, 22


@functools.cache
def _ports() -> Iterator[int]:
    """The loopback ports that this process may give to servers, long before those listen on them.

    They lie below the ports that connections are made from (32768 by default, ip(7)), in a block that no other process
    with a sandbox in this network takes at the same time: an abstract socket with its name says that it is taken.
    """
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    begin = os.getpid() % _BLOCKS
    for block in (*range(begin, _BLOCKS), *range(begin)):
        with contextlib.suppress(OSError):
            taken.bind(f"\0mailsni-sandbox-ports-{block}")
            break
    else:
        raise HostError("no ports are free: too many sandboxes at once")
    first = _FIRST_PORT + block * _BLOCK
    yield from filter(_is_free, itertools.cycle(range(first, first + _BLOCK)))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as candidate:
        candidate.bind((LOOPBACK, port))
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports of the loopback address that nobody listens on, and no other sandbox is given soon.

    Raises:
        HostError: there are too many sandboxes.
    """
    return list(itertools.islice(_ports(), count))


class _ControlledServer(servers.PrivateServer):
    """What the tests do to a server."""

    @staticmethod
    def free_ports(count: int) -> Sequence[int]:
        return free_ports(count)

    @abstractmethod
    def _reload_command(self) -> list[str | Path]: ...

    def running(self) -> bool:
        """Whether its master process is there."""
        return self.pid() is not None

    def restart(self) -> None:
        """Stop and start on the same ports.

        Raises:
            HostError: it does not start.
        """
        self.stop()
        self.start()

    def reload(self) -> None:
        """Have it read its configuration again.

        Raises:
            HostError: its command failed. (That it succeeds proves nothing about the new configuration.)
        """
        done = run(self._reload_command())
        if done.returncode != 0:
            raise HostError(self._story(f"reload exited {done.returncode}: {done.stderr}"))


class PrivatePostfix(_ControlledServer, servers.PrivatePostfix):
    """See :class:`mailsni.sandbox.servers.PrivatePostfix`."""

    def settle(self) -> None:
        """Let main.cf look older than it is: every program of Postfix waits until it is two seconds old."""
        past = time.time() - 60
        os.utime(self.config_file, (past, past))

    def _reload_command(self) -> list[str | Path]:
        return [require_tool("postfix"), "-c", self.config_directory, "reload"]


class PrivateDovecot(_ControlledServer, servers.PrivateDovecot):
    """See :class:`mailsni.sandbox.servers.PrivateDovecot`."""

    @classmethod
    def with_lasting_logins(cls, directory: Path, default: Issued) -> PrivateDovecot:
        """Dovecot's "high-performance" mode: login processes that serve many clients each.

        By default each serves one, and a reload, whoever asks for it, ends those that have just begun together with
        their client (2.4 says "Server shutting down (disconnected before auth was ready)"). Measured with a reload
        twice a second: 2.3 one in 5,000 connections, 2.4 one in 400; with lasting processes none in 10,000.
        """
        server = cls(directory, default)
        with server.config_file.open("a") as file:
            file.write(_LASTING_LOGINS[server.version])
        return server

    def greets_within_its_memory(self, limit: float = 60.0) -> bool:
        """Whether it greets, or its config process says that it is out of memory. It is started if it does not run.

        Raises:
            AssertionError: neither within so many seconds.
        """
        if not self.running():
            run([require_tool("dovecot"), "-c", self.config_file], detached=True)
        before = len(self.log.read_bytes())
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            address = (LOOPBACK, self.endpoints["imap"])
            with contextlib.suppress(OSError), socket.create_connection(address, limit) as client:
                if client.recv(1):
                    return True
            if b"Out of memory" in self.log.read_bytes()[before:]:
                return False
        raise AssertionError("it neither greets nor fails")

    def assert_can_start(self) -> None:
        """Dovecot takes its configuration as it is now, with every file that it names."""
        done = run([require_tool("doveconf"), "-c", self.config_file, "-n", "-x"], discard=True)
        assert done.returncode == 0, done.stderr

    def _reload_command(self) -> list[str | Path]:
        return [require_tool("doveadm"), "-c", self.config_file, "reload"]
