"""``mailsni setup`` on the Postfix and Dovecot of a Debian host, in their own places, and every trace of it gone again.

Only for the lab, where what is written is thrown away: the servers run from /etc, on the ports that everybody knows.
What a test wants hidden or replaced (half of the software, systemd, a writable /etc) is mounted over for mailsni alone.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mailsni.host.commands import environment, find_tool, require_tool, run
from mailsni.sandbox.authority import Issued
from tests.support.authority import Authority
from tests.support.fault_host import strace_unavailable
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ABORTED, Certbot, acme_server, require, served
from tests.support.processes import AS_NOBODY, LIMIT, NOBODY, PROGRAM, run_command, running, until

pytestmark = [pytest.mark.shared, pytest.mark.real_host]

ETC = Path("/etc")
STATE = Path("/var/lib/mailsni")
MAIN_CF = ETC / "postfix/main.cf"
MASTER_CF = ETC / "postfix/master.cf"
DOVECOT_CONF = ETC / "dovecot/dovecot.conf"
INCLUDE = ETC / "dovecot/conf.d/99-mailsni.conf"
HOOKS = ETC / "letsencrypt/renewal-hooks/post"
HOOK = HOOKS / "mailsni"
CRON = ETC / "cron.d/mailsni"
UNITS = ETC / "systemd/system"
CHANGED = ("postfix", "dovecot", "letsencrypt", "cron.d", "init.d", "systemd/system", "mailsni")
"""What a test may change below /etc."""
SERVICES = {"smtp": 25, "imap": 143, "imaps": 993}
NAME, OTHER = "mail.first.test", "imap.first.test"
IN_LEGO = "mail.lego.test"

Tree = dict[str, tuple[object, ...]]


def tree(*roots: Path) -> Tree:
    """Everything below some directories: kind, mode, owner, content."""
    found: Tree = {}
    for root in roots:
        for path in (root, *root.rglob("*")):
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = path.readlink()
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[str(path)] = (oct(status.st_mode), status.st_uid, status.st_gid, content)
    return found


def everything() -> Tree:
    """All that the program may change, but for its lock."""
    return tree(ETC, STATE) if STATE.exists() else tree(ETC)


def beneath(root: Path) -> Tree:
    """A :func:`tree` with the paths below its root; empty when there is none."""
    found = tree(root) if root.exists() else {}
    return {str(Path(path).relative_to(root)): what for path, what in found.items()}


def differences(before: Tree, after: Tree) -> list[str]:
    """The paths that are not as they were."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


@dataclass
class Host:
    """A mail host as Debian installs it, with both servers running."""

    authority: Authority
    directory: Path
    store: CertbotDirectory
    first: Issued
    mounts: list[str] = field(default_factory=list)
    """Shell commands that are run in the mount name space of mailsni alone."""

    def mailsni(self, *words: str, as_nobody: bool = False) -> CompletedProcess[str]:
        """Run the program as a script would: without a terminal."""
        command = [*(AS_NOBODY if as_nobody else ()), str(PROGRAM), *words]
        if self.mounts:
            script = " && ".join([*self.mounts, f"exec {shlex.join(command)}"])
            command = [str(find_tool("unshare")), "--mount", "--", "/bin/sh", "-c", script]
        return run_command(command)

    def setup(self, *words: str, code: int = 0) -> str:
        """``setup --yes``, which must end with this exit code; gives what was said."""
        done = self.mailsni("setup", "--yes", *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, *words: str) -> dict[str, Any]:
        """What ``setup --dry-run --json`` says."""
        done = self.mailsni("setup", "--dry-run", "--json", *words)
        assert done.returncode in (0, 4), done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def refused(self, *words: str, code: int = 1) -> str:
        """``setup --yes`` is refused with this exit code and nothing is changed; gives what was said."""
        before = everything()
        done = self.mailsni("setup", "--yes", *words)
        assert done.returncode == code, done.stdout + done.stderr
        assert differences(before, everything()) == []
        return done.stderr

    def remove(self, before: Tree, *words: str) -> None:
        """``setup --remove``, which leaves /etc as it was before."""
        self.setup("--remove", *words)
        assert differences(before, tree(ETC)) == []
        assert not STATE.exists()

    def hide(self, *paths: str) -> None:
        """Make programs not installed for mailsni."""
        empty = self.directory / "empty"
        empty.touch(mode=0o644)
        self.mounts += [f"mount --bind {empty} {path}" for path in paths]

    def put_over(self, path: Path, script: str) -> Path:
        """Put a program in the place of another one, for mailsni; gives the file in which it notes its calls."""
        calls = self.directory / f"{path.name}.calls"
        stand_in = self.directory / path.name
        stand_in.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{script}\n')
        stand_in.chmod(0o755)
        self.mounts.append(f"mount --bind {stand_in} {path}")
        return calls

    def pretend_systemd(self, script: str = "") -> Path:
        """Let mailsni think that systemd runs this system."""
        self.mounts.append("mount -t tmpfs none /run/systemd && mkdir /run/systemd/system")
        return self.put_over(Path("/usr/bin/systemctl"), script)

    def issue(self, *names: str, lineage: str | None = None) -> Issued:
        """Put a certificate into the store."""
        issued = self.authority.issue(names)
        self.store.add(lineage or names[0], issued)
        return issued

    def served(self, name: str | None) -> set[str]:
        """What clients of all services get."""
        return {served(port, name, service) for service, port in SERVICES.items()}


