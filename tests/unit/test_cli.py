"""The help of each command; what the commands print is in tests/scripts."""

from __future__ import annotations

import re

import pytest
from typer._click.core import Command

from mailsni.cli import main
from mailsni.errors import Exit
from tests.support.command_line import invoke

WIDTH = 80
COMMANDS = {name: main.load(name) for name in main.MODULES}
HIDDEN_OPTIONS = {"--settle", "--after"}
"""Of ``apply``, for the hooks."""


def helped(*words: str) -> str:
    done = invoke(*words, "--help", COLUMNS=str(WIDTH), TERMINAL_WIDTH=str(WIDTH))
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= WIDTH
    return done.stdout


def options(command: Command) -> set[str]:
    return {max(one.opts, key=len) for one in command.params if one.opts[0].startswith("-")}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_and_names_its_options(name: str) -> None:
    text = helped(name)
    assert {"--config", "--json", "--verbose", "--quiet"} <= options(COMMANDS[name])
    for option in (*options(COMMANDS[name]), "--help"):
        assert (option in text) != (option in HIDDEN_OPTIONS)
    assert f"mailsni {name}" in text or f" {name} [OPTIONS]" in text


def test_the_help_of_the_program_names_its_commands_and_its_exit_codes() -> None:
    text = helped()
    for word in (*COMMANDS, *map(int, Exit)):
        assert re.search(rf"\b{word}\b", text), word
