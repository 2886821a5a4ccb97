"""The command line as a person and a script meet it, without any server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer._click.core import Command

from mailsni.cli import main
from mailsni.errors import Exit
from tests.support.cli_host import CliHost, configuration, new_host
from tests.support.command_line import invoke

WIDTH = 80
COMMANDS = {name: main.load(name) for name in main.MODULES}


HIDDEN_OPTIONS = {"--settle", "--after"}
"""Of ``apply``, for the hooks."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> CliHost:
    return new_host(tmp_path_factory.mktemp("host"))


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def helped(*words: str) -> str:
    done = invoke(*words, "--help", COLUMNS=str(WIDTH), TERMINAL_WIDTH=str(WIDTH))
    assert done.exit_code == 0
    return done.stdout


def options(command: Command) -> set[str]:
    return {max(one.opts, key=len) for one in command.params if one.opts[0].startswith("-")}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_and_names_its_options(name: str) -> None:
    text = helped(name)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert {"--config", "--json", "--verbose", "--quiet", "--help"} <= options(COMMANDS[name]) | {"--help"}
    for option in (*options(COMMANDS[name]), "--help"):
        assert (option in text) != (option in HIDDEN_OPTIONS)
    assert f"mailsni {name}" in text or f" {name} [OPTIONS]" in text


def test_the_help_of_the_program_names_its_commands_and_its_exit_codes() -> None:
    text = helped()
    assert max(map(len, text.splitlines())) <= WIDTH
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", text)
    for code in Exit:
        assert re.search(rf"\b{code.value}\b", text), code


# ── usage and other errors ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        "",
        "statsu",
        "status --skiped",
        "status too much",
        "explain",
        "explain 'not a name'",
        "explain mail",
        "render",
        "render exim",
        "render postfix",
        "apply --wait -1",
        "apply --wait soon",
        "--config",
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_says_why(host: CliHost, line: str) -> None:
    done = host.run(*shlex.split(line))
    assert done.exit_code == Exit.USAGE
    assert done.stderr or not line


def test_an_error_has_the_form_of_the_contract(host: CliHost) -> None:
    done = host.run("render", "exim")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "mailsni: error: exim: unknown server",
        "mailsni: hint: `mailsni render postfix` or `mailsni render dovecot`",
    ]


@pytest.mark.parametrize("words", [["render", "exim", "--json"], ["--json", "render", "exim"]])
def test_an_error_is_a_document_too(host: CliHost, words: list[str]) -> None:
    assert host.json(*words) == {
        "schema": "mailsni.error/1",
        "exit_code": 2,
        "error": "exim: unknown server",
        "hint": "`mailsni render postfix` or `mailsni render dovecot`",
        "path": None,
        "line": None,
    }


@pytest.mark.parametrize("text", ["[postfx]\n", "[postfix]\nenabled = 7\n", "[postfix\n", None])
def test_a_broken_configuration_is_exit_code_78(tmp_path: Path, host: CliHost, text: str | None) -> None:
    broken = tmp_path / "config.toml"
    if text is not None:
        broken.write_text(text)
    for command in ("status", "watch"):
        done = host.run("--config", str(broken), command, config=False)
        assert (done.exit_code, done.stdout) == (Exit.CONFIGURATION, "")
        assert done.stderr.startswith(f"mailsni: error: {broken}: ")
    assert host.run("status", "--json", config=False, MAILSNI_CONFIG=str(broken)).exit_code == Exit.CONFIGURATION


def test_a_store_that_is_not_there_is_exit_code_1(tmp_path: Path, host: CliHost) -> None:
    path = tmp_path / "config.toml"
    path.write_text(configuration(tmp_path / "missing", tmp_path))
    done = host.run("status", "--config", str(path), "--json", config=False)
    assert done.exit_code == Exit.FAILED
    assert json.loads(done.stdout)["error"] == f"{tmp_path}/missing: cannot be read: No such file or directory"


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_stand_before_a_command_as_well_as_after_it(host: CliHost) -> None:
    config = ["--config", str(host.config)]
    lines = [
        [*config, "--json", "status"],
        [*config, "status", "--json"],
        ["--json", "status", *config],
        ["status", *config, "--json"],
    ]
    printed = {host.run(*line, config=False).stdout for line in lines}
    assert len(printed) == 1
    assert json.loads(printed.pop())["schema"] == "mailsni.status/1"


def test_the_nearer_option_wins_and_any_option_over_the_environment(tmp_path: Path, host: CliHost) -> None:
    wrong = str(tmp_path / "wrong.toml")
    right = str(host.config)
    assert host.run("--config", wrong, "status", "--config", right, config=False).exit_code == 0
    assert host.run("--config", right, "status", config=False, MAILSNI_CONFIG=wrong).exit_code == 0
    assert host.run("status", config=False, MAILSNI_CONFIG=right).exit_code == 0


def test_each_command_prints_its_document(host: CliHost) -> None:
    status = host.json("status", "--json")
    assert [one["name"] for one in status["names"]] == ["mail.a.test", "mail.b.test", "mail.c.test"]
    assert [(one["reason"], one["names"]) for one in status["skipped"]] == [("not_a_regular_file", ["mail.torn.test"])]
    plan = host.json("plan", "--json", "--diff")
    assert [one["kind"] for one in plan["changes"]] == ["add"] * 3
    assert plan["diff"]["dovecot"].startswith("--- ")
    assert host.json("apply", "--dry-run", "--json")["schema"] == "mailsni.plan/1"
    assert host.json("explain", "MAIL.a.test", "--json")["candidates"][0]["wins"]
    assert "local_name mail.a.test {" in host.json("render", "dovecot", "--json")["text"]


def test_text_is_for_people_and_talk_is_not_among_it(host: CliHost) -> None:
    plan = host.run("plan")
    assert plan.exit_code == Exit.DONE
    assert plan.stdout.splitlines()[-1] == "Plan: 3 to add, 0 to change, 0 to remove, 0 kept."
    warning = r"mailsni: warning: \S+/torn\.test: not_a_regular_file: [^\n]+ \(mail\.torn\.test\)\n"
    assert re.fullmatch(warning, plan.stderr)
    assert host.run("plan", "--quiet").stdout == ""
    assert host.run("plan", "--detailed-exitcode").exit_code == Exit.PENDING
    assert host.run("render", "dovecot").stdout == host.json("render", "dovecot", "--json")["text"]
    assert host.run("status").stdout.startswith("NAME ")
    assert "not_a_regular_file" in host.run("status", "--skipped").stdout
    assert host.run("explain", "mail.z.test").stdout.startswith("mail.z.test: no certificate has this name")