def stop_servers() -> None:
    """And wait until they are gone."""
    run([require_tool("doveadm"), "stop"])
    run([require_tool("postfix"), "stop"])
    until(lambda: not any(map(listens, SERVICES.values())), "the end of both servers")


def start_servers() -> None:
    """From /etc."""
    for tool, *words in (["postfix", "start"], ["dovecot"]):
        assert run([require_tool(tool), *words], detached=True).returncode == 0, tool
    until(lambda: all(map(listens, SERVICES.values())), "both servers")


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    listening = "0A"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == listening and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def copy(source: Path, target: Path) -> None:
    """With owners, modes and links."""
    assert run(["/bin/cp", "-a", source, target]).returncode == 0


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def call(tool: str, *words: str) -> None:
    """Run a command of Postfix's."""
    assert run([require_tool(tool), *words]).returncode == 0


def put_back(saved: Path, live: Path) -> None:
    """Make a directory what it was, and touch nothing that is: other tests' Postfix reads /etc/postfix meanwhile."""
    then, now = beneath(saved), beneath(live)
    different = differences(then, now)
    for name in reversed(different):
        path = live / name
        if path.is_dir() and not path.is_symlink():
            if name not in then:
                path.rmdir()
        else:
            path.unlink(missing_ok=True)
    for name in different:
        source, path = saved / name, live / name
        if source.is_dir() and not source.is_symlink():
            path.mkdir(exist_ok=True)
            os.chown(path, source.stat().st_uid, source.stat().st_gid)
            path.chmod(source.stat().st_mode)
        elif name in then:
            copy(source, path)


@pytest.fixture
def stopped(authority: Authority, tmp_path: Path) -> Iterator[Host]:
    """A mail host whose servers do not run."""
    require(None if os.environ.get("MAILSNI_LAB_REQUIRED") else "changes /etc: only in the lab")
    saved = tmp_path / "etc"
    for name in CHANGED:
        if (ETC / name).exists():
            (saved / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ETC / name, saved / name)
    store = CertbotDirectory(ETC / "letsencrypt")
    issued = authority.issue([NAME, OTHER])
    store.add("first", issued)
    try:
        yield Host(authority, tmp_path, store, issued)
    finally:
        for name in CHANGED:
            put_back(saved / name, ETC / name)
        shutil.rmtree(STATE, ignore_errors=True)
        Path("/run/mailsni.lock").unlink(missing_ok=True)


@pytest.fixture
def host(stopped: Host) -> Iterator[Host]:
    """A mail host."""
    start_servers()
    try:
        yield stopped
    finally:
        stop_servers()


