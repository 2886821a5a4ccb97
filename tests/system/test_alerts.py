"""The command that tells somebody of a failed run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailsni.config import parser
from mailsni.config.settings import AlertSettings, Settings
from mailsni.core.log import Level, labelled
from mailsni.deploy.transaction import Options
from mailsni.errors import ConfigurationError, MailsniError
from mailsni.output import documents
from mailsni.runs import alerts, runner
from mailsni.runs import history as runs
from mailsni.runs.runner import Reporting, Trigger

TIMER = Trigger("timer")


RECEIVER = """\
import json, os, sys
line = json.dumps({"argv": sys.argv[2:], "stdin": sys.stdin.read(), "env": dict(os.environ), "cwd": os.getcwd()})
with open(sys.argv[1], "a") as file:
    file.write(line + "\\n")
"""


class Receiver:
    """A command that writes down how it was called."""

    def __init__(self, directory: Path) -> None:
        self.script = directory / "receiver.py"
        self.script.write_text(RECEIVER)
        self.log = directory / "received"

    @property
    def command(self) -> tuple[str, ...]:
        """As the configuration names it."""
        return (sys.executable, str(self.script), str(self.log), "an argument")

    def calls(self) -> list[dict[str, Any]]:
        """Every call in its order."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path)


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver) -> Settings:
    """With a store that is not there: every run fails."""
    (tmp_path / "config.toml").write_text(configuration(tmp_path, receiver.command))
    return parser.load(tmp_path / "config.toml", required=True)


def configuration(root: Path, command: Sequence[str]) -> str:
    return f"""\
alerts.on_failure = {json.dumps(list(command))}
sources = [{{ path = "{root}/missing" }}]
postfix.enabled = false
dovecot = {{ enabled = true, version = "2.4", include_file = "{root}/include.conf", pin_directory = "{root}/pins" }}
state = {{ directory = "{root}/state", lock = "{root}/lock" }}
"""


class Said(list[str]):
    """Keeps the lines that it is told."""

    def __call__(self, level: Level, text: str) -> None:
        """Take a line."""
        self.append(labelled(level, text))


@pytest.fixture
def said() -> Said:
    return Said()


def fail(settings: Settings, starter: Trigger = TIMER, talk: Said | None = None) -> None:
    reporting = Reporting(starter, talk if talk is not None else Said(), documents.run)
    with pytest.raises(MailsniError):
        runner.run_apply(settings, Options(), reporting)


def test_the_command_gets_the_document_and_the_summary_and_no_secrets(
    settings: Settings, receiver: Receiver, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_API_TOKEN", "a secret")
    fail(settings, talk=said)
    assert said == []
    (call,) = receiver.calls()
    assert call["argv"] == ["an argument"]
    assert call["cwd"] == "/"
    assert "CLOUD_API_TOKEN" not in call["env"]
    own = {key: value for key, value in call["env"].items() if key.startswith("MAILSNI_")}
    document = json.loads(call["stdin"])
    missing = f"{settings.sources[0].open().location}: cannot be read: No such file or directory"
    assert (document["schema"], document["exit_code"], document["error"]) == ("mailsni.error/1", 1, missing)
    host = alerts.host_name()
    assert own["MAILSNI_EXIT_CODE"] == "1"
    assert own["MAILSNI_HOST"] == host
    assert own["MAILSNI_SUMMARY"].startswith(f"mailsni: {host}: failed (exit code 1): {missing}"[:150])
    assert set(own) == {"MAILSNI_EXIT_CODE", "MAILSNI_HOST", "MAILSNI_SUMMARY"}


def test_it_is_told_once_also_by_other_processes(settings: Settings, receiver: Receiver) -> None:
    for _ in range(3):
        fail(settings)
    assert len(receiver.calls()) == 1
    assert len(runs.load(settings.state.directory).alerted) == 1


def test_without_a_record_it_is_told_each_time(settings: Settings, receiver: Receiver, said: Said) -> None:
    """Better than never; and that the record cannot be written changes nothing else."""
    (settings.state.directory / "runs.json").mkdir(parents=True)
    for _ in range(2):
        fail(settings, talk=said)
    assert len(receiver.calls()) == 2
    assert said == []


def test_a_person_at_a_terminal_needs_no_alert(settings: Settings, receiver: Receiver) -> None:
    fail(settings, Trigger("terminal", attended=True))
    assert receiver.calls() == []
    last = runs.load(settings.state.directory).last
    assert last is not None
    assert (last.trigger, last.exit_code) == ("terminal", 1)


BAD_COMMANDS = {
    "not there": (("/nonexistent/mail",), "cannot be started: No such file or directory"),
    "that fails": (("/bin/sh", "-c", "echo no route to the pager >&2; exit 3"), "no route to the pager"),
    "that fails silently": (("/bin/sh", "-c", "exit 3"), "exit status 3"),
    "that reads nothing and fails": (("/bin/false",), "exit status 1"),
    "that hangs": (("/bin/sh", "-c", "sleep 600"), "did not end within 0.2 seconds and was killed"),
}


@pytest.mark.parametrize(("command", "why"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_a_command_that_fails_is_said_and_tried_again(
    settings: Settings,
    receiver: Receiver,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2 if "sleep 600" in command else 30.0)
    fail(replace(settings, alerts=AlertSettings(command)), talk=said)
    assert said == [f"warning: [alerts] on_failure: {command[0]}: {why}"]
    monkeypatch.setattr(alerts, "TIMEOUT", 30.0)
    fail(settings)
    assert len(receiver.calls()) == 1


def test_one_that_does_not_read_is_no_failure(settings: Settings, said: Said) -> None:
    fail(replace(settings, alerts=AlertSettings(("/bin/true",))), talk=said)
    assert said == []


WRONG = {
    "elsewhere": ('[postfix]\nenabled = "perhaps"\n', True),
    "an unknown table": ("[postfx]\n", True),
    "an unknown key of its own": ("[alerts.more]\nx = 1\n", False),
    "no TOML": ("[postfix\n", False),
}


@pytest.mark.parametrize(("text", "known"), WRONG.values(), ids=WRONG)
def test_it_is_told_as_far_as_it_says_whom_to_tell(
    tmp_path: Path, receiver: Receiver, text: str, *, known: bool
) -> None:
    path = tmp_path / "config.toml"
    told = f'[alerts]\non_failure = {json.dumps(receiver.command)}\n[state]\ndirectory = "{tmp_path}/state"\n'
    path.write_text(told + text)
    with pytest.raises(ConfigurationError) as caught:
        parser.load(path, required=True)
    runner.record_config_failure(parser.parse_partial(path), caught.value, Reporting(TIMER, Said(), documents.run))
    assert [call["env"]["MAILSNI_EXIT_CODE"] for call in receiver.calls()] == (["78"] if known else [])
    assert (runs.load(tmp_path / "state").last is not None) is known
