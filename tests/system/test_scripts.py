"""What a person types and sees: the scripts in tests/scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.host_guard import REPOSITORY
from tests.support.script import run_script

SCRIPTS = sorted((REPOSITORY / "tests/scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_what_it_promises(path: Path, tmp_path: Path) -> None:
    run_script(path, tmp_path)


@pytest.mark.parametrize(
    "line",
    ["exec false", "exit 3 exec false", "! stdout 'a$'", "stdout c", "stderr .", "document error", "cmp stdout b", "x"],
)
def test_a_script_that_fails_shows_its_line_and_what_came_out(line: str, tmp_path: Path) -> None:
    script = tmp_path / "x.txt"
    script.write_text(f"# it prints a line\nexec echo '{{\"a\": 1}}' a\n{line}\n-- b --\nb\n")
    with pytest.raises(AssertionError) as raised:
        run_script(script, tmp_path)
    assert str(raised.value).startswith(f"x.txt:3: {line}\n")
    assert line.startswith("ex") or '\n{"a": 1} a\n' in str(raised.value)
