"""The command line as a person and a script meet it, without any server."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import typer.main
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from mailsni import __version__
from mailsni.cli.main import app
from mailsni.errors import Exit
from mailsni.sandbox.lineages import CertbotDirectory
from tests.support.builders import authority

PROGRAM = [sys.executable, "-m", "mailsni"]
WIDTH = 80
SCHEMA = Draft202012Validator(json.loads(resources.files("mailsni.output").joinpath("schema.json").read_text("utf-8")))
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009  # typer's group has no type
ESCAPE = "\x1b["


@dataclass(frozen=True, slots=True)
class Host:
    """A store, a configuration that names it, and no servers."""

    config: Path
    store: CertbotDirectory

    def run(self, *words: str, config: bool = True, **environment: str) -> Result:
        """Run the program, in this process: starting it takes longer than what it does."""
        return invoke(*(["--config", str(self.config)] if config else []), *words, **environment)

    def json(self, *words: str) -> dict[str, Any]:
        """Run the program, and read the one document that it prints."""
        document: dict[str, Any] = json.loads(self.run(*words).stdout)
        assert list(SCHEMA.iter_errors(document)) == []
        return document


HIDDEN = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TERMINAL_WIDTH", "MAILSNI_CONFIG", "PYTHONUNBUFFERED")
"""Of the environment that the tests run in: what says where to look, how to draw and when to write."""


HIDDEN_OPTIONS = {"--settle", "--after"}
"""Of ``apply``, for the hooks."""


def invoke(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(words), env={key: environment.get(key) for key in {*HIDDEN, *environment}})


def clean(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in HIDDEN} | more


def outside(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as another process."""
    passed = clean(**environment)
    return subprocess.run(command, env=passed, capture_output=True, text=True, check=False, timeout=60)