@pytest.fixture
def first(stopped: Host) -> Issued:
    """The certificate that lies in the store from the beginning."""
    return stopped.first


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.on_both
def test_setup_serves_every_name_and_remove_leaves_no_trace(host: Host, first: Issued) -> None:
    before, default = tree(ETC), host.served(None)
    assert ABORTED not in default
    assert host.served(NAME) == default

    said = host.setup()
    assert host.served(NAME) == host.served(OTHER) == {first.fingerprint}
    assert host.served(None) == host.served("mail.unknown.test") == default
    assert "tls_server_sni_maps" in said
    assert "from now on it runs by itself" in said
    assert "mailsni setup --remove" in CRON.read_text()
    assert os.access(HOOK, os.X_OK)
    assert oct(HOOKS.stat().st_mode) == oct(HOOKS.parent.stat().st_mode) == "0o40755"
    assert host.mailsni("config", "--check", str(ETC / "mailsni/config.toml.example")).returncode == 0

    last = json.loads(host.mailsni("status", "--json").stdout)["last_run"]
    assert (last["trigger"], last["exit_code"], last["names"]) == ("setup", 0, 2)

    wired = tree(ETC, STATE)
    assert "everything is in place" in host.setup()
    assert host.planned()["result"] == "in_place"
    assert differences(wired, tree(ETC, STATE)) == []

    host.remove(before)
    assert not Path("/run/mailsni.lock").exists()
    assert host.served(None) == host.served(NAME) == default
    stop_servers()
    start_servers()
    assert host.served(None) == host.served(NAME) == default
    assert "mailsni is not set up here" in host.setup("--remove")


def test_what_the_administrator_wrote_meanwhile_stays(host: Host, first: Issued) -> None:
    host.setup()
    text = MAIN_CF.read_text()
    MAIN_CF.write_text(text + "message_size_limit = 12345678\n")
    host.setup("--remove")
    kept = [line for line in text.splitlines() if "mailsni" not in line]
    assert MAIN_CF.read_text().splitlines() == [*kept, "message_size_limit = 12345678"]
    assert first.fingerprint not in host.served(NAME)


def test_a_main_cf_that_is_a_link_stays_one_with_its_mode_and_owner(stopped: Host) -> None:
    real = ETC / "postfix/real.cf"
    MAIN_CF.rename(real)
    MAIN_CF.symlink_to("real.cf")
    real.chmod(0o640)
    os.chown(real, 0, 8)
    before = tree(ETC)
    stopped.setup()
    assert MAIN_CF.is_symlink()
    status = real.stat()
    assert (oct(status.st_mode), status.st_gid) == ("0o100640", 8)
    stopped.remove(before)


def test_a_main_cf_without_a_newline_at_its_end_is_restored_to_the_byte(stopped: Host) -> None:
    MAIN_CF.write_bytes(MAIN_CF.read_bytes().rstrip(b"\n"))
    before = tree(ETC)
    stopped.setup()
    stopped.remove(before)


def test_remove_waits_for_a_dovecot_that_starts_slowly(host: Host, tmp_path: Path) -> None:
    """It is held where it opens the first pinned file that its configuration names; the others come later."""
    require(strace_unavailable())
    host.issue("mail.second.test")
    before = tree(ETC)
    host.setup()
    run([require_tool("doveadm"), "stop"])
    until(lambda: not listens(993), "the end of Dovecot")
    log, pins = tmp_path / "strace", tree(ETC / "dovecot/mailsni")
    first = re.findall(r"[^\s<\"]+\.pem", INCLUDE.read_text())[0]
    words = ["-f", "-qq", "-o", str(log), "-P", first, "-e", "trace=open,openat"]
    words += ["-e", "inject=open,openat:signal=SIGSTOP:when=1"]
    start = [str(require_tool("strace")), *words, str(require_tool("dovecot"))]
    remove = [str(PROGRAM), "setup", "--yes", "--remove"]
    with running(start, tmp_path / "output") as dovecot:
        until(lambda: log.exists() and first in log.read_text(), "it opens no pinned file", beside=dovecot)
        reader = int(log.read_text().split()[0])
        with running(remove, tmp_path / "removal") as removal:
            until(lambda: not INCLUDE.exists(), "the include is there", beside=removal)
            time.sleep(1)
            assert removal.poll() is None, "it does not wait"
            assert tree(ETC / "dovecot/mailsni") == pins
            os.kill(reader, signal.SIGCONT)
            until(lambda: listens(993), lambda: (tmp_path / "output").read_text(), beside=removal)
            assert removal.wait(LIMIT) == 0, (tmp_path / "removal").read_text()
    assert differences(before, tree(ETC)) == []


def test_remove_reaches_a_server_that_has_been_switched_off_since(stopped: Host, tmp_path: Path) -> None:
    before = tree(ETC)
    stopped.setup()
    config = tmp_path / "own.toml"
    config.write_text("[postfix]\nenabled = false\n[dovecot]\nenabled = false\n")
    stopped.remove(before, "--config", str(config))


