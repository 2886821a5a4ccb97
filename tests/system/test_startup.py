"""Whether a server would start again: what Postfix's own tools do not say, and what Dovecot's say."""

from __future__ import annotations

import socket

import pytest

from mailsni.targets.postfix.postconf import MasterService
from mailsni.targets.postfix.startup import listening_problem


@pytest.mark.parametrize(
    ("name", "private", "why"),
    [
        ("smtp", "n", None),
        ("2525", "n", None),
        ("99999", "n", None),
        (":2525", "n", None),
        ("127.0.0.1:smtp", "n", None),
        ("[127.0.0.1]:2525", "n", None),
        ("localhost:2525", "n", None),
        ("smtp", "-", "private"),
        ("smtp", "y", "private"),
        ("nosuchport", "n", "no such service"),
        ("127.0.0.1:nosuchport", "n", "no such service"),
        ("192.0.2.1:2525", "n", "no address of this host"),
        ("[::1]:2525", "n", "no such host"),
        ("[127.0.0.1:2525", "n", "no such host"),
        ("1.2.3.444:2525", "n", "no such host"),
        ("*:2525", "n", "no such host"),
    ],
)
def test_where_master_cannot_listen(name: str, private: str, why: str | None) -> None:
    """As measured with 3.7 and 3.10, on a host that speaks IPv4 only."""
    found = listening_problem(MasterService(name, "inet", private), socket.AF_INET)
    assert (found is None) is (why is None), found
    assert (why or "") in (found or "")


def test_a_socket_has_no_slash_in_its_name() -> None:
    assert listening_problem(MasterService("cleanup", "unix", "n"), socket.AF_INET) is None
    assert listening_problem(MasterService("a/b", "unix", "n"), socket.AF_INET) is not None
