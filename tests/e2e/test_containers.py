"""A mail stack in a container: renewals reach the wire by reloads, whatever happens to the container meanwhile."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailsni.core.mounts import Mounts
from mailsni.errors import HostError
from mailsni.host.commands import require_tool
from mailsni.host.containers import ContainerExecutor
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import workspace
from tests.support.authority import Authority
from tests.support.engine import (
    STACK,
    Engine,
    Stack,
    container_engine,
    engine_unavailable,
    new_docker_mailserver,
    new_mailcow,
    new_stack,
    write_configuration,
)
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ONE_EACH, served, snapshot
from tests.support.processes import run_mailsni
from tests.support.servers import free_ports

DMS = "docker-data/dms/config"
INCLUDE = "conf.d/99-mailsni.conf"
pytestmark = [pytest.mark.shared("bookworm"), pytest.mark.long]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    reason = engine_unavailable()
    if reason is not None:
        pytest.skip(f"left out: {reason}")
    with workspace() as directory, container_engine(directory) as running:
        running.import_root(STACK)
        yield running


@dataclass
class ContainerHost:
    """A host whose mail stack runs in a container."""

    directory: Path
    authority: Authority
    store: CertbotDirectory
    stack: Stack
    config: Path

    def configure(self, **tables: Mapping[str, object]) -> None:
        """Write the configuration; the paths of the servers are those inside, as by default."""
        own: dict[str, Mapping[str, object]] = {
            "container": {"engine": str(self.stack.engine.program), "paths": self.stack.paths},
            "postfix": {"container": self.stack.name},
            "dovecot": {"container": self.stack.name},
            "state": {"directory": str(self.directory / "state"), "lock": str(self.directory / "mailsni.lock")},
            "verify": {"endpoints": self.stack.urls()},
        }
        merged = {table: {**own.get(table, {}), **tables.get(table, {})} for table in {**own, **tables}}
        write_configuration(self.config, merged, [self.store.live])

    def renew(self, *names: str) -> Issued:
        """Put a new certificate into the store."""
        issued = self.authority.issue(names)
        self.store.put(names[0], issued)
        return issued

    def mailsni(self, *arguments: str, docker_host: str = "") -> subprocess.CompletedProcess[str]:
        """Run the program; ``docker_host`` is where docker(1) finds its daemon."""
        return run_mailsni(self.config, *arguments, DOCKER_HOST=docker_host)

    def apply(self, docker_host: str = "") -> int:
        """Apply; gives the exit code, and shows what was said."""
        done = self.mailsni("apply", docker_host=docker_host)
        print(done.stdout, done.stderr)  # noqa: T201  # pytest shows it where the test fails
        return done.returncode

    def assert_served(self, name: str, issued: Issued) -> None:
        """Both servers show this certificate for this name."""
        for service in ONE_EACH:
            assert served(self.stack.ports[service], name, service) == issued.fingerprint, service


@pytest.fixture
def host(
    engine: Engine, tmp_path: Path, shared_tmp: Path, authority: Authority, default: Issued, store: CertbotDirectory
) -> Iterator[ContainerHost]:
    stack = new_stack(engine, f"mail-{shared_tmp.name}", shared_tmp, default)
    host = ContainerHost(tmp_path, authority, store, stack, tmp_path / "config.toml")
    host.configure()
    stack.start()
    yield host
    stack.remove()


@pytest.fixture
def mailserver(
    engine: Engine, tmp_path: Path, shared_tmp: Path, authority: Authority, default: Issued, store: CertbotDirectory
) -> Iterator[ContainerHost]:
    """A host with docker-mailserver, whose override files are the administrator's."""
    stack = new_docker_mailserver(engine, f"dms-{shared_tmp.name}", shared_tmp, default)
    (stack.directory / DMS / "postfix-main.cf").write_text("mydestination = localhost")
    host = ContainerHost(tmp_path, authority, store, stack, tmp_path / "config.toml")
    own = {"enabled": True, "directory": stack.directory, "container": stack.name}
    nothing: dict[str, object] = {"container": ""}
    host.configure(**{"docker-mailserver": own}, postfix=nothing, dovecot=nothing)
    stack.start()
    yield host
    stack.remove()


@pytest.fixture
def mailcow(
    engine: Engine, tmp_path: Path, shared_tmp: Path, authority: Authority, default: Issued, store: CertbotDirectory
) -> Iterator[tuple[ContainerHost, dict[str, Stack]]]:
    """A host with mailcow, and the stacks of its services."""
    project = f"cow{shared_tmp.name.removeprefix('mailsni-').lower().strip('_')}"
    stacks = new_mailcow(engine, project, shared_tmp, default)
    host = ContainerHost(tmp_path, authority, store, stacks["postfix-mailcow"], tmp_path / "config.toml")
    nothing: dict[str, object] = {"container": ""}
    own = {"enabled": True, "directory": shared_tmp}
    host.configure(mailcow=own, postfix=nothing, dovecot=nothing, names={"include": ["*"]})
    for stack in stacks.values():
        stack.start()
    yield host, stacks
    for stack in stacks.values():
        stack.remove()


