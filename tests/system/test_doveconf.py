"""Dovecot is asked where it listens, by whatever its doveconf understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.errors import HostError
from mailsni.host.commands import LocalExecutor
from mailsni.targets.dovecot.endpoints import dovecot_endpoints


class PlantedTool(LocalExecutor):
    """Finds one program, whatever it is asked for."""

    def __init__(self, tool: Path) -> None:
        self.tool = tool

    def find_tool(self, name: str) -> Path:
        """See :class:`mailsni.host.commands.Executor`."""
        del name
        return self.tool


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 89", None),
        # As 2.4 does: `-m` is no option, the settings alone are printed.
        ('[ "$3" = -m ] && exit 89; cat "$2"', ["imap://127.0.0.1:1"]),
    ],
)
def test_dovecot_asks_its_tool(tmp_path: Path, script: str, expected: list[str] | None) -> None:
    config = tmp_path / "dovecot.conf"
    config.write_text("protocols = imap\nservice imap-login {\n  inet_listener i {\n    port = 1\n  }\n}\n")
    tool = tmp_path / "doveconf"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    if expected is None:
        with pytest.raises(HostError, match="exit status 89"):
            dovecot_endpoints(config, executor=PlantedTool(tool))
    else:
        assert [str(endpoint) for endpoint in dovecot_endpoints(config, executor=PlantedTool(tool))] == expected
