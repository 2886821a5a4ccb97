"""What starts the program: which paths it may write, and what cannot be written into a unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mailsni.config.settings import DEFAULT_PATH, DovecotSettings, PostfixSettings, Settings, StateSettings
from mailsni.errors import UsageError
from mailsni.setup.units import render_cron, render_openrc, render_units

PROGRAM = Path("/opt/mailsni/bin/mailsni")


def lines(settings: Settings, key: str) -> list[str]:
    units = render_units(PROGRAM, None, settings, "timer")
    service = next(one.text for one in units if one.name == "mailsni.service")
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


def test_the_configuration_is_named_when_it_is_not_the_default_one() -> None:
    other = Path("/srv/mailsni.toml")
    for named, expected in ((None, False), (DEFAULT_PATH, False), (other, True)):
        texts = [one.text for kind in ("timer", "watch") for one in render_units(PROGRAM, named, Settings(), kind)]
        texts += [render_cron(PROGRAM, named), render_openrc(PROGRAM, named)]
        found = [text for text in texts if "MAILSNI_CONFIG" in text]
        assert len(found) == (4 if expected else 0)
        assert all("MAILSNI_CONFIG=/srv/mailsni.toml\n" in text for text in found)


@pytest.mark.parametrize("path", ["/opt/my programs/x", "/opt/100%/x", "/opt/a\nb/x", "mailsni", "/a'b"])
def test_a_path_that_would_have_to_be_escaped_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="a path of other characters"):
        render_units(Path(path), None, Settings(), "timer")
    with pytest.raises(UsageError):
        render_cron(PROGRAM, Path(path))
    with pytest.raises(UsageError):
        render_openrc(Path(path), None)
    with pytest.raises(UsageError):
        render_units(PROGRAM, None, replace(Settings(), postfix=PostfixSettings(map=Path(path) / "x")), "watch")


def test_an_administrators_own_template_wins(tmp_path: Path) -> None:
    (tmp_path / "mailsni.timer.j2").write_text("[Timer]\nOnCalendar=daily\n")
    units = render_units(PROGRAM, None, replace(Settings(), templates=tmp_path), "timer")
    assert {one.name: one.text for one in units}["mailsni.timer"] == "[Timer]\nOnCalendar=daily\n"
