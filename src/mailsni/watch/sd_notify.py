"""sd_notify(3): tells a service manager the state of a long-running program, in one datagram to a socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Notifier:
    """Where the service manager listens, and how often it wants a sign of life.

    Attributes:
        address: of the socket: a path, or an abstract name behind ``@``; None: nobody listens.
        interval: seconds between two signs of life, half of what the service manager waits for one
            (sd_watchdog_enabled(3)); infinite when it waits for none.
    """

    address: str | None = None
    interval: float = inf

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> Notifier:
        """What the service manager asks for in the environment of the process ``pid``."""
        address = environment.get("NOTIFY_SOCKET")
        if not address or address[0] not in "/@":
            return cls()
        ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        usec = environment.get("WATCHDOG_USEC", "")
        wanted = ours and usec.isascii() and usec.isdigit() and int(usec) > 0
        return cls(address, int(usec) / 2_000_000 if wanted else inf)

    def ready(self, status: str) -> None:
        """The program has started, or has loaded its new configuration."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The program reads its configuration again; :meth:`ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The program is about to end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What the program does, in a line for people."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        """Send; a failure is ignored: the work does not depend on who listens."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        lines = (assignment.replace("\n", " ") for assignment in assignments)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(0)
            channel.sendto("\n".join(lines).encode("utf-8", "replace"), os.fsencode(address))
