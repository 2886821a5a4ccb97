"""Restarts and reloads of servers that something keeps running.

runit, s6 and init scripts are the real ones; OpenRC and docker, which cannot run here, are stand-ins that write down
how they are called.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsni.config.settings import Action, DovecotSettings
from mailsni.host.commands import environment, find_tool, require_tool
from mailsni.targets.dovecot.target import find
from mailsni.targets.reload import ReloadResult
from tests.support.mail_host import ABORTED, MailHost, require
from tests.support.processes import LIMIT, running, until
from tests.support.servers import PrivateDovecot, PrivatePostfix

pytestmark = pytest.mark.shared

NAME = "mail.one.test"


SUPERVISORS = {"runit": "runsv", "s6": "s6-supervise"}
"""Programs that keep another one running, by a directory with a script called run."""


def above(number: int | None) -> list[str]:
    """The names of the processes above another one, the nearest first."""
    names = []
    while number and number > 1:
        number = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        names.append(Path(f"/proc/{number}/comm").read_text().strip() if number else "")
    return names


@contextmanager
def supervised(
    supervisor: str, directory: Path, server: PrivatePostfix | PrivateDovecot, command: str
) -> Iterator[None]:
    """A private server, stopped before, kept running by a supervisor."""
    server.stop()
    directory.mkdir()
    script = directory / "run"
    script.write_text(f"#!/bin/sh\nexec 2>&1\nexec {command}\n")
    script.chmod(0o755)
    try:
        with running([str(require_tool(supervisor)), str(directory)], directory.with_name(f"{directory.name}.log")):
            until(lambda: server.running() and supervisor in above(server.pid()), "it does not start")
            yield
    finally:
        server.stop()


@pytest.mark.on_both
@pytest.mark.parametrize("name", SUPERVISORS)
def test_a_supervised_server_is_restarted_by_its_supervisor(mail_host: MailHost, name: str) -> None:
    supervisor = SUPERVISORS[name]
    require(None if find_tool(supervisor) else f"{name}: not installed")
    postfix = f"{require_tool('postfix')} -c {mail_host.postfix.config_directory} start-fg"
    dovecot = f"{require_tool('dovecot')} -F -c {mail_host.dovecot.config_file}"
    mail_host.configure(postfix={"action": "restart"}, dovecot={"action": "restart"})
    issued = mail_host.issue(NAME)
    with (
        supervised(supervisor, mail_host.directory / "postfix", mail_host.postfix, postfix),
        supervised(supervisor, mail_host.directory / "dovecot", mail_host.dovecot, dovecot),
    ):
        until(lambda: ABORTED not in mail_host.served_everywhere(None).values(), "nothing is served")
        masters = {mail_host.postfix.pid(), mail_host.dovecot.pid()}
        done = mail_host.apply()
        assert "restarted" in done.stdout
        until(lambda: mail_host.postfix.running() and mail_host.dovecot.running(), "one of them is not restarted")
        after = {mail_host.postfix.pid(), mail_host.dovecot.pid()}
        assert masters.isdisjoint(after)
        assert all(supervisor in above(number) for number in after)
        wanted = dict.fromkeys(mail_host.endpoints, issued.fingerprint)
        until(lambda: mail_host.served_everywhere(NAME) == wanted, "not everything is served")
        mail_host.configure(postfix={"action": "auto"}, dovecot={"action": "auto"})
        renewed = mail_host.renew(NAME)
        mail_host.apply()
        assert mail_host.served_everywhere(NAME) == dict.fromkeys(mail_host.endpoints, renewed.fingerprint)
        assert {mail_host.postfix.pid(), mail_host.dovecot.pid()} == after


@contextmanager
def stand_in(path: Path, witness: Path) -> Iterator[Path]:
    """A program that only writes down how it is called, for what cannot run here."""
    require(None if "MAILSNI_LAB_RELEASE" in os.environ else "/usr/local of this host is not to be written")
    path.write_text(f'#!/bin/sh\necho "$(basename $0) $*" >> {witness}\n')
    path.chmod(0o755)
    try:
        yield path
    finally:
        path.unlink()


def test_a_command_of_the_administrators_replaces_a_reload(mail_host: MailHost) -> None:
    witness = mail_host.directory / "calls"
    with stand_in(Path("/usr/local/bin/docker"), witness) as docker:
        mail_host.configure(
            postfix={"action": [str(docker), "exec", "mail", "postfix", "reload"]},
            dovecot={"action": [str(docker), "restart", "dovecot"]},
        )
        mail_host.issue(NAME)
        done = mail_host.mailsni("apply", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert sorted(witness.read_text().splitlines()) == ["docker exec mail postfix reload", "docker restart dovecot"]


@pytest.fixture
def installed_dovecot() -> Iterator[Path]:
    """The Dovecot of the release's own configuration, running, with nothing that keeps it; the file of its number."""
    require(None if "MAILSNI_LAB_RELEASE" in os.environ else "the Dovecot of this host is not to be restarted")
    require(None if Path("/etc/init.d/dovecot").exists() else "dovecot: it has no init script")
    subprocess.run([str(require_tool("dovecot"))], env=environment(), check=True, timeout=LIMIT)
    yield Path("/run/dovecot/master.pid")
    subprocess.run([str(require_tool("doveadm")), "stop"], env=environment(), check=False, timeout=LIMIT)


def reload_dovecot(action: Action) -> ReloadResult:
    dovecot = find(DovecotSettings(action=action))
    assert dovecot is not None
    return dovecot.reload()


@pytest.mark.real_host
def test_an_init_script_restarts_its_server(installed_dovecot: Path) -> None:
    before = int(installed_dovecot.read_text())
    assert reload_dovecot("restart") is ReloadResult.RESTARTED

    def is_another() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it goes and comes
            return int(installed_dovecot.read_text() or before) != before
        return False

    until(is_another, "no restart")
    assert reload_dovecot("auto") is ReloadResult.RELOADED


@pytest.mark.real_host
def test_openrc_restarts_its_server(installed_dovecot: Path, tmp_path: Path) -> None:
    before = installed_dovecot.read_text()
    level = Path("/run/openrc/softlevel")
    level.parent.mkdir()
    try:
        level.write_text("default\n")
        with stand_in(Path("/usr/local/bin/rc-service"), tmp_path / "calls"):
            assert reload_dovecot("restart") is ReloadResult.RESTARTED
            assert reload_dovecot("auto") is ReloadResult.RELOADED
    finally:
        level.unlink()
        level.parent.rmdir()
    assert (tmp_path / "calls").read_text() == "rc-service dovecot restart\n"
    assert installed_dovecot.read_text() == before