def test_what_was_wired_in_by_hand_is_in_place_and_removed(stopped: Host) -> None:
    HOOKS.mkdir(parents=True)
    before = tree(ETC)
    assert stopped.mailsni("apply").returncode == 0
    call("postconf", "-e", "tls_server_sni_maps=cdb:/etc/postfix/mailsni")
    said = stopped.setup()
    assert "tls_server_sni_maps" not in said
    assert "but not all is served yet" in said
    assert "postfix: does not answer" in said
    assert "dovecot: does not answer" in said
    assert "tls_server_sni_maps = cdb:/etc/postfix/mailsni\n" in MAIN_CF.read_text()
    stopped.remove(before)


# ── consent ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_terminal_and_without_yes_nothing_is_done(stopped: Host) -> None:
    before = tree(ETC)
    for words in (["setup"], ["setup", "--json"]):
        done = stopped.mailsni(*words)
        assert done.returncode == 2
        assert "--yes" in done.stderr
    assert stopped.planned()["result"] == "planned"
    assert differences(before, tree(ETC)) == []
    assert not STATE.exists()


def answered(*answers: str) -> tuple[int, bytes]:
    """The exit code and the output of a setup that a person answers."""
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [str(PROGRAM), "setup"], env=environment(), stdin=side, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        os.write(terminal, "".join(f"{answer}\n" for answer in answers).encode())
        output, _ = child.communicate(timeout=LIMIT)
    os.close(terminal)
    os.close(side)
    return child.returncode, output


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_a_person_is_shown_everything_and_asked(host: Host, first: Issued, answer: str, code: int) -> None:
    before = tree(ETC)
    ended, output = answered(answer)
    assert ended == code
    assert b"+tls_server_sni_maps = " in output
    assert b"+MAILSNI_STARTED_BY=cron" in output
    if answer == "n":
        assert differences(before, tree(ETC)) == []
    else:
        assert host.served(NAME) == {first.fingerprint}


# ── stores that nobody configured ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lego_store(authority: Authority) -> Iterator[Issued]:
    """A store of lego's in a container stack's directory, with a certificate for IN_LEGO."""
    stack = Path("/opt/stack")
    issued = authority.issue([IN_LEGO])
    store = stack / "lego/certificates"
    store.mkdir(parents=True)
    for suffix, content in ((".crt", issued.fullchain_pem), (".key", issued.key_pem)):
        (store / f"{IN_LEGO}{suffix}").write_bytes(content)
    yield issued
    shutil.rmtree(stack)


def test_the_only_store_of_a_host_is_taken_where_there_is_no_certbot(host: Host, lego_store: Issued) -> None:
    shutil.rmtree(host.store.root)
    before = tree(ETC)
    assert "read certificates from /opt/stack/lego: write /etc/mailsni/config.toml" in host.setup()
    assert host.served(IN_LEGO) == {lego_store.fingerprint}
    assert host.mailsni("sources", "--detect").stderr.endswith("found no store that is not configured\n")
    assert "everything is in place" in host.setup()
    host.remove(before)


def test_a_store_beside_certbots_is_asked_for_and_its_lines_are_taken_back(host: Host, lego_store: Issued) -> None:
    (ETC / "mailsni").mkdir()
    config = ETC / "mailsni/config.toml"
    config.write_text("[watch]\nquiet = 0.5")
    before = tree(ETC)
    (note,) = (note for note in host.planned()["notes"] if "lego" in note)
    assert note.startswith(f"not configured: /opt/stack/lego (lego, 1 new mail name: {IN_LEGO}): ")
    code, output = answered("y", "y")
    assert code == 0, output
    assert b"+[[sources]]" in output
    assert host.served(IN_LEGO) == {lego_store.fingerprint}
    assert host.served(NAME) == {host.first.fingerprint}
    assert "everything is in place" in host.setup()
    host.remove(before)


# ── maps, services and certificates of the administrator's ───────────────────────────────────────────────────────────


@pytest.fixture
def their_map(host: Host, default: Issued, tmp_path: Path) -> Issued:
    """An SNI map of the administrator's, which has one of our names and a parent of the other."""
    theirs = host.authority.issue([NAME])
    for name, issued in (("theirs", theirs), ("parent", default)):
        (tmp_path / f"{name}.pem").write_bytes(issued.key_pem + issued.fullchain_pem)
    source = ETC / "postfix/theirs"
    source.write_text(f"{NAME} {tmp_path}/theirs.pem\n.first.test {tmp_path}/parent.pem\n")
    call("postmap", "-F", f"cdb:{source}")
    append(MAIN_CF, f"tls_server_sni_maps =\n    cdb:{source}\n")
    call("postfix", "reload")
    return theirs


