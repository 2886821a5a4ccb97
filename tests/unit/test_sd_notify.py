"""What a service manager is told: real datagrams over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from mailsni.watch.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A socket, and the address that a service manager would give."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        address = str(tmp_path / "notify") if request.param == "path" else f"@mailsni-test-{os.getpid()}"
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(10)
        yield address, listening


def test_each_message_has_the_form_of_sd_notify(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    told = Notifier.of({"NOTIFY_SOCKET": address}, os.getpid())
    told.ready("watching")
    assert listening.recv(100) == b"READY=1\nSTATUS=watching"
    told.reloading()
    head, _, moment = listening.recv(100).rpartition(b"=")
    assert head == b"RELOADING=1\nMONOTONIC_USEC"
    assert int(moment) > 0
    told.status("two\nlines")
    assert listening.recv(100) == b"STATUS=two lines"
    told.alive()
    assert listening.recv(100) == b"WATCHDOG=1"
    told.stopping("ending")
    assert listening.recv(100) == b"STOPPING=1\nSTATUS=ending"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, inf),
        ({"WATCHDOG_USEC": "0"}, inf),
        ({"WATCHDOG_USEC": "soon"}, inf),
        ({}, inf),
    ],
)
def test_how_often_a_sign_of_life_is_wanted(given: dict[str, str], wanted: float) -> None:
    assert Notifier.of({"NOTIFY_SOCKET": "/run/notify", **given}, 7).interval == wanted


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all"])
def test_nobody_to_tell_stops_nothing(address: str | None) -> None:
    Notifier.of({} if address is None else {"NOTIFY_SOCKET": address}, 7).ready("ready")


def test_a_manager_that_does_not_read_stops_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        told = Notifier(str(tmp_path / "notify"))
        for _ in range(5000):
            told.alive()
