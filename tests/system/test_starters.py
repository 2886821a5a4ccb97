"""What starts the program is found, and whether it does."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mailsni.check import starters as check_module
from mailsni.check.gather import CheckContext
from mailsni.check.model import Finding, Thresholds, Unreadable
from mailsni.config.settings import Settings
from mailsni.deploy.host_facts import HostFacts
from mailsni.errors import PermissionMissingError
from mailsni.runs import history, starters
from mailsni.runs.history import Run
from mailsni.runs.starters import Starter, UnitFailure
from mailsni.setup.autostart import Kind, Manager, startup_files
from mailsni.sources.kinds import SourceSettings
from tests.support.builders import NOW, without_servers

REPOSITORY = Path(__file__).parents[2]
MAILSNI = Path(sys.executable).with_name("mailsni")


def write_executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def install(root: Path, manager: Manager, kind: Kind, settings: Settings, program: Path = MAILSNI) -> None:
    """Write what setup writes, below another root."""
    for file in startup_files(manager, kind, program, settings.file, settings):
        path = root / file.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.text)


@pytest.mark.parametrize(
    ("manager", "kind", "hours"),
    [("systemd", "timer", 3), ("systemd", "watch", 13), ("openrc", "watch", 13), ("cron", "timer", 1)],
)
@pytest.mark.parametrize("config", ["/etc/mailsni/config.toml", "/srv/other.toml"])
def test_what_setup_writes_is_found_with_its_program_and_schedule(
    tmp_path: Path, manager: Manager, kind: Kind, hours: int, config: str
) -> None:
    settings = Settings(sources=(), file=Path(config))
    install(tmp_path, manager, kind, settings)
    (found,) = starters.starters(settings, tmp_path)
    assert (found.program, found.most) == (MAILSNI, timedelta(hours=hours))
    assert starters.starters(replace(settings, file=Path("/srv/third.toml")), tmp_path) == ()


def test_another_schedule_is_given_two_days(tmp_path: Path) -> None:
    settings = Settings(sources=())
    install(tmp_path, "systemd", "timer", settings)
    (tmp_path / "etc/systemd/system/mailsni.timer.d").mkdir()
    install(tmp_path, "cron", "timer", settings)
    table = tmp_path / "etc/cron.d/mailsni"
    table.write_text(table.read_text().replace("*/15 * * * *", "7 3 * * *"))
    found = starters.starters(settings, tmp_path)
    assert [starter.most for starter in found] == [timedelta(days=2, hours=1)] * 2


def test_a_hook_starts_the_first_program_in_the_path_that_it_sets(tmp_path: Path) -> None:
    settings = Settings(sources=(SourceSettings.of("certbot", path=tmp_path / "live"),))
    hook = tmp_path / "renewal-hooks/post/mailsni"
    program = write_executable(tmp_path / "bin/mailsni", "#!/bin/sh\n")
    shipped = (REPOSITORY / "hooks/certbot-post").read_text()
    write_executable(hook, shipped.replace("#!/bin/sh\n", f"#!/bin/sh\nPATH={program.parent}${{PATH:+:$PATH}}\n", 1))
    (found,) = starters.starters(settings, tmp_path / "root")
    assert (found.path, found.program, found.most) == (hook, program, None)
    program.unlink()
    hook.write_text(hook.read_text().replace(":/", ":/nowhere/").replace(":$PATH", "").replace("$PATH:", ":"))
    (found,) = starters.starters(settings, tmp_path / "root")
    assert found.program is None
    hook.write_text("#!/bin/sh\n# mailsni apply\nsystemctl start mailsni.service\n")
    assert starters.starters(settings, tmp_path / "root") == ()


@pytest.mark.parametrize(
    ("line", "program", "configuration"),
    [
        ("/opt/m/bin/mailsni apply", "/opt/m/bin/mailsni", "/etc/mailsni/config.toml"),
        ("exec /opt/mailsni --quiet --config=/a.toml apply -q", "/opt/mailsni", "/a.toml"),
        ("true && MAILSNI_CONFIG='/b.toml' /opt/mailsni apply; x", "/opt/mailsni", "/b.toml"),
        ("export MAILSNI_CONFIG=/b.toml\n/opt/mailsni --config /c.toml apply", "/opt/mailsni", "/c.toml"),
    ],
)
def test_a_hook_of_any_name_has_its_program_and_configuration(
    tmp_path: Path, line: str, program: str, configuration: str
) -> None:
    settings = Settings(sources=(SourceSettings.of("certbot", path=tmp_path / "live"),))
    write_executable(tmp_path / "renewal-hooks/deploy/50-mail", f"#!/bin/sh\n# mailsni apply\n{line}\n")
    (found,) = starters.starters(settings, tmp_path / "root")
    assert (found.program, found.configuration) == (Path(program), Path(configuration))


@pytest.mark.parametrize(
    "line",
    ["# /opt/mailsni apply", "$BIN/mailsni apply", "/opt/mailsni plan", "notmailsni apply", "mailsni " * 100_000],
)
def test_what_calls_no_mailsni_that_can_be_told_is_no_starter(tmp_path: Path, line: str) -> None:
    settings = Settings(sources=(SourceSettings.of("certbot", path=tmp_path / "live"),))
    write_executable(tmp_path / "renewal-hooks/deploy/50-mail", f"#!/bin/sh\n{line}\n")
    assert starters.starters(settings, tmp_path / "root") == ()


def test_why_a_program_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "mailsni"
    assert starters.failure(None) == "there is no mailsni in its search path"
    assert starters.failure(program) == f"there is no {program}"
    program.symlink_to(tmp_path / "moved")
    assert starters.failure(program) == f"{program} is a link to nothing"
    program.unlink()
    write_executable(program, "#!/nowhere/python3\n")
    tmp_path.chmod(0o755)
    assert starters.failure(program) == f"the interpreter of {program} is gone: /nowhere/python3"
    write_executable(program, "#!/bin/sh\necho no module named mailsni >&2; exit 1\n")
    assert starters.failure(program) == f"{program} does not start: no module named mailsni"
    write_executable(program, "#!/bin/sh\n")
    assert starters.failure(program) is None
    program.chmod(0o644)
    assert starters.failure(program) == f"{program} is not executable"
    assert starters.failure(MAILSNI) is None


def test_a_program_that_others_can_replace_is_not_tried(tmp_path: Path) -> None:
    write_executable(tmp_path / "mailsni", f"#!/bin/sh\ntouch {tmp_path}/tried\nexit 1\n")
    tmp_path.chmod(0o777)
    assert starters.failure(tmp_path / "mailsni") is None
    assert not (tmp_path / "tried").exists()


def test_others_can_start_a_program_when_every_directory_on_the_way_is_open() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        link = Path(name) / "mailsni"
        program = write_executable(Path(name) / "venv/bin/mailsni", "#!/bin/sh\n")
        link.symlink_to(program)
        why = f"{link}: other users cannot start it, because"
        assert starters.why_hidden(link) == f"{why} {name} is closed to them"
        Path(name).chmod(0o755)
        assert starters.why_hidden(link) is None
        program.parent.chmod(0o700)
        assert starters.why_hidden(link) == f"{why} {program.parent} is closed to them"
        program.parent.chmod(0o755)
        program.chmod(0o700)
        assert starters.why_hidden(link) == f"{why} of its mode"


SHOWN = """\
Id=mailsni.timer
FragmentPath=/etc/systemd/system/mailsni.timer
ActiveState={timer}
SubState=waiting
Result=success