@pytest.mark.on_both
def test_an_existing_map_is_kept_and_goes_first(host: Host, first: Issued, their_map: Issued) -> None:
    before = tree(ETC)
    said = host.setup(code=4)
    assert "--take-over" in said
    assert f"{NAME} at smtp://127.0.0.1:25" in said
    smtp = SERVICES["smtp"]
    assert served(smtp, NAME, "smtp") == their_map.fingerprint
    # Each name is looked up in all maps before its parent is.
    assert served(smtp, OTHER, "smtp") == first.fingerprint
    assert host.mailsni("setup").returncode == 0
    host.remove(before)
    assert served(smtp, NAME, "smtp") == their_map.fingerprint


@pytest.mark.on_both
@pytest.mark.parametrize("record", ["kept", "lost"])
def test_an_inline_map_stays_whole_and_is_served(
    host: Host, first: Issued, their_map: Issued, tmp_path: Path, record: str
) -> None:
    inline_name = "mail.inline.test"
    issued = host.authority.issue([inline_name])
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    key.write_bytes(issued.key_pem)
    chain.write_bytes(issued.fullchain_pem)
    inline = f"inline:{{ {{{inline_name} = {key}, {chain}}}, {{{NAME} = {tmp_path}/theirs.pem}} }}"
    theirs = f"{inline}, cdb:{ETC}/postfix/theirs"
    kept = MAIN_CF.read_text().rpartition("tls_server_sni_maps =\n")[0]
    MAIN_CF.write_text(f"{kept}tls_server_sni_maps = {theirs}\n")
    call("postfix", "reload")
    HOOKS.mkdir(parents=True)
    before = tree(ETC)
    host.setup(code=4)
    assert f"tls_server_sni_maps = {theirs}, " in MAIN_CF.read_text()
    smtp = SERVICES["smtp"]
    assert served(smtp, inline_name, "smtp") == issued.fingerprint
    assert served(smtp, NAME, "smtp") == their_map.fingerprint
    assert served(smtp, OTHER, "smtp") == first.fingerprint
    examined = json.loads(host.mailsni("doctor", "--json").stdout)
    assert [
        one for one in examined["findings"] if "inline" in one["what"] and one["code"] != "name_in_earlier_map"
    ] == []
    assert host.mailsni("setup").returncode == 0
    if record == "lost":
        shutil.rmtree(STATE)
    host.remove(before)
    assert served(smtp, inline_name, "smtp") == issued.fingerprint


@pytest.mark.parametrize("record", ["kept", "lost"])
def test_a_map_is_taken_over_when_that_is_asked_for_and_given_back(
    host: Host, first: Issued, their_map: Issued, record: str
) -> None:
    HOOKS.mkdir(parents=True)
    before = tree(ETC)
    host.setup("--take-over")
    smtp = SERVICES["smtp"]
    assert served(smtp, NAME, "smtp") == served(smtp, OTHER, "smtp") == first.fingerprint
    if record == "lost":
        shutil.rmtree(STATE)
    host.setup("--remove")
    assert served(smtp, NAME, "smtp") == their_map.fingerprint
    changed = differences(before, tree(ETC))
    # Without the record the map comes back, though not the way in which it was broken into lines.
    assert changed == ([] if record == "kept" else [str(MAIN_CF)])


