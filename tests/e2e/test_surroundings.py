"""Whatever surrounds the program: read-only places, other users, umasks, environments, descriptors, directories."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.targets.dovecot.doveconf import full_version
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ONE_EACH, MailHost, require, snapshot, write_config
from tests.support.processes import AS_NOBODY, NOBODY, PROGRAM, run_command, run_mailsni
from tests.support.servers import PrivateDovecot, PrivatePostfix

pytestmark = pytest.mark.shared

NAME, OTHER = "mail.first.test", "mail.second.test"


def run_by_shell(mail_host: MailHost, words: str, *, before: str = "") -> CompletedProcess[str]:
    """Run the program from a shell, with redirections among its words."""
    command = f"{before}exec {shlex.quote(str(PROGRAM))} --config {shlex.quote(str(mail_host.config))} {words}"
    return run_command(["/bin/sh", "-c", command])


@pytest.fixture(scope="module")
def mail_host(lasting_mail_host: MailHost) -> MailHost:
    """One for all tests of this file."""
    return lasting_mail_host


@pytest.fixture
def deployed(mail_host: MailHost) -> Iterator[dict[str, Issued]]:
    """Two names that are served; the configuration is put back afterwards."""
    settings = dict(mail_host.settings)
    issued = {name: mail_host.renew(name) for name in (NAME, OTHER)}
    mail_host.apply()
    yield issued
    mail_host.settings = settings
    mail_host.configure()


# ---------------------------------------------------------------------------------------------------------------------
# Read-only


@contextmanager
def read_only(*directories: Path) -> Iterator[None]:
    """Directories that not even root can write into, as systemd's ProtectSystem=strict makes them."""
    require(None if os.environ.get("MAILSNI_LAB_REQUIRED") else "mounts things: only in the lab")
    mount, umount = require_tool("mount"), require_tool("umount")

    def unmount(directory: Path) -> None:
        # Dovecot's master has its working directory there.
        done = run([umount, "--lazy", directory])
        assert done.returncode == 0, done.stderr

    with ExitStack() as stack:
        for directory in directories:
            done = run([mount, "--bind", directory, directory])
            assert done.returncode == 0, done.stderr
            stack.callback(unmount, directory)
            done = run([mount, "-o", "remount,bind,ro", directory])
            assert done.returncode == 0, done.stderr
        yield


PLACES: Mapping[str, Callable[[MailHost], Path]] = {
    "postfix": lambda lab: lab.postfix.config_directory,
    "include": lambda lab: lab.dovecot.include_directory,
    "pins": lambda lab: lab.pin_directory,
    "state": lambda lab: lab.directory / "state",
    "lock": lambda lab: lab.directory / "lock",
}


@pytest.mark.parametrize("chosen", [*([place] for place in PLACES), list(PLACES)], ids=" ".join)
def test_a_read_only_directory_is_said_and_nothing_has_changed(
    mail_host: MailHost, deployed: dict[str, Issued], chosen: list[str]
) -> None:
    """One of the places at a time, then all of them; looking needs none of them writable."""
    (mail_host.directory / "lock").mkdir(exist_ok=True)
    mail_host.configure(state={"lock": str(mail_host.directory / "lock/mailsni.lock")})
    renewed = mail_host.renew(NAME)
    before = mail_host.snapshot()
    with read_only(*(PLACES[place](mail_host) for place in chosen)):
        for options in ([], ["--force"]):
            done = mail_host.apply(*options, code=1)
            assert re.fullmatch(r"mailsni: error: /\S+: .+\nmailsni: hint: .*read-only.*\n", done.stderr), done.stderr
            assert any(str(PLACES[place](mail_host)) in done.stderr for place in chosen)
        assert mail_host.mailsni("status").returncode == 0
        assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 3
        mail_host.apply("--dry-run")
    assert mail_host.snapshot() == before
    mail_host.assert_all_served(deployed)
    mail_host.apply()
    mail_host.assert_served(NAME, renewed, ONE_EACH)