@pytest.fixture
def other(engine: Engine, default: Issued) -> Iterator[Stack]:
    """Another stack in a container of its own."""
    with workspace() as directory:
        stack = new_stack(engine, f"other-{directory.name}", directory, default)
        stack.start()
        yield stack
        stack.remove()


def test_a_renewal_reaches_the_wire_by_reloads_alone(host: ContainerHost) -> None:
    first = host.renew("mail.a.test", "imap.a.test")
    began, masters = host.stack.engine.started_at(host.stack.name), host.stack.masters()
    assert host.apply() == 0
    host.assert_served("mail.a.test", first)
    host.assert_served("imap.a.test", first)
    second = host.renew("mail.a.test", "imap.a.test")
    assert host.apply() == 0
    host.assert_served("mail.a.test", second)
    assert (host.stack.engine.started_at(host.stack.name), host.stack.masters()) == (began, masters)
    pin = next((host.stack.dovecot / "mailsni").glob("*.pem")).name
    named = [(host.stack.postfix / "mailsni").read_text(), (host.stack.dovecot / INCLUDE).read_text()]
    assert all(f"/etc/dovecot/mailsni/{second.fingerprint}" in text for text in named), named
    assert not any(str(host.stack.directory) in text for text in named)
    assert (host.stack.dovecot / "mailsni" / pin).stat().st_mode & 0o777 == 0o600
    before = snapshot(host.stack.postfix, host.stack.dovecot)
    assert host.apply() == 0
    assert snapshot(host.stack.postfix, host.stack.dovecot) == before


def test_the_engine_is_found_by_its_name_and_paths_may_be_those_of_the_host(host: ContainerHost) -> None:
    stack = host.stack
    host.configure(
        container={"engine": "docker"},
        postfix={"config_directory": stack.postfix, "map": stack.postfix / "mailsni"},
        dovecot={"config_file": stack.dovecot / "dovecot.conf", "include_file": stack.dovecot / INCLUDE},
    )
    issued = host.renew("mail.a.test")
    assert host.apply(docker_host=stack.engine.socket) == 0
    host.assert_served("mail.a.test", issued)
    done = host.mailsni("config", docker_host=stack.engine.socket)
    assert f"postconf is /usr/sbin/postconf of container {stack.name}" in done.stdout
    assert host.mailsni("verify", docker_host=stack.engine.socket).returncode == 0
    checked = json.loads(host.mailsni("check", "--wire", "--json", docker_host=stack.engine.socket).stdout)
    assert {finding["code"] for finding in checked["findings"]} == {"wire_untrusted"}, checked


def test_one_container_that_is_stopped_holds_up_nobody_else(host: ContainerHost, other: Stack) -> None:
    """Postfix runs in one container, Dovecot in another, which sees no directory of the first."""
    paths = {str(host.stack.postfix): "/etc/postfix", str(other.dovecot): "/etc/dovecot"}
    endpoints = [*host.stack.urls("smtp", "smtps"), *other.urls("imap", "imaps")]
    separate: dict[str, Mapping[str, object]] = {"container": {"paths": paths}, "verify": {"endpoints": endpoints}}
    host.configure(**separate, dovecot={"container": other.name})
    first = host.renew("mail.a.test")
    assert host.apply() == 0
    second = host.renew("mail.a.test")
    other.stop()
    done = host.mailsni("apply")
    assert done.returncode == 4, done.stderr
    assert f"container {other.name}: it does not run, its state is exited" in done.stderr
    assert f"`docker start {other.name}`" in done.stderr
    assert served(host.stack.ports["smtp"], "mail.a.test", "smtp") == second.fingerprint
    other.start()
    assert served(other.ports["imaps"], "mail.a.test", "imaps") == first.fingerprint
    assert host.apply() == 0
    assert served(other.ports["imaps"], "mail.a.test", "imaps") == second.fingerprint