def test_services_and_instances_of_their_own_are_said(stopped: Host) -> None:
    append(
        MASTER_CF,
        "2525 inet n - y - - smtpd\n  -o tls_server_sni_maps=cdb:/etc/postfix/other\n"
        "2526 inet n - y - - smtpd\n  -o smtpd_tls_security_level=none\n"
        "2527 inet n - y - - smtpd\n  -o smtpd_tls_chain_files=/etc/own.pem\n",
    )
    before = MAIN_CF.read_bytes()
    call("postmulti", "-e", "init")
    call("postmulti", "-I", "postfix-second", "-G", "out", "-e", "create")
    try:
        notes = "\n".join(stopped.planned()["notes"])
    finally:
        MAIN_CF.write_bytes(before)
        shutil.rmtree("/etc/postfix-second")
    assert "2525/inet has tls_server_sni_maps = cdb:/etc/postfix/other in master.cf: it overrides main.cf" in notes
    assert "2526/inet has smtpd_tls_security_level = none in master.cf: the service has no TLS" in notes
    own = "2527/inet has smtpd_tls_chain_files = /etc/own.pem in master.cf"
    assert f"{own}: the service has a default certificate of its own" in notes
    assert "the instance postfix-second (/etc/postfix-second) is not changed" in notes


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        (
            MASTER_CF,
            "2525 inet n - y - - smtpd\n  -o tls_server_sni_maps=hash:/etc/postfix/mailsni\n",
            "2525/inet names mailsni's map",
        ),
        (DOVECOT_CONF, f"!include {INCLUDE}\n", "!include_try"),
    ],
    ids=["a service of Postfix", "Dovecot"],
)
def test_nothing_is_removed_that_a_server_needs(stopped: Host, path: Path, text: str, why: str) -> None:
    stopped.setup()
    append(path, text)
    assert why in stopped.refused("--remove")


def test_a_missing_default_certificate_is_said_with_the_lines_that_set_one(stopped: Host) -> None:
    text = MAIN_CF.read_text()
    MAIN_CF.write_text("\n".join(line for line in text.splitlines() if not line.startswith("smtpd_tls_")) + "\n")
    for path in (ETC / "dovecot/conf.d").glob("10-ssl.conf"):
        kept = [line for line in path.read_text().splitlines() if not line.startswith(("ssl_cert", "ssl_server_cert"))]
        path.write_text("\n".join(kept) + "\n")
    warnings = "\n".join(stopped.planned()["warnings"])
    assert "postfix: has no default certificate" in warnings
    assert "-e smtpd_tls_chain_files=" in warnings
    assert "smtpd_tls_security_level=may" in warnings
    assert "dovecot: has no default certificate" in warnings


def test_the_names_of_a_default_certificate_from_the_store_are_served_too(host: Host) -> None:
    own = host.issue("host.first.test", "mail.host.test", lineage="host")
    live = host.store.live / "host"
    append(MAIN_CF, f"smtpd_tls_chain_files = {live}/privkey.pem, {live}/fullchain.pem\n")
    call("postfix", "reload")
    before = tree(ETC)
    host.setup()
    assert host.served("host.first.test") == {own.fingerprint}
    assert "host.first.test" in (ETC / "postfix/mailsni").read_text()
    assert host.mailsni("setup").returncode == 0
    host.remove(before)


def test_with_a_configuration_the_line_that_serves_the_default_names_is_said(stopped: Host, tmp_path: Path) -> None:
    stopped.issue("stopped.first.test", lineage="host")
    live = stopped.store.live / "host"
    append(MAIN_CF, f"smtpd_tls_chain_files = {live}/privkey.pem, {live}/fullchain.pem\n")
    config = tmp_path / "own.toml"
    config.write_text('[names]\ninclude = ["mail.*"]\n')
    notes = "\n".join(stopped.planned("--config", str(config))["notes"])
    assert 'include = ["mail.*", "stopped.first.test"]' in notes


# ── other places, other ways to start ────────────────────────────────────────────────────────────────────────────────


def test_an_include_directory_that_is_not_included_gets_its_line(host: Host, first: Issued) -> None:
    (ETC / "mailsni").mkdir()
    config = ETC / "mailsni/config.toml"
    config.write_text('[dovecot]\ninclude_file = "/etc/dovecot/sni/names.conf"\n')
    before = tree(ETC)
    said = host.setup()
    assert "!include_try /etc/dovecot/sni/names.conf" in said
    assert host.served(NAME) == {first.fingerprint}
    assert host.mailsni("setup").returncode == 0
    host.remove(before)