def test_a_read_only_store_is_enough(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Certbot's directory is only ever read."""
    renewed = mail_host.renew(NAME)
    with read_only(mail_host.store.root):
        mail_host.apply()
    mail_host.assert_all_served({**deployed, NAME: renewed})


# ---------------------------------------------------------------------------------------------------------------------
# Other users


FORBIDDEN = (
    "apply",
    "apply --force --allow-empty",
    "apply --dry-run",
    "plan",
    "plan --diff",
    "status",
    "status --skipped",
    f"explain {NAME}",
    "render postfix",
    "render dovecot",
)
"""Command lines for which keys would have to be read."""
ALLOWED = {"explain no_name!": 2, "--version": 0, "--help": 0}
"""Other command lines, with their exit codes."""


@pytest.mark.parametrize("case", ["deployed", "nothing is deployed", "the state is in a closed directory"])
def test_another_user_than_root_is_told_so_before_anything_is_touched(
    mail_host: MailHost, shared_tmp: Path, deployed: dict[str, Issued], case: str
) -> None:
    """Exit code 77, in one line and a hint; and nothing has changed."""
    del deployed
    own = shared_tmp / "own"
    own.mkdir(mode=0o755)
    (own / "closed").mkdir(mode=0o700)
    if case != "deployed":
        state = own / "state" if case == "nothing is deployed" else own / "closed/state"
        mail_host.configure(
            state={"directory": str(state), "lock": str(own / "lock")},
            postfix={"map": str(own / "map")},
            dovecot={"include_file": str(own / "include.conf"), "pin_directory": str(own / "pins")},
        )
    config = shared_tmp / "config.toml"  # where that user can read it
    shutil.copy(mail_host.config, config)
    config.chmod(0o644)
    before = snapshot(own, *mail_host.places, mail_host.directory)
    for words in (*FORBIDDEN, *ALLOWED):
        done = run_mailsni(config, *words.split(), before=AS_NOBODY)
        assert done.returncode == ALLOWED.get(words, 77), (words, done.stdout, done.stderr)
        if done.returncode:
            assert done.stdout == ""
            assert re.fullmatch(r"mailsni: error: .+\n(mailsni: hint: .+\n)?", done.stderr), done.stderr
        assert ("run it as root" in done.stderr) is (words in FORBIDDEN)
    assert snapshot(own, *mail_host.places, mail_host.directory) == before


def test_a_user_with_directories_of_his_own_needs_no_root(shared_tmp: Path, authority: Authority) -> None:
    """Everything lies in a place of his: the map and the include are made, and no server runs."""
    require(PrivatePostfix.unavailable() or PrivateDovecot.unavailable())
    own = shared_tmp / "own"
    store = CertbotDirectory(own / "letsencrypt")
    issued = authority.issue([NAME])
    store.add(NAME, issued)
    for directory in ("postfix", "dovecot", "dovecot/conf.d"):
        (own / directory).mkdir()
    main_cf = own / "postfix/main.cf"
    main_cf.write_text(f"compatibility_level = 3.6\nqueue_directory = {own}\n")
    (own / "postfix/master.cf").write_text("pickup unix n - n 60 1 pickup\n")
    os.utime(main_cf, (0, 0))
    modern = not full_version().startswith("2.3")
    head = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n" if modern else ""
    (own / "dovecot/dovecot.conf").write_text(f"{head}base_dir = {own}/run\n!include_try conf.d/*.conf\n")
    tables: dict[str, dict[str, str]] = {
        "postfix": {"config_directory": f"{own}/postfix", "map": f"{own}/postfix/mailsni", "map_type": "cdb"},
        "dovecot": {
            "config_file": f"{own}/dovecot/dovecot.conf",
            "include_file": f"{own}/dovecot/conf.d/99-mailsni.conf",
            "pin_directory": f"{own}/dovecot/mailsni",
        },
        "state": {"directory": f"{own}/state", "lock": f"{own}/lock"},
    }
    config = write_config(own / "config.toml", store, tables)
    for path in (own, *own.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    own.chmod(0o700)
    done = run_mailsni(config, "apply", before=AS_NOBODY)
    assert done.returncode == 0, done.stdout + done.stderr
    pins = list((own / "dovecot/mailsni").iterdir())
    assert [path.name.partition("-")[0] for path in pins] == [issued.fingerprint]
    assert pins[0].stat().st_uid == NOBODY
    assert NAME in (own / "dovecot/conf.d/99-mailsni.conf").read_text()
    assert run_mailsni(config, "plan", "--detailed-exitcode", before=AS_NOBODY).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# The umask


def test_the_modes_are_the_same_whatever_the_umask(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Everything that a run makes."""
    del deployed
    found = []
    for umask in (0o000, 0o077, 0o777):
        own = (mail_host.include_file, mail_host.map, mail_host.map.with_name("mailsni.cdb"))
        for path in (*own, mail_host.directory / "mailsni.lock"):
            path.unlink()
        shutil.rmtree(mail_host.pin_directory)
        shutil.rmtree(mail_host.directory / "state")
        previous = os.umask(umask)
        try:
            mail_host.apply()
        finally:
            os.umask(previous)
        made = [*mail_host.places, mail_host.directory / "mailsni.lock"]
        found.append({path: stat.S_IMODE(path.lstat().st_mode) for root in made for path in (root, *root.rglob("*"))})
    assert found[0] == found[1] == found[2]
    assert [path for path, mode in found[0].items() if mode & 0o022] == []
    private = [mail_host.map, mail_host.map.with_name("mailsni.cdb"), *mail_host.pin_directory.iterdir()]
    assert {found[0][path] for path in private} == {0o600}
    assert (found[0][mail_host.include_file], found[0][mail_host.pin_directory]) == (0o644, 0o700)


# ---------------------------------------------------------------------------------------------------------------------
# The environment


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A directory with programs that must never run: each leaves a trace."""
    directory = tmp_path / "evil"
    directory.mkdir()
    trace = directory / "trace"
    names = ("postmap", "postconf", "postfix", "doveconf", "doveadm", "dovecot", "systemctl", "sh", "env", "openssl")
    for name in names:
        path = directory / name
        path.write_text(f"#!/bin/sh\necho {name} >> {trace}\nexit 0\n")
        path.chmod(0o755)
    (directory / "startup.sh").write_text(f"echo startup >> {trace}\n")
    (directory / "main.cf").write_text("tls_server_sni_maps = hash:/nowhere\n")
    (directory / "openssl.cnf").write_text("openssl_conf = = =\n")
    return directory


ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "none at all": {},
    "PATH": {"PATH": "{evil}:/usr/bin:/bin"},
    "empty PATH": {"PATH": ""},
    "TMPDIR is nowhere": {"TMPDIR": "/nowhere"},
    "Postfix": {"MAIL_CONFIG": "{evil}", "MAIL_DEBUG": "1", "MAIL_VERBOSE": "1", "MAIL_LOGTAG": "x"},
    "Dovecot": {"CONFIG_FILE": "{evil}/main.cf", "DOVECONF_ENV": "1", "DOVECONF_SERVICE": "imap", "LOG_SERVICE": "1"},
    "garbage locale": {"LC_ALL": "garbage", "LANG": "xx_YY.FOO", "LANGUAGE": "klingon"},
    "plain ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "strict ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "shell": {"IFS": "/", "ENV": "{evil}/startup.sh", "BASH_ENV": "{evil}/startup.sh", "CDPATH": "/", "SHELLOPTS": "x"},
    "HOME is nowhere": {"HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"},
    "OpenSSL": {"OPENSSL_CONF": "{evil}/openssl.cnf", "SSLKEYLOGFILE": "{evil}/trace", "SSL_CERT_DIR": "/nowhere"},
    "terminal": {"TERM": "garbage", "COLUMNS": "-1", "LINES": "x", "FORCE_COLOR": "1"},
    "time zone": {"TZ": "Pacific/Kiritimati"},
    "garbage time zone": {"TZ": ":/dev/zero"},
    "another configuration": {"MAILSNI_CONFIG": "{evil}/main.cf"},
    "optimised Python": {"PYTHONOPTIMIZE": "2"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_the_environment_changes_nothing(
    mail_host: MailHost, deployed: dict[str, Issued], evil: Path, kind: str
) -> None:
    """The same plan, the same result, and nothing of the environment's is run or written."""
    env = {key: value.replace("{evil}", str(evil)) for key, value in ENVIRONMENTS[kind].items()}
    command: list[str | Path] = [PROGRAM, "--config", mail_host.config]
    renewed = mail_host.renew(NAME)
    assert run_command([*command, "plan", "--json"], env=env).stdout == mail_host.mailsni("plan", "--json").stdout
    done = run_command([*command, "apply"], env=env, cwd=evil)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert NAME in done.stdout
    mail_host.assert_all_served({**deployed, NAME: renewed})
    for words in (["status", "--skipped"], ["--help"]):
        done = run_command([*command, *words], env=env)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert not (evil / "trace").exists(), (evil / "trace").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# Descriptors, and what children get


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(mail_host: MailHost, deployed: dict[str, Issued], closed: str) -> None:
    """What takes the place of a closed descriptor is not written to by accident."""
    renewed = mail_host.renew(NAME)
    done = run_by_shell(mail_host, f"apply {closed}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    mail_host.assert_all_served({**deployed, NAME: renewed})
    assert (mail_host.directory / "mailsni.lock").read_bytes() == b""
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_looking_with_closed_descriptors(mail_host: MailHost, deployed: dict[str, Issued], closed: str) -> None:
    del deployed
    for words in ("status", "plan", "apply --dry-run", "render postfix", f"explain {NAME}"):
        done = run_by_shell(mail_host, f"{words} {closed}")
        assert (done.returncode, done.stderr) == (0, ""), words


def test_an_output_that_is_full_takes_nothing_back(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """What was done is done, even if it cannot be told."""
    renewed = mail_host.renew(NAME)
    done = run_by_shell(mail_host, "apply >/dev/full")
    assert done.stderr == "mailsni: warning: standard output: No space left on device\n"
    assert done.returncode == 0
    mail_host.assert_all_served({**deployed, NAME: renewed})
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0
    done = run_by_shell(mail_host, "status >/dev/full")
    assert (done.returncode, done.stderr) == (1, "mailsni: error: standard output: No space left on device\n")


def test_children_get_nothing_but_what_they_need(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """No descriptor, no environment, no core image, no directory of the caller's."""
    del deployed
    witness = mail_host.directory / "witness"
    script = (
        f"exec > {witness}; ls /proc/$$/fd; echo; readlink /proc/$$/fd/0; pwd; ulimit -c; echo; cat /proc/$$/environ"
    )
    mail_host.configure(postfix={"action": ["/bin/sh", "-c", script]})
    mail_host.renew(NAME)
    with ExitStack() as stack:
        opened = [stack.enter_context(mail_host.config.open()) for _ in range(3)]
        done = run_command(
            [PROGRAM, "--config", mail_host.config, "apply"],
            env={"SECRET": "x", "LD_DEBUG_OUTPUT": "/nowhere", "TZ": "UTC"},
            cwd=mail_host.directory,
            descriptors=[one.fileno() for one in opened],
        )
    assert done.returncode == 0, done.stderr
    descriptors, facts, variables = witness.read_text().split("\n\n")
    assert descriptors.split() == ["0", "1", "2"]
    assert facts.split() == ["/dev/null", "/", "0"]
    assert {one.partition("=")[0] for one in variables.split("\0") if one} == {"HOME", "LANG", "LC_ALL", "PATH", "TZ"}


# ---------------------------------------------------------------------------------------------------------------------
# Directories


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_relative_path_of_the_configuration(mail_host: MailHost, deployed: dict[str, Issued], way: str) -> None:
    """Also the administrator's templates beside it are found."""
    template = "# mine\n{% for entry in entries %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    templates = mail_host.put_template(template)
    renewed = mail_host.renew(NAME)
    below = mail_host.directory / "below"
    below.mkdir()
    if way == "option":
        done = run_command([PROGRAM, "--config", "../config.toml", "apply"], cwd=below)
    else:
        done = run_command([PROGRAM, "apply"], cwd=below, env={"MAILSNI_CONFIG": "../config.toml"})
    assert (done.returncode, done.stderr) == (0, "")
    assert mail_host.map.read_text().startswith("# mine\n")
    mail_host.assert_all_served({**deployed, NAME: renewed})
    shutil.rmtree(templates)
    shutil.rmtree(below)


def test_a_current_directory_that_is_gone(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    del deployed
    renewed = mail_host.renew(NAME)
    gone = mail_host.directory / "gone"
    gone.mkdir()
    done = run_by_shell(mail_host, "apply", before=f"cd {gone} && rmdir {gone} && ")
    assert (done.returncode, done.stderr) == (0, "")
    mail_host.assert_served(NAME, renewed, ONE_EACH)
