"""Every hook as its ACME client calls it: the real client where Debian has it, until the wire shows the renewal.

certbot, dehydrated and lego renew against a real ACME server. acme.sh and Caddy are not in Debian: a script of their
name calls the hook with the environment and in the way that their documentation tells.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailsni.host.commands import find_tool
from mailsni.runs import history
from mailsni.runs.history import Run
from mailsni.sandbox.authority import Issued
from tests.support import data
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import Certbot, Gate, MailHost, require
from tests.support.processes import LIMIT, PROGRAM, run_command, until
from tests.support.servers import free_ports

pytestmark = pytest.mark.shared

HOOKS = Path(__file__).parents[2] / "hooks"
IN_LAB = pytest.mark.skipif(not os.environ.get("MAILSNI_LAB_REQUIRED"), reason="only where / is thrown away")
NAMES = [f"mail.d{number}.test" for number in range(6)]


def last_run(mail_host: MailHost) -> Run:
    """The record of the last run."""
    found = history.load(mail_host.directory / "state").last
    assert found is not None
    return found


@dataclass(frozen=True)
class Spy:
    """A ``mailsni`` that writes down how it was called and then is the real one.

    Attributes:
        directory: for the ``PATH``.
        log: one JSON array for each call: the arguments, the environment.
    """

    directory: Path
    log: Path

    def environment(self, mail_host: MailHost) -> dict[str, str]:
        """What a hook needs to know that runs on a host with another configuration and installation."""
        return {"PATH": f"{self.directory}:/usr/bin:/bin", "MAILSNI_CONFIG": str(mail_host.config)}

    def working(self) -> list[int]:
        """The processes of the test that are an ``apply``, or wait to be one."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                words = content.split(b"\0")
                ours = os.fsencode(self.directory.parent) in content + path.with_name("environ").read_bytes()
                if ours and b"apply" in words and any(word.endswith(b"mailsni") for word in words):
                    found.append(int(path.parent.name))
        return found

    def all_done(self) -> None:
        """Wait until nothing goes on in the background."""
        until(lambda: not self.working(), "the end of what goes on in the background")

    def calls(self) -> list[list[str]]:
        """The arguments of each call."""
        return [call["argv"] for call in self._calls()]

    def environments(self) -> list[dict[str, str]]:
        """The environment of each call."""
        return [call["env"] for call in self._calls()]

    def _calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


SPY = """\
#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ)}}) + "\\n")
os.execv({program!r}, ["mailsni", *sys.argv[1:]])
"""


@pytest.fixture
def spy(tmp_path: Path) -> Iterator[Spy]:
    """See :class:`Spy`. Nothing that was started goes on after the test."""
    made = Spy(tmp_path / "spy", tmp_path / "spy.log")
    made.directory.mkdir()
    script = made.directory / "mailsni"
    script.write_text(SPY.format(python=sys.executable, log=str(made.log), program=str(PROGRAM)))
    script.chmod(0o755)
    yield made
    for one in made.working():
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    made.all_done()


