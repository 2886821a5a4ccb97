"""The hooks as texts; tests/scripts/hooks.txt has what they do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

HOOKS = sorted((Path(__file__).parents[2] / "hooks").iterdir())
EACH = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)


@EACH
def test_it_is_a_short_script_for_any_shell(hook: Path) -> None:
    text = hook.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# ")
    assert len(lines) <= 26
    assert max(map(len, lines)) <= 120
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755


@EACH
def test_it_uses_no_temporary_file(hook: Path) -> None:
    """Under PrivateTmp= nobody else sees /tmp."""
    assert "tmp" not in hook.read_text().lower()


def test_what_the_hooks_share_is_the_same_in_all() -> None:
    found = set()
    for hook in HOOKS:
        lines = [line for line in hook.read_text().splitlines() if not line.startswith("#")]
        shared = [
            line for line in lines if not line.startswith(("MAILSNI_STARTED_BY=", "mailsni apply ", '[ "${1:-}"'))
        ]
        assert f"MAILSNI_STARTED_BY={hook.name}" in lines
        found.add("\n".join(shared))
    assert len(found) == 1
