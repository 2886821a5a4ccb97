"""What starts the program: which paths it may write, and what cannot be written into a unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mailsni.config.settings import (
    DEFAULT_PATH,
    ContainerSettings,
    DovecotSettings,
    PostfixSettings,
    Settings,
    StateSettings,
)
from mailsni.errors import ConfigurationError, UsageError
from mailsni.setup.autostart import startup_files

PROGRAM = Path("/opt/mailsni/bin/mailsni")


def lines(settings: Settings, key: str) -> list[str]:
    units = startup_files("systemd", "timer", PROGRAM, None, settings)
    service = next(unit.text.decode() for unit in units if unit.path.name == "mailsni.service")
    return [line.partition("=")[2] for line in service.splitlines() if line.startswith(f"{key}=")]


def test_what_a_run_writes_may_be_written_and_nothing_else() -> None:
    assert lines(Settings(), "ReadWritePaths") == [
        "-/etc/dovecot",
        "-/etc/postfix",
        "-/run",
        "-/var/lib/postfix",
        "-/var/spool/postfix",
    ]
    assert lines(Settings(), "StateDirectory") == ["mailsni"]
    elsewhere = Settings(
        postfix=PostfixSettings(map=Path("/srv/maps/sni")),
        dovecot=DovecotSettings(include_file=Path("/srv/dovecot/sni.conf"), pin_directory=Path("/srv/keys/pins")),
        state=StateSettings(Path("/srv/own/state"), Path("/srv/own/state/lock")),
    )
    assert lines(elsewhere, "ReadWritePaths") == [
        "-/srv/dovecot",
        "-/srv/keys",
        "-/srv/maps",
        "-/srv/own",
        "-/var/lib/postfix",
        "-/var/spool/postfix",
    ]
    assert lines(elsewhere, "StateDirectory") == []


@pytest.mark.parametrize(
    ("engine", "container", "sandboxed"), [("docker", "mail", 1), ("podman", "mail", 0), ("podman", "", 1)]
)
def test_podman_which_enters_the_container_itself_has_no_sandbox(engine: str, container: str, sandboxed: int) -> None:
    own = Settings(container=ContainerSettings(engine), postfix=PostfixSettings(container=container))
    assert len(lines(own, "ProtectSystem")) == len(lines(own, "RestrictNamespaces")) == sandboxed
    assert lines(own, "StateDirectory") == ["mailsni"]


def test_the_configuration_is_named_when_it_is_not_the_default_one() -> None:
    other = Path("/srv/mailsni.toml")
    for named, expected in ((None, False), (DEFAULT_PATH, False), (other, True)):
        startup = (
            *startup_files("systemd", "timer", PROGRAM, named, Settings()),
            *startup_files("systemd", "watch", PROGRAM, named, Settings()),
            *startup_files("cron", "timer", PROGRAM, named, Settings()),
            *startup_files("openrc", "watch", PROGRAM, named, Settings()),
        )
        found = [text for file in startup if "MAILSNI_CONFIG" in (text := file.text.decode())]
        assert len(found) == (4 if expected else 0)
        assert all("MAILSNI_CONFIG=/srv/mailsni.toml\n" in text for text in found)


@pytest.mark.parametrize("path", ["/opt/my programs/x", "/opt/100%/x", "/opt/a\nb/x", "mailsni", "/a'b"])
def test_a_path_that_would_have_to_be_escaped_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="a path of other characters"):
        startup_files("systemd", "timer", Path(path), None, Settings())
    with pytest.raises(ConfigurationError):
        startup_files("cron", "timer", PROGRAM, Path(path), Settings())
    with pytest.raises(ConfigurationError):
        startup_files("openrc", "timer", Path(path), None, Settings())
    settings = replace(Settings(), postfix=PostfixSettings(map=Path(path) / "x"))
    with pytest.raises(ConfigurationError):
        startup_files("systemd", "watch", PROGRAM, None, settings)


def test_an_administrators_own_template_wins(tmp_path: Path) -> None:
    (tmp_path / "mailsni.timer.j2").write_text("[Timer]\nOnCalendar=daily\n")
    units = startup_files("systemd", "timer", PROGRAM, None, replace(Settings(), templates=tmp_path))
    assert {unit.path.name: unit.text for unit in units}["mailsni.timer"] == b"[Timer]\nOnCalendar=daily\n"


def test_a_lineage_that_needs_a_look_is_no_failure_of_the_unit_and_the_timer_runs_after_a_boot() -> None:
    assert lines(Settings(), "SuccessExitStatus") == ["4 75"]
    timer = startup_files("systemd", "timer", PROGRAM, None, Settings())[1].text.decode()
    assert "\nOnBootSec=2min\nOnCalendar=hourly\n" in timer


def test_cron_keeps_nothing_running() -> None:
    with pytest.raises(UsageError, match="--watch: needs systemd or OpenRC"):
        startup_files("cron", "watch", PROGRAM, None, Settings())