def test_where_no_container_runs_nothing_is_touched_and_the_next_run_deploys(host: ContainerHost) -> None:
    host.renew("mail.a.test")
    assert host.apply() == 0
    second = host.renew("mail.a.test")
    before = snapshot(host.stack.postfix, host.stack.dovecot, times=False)
    host.configure(postfix={"container": "mial"}, dovecot={"container": "mial"})
    done = host.mailsni("apply")
    assert done.returncode == 1
    assert "container mial: docker does not know it: " in done.stderr
    assert "docker ps --all" in done.stderr
    host.configure()
    host.stack.stop()
    done = host.mailsni("apply")
    assert done.returncode == 1
    assert f"docker start {host.stack.name}" in done.stderr
    assert snapshot(host.stack.postfix, host.stack.dovecot, times=False) == before
    host.stack.start()
    assert host.apply() == 0
    host.assert_served("mail.a.test", second)


MOMENTS = {
    "the map is compiled": "postmap*-F",
    "the include is tried": "doveconf*-x",
    "Postfix is reloaded": "postfix*status",
}


@pytest.mark.parametrize("words", MOMENTS.values(), ids=MOMENTS)
def test_a_container_that_restarts_in_the_middle_loses_nothing(host: ContainerHost, words: str) -> None:
    """It may be back before anything notices."""
    first = host.renew("mail.a.test")
    assert host.apply() == 0
    engine = host.stack.restarting_engine(words)
    host.configure(container={"engine": str(engine)})
    second = host.renew("mail.a.test")
    done = host.mailsni("apply")
    assert (host.stack.directory / "restarted").exists(), "the moment never came"
    host.stack.wait()
    served_now = {served(host.stack.ports[service], "mail.a.test", service) for service in ONE_EACH}
    assert served_now <= {first.fingerprint, second.fingerprint}, done.stderr
    assert done.returncode in (0, 1, 4), (done.returncode, done.stderr)
    host.configure()
    assert host.apply() == 0
    host.assert_served("mail.a.test", second)


def test_a_program_that_never_ends_is_ended_inside_too(host: ContainerHost) -> None:
    executor = ContainerExecutor(str(host.stack.engine.program), host.stack.name, Mounts())
    sleep = require_tool("sleep", executor)
    with pytest.raises(HostError, match="did not end within 1 seconds and was killed"):
        executor.run([sleep, "4321"], timeout=1.0)
    left = executor.run(["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline"]).text
    assert "sleep\0004321" not in left
    assert "sleep\0infinity" in left


def test_doctor_and_setup_say_what_they_leave_to_the_administrator(host: ContainerHost) -> None:
    host.renew("mail.a.test")
    assert host.apply() == 0
    codes = {finding["code"] for finding in json.loads(host.mailsni("doctor", "--json").stdout)["findings"]}
    assert "server_in_container" in codes
    assert not {code for code in codes if code.startswith(("postfix_", "dovecot_", "container_not"))}
    host.configure(postfix={"map": "/etc/postfix/other"})
    done = host.mailsni("setup", "--dry-run")
    assert "in container" in done.stdout + done.stderr, done.stderr
    assert "postconf -e tls_server_sni_maps=cdb:/etc/postfix/other" in done.stdout + done.stderr


def test_docker_mailserver_is_wired_in_without_a_restart_and_for_the_next_start(mailserver: ContainerHost) -> None:
    stack, config = mailserver.stack, mailserver.stack.directory / DMS
    began, masters = stack.engine.started_at(stack.name), stack.masters()
    first = mailserver.renew("mail.a.test")
    assert mailserver.apply() == 0
    mailserver.assert_served("mail.a.test", first)
    main = (config / "postfix-main.cf").read_text()
    assert main.startswith("mydestination = localhost\n")
    assert ":/tmp/docker-mailserver/mailsni\n" in main
    assert "!include_try /tmp/docker-mailserver/mailsni-dovecot.conf\n" in (config / "dovecot.cf").read_text()
    second = mailserver.renew("mail.a.test")
    assert mailserver.apply() == 0
    mailserver.assert_served("mail.a.test", second)
    assert (stack.engine.started_at(stack.name), stack.masters()) == (began, masters)
    before = snapshot(config)
    assert mailserver.apply() == 0
    assert snapshot(config) == before
    checked = json.loads(mailserver.mailsni("check", "--wire", "--json").stdout)
    assert {finding["code"] for finding in checked["findings"]} == {"wire_untrusted"}, checked
    stack.restart()
    mailserver.assert_served("mail.a.test", second)
    assert mailserver.apply() == 0
    assert snapshot(config) == before