def configuration(store: Path, root: Path) -> str:
    return f"""\
[[sources]]
path = "{store}"
[postfix]
enabled = false
[dovecot]
enabled = true
version = "2.4"
action = "none"
config_file = "{root}/dovecot.conf"
include_file = "{root}/include.conf"
pin_directory = "{root}/pins"
[state]
directory = "{root}/state"
lock = "{root}/lock"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    root = tmp_path_factory.mktemp("host")
    store = CertbotDirectory(root / "letsencrypt")
    for name in "abc":
        store.add(f"{name}.test", authority().issue([f"mail.{name}.test", f"www.{name}.test"]))
    store.add("torn.test", authority().issue(["mail.torn.test"]))
    store.path("torn.test", "privkey").unlink()
    store.path("torn.test", "privkey").mkdir()
    (root / "config.toml").write_text(configuration(store.live, root))
    return Host(root / "config.toml", store)


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def helped(*words: str) -> str:
    done = invoke(*words, "--help", COLUMNS=str(WIDTH), TERMINAL_WIDTH=str(WIDTH))
    assert done.exit_code == 0
    return done.output


def options(command: Any) -> set[str]:  # noqa: ANN401  # typer's commands have no type
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


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("apply", {"--dry-run", "--force", "--no-reload", "--no-verify", "--allow-empty", "--wait", *HIDDEN_OPTIONS}),
        ("plan", {"--diff", "--detailed-exitcode"}),
        ("status", {"--skipped"}),
        ("explain", set()),
        ("render", set()),
    ],
)
def test_a_command_has_the_options_of_the_contract(name: str, own: set[str]) -> None:
    assert options(COMMANDS[name]) == own | {"--config", "--json", "--verbose", "--quiet"}


def test_the_version() -> None:
    done = outside([*PROGRAM, "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mailsni {__version__}\n", "")


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
def test_a_wrong_command_line_is_exit_code_2_and_says_why(host: Host, line: str) -> None:
    done = host.run(*shlex.split(line))
    assert done.exit_code == Exit.USAGE
    assert isinstance(done.exception, SystemExit)
    assert done.stderr or not line


def test_an_error_has_the_form_of_the_contract(host: Host) -> None:
    done = host.run("render", "exim")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "mailsni: error: exim: unknown server",
        "mailsni: hint: `mailsni render postfix` or `mailsni render dovecot`",
    ]


@pytest.mark.parametrize("words", [["render", "exim", "--json"], ["--json", "render", "exim"]])
def test_an_error_is_a_document_too(host: Host, words: list[str]) -> None:
    assert host.json(*words) == {
        "schema": "mailsni.error/1",
        "exit_code": 2,
        "error": "exim: unknown server",
        "hint": "`mailsni render postfix` or `mailsni render dovecot`",
        "path": None,
        "line": None,
    }


@pytest.mark.parametrize("text", ["[postfx]\n", "[postfix]\nenabled = 7\n", "[postfix\n", None])
def test_a_broken_configuration_is_exit_code_78(tmp_path: Path, host: Host, text: str | None) -> None:
    broken = tmp_path / "config.toml"
    if text is not None:
        broken.write_text(text)
    done = host.run("--config", str(broken), "status", config=False)
    assert done.exit_code == Exit.CONFIGURATION
    assert done.stderr.startswith(f"mailsni: error: {broken}: ")
    assert host.run("status", "--json", config=False, MAILSNI_CONFIG=str(broken)).exit_code == Exit.CONFIGURATION


def test_a_store_that_is_not_there_is_exit_code_1(tmp_path: Path, host: Host) -> None:
    path = tmp_path / "config.toml"
    path.write_text(configuration(tmp_path / "missing", tmp_path))
    done = host.run("status", "--config", str(path), "--json", config=False)
    assert done.exit_code == Exit.FAILED
    assert json.loads(done.stdout)["error"] == f"{tmp_path}/missing: cannot be read: No such file or directory"


def test_a_lock_that_is_held_is_exit_code_75(host: Host) -> None:
    holding = ["flock", str(host.config.with_name("lock")), *PROGRAM, "--config", str(host.config), "apply", "--json"]
    done = outside(holding)
    assert done.returncode == Exit.LOCKED
    assert json.loads(done.stdout)["exit_code"] == Exit.LOCKED


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_stand_before_a_command_as_well_as_after_it(host: Host) -> None:
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


def test_the_nearer_option_wins_and_any_option_over_the_environment(tmp_path: Path, host: Host) -> None:
    wrong = str(tmp_path / "wrong.toml")
    right = str(host.config)
    assert host.run("--config", wrong, "status", "--config", right, config=False).exit_code == 0
    assert host.run("--config", right, "status", config=False, MAILSNI_CONFIG=wrong).exit_code == 0
    assert host.run("status", config=False, MAILSNI_CONFIG=right).exit_code == 0


def test_each_command_prints_its_document(host: Host) -> None:
    status = host.json("status", "--json")
    assert [one["name"] for one in status["names"]] == ["mail.a.test", "mail.b.test", "mail.c.test"]
    assert [(one["reason"], one["names"]) for one in status["skipped"]] == [("not_a_regular_file", ["mail.torn.test"])]
    plan = host.json("plan", "--json", "--diff")
    assert [one["kind"] for one in plan["changes"]] == ["add"] * 3
    assert plan["diff"]["dovecot"].startswith("--- ")
    assert host.json("apply", "--dry-run", "--json")["schema"] == "mailsni.plan/1"
    assert host.json("explain", "MAIL.a.test", "--json")["candidates"][0]["wins"]
    assert "local_name mail.a.test {" in host.json("render", "dovecot", "--json")["text"]


def test_text_is_for_people_and_talk_is_not_among_it(host: Host) -> None:
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


# ── terminals and pipes ──────────────────────────────────────────────────────────────────────────────────────────────


def on_a_terminal(host: Host, *words: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "--config", str(host.config), *words]
    passed = clean(TERM="xterm-256color", COLUMNS="120", **environment)
    with subprocess.Popen(command, env=passed, stdout=theirs, stderr=subprocess.DEVNULL) as child:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # how Linux tells that the other end has been closed
            pass
        finally:
            os.close(ours)
        assert child.wait(60) == 0
    return shown.decode()


def test_a_terminal_has_colour_and_a_pipe_has_none_and_both_show_the_same(host: Host) -> None:
    for words in (["status"], ["plan", "--diff"]):
        shown = on_a_terminal(host, *words)
        piped = host.run(*words).stdout
        assert ESCAPE in shown
        assert ESCAPE not in piped
        assert re.findall(r"mail\.[abc]\.test", shown) == re.findall(r"mail\.[abc]\.test", piped) != []


def test_no_color_is_honoured(host: Host) -> None:
    for words in (["status", "--skipped"], ["plan", "--diff"]):
        shown = on_a_terminal(host, *words, NO_COLOR="1")
        assert "a.test" in shown
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", shown), "a colour"


def test_a_reader_that_goes_away_is_no_error_to_speak_of(host: Host) -> None:
    command = " ".join(map(shlex.quote, [*PROGRAM, "--config", str(host.config)]))
    script = f"{command} status | head -1; {command} status --json | head -1"
    done = outside(["/bin/sh", "-c", script])
    assert re.fullmatch(r"NAME .*STATE .*\n\{\n", done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["--version"],
        ["plan", "--quiet"],
        ["--help"],
    ],
)
def test_nor_is_one_that_has_gone_before_anything_was_said(host: Host, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*PROGRAM, "--config", str(host.config), *words]
    with subprocess.Popen(command, env=clean(), stdout=writing, stderr=subprocess.PIPE, text=True) as child:
        os.close(writing)
        _, talk = child.communicate(timeout=60)
    assert "Traceback" not in talk
    assert "Exception ignored" not in talk
    assert child.returncode in (Exit.DONE, Exit.FAILED)