def test_a_certbot_directory_elsewhere(host: Host, tmp_path: Path) -> None:
    store = CertbotDirectory(tmp_path / "acme")
    issued = host.authority.issue([NAME])
    store.add("elsewhere", issued)
    config = tmp_path / "own.toml"
    config.write_text(f'[[sources]]\npath = "{store.live}"\n')
    host.setup("--config", str(config))
    hook = tmp_path / "acme/renewal-hooks/post/mailsni"
    assert f"MAILSNI_CONFIG={config}" in hook.read_text()
    assert f"MAILSNI_CONFIG={config}" in CRON.read_text()
    assert host.served(NAME) == {issued.fingerprint}

    renewed = host.authority.issue([NAME])
    store.renew("elsewhere", renewed)
    done = run_command([hook], env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert host.served(NAME) == {renewed.fingerprint}
    host.setup("--config", str(config), "--remove")
    assert not (tmp_path / "acme/renewal-hooks").exists()


@pytest.mark.parametrize(
    ("hidden", "left"),
    [(["/usr/sbin/postconf"], "Dovecot"), (["/usr/sbin/dovecot", "/usr/bin/doveconf"], "Postfix")],
)
def test_half_of_the_software(host: Host, first: Issued, hidden: Sequence[str], left: str) -> None:
    before = tree(ETC)
    host.hide(*hidden)
    assert f"only {left} is configured" in host.setup()
    mine, others = ("imaps", "smtp") if left == "Dovecot" else ("smtp", "imaps")
    assert served(SERVICES[mine], NAME, mine) == first.fingerprint
    assert served(SERVICES[others], NAME, others) != first.fingerprint
    host.remove(before)


def test_none_of_the_software(stopped: Host) -> None:
    stopped.hide("/usr/sbin/postconf", "/usr/sbin/dovecot", "/usr/bin/doveconf")
    assert "neither Postfix nor Dovecot" in stopped.refused()


def test_systemd_runs_the_timer_or_the_watcher(stopped: Host) -> None:
    before = tree(ETC)
    calls = stopped.pretend_systemd()
    stopped.setup()
    assert calls.read_text().splitlines() == [
        "daemon-reload",
        "enable mailsni.timer",
        "restart mailsni.timer",
    ]
    assert sorted(path.name for path in UNITS.glob("mailsni*")) == ["mailsni.service", "mailsni.timer"]
    assert not CRON.exists()
    assert stopped.planned()["result"] == "in_place"

    calls.unlink()
    stopped.setup("--watch")
    assert sorted(path.name for path in UNITS.glob("mailsni*")) == ["mailsni-watch.service"]
    assert calls.read_text().splitlines() == [
        "disable --now mailsni.timer",
        "daemon-reload",
        "enable mailsni-watch.service",
        "restart mailsni-watch.service",
    ]
    assert stopped.planned()["result"] == "in_place"

    calls.unlink()
    stopped.remove(before)
    assert calls.read_text().splitlines() == ["disable --now mailsni-watch.service", "daemon-reload"]


def test_a_step_that_fails_takes_back_those_before_it(host: Host) -> None:
    default = host.served(None)
    calls = host.pretend_systemd('case "$1" in enable) echo "Failed to enable unit" >&2; exit 1;; esac')
    assert "Failed to enable unit" in host.refused()
    assert "enable mailsni.timer" in calls.read_text()
    assert host.served(NAME) == host.served(None) == default

    # What an apply had published before is brought up to date, and stays so.
    host.mailsni("apply")
    host.issue("mail.second.test")
    done = host.mailsni("setup", "--yes")
    assert done.returncode == 1
    assert "mailsni: hint: the certificates that it published stay" in done.stderr
    names = json.loads(host.mailsni("status", "--json").stdout)["names"]
    assert [(each["name"], each["state"]) for each in names if "second" in each["name"]] == [
        ("mail.second.test", "deployed")
    ]


def test_a_change_that_cuts_clients_off_goes_back(host: Host, tmp_path: Path) -> None:
    """The command that is to reload Postfix takes the map away as soon as main.cf names it."""
    script = tmp_path / "reload"
    loss = "grep -q mailsni /etc/postfix/main.cf && rm -f /etc/postfix/mailsni.*"
    script.write_text(f"#!/bin/sh\n{loss}\npostfix reload\n")
    script.chmod(0o755)
    config = tmp_path / "own.toml"
    config.write_text(f'[postfix]\naction = ["{script}"]\n[verify]\ntimeout = 4\n')
    default = host.served(None)
    assert "connected before, and not after the change" in host.refused("--config", str(config), code=5)
    assert host.served(NAME) == host.served(None) == default


def test_on_openrc_the_init_script_is_installed_and_removed(stopped: Host) -> None:
    before = tree(ETC)
    stopped.mounts.append("mount -t tmpfs none /mnt && mkdir /mnt/sbin && cp -a /usr/local/sbin/. /mnt/sbin/")
    calls = stopped.directory / "rc.calls"
    for name in ("rc-update", "rc-service"):
        stand_in = stopped.directory / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n')
        stand_in.chmod(0o755)
        stopped.mounts.append(f"cp {stand_in} /mnt/sbin/{name}")
    stopped.mounts += ["mount --bind /mnt/sbin /usr/local/sbin", "mkdir -p /run/openrc"]
    try:
        stopped.setup()
        script = ETC / "init.d/mailsni"
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!/sbin/openrc-run\n")
        assert calls.read_text().splitlines() == ["rc-update add mailsni default", "rc-service mailsni restart"]
        assert stopped.planned()["result"] == "in_place"
        calls.unlink()
        stopped.remove(before)
        assert calls.read_text().splitlines() == ["rc-service mailsni stop", "rc-update del mailsni default"]
    finally:
        Path("/run/openrc").rmdir()


# ── what is wrong is said, and nothing is changed ────────────────────────────────────────────────────────────────────


def test_a_read_only_etc_is_refused(stopped: Host) -> None:
    stopped.mounts.append("mount --bind /etc /etc && mount -o remount,bind,ro /etc")
    assert "not even by root" in stopped.refused()


def _foreign_hook() -> None:
    HOOKS.mkdir(parents=True)
    HOOK.write_text("#!/bin/sh\necho mine\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: append(MAIN_CF, "this is no parameter\n"), "main.cf"),
        (lambda: append(MASTER_CF, "nosuchport inet n - n - - smtpd\n"), "Postfix's configuration is broken already"),
        (lambda: append(DOVECOT_CONF, "nonsense = yes\n"), "dovecot.conf"),
        (_foreign_hook, f"{HOOK}: was not written by `mailsni setup`"),
        (lambda: CRON.symlink_to("/root/mine"), f"{CRON}: was not written by `mailsni setup`"),
        (lambda: shutil.rmtree(ETC / "letsencrypt/live"), "/etc/letsencrypt/live"),
    ],
    ids=["main.cf", "master.cf", "dovecot.conf", "hook", "cron", "store"],
)
def test_what_is_wrong_is_said_before_anything_is_changed(
    stopped: Host, spoil: Callable[[], object], said: str
) -> None:
    spoil()
    assert said in stopped.refused()