def test_docker_mailserver_keeps_what_the_administrator_writes_into_the_override_files(
    mailserver: ContainerHost,
) -> None:
    config = mailserver.stack.directory / DMS
    issued = mailserver.renew("mail.a.test")
    assert mailserver.apply() == 0
    (config / "postfix-main.cf").write_text("smtpd_banner = new\n")
    (config / "dovecot.cf").write_text("mail_max_userip_connections = 69\n")
    mailserver.stack.restart()
    default = served(mailserver.stack.ports["smtp"], "mail.a.test", "smtp")
    assert default != issued.fingerprint
    assert mailserver.apply() == 0
    mailserver.assert_served("mail.a.test", issued)
    assert (config / "postfix-main.cf").read_text().startswith("smtpd_banner = new\n# mailsni ")
    assert (config / "dovecot.cf").read_text().startswith("mail_max_userip_connections = 69\n# mailsni ")
    text = mailserver.config.read_text()
    (closed,) = free_ports(1)
    for port in mailserver.stack.ports.values():
        text = text.replace(f":{port}", f":{closed}")
    mailserver.config.write_text(text)
    said = mailserver.mailsni("apply", "--force").stderr
    assert f"dovecot: no port of container {mailserver.stack.name} answers here" in said


def test_mailcow_gets_folders_that_its_own_scripts_read_and_its_containers_are_reloaded(
    mailcow: tuple[ContainerHost, dict[str, Stack]], shared_tmp: Path
) -> None:
    host, stacks = mailcow
    ssl = shared_tmp / "data/assets/ssl"
    calls = stacks["nginx-mailcow"].directory / "mail/calls"
    began = [stack.engine.started_at(stack.name) for stack in stacks.values()]
    first, wild = host.renew("mail.a.test"), host.renew("*.w.test")
    assert host.apply() == 0
    host.assert_served("mail.a.test", first)
    host.assert_served("imap.w.test", wild)
    host.assert_served("unknown.test", first)  # the default pair is that of mailcow's host name
    folder = ssl / "mailsni-mail.a.test"
    assert (folder / "domains").read_text() == "mail.a.test"
    assert (folder / "cert.pem").read_bytes() == first.fullchain_pem == (ssl / "cert.pem").read_bytes()
    assert (folder / "key.pem").stat().st_mode & 0o777 == (ssl / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (ssl / "mailsni-_.w.test/domains").read_text() == "*.w.test .w.test"
    second, untouched = host.renew("mail.a.test"), (ssl / "mailsni-_.w.test").stat().st_ino
    assert host.apply() == 0
    host.assert_served("mail.a.test", second)
    assert (folder / "cert.pem").read_bytes() == second.fullchain_pem == (ssl / "cert.pem").read_bytes()
    assert (ssl / "mailsni-_.w.test").stat().st_ino == untouched
    assert calls.read_text() == "-s reload\n" * 2
    before = snapshot(ssl)
    assert host.apply() == 0
    assert snapshot(ssl) == before
    assert calls.read_text() == "-s reload\n" * 2
    assert [stack.engine.started_at(stack.name) for stack in stacks.values()] == began
    for service in ("postfix-mailcow", "dovecot-mailcow"):
        stacks[service].restart()
    host.assert_served("mail.a.test", second)  # by mailcow's own scripts
    host.assert_served("imap.w.test", wild)
    assert host.apply() == 0
    host.assert_served("mail.a.test", second)
    host.store.delete("*.w.test")
    assert host.apply() == 0
    assert [path.name for path in ssl.glob("mailsni-*")] == ["mailsni-mail.a.test"]
    host.assert_served("imap.w.test", second)


def test_mailcow_as_a_store_and_as_a_target_does_not_feed_itself(
    mailcow: tuple[ContainerHost, dict[str, Stack]], shared_tmp: Path
) -> None:
    host, _ = mailcow
    own, ssl = host.authority.issue(["mail.own.test"]), shared_tmp / "data/assets/ssl"
    (ssl / "mail.own.test").mkdir()
    for name, content in {"key.pem": own.key_pem, "cert.pem": own.fullchain_pem, "domains": b"mail.own.test"}.items():
        (ssl / "mail.own.test" / name).write_bytes(content)
    (ssl / "mail.own.test/key.pem").chmod(0o600)
    default = (ssl / "cert.pem").read_bytes()
    first = host.renew("mail.a.test")
    assert "has folders of its own (mail.own.test)" in host.mailsni("plan").stderr
    with host.config.open("a") as file:
        file.write(f'[[sources]]\ntype = "mailcow"\npath = "{shared_tmp}"\n')
    assert host.apply() == 0
    host.assert_served("mail.own.test", own)
    host.assert_served("mail.a.test", first)
    host.store.delete("mail.a.test")
    assert host.apply() == 0
    names = {each["name"] for each in json.loads(host.mailsni("status", "--json").stdout)["names"]}
    assert "mail.a.test" not in names
    assert "mail.own.test" in names
    assert (ssl / "mail.own.test/cert.pem").read_bytes() == own.fullchain_pem
    assert (ssl / "cert.pem").read_bytes() == default  # where mailcow is a store, that pair is its own
