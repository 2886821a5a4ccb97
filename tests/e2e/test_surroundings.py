"""Whatever surrounds the program: read-only places, other users, umasks, environments, descriptors, directories."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mailsni.host.commands import environment, find_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import workspace
from mailsni.targets.dovecot.doveconf import full_version
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import MailHost, require
from tests.support.servers import PrivateDovecot, PrivatePostfix

pytestmark = pytest.mark.shared

NAME, OTHER = "mail.first.test", "mail.second.test"
NOBODY = pwd.getpwnam("nobody")
PROGRAM = Path(sys.executable).with_name("mailsni")
"""The program as it is installed; ``python -m mailsni`` looks for modules in the current directory first."""
LIMIT = 120.0


def call(
    config: Path | None,
    *words: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    as_nobody: bool = False,
    descriptors: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the installed program."""
    return subprocess.run(
        [str(PROGRAM), *(() if config is None else ("--config", str(config))), *words],
        env=environment() if env is None else env,
        cwd=cwd,
        user=NOBODY.pw_uid if as_nobody else None,
        group=NOBODY.pw_gid if as_nobody else None,
        extra_groups=[] if as_nobody else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        pass_fds=descriptors,
    )


def call_by_shell(config: Path, words: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed program from a shell, with redirections among its words."""
    command = f"{before}exec {shlex.quote(str(PROGRAM))} --config {shlex.quote(str(config))} {words}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def mail_host(authority: Authority, default: Issued, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailHost]:
    """One for all tests of this file, so that the servers are started once."""
    own = tmp_path_factory.mktemp("surroundings")
    with workspace() as room:
        host = MailHost.build(own, room, authority, default)
        with host.postfix, host.dovecot:
            yield host


@pytest.fixture
def deployed(mail_host: MailHost) -> Iterator[dict[str, Issued]]:
    """Two names that are served; the configuration is put back afterwards."""
    settings = dict(mail_host.settings)
    issued = {name: renew(mail_host, name) for name in (NAME, OTHER)}
    mail_host.apply()
    yield issued
    mail_host.settings = settings
    mail_host.configure()


def renew(mail_host: MailHost, name: str = NAME) -> Issued:
    """Put another certificate into the lineage of a name, or its first one."""
    issued = mail_host.authority.issue([name])
    known = (mail_host.store.live / name).exists()
    (mail_host.store.renew if known else mail_host.store.add)(name, issued)
    return issued


def places(mail_host: MailHost) -> list[Path]:
    """Every directory that the program writes into, but for that of its lock."""
    return [
        mail_host.postfix.config_directory,
        mail_host.dovecot.config_directory,
        mail_host.directory / "state",
    ]


def listing(*roots: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """Everything below some directories, with what changes when somebody touches it.

    But for the record of the last run, which every run replaces, and so the times of its directory.
    """
    paths = [path for root in roots for path in (root, *root.rglob("*")) if path.name != "runs.json"]
    states = {str(path): path.lstat() for path in paths}
    return {
        path: (one.st_mode, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        if not path.endswith("/state")
        else (one.st_mode, one.st_ino, 0, 0, 0)
        for path, one in states.items()
    }


def assert_served(mail_host: MailHost, name: str, issued: Issued) -> None:
    """Both servers show a certificate for a name."""
    shown = {service: mail_host.served(service, name) for service in ("smtp", "imaps")}
    assert shown == dict.fromkeys(shown, issued.fingerprint)


# ---------------------------------------------------------------------------------------------------------------------
# Read-only


@contextmanager
def read_only(*directories: Path) -> Iterator[None]:
    """Directories that not even root can write into, as systemd's ProtectSystem=strict makes them."""
    require(None if os.environ.get("MAILSNI_LAB_REQUIRED") else "mounts things: only in the lab")
    mount, umount = find_tool("mount"), find_tool("umount")
    assert mount is not None
    assert umount is not None

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
    renewed = renew(mail_host)
    before = listing(*places(mail_host))
    with read_only(*(PLACES[place](mail_host) for place in chosen)):
        for words in (["apply"], ["apply", "--force"]):
            done = mail_host.mailsni(*words)
            assert done.returncode == 1, done.stdout + done.stderr
            assert re.fullmatch(r"mailsni: error: /\S+: .+\nmailsni: hint: .*read-only.*\n", done.stderr), done.stderr
            assert any(str(PLACES[place](mail_host)) in done.stderr for place in chosen)
        assert mail_host.mailsni("status").returncode == 0
        assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 3
        assert mail_host.mailsni("apply", "--dry-run").returncode == 0
    assert listing(*places(mail_host)) == before
    for name, one in deployed.items():
        assert_served(mail_host, name, one)
    assert mail_host.mailsni("apply").returncode == 0
    assert_served(mail_host, NAME, renewed)


def test_a_read_only_store_is_enough(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Certbot's directory is only ever read."""
    renewed = renew(mail_host)
    with read_only(mail_host.store.root):
        done = mail_host.mailsni("apply")
        assert done.returncode == 0, done.stderr
    assert_served(mail_host, NAME, renewed)
    assert_served(mail_host, OTHER, deployed[OTHER])


# ---------------------------------------------------------------------------------------------------------------------
# Other users


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("apply", 77),
        ("apply --dry-run", 77),
        ("plan --diff", 77),
        ("status --skipped", 77),
        (f"explain {NAME}", 77),
        ("render postfix", 77),
        ("render dovecot", 77),
        ("explain no_name!", 2),
        ("--version", 0),
        ("--help", 0),
    ],
)
def test_every_command_as_nobody(
    mail_host: MailHost, shared_tmp: Path, deployed: dict[str, Issued], words: str, code: int
) -> None:
    """Not permitted, in one line and a hint, where keys would have to be read; and nothing has changed."""
    del deployed
    config = shared_tmp / "config.toml"
    shutil.copy(mail_host.config, config)
    config.chmod(0o644)
    before = listing(*places(mail_host), mail_host.directory)
    done = call(config, *words.split(), cwd=Path("/"), as_nobody=True)
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert done.stdout == ""
        assert re.fullmatch(r"mailsni: error: .+\n(mailsni: hint: .+\n)?", done.stderr), done.stderr
    assert listing(*places(mail_host), mail_host.directory) == before


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
    lines = [f"[[sources]]\npath = {json.dumps(str(store.live))}"]
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (own / "config.toml").write_text("\n".join([*lines, ""]))
    for path in (own, *own.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    own.chmod(0o700)
    done = call(own / "config.toml", "apply", cwd=Path("/"), as_nobody=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pins = list((own / "dovecot/mailsni").iterdir())
    assert [path.name.partition("-")[0] for path in pins] == [issued.fingerprint]
    assert pins[0].stat().st_uid == NOBODY.pw_uid
    assert NAME in (own / "dovecot/conf.d/99-mailsni.conf").read_text()
    assert call(own / "config.toml", "plan", "--detailed-exitcode", as_nobody=True).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# The umask


def test_the_modes_are_the_same_whatever_the_umask(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """Everything that two runs make, one with umask 000 and one with 077."""
    del deployed
    found = []
    for umask in (0o000, 0o077):
        own = (mail_host.include_file, mail_host.map, mail_host.map.with_name("mailsni.cdb"))
        for path in (*own, mail_host.directory / "mailsni.lock"):
            path.unlink()
        shutil.rmtree(mail_host.pin_directory)
        shutil.rmtree(mail_host.directory / "state")
        previous = os.umask(umask)
        try:
            done = mail_host.mailsni("apply")
        finally:
            os.umask(previous)
        assert done.returncode == 0, done.stderr
        made = [*places(mail_host), mail_host.directory / "mailsni.lock"]
        paths = {str(path): path for root in made for path in (root, *root.rglob("*"))}
        found.append({path: stat.S_IMODE(one.lstat().st_mode) for path, one in paths.items()})
    assert found[0] == found[1]
    loose = {path for path, mode in found[0].items() if mode & 0o022}
    assert loose == set()


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
    config = mail_host.config
    renewed = renew(mail_host)
    assert call(config, "plan", "--json", env=env).stdout == call(config, "plan", "--json").stdout
    done = call(config, "apply", env=env, cwd=evil)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert NAME in done.stdout
    assert_served(mail_host, NAME, renewed)
    assert_served(mail_host, OTHER, deployed[OTHER])
    for words in (["status", "--skipped"], ["--help"]):
        done = call(config, *words, env=env)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert not (evil / "trace").exists(), (evil / "trace").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# Descriptors, and what children get


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(mail_host: MailHost, deployed: dict[str, Issued], closed: str) -> None:
    """What takes the place of a closed descriptor is not written to by accident."""
    renewed = renew(mail_host)
    done = call_by_shell(mail_host.config, f"apply {closed}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert_served(mail_host, NAME, renewed)
    assert_served(mail_host, OTHER, deployed[OTHER])
    assert (mail_host.directory / "mailsni.lock").read_bytes() == b""
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_looking_with_closed_descriptors(mail_host: MailHost, deployed: dict[str, Issued], closed: str) -> None:
    del deployed
    for words in ("status", "plan", "apply --dry-run", "render postfix", f"explain {NAME}"):
        done = call_by_shell(mail_host.config, f"{words} {closed}")
        assert (done.returncode, done.stderr) == (0, ""), words


def test_an_output_that_is_full_takes_nothing_back(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """What was done is done, even if it cannot be told."""
    renewed = renew(mail_host)
    done = call_by_shell(mail_host.config, "apply >/dev/full")
    assert done.stderr == "mailsni: warning: standard output: No space left on device\n"
    assert done.returncode == 0
    assert_served(mail_host, NAME, renewed)
    assert_served(mail_host, OTHER, deployed[OTHER])
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0
    done = call_by_shell(mail_host.config, "status >/dev/full")
    assert (done.returncode, done.stderr) == (1, "mailsni: error: standard output: No space left on device\n")


def test_children_get_nothing_but_what_they_need(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    """No descriptor, no environment, no core image, no directory of the caller's."""
    del deployed
    witness = mail_host.directory / "witness"
    script = (
        f"exec > {witness}; ls /proc/$$/fd; echo; readlink /proc/$$/fd/0; pwd; ulimit -c; echo; cat /proc/$$/environ"
    )
    mail_host.configure(postfix={"action": ["/bin/sh", "-c", script]})
    renew(mail_host)
    with ExitStack() as stack:
        opened = [stack.enter_context(mail_host.config.open()) for _ in range(3)]
        done = call(
            mail_host.config,
            "apply",
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
    templates = mail_host.directory / "templates"
    templates.mkdir()
    (templates / "postfix-sni.j2").write_text(
        "# mine\n{% for entry in entries %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    )
    renewed = renew(mail_host)
    below = mail_host.directory / "below"
    below.mkdir()
    if way == "option":
        done = call(Path("../config.toml"), "apply", cwd=below)
    else:
        done = call(None, "apply", cwd=below, env={"MAILSNI_CONFIG": "../config.toml"})
    assert (done.returncode, done.stderr) == (0, "")
    assert mail_host.map.read_text().startswith("# mine\n")
    assert_served(mail_host, NAME, renewed)
    assert_served(mail_host, OTHER, deployed[OTHER])
    shutil.rmtree(templates)
    shutil.rmtree(below)


def test_a_current_directory_that_is_gone(mail_host: MailHost, deployed: dict[str, Issued]) -> None:
    del deployed
    renewed = renew(mail_host)
    gone = mail_host.directory / "gone"
    gone.mkdir()
    done = call_by_shell(mail_host.config, "apply", before=f"cd {gone} && rmdir {gone} && ")
    assert (done.returncode, done.stderr) == (0, "")
    assert_served(mail_host, NAME, renewed)