def installed(name: str, directory: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a hook where its client finds it."""
    hook = directory / "mailsni"
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(HOOKS / name, hook)
    for old, new in changes:
        assert hook.read_text().count(old) == 1
        hook.write_text(hook.read_text().replace(old, new))
    return hook


# ── a client that is told what to do ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Client:
    """A process of a client's name that renews a lineage and calls a hook when it is told to.

    Attributes:
        said: what the hooks said.
    """

    mail_host: MailHost
    process: subprocess.Popen[str]
    said: Path

    def renew(self, name: str) -> Issued:
        """Renew the lineage of a name, and call the hook."""
        issued = self.mail_host.renew(name)
        assert self.call() == 0, self.said.read_text()
        assert self.said.read_text() == ""
        return issued

    def call(self) -> int:
        """Call the hook; gives its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("/lineage\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """Let the client end."""
        self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0


@pytest.fixture
def deployed(mail_host: MailHost) -> dict[str, Issued]:
    """Names that are served."""
    issued = {name: mail_host.issue(name) for name in NAMES}
    mail_host.apply()
    return issued


@contextlib.contextmanager
def client(mail_host: MailHost, spy: Spy, name: str, hook: Path, *leaked: int) -> Iterator[Client]:
    """A running :class:`Client`, which may have descriptors open that its hooks inherit."""
    script, said = mail_host.directory / "client" / name, mail_host.directory / "said"
    script.parent.mkdir(exist_ok=True)
    script.write_text(data.read("acme-client"))
    script.chmod(0o755)
    variables = {**spy.environment(mail_host), "HOOK": str(hook), "SAID": str(said)}
    pipe = subprocess.PIPE
    with subprocess.Popen(script, env=variables, stdin=pipe, stdout=pipe, pass_fds=leaked, text=True) as process:
        try:
            yield Client(mail_host, process, said)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.on_both
@pytest.mark.parametrize(("program", "hook"), [("certbot", "certbot-deploy"), ("lego", "lego"), ("acme.sh", "acme.sh")])
def test_a_hook_for_each_certificate_is_one_publish(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy, program: str, hook: str
) -> None:
    before = mail_host.reloads()
    with client(mail_host, spy, program, HOOKS / hook) as running:
        wanted = {name: running.renew(name) for name in NAMES}
        assert len(spy.working()) == 1, "one waits"
        mail_host.assert_all_served(deployed)
        running.end()
        spy.all_done()
    assert mail_host.reloads() - before == 1
    assert len(spy.calls()) == len(NAMES)
    mail_host.assert_all_served(wanted)
    assert (last_run(mail_host).trigger, last_run(mail_host).exit_code) == (hook, 0)


def test_what_waits_holds_nothing_of_its_caller(mail_host: MailHost, deployed: dict[str, Issued], spy: Spy) -> None:
    """No pipe, no terminal, no directory, no session: certbot waits for all that holds its pipes."""
    del deployed
    reading, writing = os.pipe()
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy", writing) as running:
        running.renew(NAMES[0])
        (waiting,) = spy.working()
        process = Path(f"/proc/{waiting}")
        open_files = {int(path.name): str(path.readlink()) for path in (process / "fd").iterdir()}
        assert [open_files.pop(number) for number in (0, 1, 2)] == [os.devnull] * 3
        assert sorted(open_files.values()) == [
            str(mail_host.directory / "mailsni.lock.waiting"),
            *(one for one in open_files.values() if "pidfd" in one),
        ]
        assert (process / "cwd").readlink() == Path("/")
        assert os.getsid(waiting) != os.getsid(0)
        assert (process / "stat").read_text().rpartition(")")[2].split()[4] == "0", "it has a terminal"
        running.end()
        spy.all_done()
    os.close(writing)
    os.close(reading)


def test_a_renewal_while_the_last_one_is_published_is_not_lost(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy
) -> None:
    """Clients follow each other closely: what waited for one is still at work, and has looked, when the next calls."""
    gate = Gate(mail_host)
    wanted = dict(deployed)
    before = mail_host.reloads()
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
        wanted[NAMES[0]] = running.renew(NAMES[0])
        running.end()
    until(gate.reached, "the publication of the first renewal")
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
        wanted[NAMES[1]] = running.renew(NAMES[1])
        wanted[NAMES[2]] = running.renew(NAMES[2])
        assert len(spy.working()) == 2, "one is at work, one waits"
        running.end()
    gate.open()
    spy.all_done()
    mail_host.assert_all_served(wanted)
    assert mail_host.reloads() - before == 2


def test_a_client_that_goes_on_for_long_is_not_waited_for(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy
) -> None:
    del deployed
    hook = installed("certbot-deploy", mail_host.directory / "hook", ("--settle 600", "--settle 0.5"))
    with client(mail_host, spy, "certbot", hook) as running:
        for name in NAMES[:2]:
            issued = running.renew(name)
            spy.all_done()
            mail_host.assert_all_served({name: issued})
        assert running.process.poll() is None


def test_a_service_manager_that_ends_what_is_left_does_not_lose_it(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy
) -> None:
    """Systemd sends SIGTERM to what certbot.service leaves behind, and waits: here the client goes on meanwhile."""
    del deployed
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
        for number, name in ((signal.SIGTERM, NAMES[0]), (signal.SIGHUP, NAMES[1])):
            issued = running.renew(name)
            (waiting,) = spy.working()
            while waiting in spy.working():  # again and again, whatever it is doing
                with contextlib.suppress(ProcessLookupError):
                    os.kill(waiting, number)
                time.sleep(0.05)
            assert running.process.poll() is None
            mail_host.assert_all_served({name: issued})
            assert last_run(mail_host).exit_code == 0


@pytest.mark.parametrize(
    ("hook", "program"),
    [("certbot-deploy", "lego"), ("lego", "certbot"), ("acme.sh", "cron"), ("certbot-post", "certbot")],
)
def test_a_hook_that_somebody_else_calls_does_it_at_once(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy, hook: str, program: str
) -> None:
    """A person who tries it out sees how it ends; the post hook is called once, and certbot shows what it says."""
    del deployed
    with client(mail_host, spy, program, HOOKS / hook) as running:
        issued = running.renew(NAMES[0])
        assert spy.working() == []
        mail_host.assert_all_served({NAMES[0]: issued})
        shutil.rmtree(mail_host.store.live)
        assert running.call() == 1
        assert running.said.read_text().startswith(f"mailsni: error: {mail_host.store.live}: cannot be read: ")
    assert last_run(mail_host).trigger == hook


def test_what_is_wrong_before_the_wait_is_said_to_the_caller(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy
) -> None:
    del deployed
    mail_host.config.write_text(mail_host.config.read_text() + "[postfx]\n")
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
        assert running.call() == 78
        assert re.match(r"mailsni: error: \S+: line \d+: postfx: unknown key\n", running.said.read_text())
        assert spy.working() == []
    assert last_run(mail_host).exit_code == 78
    (mail_host.directory / "mailsni.lock.waiting").mkdir()
    mail_host.configure()
    with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
        assert running.call() == 1
        assert "mailsni.lock.waiting: " in running.said.read_text()


@IN_LAB
def test_a_failure_in_the_background_is_known_to_everybody_who_asks(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy, tmp_path: Path
) -> None:
    """The system log, the alert, the status."""
    del deployed
    told = tmp_path / "told"
    command = ["/bin/sh", "-c", f'echo "$MAILSNI_SUMMARY" >> {told}; cat >> {told}']
    mail_host.configure(alerts={"on_failure": command})
    why = f"{mail_host.store.live}: cannot be read: No such file or directory"
    line = rf"<19>.+ mailsni\[\d+\]: error: {re.escape(why)}\0?"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind("/dev/log")
        log.settimeout(LIMIT)
        try:
            with client(mail_host, spy, "certbot", HOOKS / "certbot-deploy") as running:
                running.renew(NAMES[0])
                shutil.rmtree(mail_host.store.live)
                running.end()
                # Other programs of other tests write to this log too; without the line it runs into its time limit.
                while not re.fullmatch(line, log.recv(4096).decode()):
                    pass
        finally:
            Path("/dev/log").unlink()
    spy.all_done()
    host = socket.gethostname()
    summary, document = told.read_text().split("\n", 1)
    assert summary == f"mailsni: {host}: failed (exit code 1): {why}"[:200] + (" […]" if len(why) > 160 else "")
    assert json.loads(document)["error"] == why
    status = json.loads(mail_host.mailsni("status", "--json").stdout or "{}")
    assert status["schema"] == "mailsni.error/1", "the store is still away"
    mail_host.store.live.mkdir()
    (mail_host.store.live / "README").touch()  # without it the directory counts as not mounted
    last = json.loads(mail_host.mailsni("status", "--json").stdout)["last_run"]
    assert (last["exit_code"], last["trigger"], last["error"]) == (1, "certbot-deploy", why)
    shown = mail_host.mailsni("status").stdout.splitlines()[-1]
    assert re.fullmatch(
        rf"last run: \S+ \S+ UTC by certbot-deploy: {re.escape(why)} "
        rf"\(exit code 1\); last successful run: .+ UTC",
        shown,
    )


def test_caddy_calls_in_the_background_for_each_certificate(
    mail_host: MailHost, deployed: dict[str, Issued], spy: Spy
) -> None:
    """``events { on cert_obtained exec … }``: Caddy's environment, all at once, and Caddy goes on for ever."""
    del deployed
    hook = installed("caddy", mail_host.directory / "hook", ("--settle 30", "--settle 1"))
    before = mail_host.reloads()
    wanted = {name: mail_host.renew(name) for name in NAMES}
    environment = spy.environment(mail_host) | {"HOME": "/var/lib/caddy", "XDG_DATA_HOME": "/var/lib"}
    with ThreadPoolExecutor(len(NAMES)) as pool:
        calls = list(pool.map(lambda _: run_command([hook], env=environment), NAMES))
    assert [(done.returncode, done.stdout + done.stderr) for done in calls] == [(0, "")] * len(NAMES)
    spy.all_done()
    mail_host.assert_all_served(wanted)
    assert 1 <= mail_host.reloads() - before <= 2
    assert last_run(mail_host).trigger == "caddy"


def test_acme_sh_reloads_once(mail_host: MailHost, deployed: dict[str, Issued], spy: Spy, tmp_path: Path) -> None:
    """Called by cron, with the environment that acme.sh documents; the file of the hook has the client's name."""
    del deployed
    script = tmp_path / ".acme.sh" / "acme.sh"
    script.parent.mkdir()
    script.write_text(data.read("acme.sh"))
    script.chmod(0o755)
    renewed = mail_host.renew(NAMES[0])
    before = mail_host.reloads()
    more = {"DOMAIN_PATH": str(script.parent), "Le_ReloadCmd": str(HOOKS / "acme.sh")}
    line = f'"{script.parent}"/acme.sh --cron --home "{script.parent}"'
    done = run_command(["/bin/sh", "-c", line], env=spy.environment(mail_host) | more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Reload success\n" * 3, "")
    spy.all_done()
    mail_host.assert_all_served({NAMES[0]: renewed})
    assert mail_host.reloads() - before == 1
    assert [one["Le_Domain"] for one in spy.environments()] == ["first", "second", "third"]


# ── real clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


class TestCertbot:
    """certbot renewing, with a hook of ours installed in its directory."""

    @pytest.fixture
    def store(self, certbot: Certbot) -> CertbotDirectory:
        """The mail host reads certbot's own directory."""
        return CertbotDirectory(certbot.config_directory)

    @pytest.mark.parametrize("kinds", [("deploy",), ("deploy", "post"), ("post",)], ids=" and ".join)
    def test_renewals_reach_the_wire_through_hooks_at_once(
        self, certbot: Certbot, mail_host: MailHost, spy: Spy, kinds: tuple[str, ...]
    ) -> None:
        """Each alone, and both, where the post hook comes before what waits."""
        lineages = {name: certbot.issue(name, lineage=f"any-{name[5:7]}") for name in NAMES[:3]}
        lineages["mx.b.test"] = certbot.issue("*.b.test", "b.test", options=["--key-type", "rsa"])
        mail_host.apply()
        old = {name: certbot.fingerprint(lineage) for name, lineage in lineages.items()}
        for kind in kinds:
            installed(f"certbot-{kind}", certbot.config_directory / "renewal-hooks" / kind)
        before = mail_host.reloads()
        certbot.renew(spy.environment(mail_host))
        spy.all_done()
        calls = [(call["MAILSNI_STARTED_BY"], call.get("RENEWED_LINEAGE")) for call in spy.environments()]
        deploy_calls = [("certbot-deploy", str(lineage)) for lineage in lineages.values()]
        post_calls = [call for call in calls if call[0] == "certbot-post"]
        assert sorted(calls[: len(calls) - len(post_calls)]) == (sorted(deploy_calls) if "deploy" in kinds else [])
        assert len(post_calls) == ("post" in kinds)
        for name, lineage in lineages.items():
            assert certbot.fingerprint(lineage) != old[name]
            served = mail_host.served_everywhere(name)
            assert served == dict.fromkeys(mail_host.endpoints, certbot.fingerprint(lineage))
        assert mail_host.reloads() - before == 1
        assert last_run(mail_host).exit_code == 0

    def test_a_lineage_that_certbot_deletes_leaves_both_servers_at_the_next_run(
        self, certbot: Certbot, mail_host: MailHost
    ) -> None:
        """``certbot delete`` runs no hook."""
        certbot.issue(NAMES[0])
        kept = certbot.fingerprint(certbot.issue(NAMES[1]))
        mail_host.apply()
        certbot.delete(NAMES[0])
        mail_host.apply()
        mail_host.assert_served(NAMES[0], mail_host.default)
        assert mail_host.served_everywhere(NAMES[1]) == dict.fromkeys(mail_host.endpoints, kept)

    def test_what_the_post_hook_says_is_shown_by_certbot_and_remembered(
        self, certbot: Certbot, mail_host: MailHost, spy: Spy
    ) -> None:
        """Certbot ends with 0 all the same."""
        certbot.issue(NAMES[0])
        installed("certbot-post", certbot.config_directory / "renewal-hooks" / "post")
        mail_host.configure(verify={"endpoints": "wrong"})
        assert "mailsni: error: " in certbot.renew(spy.environment(mail_host))
        assert [call[0] for call in spy.calls()] == ["apply", "--version"], "it starts, so it has reported that itself"

    def test_a_post_hook_without_anything_new_touches_nothing_and_says_nothing(
        self, certbot: Certbot, mail_host: MailHost, spy: Spy
    ) -> None:
        """As certbot calls it: ``sh -c PATH``."""
        certbot.issue(NAMES[0])
        mail_host.apply()
        hook = installed("certbot-post", certbot.config_directory / "renewal-hooks" / "post")
        before = mail_host.reloads()
        done = run_command(["/bin/sh", "-c", shlex.quote(str(hook))], env=spy.environment(mail_host))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert mail_host.reloads() == before
        assert (last_run(mail_host).trigger, last_run(mail_host).names) == ("certbot-post", 1)


def installed_client(name: str) -> Path:
    """The program of an ACME client."""
    tool = find_tool(name)
    require(None if tool else f"{name}: not installed")
    assert tool is not None
    return tool


def test_dehydrated_calls_it_once_for_all(certbot: Certbot, mail_host: MailHost, spy: Spy, tmp_path: Path) -> None:
    """The real dehydrated, two certificates, against the real ACME server."""
    tool = installed_client("dehydrated")
    mail_host.issue(NAMES[0])
    directory = tmp_path / "dehydrated"
    (directory / "well-known").mkdir(parents=True)
    (directory / "domains.txt").write_text("mail.a.test imap.a.test\nmail.b.test\n")
    (directory / "config").write_text(
        f"""\
CA="{certbot.server}"
BASEDIR={directory}
DOMAINS_TXT={directory}/domains.txt
WELLKNOWN={directory}/well-known
CHALLENGETYPE=http-01
CURL_OPTS="--cacert {certbot.trusted}"
HOOK={installed("dehydrated", directory / "hook")}
"""
    )
    environment = spy.environment(mail_host) | {"PATH": f"{spy.directory}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def dehydrated(*words: str) -> str:
        done = run_command([tool, *words, "--config", directory / "config"], env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "mailsni" not in done.stderr
        return done.stdout

    dehydrated("--register", "--accept-terms")
    spy.log.unlink(missing_ok=True)
    said = dehydrated("--cron")
    assert said.count("Creating fullchain.pem") == 2, said
    assert spy.calls() == [["apply", "--quiet", "--wait", "300"]]
    (environment_seen,) = spy.environments()
    assert environment_seen["MAILSNI_STARTED_BY"] == "dehydrated"
    assert environment_seen["MAILSNI_CONFIG"] == str(mail_host.config)
    assert (last_run(mail_host).trigger, last_run(mail_host).exit_code) == ("dehydrated", 0)
    dehydrated("--cron")
    assert len(spy.calls()) == 2, "nothing to renew, and the hook is called all the same"


def test_lego_calls_it_for_a_new_certificate_and_a_renewed_one(
    certbot: Certbot, mail_host: MailHost, spy: Spy, tmp_path: Path
) -> None:
    """The real lego 4, against the real ACME server; its hooks return before it ends."""
    tool = installed_client("lego")
    issued = mail_host.issue(NAMES[0])
    (port,) = free_ports(1)
    common = ["--server", certbot.server, "--accept-tos", "--email", "root@a.test", "--path", str(tmp_path / "lego")]
    common += ["--domains", "mail.a.test", "--http", "--http.port", f"127.0.0.1:{port}"]
    environment = spy.environment(mail_host) | {"LEGO_CA_CERTIFICATES": str(certbot.trusted)}
    for words in (["run", "--run-hook"], ["renew", "--no-random-sleep", "--days", "9999", "--renew-hook"]):
        if "renew" in words:
            issued = mail_host.renew(NAMES[0])
        done = run_command([tool, *common, *words, HOOKS / "lego"], env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        spy.all_done()
        mail_host.assert_all_served({NAMES[0]: issued})
        assert last_run(mail_host).trigger == "lego"
    assert len(spy.calls()) == 2
    for seen in spy.environments():
        assert seen["LEGO_CERT_DOMAIN"] == "mail.a.test"
        assert seen["LEGO_CERT_PATH"].startswith(str(tmp_path / "lego"))


# ── the surroundings of hooks ────────────────────────────────────────────────────────────────────────────────────────


@IN_LAB
def test_the_program_is_found_where_installers_put_it(mail_host: MailHost) -> None:
    """With nothing in the environment but the configuration, and as cron and systemd call it."""
    mail_host.issue(NAMES[0])
    Path("/run/mailsni.told").touch()  # root had a mail today
    surroundings: list[list[str]] = [[], ["PATH=/usr/bin:/bin", "HOME=/root", "LOGNAME=root", "SHELL=/bin/sh"]]
    for place in ("/usr/local/bin", "/usr/bin", "/root/.local/bin", "/opt/mailsni/bin", "/usr/local/sbin"):
        link = Path(place) / "mailsni"
        link.parent.mkdir(parents=True, exist_ok=True)
        for variables in surroundings:
            words = ["env", "-i", f"MAILSNI_CONFIG={mail_host.config}", *variables, str(HOOKS / "certbot-post")]
            for there in (True, False):
                if there:
                    link.symlink_to(PROGRAM)
                else:
                    link.unlink()
                done = run_command(words)
                expected = (0 if there else 127, "", not there)
                assert (done.returncode, done.stdout, bool(done.stderr)) == expected, done.stderr
    assert last_run(mail_host).trigger == "certbot-post"


# ── alerts in one line each ──────────────────────────────────────────────────────────────────────────────────────────


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    posted: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        """Take it."""
        self.posted.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """An HTTP server: its address, and the headers and body of each post."""
    posted: list[tuple[dict[str, str], bytes]] = []
    handler = type("Handler", (Receiver,), {"posted": posted})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()


def alerted(mail_host: MailHost, line: str) -> None:
    """A failure twice, then a run that works twice, by a timer, with a line of the README in the configuration."""
    mail_host.config.write_text(mail_host.config.read_text() + f"[alerts]\n{line}\n")
    mail_host.issue(NAMES[0])
    key = mail_host.store.path(NAMES[0], "privkey").resolve()
    content = key.read_bytes()
    for intact in (False, False, True, True):
        key.write_bytes(content if intact else b"")
        variables = {"MAILSNI_CONFIG": str(mail_host.config), "MAILSNI_STARTED_BY": "timer"}
        done = run_command([PROGRAM, "apply", "--quiet"], env=variables)
        assert done.returncode == (0 if intact else 4), done.stderr
        assert "on_failure" not in done.stderr


MAIL = """on_failure = ["/bin/sh", "-c", 'mail -s "$MAILSNI_SUMMARY" root']"""
NTFY = """on_failure = ["/bin/sh", "-c", 'curl -fsS -d "$MAILSNI_SUMMARY" https://ntfy.sh/TOPIC']"""
PAGER = (
    """on_failure = ["/bin/sh", "-c", 'curl -fsS -H "Content-Type: application/json" -d @- https://pager.example/x']"""
)


@IN_LAB
def test_mail_is_one_line(mail_host: MailHost, tmp_path: Path) -> None:
    box = tmp_path / "box"
    stand_in = Path("/usr/local/bin/mail")
    stand_in.write_text(
        f'#!/bin/sh\n[ "$1" = -s ] && [ "$3" = root ] && [ $# = 3 ] || exit 2\n'
        f'{{ echo "Subject: $2"; cat; echo .; }} >> {box}\n'
    )
    stand_in.chmod(0o755)
    try:
        alerted(mail_host, MAIL)
    finally:
        stand_in.unlink()
    first, second = box.read_text().removesuffix(".\n").split("\n.\n")
    host = socket.gethostname()
    subject, document = first.split("\n", 1)
    assert subject.startswith(f"Subject: mailsni: {host}: needs a look (exit code 4): ")
    assert json.loads(document)["exit_code"] == 4
    subject, document = second.split("\n", 1)
    assert subject.startswith(f"Subject: mailsni: {host}: works again: ")
    assert json.loads(document)["exit_code"] == 0


@pytest.mark.parametrize("line", [NTFY, PAGER], ids=["ntfy", "pager"])
def test_a_web_service_is_one_line(
    mail_host: MailHost, receiver: tuple[str, list[tuple[dict[str, str], bytes]]], line: str
) -> None:
    require(None if find_tool("curl") else "curl: not installed")
    address, posted = receiver
    alerted(mail_host, re.sub(r"https://[a-z.]+", address, line))
    assert len(posted) == 2, "a failure, and that it works again"
    (headers, first), (_, second) = posted
    if line == NTFY:
        assert first.startswith(f"mailsni: {socket.gethostname()}: needs a look (exit code 4): ".encode())
        assert b": works again: " in second
    else:
        assert headers["Content-Type"] == "application/json"
        assert [json.loads(one)["exit_code"] for one in (first, second)] == [4, 0]