def test_a_plain_user_is_refused_and_nothing_changes(stopped: Host) -> None:
    config = Path("/tmp/mailsni-open")
    config.mkdir()
    try:
        before = tree(ETC)
        store = CertbotDirectory(config / "acme")
        store.add("open", stopped.authority.issue([NAME]))
        for path in (config, *config.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        own = config / "own.toml"
        own.write_text(f'[[sources]]\npath = "{store.live}"\n')
        own.chmod(0o644)
        done = stopped.mailsni("setup", "--yes", "--config", str(own), as_nobody=True)
        assert done.returncode == 77, done.stdout + done.stderr
        assert "root" in done.stderr
        assert differences(before, tree(ETC)) == []
        assert stopped.mailsni("setup", "--yes", as_nobody=True).returncode == 77
    finally:
        shutil.rmtree(config)


def test_options_that_do_not_go_together(stopped: Host) -> None:
    assert "--watch" in stopped.refused("--watch", code=2)
    assert "--remove" in stopped.refused("--remove", "--take-over", code=2)


# ── certbot ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def certbot(host: Host, tmp_path: Path) -> Iterator[Certbot]:
    """The certbot of this host: its own directory is the one in /etc."""
    require(Certbot.unavailable())
    directory = tmp_path / "acme"
    directory.mkdir()
    (directory / "letsencrypt").symlink_to(ETC / "letsencrypt")
    for place in (host.store.live, host.store.archive, host.store.renewal):
        shutil.rmtree(place)
    with acme_server(directory, host.authority) as program:
        yield program


@pytest.mark.on_both
def test_certbot_renews_through_the_hook_that_setup_installed(certbot: Certbot, host: Host) -> None:
    lineage = certbot.issue("mail.first.test", "imap.first.test", lineage="any-name")
    host.setup()
    before = certbot.fingerprint(lineage)
    assert host.served(NAME) == {before}
    certbot.renew()
    assert certbot.fingerprint(lineage) != before
    assert host.served(NAME) == host.served(OTHER) == {certbot.fingerprint(lineage)}
