"""Programs in containers: the engine's command line, what its failures mean, and what paths are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailsni.config.parser import parse
from mailsni.core.mounts import Mounts
from mailsni.errors import HostError
from mailsni.host.commands import SEARCH_PATH, Completed, require_tool
from mailsni.host.containers import ContainerError, ContainerExecutor
from mailsni.targets import registry
from mailsni.targets.docker_mailserver import with_line
from tests.support.fake_executor import FakeExecutor

RUNNING = "running 2026-11-21 22:00:00.1 +0000 UTC"
ENV = ("--env", "LC_ALL=C", "--env", "LANG=C")
POSTCONF = Path("/usr/sbin/postconf")


@dataclass
class FakeEngine(FakeExecutor):
    """Takes nothing but the calls that both docker(1) and podman(1) take, and answers as a container would."""

    states: list[str] = field(default_factory=lambda: [RUNNING])
    """What it says of the container, call by call; the last one stays."""
    programs: tuple[str, ...] = ("/usr/sbin/postconf", "/usr/bin/timeout")
    status: int = 0

    def run(self, argv: Sequence[str | Path], **_options: object) -> Completed:
        """See :class:`mailsni.host.commands.Executor`."""
        words = tuple(map(str, argv))
        self.calls.append(words)
        if words[1:4] == ("container", "inspect", "--format"):
            assert words[4:] == ("{{.State.Status}} {{.State.StartedAt}}", "mail")
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return Completed(words, int(not state), f"{state}\n".encode(), "" if state else "no such container")
        assert words[1] == "exec", words
        if "/bin/sh" in words:
            return Completed(words, 0, "\n".join(self.programs).encode(), "")
        return Completed(words, self.status, b"", "")


def executor_of(engine: FakeEngine, name: str = "podman") -> ContainerExecutor:
    return ContainerExecutor(name, "mail", Mounts(((Path("/srv/mail"), Path("/etc")),)), engine)


@pytest.mark.parametrize(
    ("engine", "program"), [("podman", "/usr/sbin/podman"), ("docker", "/usr/sbin/docker"), ("/opt/nerdctl",) * 2]
)
def test_a_program_runs_inside_with_a_limit_of_its_own(engine: str, program: str) -> None:
    host = FakeEngine()
    done = executor_of(host, engine).run([POSTCONF, "-h"], timeout=7.5, variables={"MAIL_CONFIG": "/x"})
    inspect, listing, call = host.calls
    assert inspect[:3] == (program, "container", "inspect")
    assert listing[: 3 + len(ENV)] == (program, "exec", *ENV, "mail")
    assert listing[-len(SEARCH_PATH) :] == SEARCH_PATH
    limit = ("/usr/bin/timeout", "-s", "KILL", "8")
    assert call == (program, "exec", *ENV, "--env", "MAIL_CONFIG=/x", "mail", *limit, str(POSTCONF), "-h")
    assert done.argv == (Path(engine).name, "exec", "mail", str(POSTCONF), "-h")


def test_only_what_reads_keeps_its_input_open_and_an_image_without_timeout_will_do() -> None:
    host = FakeEngine(programs=("/usr/sbin/postconf",))
    executor_of(host).run([POSTCONF], stdin=b"x")
    assert host.calls[-1] == ("/usr/sbin/podman", "exec", "--interactive", *ENV, "mail", str(POSTCONF))


def test_programs_are_found_inside() -> None:
    executor = executor_of(FakeEngine())
    assert executor.find_tool("postconf") == POSTCONF
    assert executor.find_tool("dovecot") is None
    with pytest.raises(HostError, match=r"doveconf: not found in .* of container mail"):
        require_tool("doveconf", executor)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([""], "container mail: podman does not know it: no such container"),
        (["exited 2026"], "container mail: it does not run, its state is exited"),
        ([RUNNING, ""], "container mail: podman does not know it"),
        ([RUNNING, "restarting 2026"], "its state is restarting"),
        ([RUNNING, "running later"], "container mail: it was started again while"),
    ],
)
def test_a_container_that_does_not_run_is_told_from_a_program_that_fails(states: list[str], why: str) -> None:
    with pytest.raises(ContainerError, match=why) as caught:
        executor_of(FakeEngine(states=states, status=1)).run([POSTCONF])
    assert caught.value.hint


def test_an_engine_that_is_not_installed_is_named() -> None:
    class NoTools(FakeEngine):
        def find_tool(self, name: str) -> Path | None:
            """None of them is installed."""
            del name
            return None

    with pytest.raises(ContainerError, match="podman: not found in") as caught:
        executor_of(NoTools()).run([POSTCONF])
    assert "[container] engine" in str(caught.value.hint)


def test_the_exit_status_of_a_program_is_its_own_while_the_container_runs() -> None:
    assert executor_of(FakeEngine(status=89)).run([POSTCONF]).returncode == 89


MOUNTS = Mounts(
    ((Path("/srv/mail"), Path("/etc")), (Path("/srv/mail/dovecot"), Path("/dovecot")), (Path("/s"), Path("/etc/ssl")))
)


def test_the_longest_directory_decides_what_a_path_is_called() -> None:
    assert MOUNTS.inside(Path("/srv/mail/postfix/main.cf")) == Path("/etc/postfix/main.cf")
    assert MOUNTS.inside(Path("/srv/mail/dovecot/x")) == Path("/dovecot/x")
    assert MOUNTS.inside(Path("/srv/mailx")) is None
    assert MOUNTS.outside(Path("/etc/ssl/x")) == Path("/s/x")
    assert MOUNTS.outside(Path("/etc")) == Path("/srv/mail")
    assert MOUNTS.outside(Path("/usr/x")) is None


def test_a_path_may_be_given_as_it_is_on_either_side() -> None:
    text = """
        [container]
        paths = { "/srv/mail" = "/etc" }
        [postfix]
        container = "mail"
        map = "/srv/mail/postfix/sni"
        [dovecot]
        container = "mail"
    """
    settings = parse(text, Path("config.toml"))
    assert settings.postfix.config_directory == Path("/srv/mail/postfix")
    assert settings.postfix.map == Path("/srv/mail/postfix/sni")
    assert settings.dovecot.pin_directory == Path("/srv/mail/dovecot/mailsni")
    assert Mounts(((Path("/a"), Path("/b")), (Path("/b"), Path("/c")))).on_host(Path("/b/x")) == Path("/a/x")


def test_a_path_that_the_container_does_not_see_is_an_error_with_a_way_out() -> None:
    executor = executor_of(FakeEngine())
    assert executor.inside(Path("/srv/mail/x")) == Path("/etc/x")
    with pytest.raises(HostError, match="/var/x: container mail does not see it") as caught:
        executor.inside(Path("/var/x"))
    assert "[container]" in str(caught.value.hint)


def test_docker_mailserver_stands_for_both_servers_in_its_container() -> None:
    text = """
        [postfix]
        map_type = "lmdb"
        [docker-mailserver]
        enabled = true
        directory = "/srv/dms"
    """
    settings = parse(text, Path("config.toml"))
    config = Path("/srv/dms/docker-data/dms/config")
    assert (settings.postfix.container, settings.dovecot.container) == ("mailserver", "mailserver")
    assert (settings.postfix.map_type, settings.postfix.map) == ("lmdb", config / "mailsni")
    assert set(registry.writable_directories(settings, FakeExecutor())) == {config, config / "mailsni-pins"}
    executor = registry.executor_for(settings, "mailserver", FakeExecutor())
    assert executor.inside(settings.postfix.config_directory) == Path("/etc/postfix")
    assert executor.outside(Path("/etc/postfix/main.cf")) is None
    assert executor.inside(settings.dovecot.pin_directory) == Path("/tmp/docker-mailserver/mailsni-pins")


@pytest.mark.parametrize("theirs", ["", "a = 1\n", "a = 1", "a = 1\n# mailsni writes the next line\nold = 1\nb = 2\n"])
def test_an_override_file_has_our_line_once_at_its_end_and_the_others_as_they_were(theirs: str) -> None:
    once = with_line(theirs, "ours = 2")
    assert once.endswith("# mailsni writes the next line\nours = 2\n")
    assert with_line(once, "ours = 2") == once
    assert "old" not in once
    assert [line for line in once.splitlines() if line in ("a = 1", "b = 2")] == theirs.replace(
        "# mailsni writes the next line\nold = 1\n", ""
    ).splitlines()