Id=mailsni.service
FragmentPath=/etc/systemd/system/mailsni.service
ActiveState={service}
SubState=dead
Result=exit-code
ExecMainStatus=203

Id=mailsni-watch.service
FragmentPath={watcher}
ActiveState=activating
SubState=auto-restart
Result=exit-code
ExecMainStatus=1
"""
WATCHER = "/etc/systemd/system/mailsni-watch.service"


@pytest.mark.parametrize(
    ("timer", "service", "watcher", "said"),
    [
        ("active", "inactive", "", []),
        ("inactive", "inactive", "", ["mailsni.timer is not active, so it starts nothing"]),
        ("active", "failed", "", ["mailsni.service failed (exit-code, exit status 203)"]),
        ("active", "activating", WATCHER, ["mailsni-watch.service failed (exit-code, exit status 1)"]),
    ],
)
def test_what_systemd_shows_of_the_units(timer: str, service: str, watcher: str, said: list[str]) -> None:
    shown = SHOWN.format(timer=timer, service=service, watcher=watcher)
    assert [failure.what for failure in starters.parse_units(shown)] == said


@pytest.mark.parametrize(
    ("ran", "up", "installed", "late"),
    [(4, 9, 9, True), (2, 9, 9, False), (None, 9, 9, True), (None, 1, 9, False), (9, 9, 1, False), (-5, 9, 9, False)],
)
def test_a_run_is_overdue_when_the_schedule_has_passed_since_it_and_since_the_start(
    ran: int | None, up: int, installed: int, *, late: bool
) -> None:
    hour = timedelta(hours=1)
    timer = Starter(Path("/t"), MAILSNI, (NOW - installed * hour).timestamp(), 3 * hour)
    hook = Starter(Path("/h"), MAILSNI, 0)
    last = None if ran is None else NOW - ran * hour
    expected = timer if late else None
    assert starters.overdue((hook, timer), last, NOW, uptime=up * 3600) is expected


# ── the check ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckContext:
    """A host where a timer starts the program, which ran five hours ago."""
    timer = Starter(starters.UNITS / starters.SERVICE, MAILSNI, 0, timedelta(hours=3))
    monkeypatch.setattr(starters, "starters", lambda _settings, _root: (timer,))
    monkeypatch.setattr(starters, "uptime", lambda: 86400.0)
    settings = without_servers(tmp_path, tmp_path)
    ended = NOW - timedelta(hours=5)
    history.record(settings.state.directory, Run(ended, ended, 0, "nothing to do", "timer"))
    return CheckContext(HostFacts(settings, NOW), Thresholds(), None, running=False, problems=())


def codes(context: CheckContext) -> list[str]:
    return [str(each.code) for each in check_module.check_starters(context) if isinstance(each, Finding)]


def test_the_check_names_the_cause_and_not_what_follows_from_it(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starters, "unit_failures", tuple)
    assert codes(context) == ["run_overdue"]
    failed = UnitFailure("mailsni.service", "mailsni.service failed", "")
    monkeypatch.setattr(starters, "unit_failures", lambda: (failed,))
    assert codes(context) == ["unit_failed"]
    monkeypatch.setattr(starters, "failure", lambda _program: "there is no /x")
    assert codes(context) == ["start_fails"]


def test_a_user_who_cannot_see_the_program_is_told_so(context: CheckContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_program: Path) -> str:
        raise PermissionMissingError("no")

    monkeypatch.setattr(starters, "unit_failures", tuple)
    monkeypatch.setattr(starters, "failure", hidden)
    parts = [each.part for each in check_module.check_starters(context) if isinstance(each, Unreadable)]
    assert parts == ["the program that /etc/systemd/system/mailsni.service starts"]
