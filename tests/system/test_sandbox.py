"""Sandboxes that run at the same time share no port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.servers import free_ports

ROOT = Path(__file__).parents[2]


def test_ports_that_are_free_now_are_given_to_nobody_else_soon() -> None:
    """Not by this process, nor by another one that has a sandbox at the same time."""
    script = "from tests.support.servers import free_ports; print(*free_ports(20)); input()"
    words = [sys.executable, "-c", script]
    others = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    given = free_ports(20) + free_ports(20)
    for other in others:
        assert other.stdout is not None
        given += [int(port) for port in other.stdout.readline().split()]
    for other in others:
        other.communicate("\n")
    assert len(set(given)) == len(given) == 100
