"""When the program must not go on: it says why, exits as it promised, and what was live stays live."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mailsni.sandbox.authority import Issued
from tests.support.mail_host import MailHost
from tests.support.processes import AS_NOBODY, NOBODY, run_mailsni

pytestmark = pytest.mark.shared

FIRST, SECOND = "mail.first.test", "mail.second.test"
STAGING = ".mailsni-staging"


@pytest.fixture
def deployed(mail_host: MailHost) -> dict[str, str]:
    """Two names that are served; their fingerprints."""
    issued = {name: mail_host.issue(name).fingerprint for name in (FIRST, SECOND)}
    mail_host.apply()
    return issued


def served(mail_host: MailHost) -> dict[str, str]:
    """What both servers present for the two names; they must agree."""
    answers = {name: set(mail_host.served_everywhere(name).values()) for name in (FIRST, SECOND)}
    assert all(len(found) == 1 for found in answers.values()), answers
    return {name: found.pop() for name, found in answers.items()}


def artifacts(mail_host: MailHost) -> dict[str, tuple[int, int, bytes]]:
    """Everything that servers read or the program keeps: i-node, mode, content. Not times: staging comes and goes."""
    roots = (
        mail_host.postfix.config_directory,
        mail_host.dovecot.config_directory,
        mail_host.directory / "state",
    )
    found = {}
    for path in sorted(path for root in roots for path in root.rglob("*")):
        if path.name in ("readings.json", "runs.json"):
            continue  # a cache of what the store holds, the record of the last run
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_ino, status.st_mode, content)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# An empty result


def delete_every_lineage(mail_host: MailHost) -> None:
    for name in (FIRST, SECOND):
        mail_host.store.delete(name)


def replace_live_by_an_empty_directory(mail_host: MailHost) -> None:
    shutil.rmtree(mail_host.store.live)
    mail_host.store.live.mkdir(mode=0o700)


def leave_only_web_sites(mail_host: MailHost) -> None:
    delete_every_lineage(mail_host)
    mail_host.issue("www.first.test")


def leave_only_broken_lineages(mail_host: MailHost) -> None:
    """Of other names than those that are served, so there is no last good certificate for them."""
    delete_every_lineage(mail_host)
    mail_host.issue("mail.third.test")
    mail_host.store.path("mail.third.test", "privkey").unlink()


EMPTY = [
    delete_every_lineage,
    replace_live_by_an_empty_directory,
    leave_only_web_sites,
    leave_only_broken_lineages,
]


@pytest.mark.parametrize("spoil", EMPTY)
def test_an_empty_result_is_published_only_when_asked_for(
    mail_host: MailHost, deployed: dict[str, str], spoil: Callable[[MailHost], None]
) -> None:
    spoil(mail_host)
    before = artifacts(mail_host)
    for words in (["apply"], ["apply", "--force"], ["apply", "--dry-run"]):
        done = mail_host.mailsni(*words)
        assert done.returncode == 1, words
        assert "2 names are served now" in done.stderr
        assert "--allow-empty" in done.stderr
    assert artifacts(mail_host) == before
    assert served(mail_host) == deployed
    done = mail_host.mailsni("apply", "--allow-empty")
    assert done.returncode == (4 if spoil is leave_only_broken_lineages else 0), done.stderr
    assert served(mail_host) == dict.fromkeys((FIRST, SECOND), mail_host.default.fingerprint)
    assert list(mail_host.pin_directory.iterdir()) == []


def test_a_store_that_is_not_there_is_not_an_empty_one(mail_host: MailHost, deployed: dict[str, str]) -> None:
    """It may only not be mounted, so ``--allow-empty`` does not help here."""
    mail_host.store.live.rename(mail_host.store.root / "elsewhere")
    before = artifacts(mail_host)
    for options in ([], ["--force"], ["--allow-empty"]):
        done = mail_host.mailsni("apply", *options)
        assert done.returncode == 1, options
        assert f"{mail_host.store.live}: cannot be read: No such file or directory" in done.stderr
    assert artifacts(mail_host) == before
    assert served(mail_host) == deployed


def test_an_empty_result_is_not_published_without_the_record_either(
    mail_host: MailHost, deployed: dict[str, str]
) -> None:
    """The state directory may be deleted at any time: what is deployed is also seen in the servers' files."""
    shutil.rmtree(mail_host.directory / "state")
    delete_every_lineage(mail_host)
    done = mail_host.mailsni("apply")
    assert served(mail_host) == deployed
    assert done.returncode == 1


def test_one_of_two_names_may_go(mail_host: MailHost, deployed: dict[str, str]) -> None:
    mail_host.store.delete(FIRST)
    assert mail_host.mailsni("apply").returncode == 0
    assert served(mail_host) == {FIRST: mail_host.default.fingerprint, SECOND: deployed[SECOND]}


# ---------------------------------------------------------------------------------------------------------------------
# The configuration file

BROKEN_CONFIGURATION = {
    "unknown key": ('[names]\ninclud = ["mail.*"]\n', "line 2: [names] includ: unknown key", "did you mean include?"),
    "unknown table": ("\n[dovcot]\nenabled = true\n", "line 2: dovcot: unknown key", "did you mean dovecot?"),
    "nothing near": ("[state]\nxyzzy = 1\n", "line 2: [state] xyzzy: unknown key", "known here: directory, lock"),
    "second source": (
        '[[sources]]\npath = "/a"\n\n[[sources]]\npth = "/b"\n',
        "line 5: [[sources]] pth: unknown key",
        "did you mean path?",
    ),
    "wrong choice": ('[postfix]\nmap_type = "hsh"\n', "line 2: [postfix] map_type: must be", "did you mean hash?"),
    "wrong kind": ("[verify]\n\ntimeout = true\n", "line 3: [verify] timeout: must be a number of seconds", ""),
    "relative path": ('[postfix]\nmap = "mailsni"\n', "line 2: [postfix] map: must be an absolute path", ""),
    "hostile path": ('[state]\ndirectory = "/a b\\n"\n', "line 2: [state] directory: '/a b\\n'", ""),
    "hostile pattern": ('[names]\ninclude = ["mail.}"]\n', "line 2: [names] include: mail.}", ""),
    "a text for a table": ('names = "mail.*"\n', "line 1: [names]: must be a table", ""),
    "a table for an array": ('[sources]\npath = "/a"\n', "line 1: sources: must be an array of tables", "[[sources]]"),
    "no TOML": ("[names\n", "at line 1", ""),
    "twice": ('[names]\ninclude = ["a.*"]\ninclude = ["b.*"]\n', "at line 3", ""),
}


@pytest.mark.parametrize("kind", BROKEN_CONFIGURATION)
def test_a_broken_configuration_file(tmp_path: Path, kind: str) -> None:
    """The message names file, key and line, and the nearest key that there is; exit code 78."""
    text, message, more = BROKEN_CONFIGURATION[kind]
    config = tmp_path / "config.toml"
    config.write_text(text)
    for command in ("apply", "status"):
        done = run_mailsni(config, command)
        assert done.returncode == 78, done.stderr
        assert done.stderr.startswith(f"mailsni: error: {config}: ")
        assert message in done.stderr
        assert more in done.stderr
        assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("content", [b"\xff\xfe[names]\n", b"[names]\0\n", None])
def test_a_configuration_file_that_is_no_text(tmp_path: Path, content: bytes | None) -> None:
    """Also one that was named and is not there."""
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_bytes(content)
    done = run_mailsni(config, "apply")
    assert done.returncode == 78
    assert done.stderr.startswith(f"mailsni: error: {config}: ")


# ---------------------------------------------------------------------------------------------------------------------
# Permission and the lock


def listing(*roots: Path) -> list[tuple[str, int, int, int, int]]:
    """Everything below some directories, with what changes when somebody touches it."""
    paths = sorted(path for root in roots for path in (root, *root.rglob("*")))
    states = [(str(path), path.lstat()) for path in paths]
    return [(path, one.st_mode, one.st_ino, one.st_size, one.st_mtime_ns) for path, one in states]


def assert_nobody_may(mail_host: MailHost, shared_tmp: Path) -> None:
    """Every command that reads keys or writes ends with exit code 77, and nothing has changed."""
    config = shared_tmp / "config.toml"  # where that user can read it
    shutil.copy(mail_host.config, config)
    config.chmod(0o644)
    places = (
        shared_tmp / "own",
        mail_host.directory,
        mail_host.postfix.config_directory,
        mail_host.dovecot.config_directory,
    )
    before = listing(*places)
    for words in (["apply"], ["apply", "--force", "--allow-empty"], ["apply", "--dry-run"], ["status"], ["plan"]):
        done = run_mailsni(config, *words, before=AS_NOBODY)
        assert done.returncode == 77, (words, done.stdout, done.stderr)
        assert "run it as root" in done.stderr
    assert listing(*places) == before


@pytest.mark.parametrize("before", ["nothing is deployed", "two names are deployed"])
def test_another_user_than_root_is_told_so_before_anything_is_touched(
    mail_host: MailHost, shared_tmp: Path, before: str
) -> None:
    mail_host.configure(state={"directory": str(shared_tmp / "own/state"), "lock": str(shared_tmp / "own/lock")})
    (shared_tmp / "own").mkdir(mode=0o755)
    for name in (FIRST, SECOND):
        mail_host.issue(name)
    if before == "two names are deployed":
        assert mail_host.mailsni("apply").returncode == 0
    assert_nobody_may(mail_host, shared_tmp)


def test_another_user_than_root_is_told_so_where_even_a_look_is_forbidden(
    mail_host: MailHost, shared_tmp: Path
) -> None:
    """Some directory on the way to the state is closed to that user."""
    (shared_tmp / "own").mkdir(mode=0o755)
    (shared_tmp / "own/closed").mkdir(mode=0o700)
    mail_host.configure(state={"directory": str(shared_tmp / "own/closed/state"), "lock": str(shared_tmp / "own/lock")})
    mail_host.issue(FIRST)
    assert_nobody_may(mail_host, shared_tmp)


def test_a_lock_that_is_held(mail_host: MailHost, deployed: dict[str, str]) -> None:
    """Exit code 75 at once, or after the time that was asked for; looking needs no lock."""
    mail_host.renew(FIRST)
    before = artifacts(mail_host)
    with (mail_host.directory / "mailsni.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert mail_host.mailsni("apply").returncode == 75
        began = time.monotonic()
        done = mail_host.mailsni("apply", "--wait", "1.5")
        assert done.returncode == 75
        assert time.monotonic() - began >= 1.5
        assert "another run holds the lock" in done.stderr
        assert mail_host.mailsni("status").returncode == 0
        assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 3
    assert artifacts(mail_host) == before
    assert served(mail_host) == deployed


def test_a_lock_that_is_given_up_in_time(mail_host: MailHost, deployed: dict[str, str]) -> None:
    renewed = mail_host.renew(FIRST)
    with (mail_host.directory / "mailsni.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(1.5, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        began = time.monotonic()
        done = mail_host.mailsni("apply", "--wait", "30")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began >= 1.5
        timer.join()
    assert served(mail_host) == {**deployed, FIRST: renewed.fingerprint}


# ---------------------------------------------------------------------------------------------------------------------
# Somebody else's mistakes in the servers' configuration


def test_a_main_cf_that_cannot_be_parsed(mail_host: MailHost, deployed: dict[str, str]) -> None:
    main_cf = mail_host.postfix.config_file
    whole = main_cf.read_text()
    mail_host.renew(FIRST)
    for line in ("this is no setting", "= value"):
        main_cf.write_text(f"{whole}\n{line}\n")
        before = artifacts(mail_host)
        done = mail_host.mailsni("apply")
        assert done.returncode == 1, (line, done.stdout, done.stderr)
        assert f"mailsni: error: {main_cf}: postconf cannot read it" in done.stderr
        assert artifacts(mail_host) == before
    main_cf.write_text(whole)
    assert served(mail_host) == deployed


def a_block_whose_file_is_gone(mail_host: MailHost) -> str:
    """Dovecot runs on with it, and would not start again."""
    if mail_host.dovecot.version == "2.4":
        lines = ["ssl_server_cert_file = /nowhere/c.pem", "ssl_server_key_file = /nowhere/k.pem"]
    else:
        lines = ["ssl_cert = </nowhere/c.pem", "ssl_key = </nowhere/k.pem"]
    return "\n  ".join(["local_name own.test {", *lines]) + "\n}\n"


def an_unknown_setting(mail_host: MailHost) -> str:  # noqa: ARG001
    return "no_such_setting = yes\n"


@pytest.mark.parametrize("mistake", [a_block_whose_file_is_gone, an_unknown_setting])
def test_a_dovecot_configuration_that_is_broken_already(
    mail_host: MailHost, deployed: dict[str, str], mistake: Callable[[MailHost], str]
) -> None:
    mail_host.renew(FIRST)
    own = mail_host.dovecot.include_directory / "10-own.conf"
    own.write_text(mistake(mail_host))
    before = artifacts(mail_host)
    done = mail_host.mailsni("apply")
    after = artifacts(mail_host)
    own.unlink()  # or Dovecot cannot be told to stop
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{mail_host.dovecot.config_file}: Dovecot's configuration is broken already" in done.stderr
    assert "10-own.conf" in done.stderr or "/nowhere/" in done.stderr
    assert after == before
    assert served(mail_host) == deployed


# ---------------------------------------------------------------------------------------------------------------------
# Traps that lie where the program wants to write


def a_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def a_dangling_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("not-there"))


def a_link_to_a_directory(place: Path, victim: Path) -> None:
    place.symlink_to(victim.parent)


def a_fifo(place: Path, victim: Path) -> None:  # noqa: ARG001
    os.mkfifo(place)


def a_file(place: Path, victim: Path) -> None:  # noqa: ARG001
    place.write_text("somebody's\n")


def a_hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def a_directory(place: Path, victim: Path) -> None:  # noqa: ARG001
    place.mkdir()


def a_strangers_directory(place: Path, victim: Path) -> None:  # noqa: ARG001
    place.mkdir()
    (place / "something").write_text("somebody's\n")
    os.chown(place, NOBODY, NOBODY)


Trap = Callable[[Path, Path], None]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that a trap leads to, in a directory of its own."""
    directory = tmp_path / "victim"
    directory.mkdir()
    path = directory / "file"
    path.write_text("precious\n")
    path.chmod(0o644)
    return path


def assert_unharmed(victim: Path) -> None:
    assert [path.name for path in victim.parent.iterdir()] == ["file"]
    assert victim.read_text() == "precious\n"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "trap", [a_link, a_dangling_link, a_link_to_a_directory, a_fifo, a_file, a_strangers_directory]
)
def test_a_trap_at_the_name_of_a_staging_directory(mail_host: MailHost, victim: Path, trap: Trap) -> None:
    """Refused, and neither followed nor removed."""
    mail_host.pin_directory.mkdir(mode=0o700)
    mail_host.issue(FIRST)
    for directory in (mail_host.map.parent, mail_host.include_file.parent, mail_host.pin_directory):
        place = directory / STAGING
        trap(place, victim)
        laid = place.lstat()
        done = mail_host.mailsni("apply", timeout=20)
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"{place}: is not the staging directory of this program" in done.stderr
        assert (place.lstat().st_ino, place.lstat().st_mode) == (laid.st_ino, laid.st_mode)
        assert_unharmed(victim)
        place.rename(victim.parent.with_name(f"trap-{laid.st_ino}"))
    assert not mail_host.include_file.exists()
    assert mail_host.served_everywhere(FIRST) == dict.fromkeys(mail_host.endpoints, mail_host.default.fingerprint)
    assert mail_host.mailsni("apply").returncode == 0


def test_traps_at_the_name_of_the_lock(mail_host: MailHost, victim: Path) -> None:
    lock = mail_host.directory / "mailsni.lock"
    mail_host.issue(FIRST)
    for trap in (a_link, a_dangling_link, a_link_to_a_directory, a_fifo, a_hard_link, a_directory):
        trap(lock, victim)
        done = mail_host.mailsni("apply", timeout=20)
        assert done.returncode == 1, (trap, done.stdout, done.stderr)
        assert f"mailsni: error: {lock}: " in done.stderr
        lock.rename(victim.parent.with_name(f"trap-{trap.__name__}"))
        assert_unharmed(victim)
    assert not mail_host.include_file.exists()


def test_what_an_interrupted_run_left_in_its_staging_directory_is_removed(mail_host: MailHost) -> None:
    for directory in (mail_host.map.parent, mail_host.include_file.parent):
        (directory / STAGING).mkdir(mode=0o700)
        (directory / STAGING / "half-written").write_text("debris\n")
    mail_host.issue(FIRST)
    assert mail_host.mailsni("apply").returncode == 0
    for directory in (mail_host.map.parent, mail_host.include_file.parent, mail_host.pin_directory):
        assert not (directory / STAGING).exists()


@pytest.mark.parametrize("artifact", ["map", "compiled map", "include", "pin"])
def test_traps_at_the_name_of_an_artifact_are_replaced(mail_host: MailHost, victim: Path, artifact: str) -> None:
    """By rename, so that nothing is written through them: what lies there afterwards is the program's own file."""
    issued = mail_host.issue(FIRST)
    if artifact == "pin":
        assert mail_host.mailsni("apply").returncode == 0
        (place,) = mail_host.pin_directory.iterdir()
    else:
        place = _places(mail_host)[artifact]
    if artifact == "compiled map":
        mail_host.postfix.stop()  # or it fails at the trap, and waits a minute before it tries again
    for trap in (a_link, a_dangling_link, a_fifo, a_file, a_hard_link):
        place.unlink(missing_ok=True)
        trap(place, victim)
        done = mail_host.mailsni("apply", timeout=20)
        assert done.returncode == 0, (trap, done.stdout, done.stderr)
        status = place.lstat()
        assert stat.S_ISREG(status.st_mode), trap
        assert stat.S_IMODE(status.st_mode) == (0o644 if artifact == "include" else 0o600), trap
        assert status.st_nlink == 1, trap
        assert_unharmed(victim)
    mail_host.postfix.start()
    assert mail_host.served_everywhere(FIRST) == dict.fromkeys(mail_host.endpoints, issued.fingerprint)


def _places(mail_host: MailHost) -> dict[str, Path]:
    return {
        "map": mail_host.map,
        "compiled map": mail_host.map.with_name("mailsni.cdb"),
        "include": mail_host.include_file,
    }


@pytest.mark.parametrize("artifact", ["map", "compiled map", "include"])
def test_a_directory_at_the_name_of_an_artifact(mail_host: MailHost, artifact: str) -> None:
    """It cannot be replaced by rename: a failure that leaves everything as it was."""
    mail_host.issue(FIRST)
    mail_host.postfix.stop()
    place = _places(mail_host)[artifact]
    place.unlink(missing_ok=True)
    place.mkdir()
    before = artifacts(mail_host)
    done = mail_host.mailsni("apply")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"mailsni: error: {place}: " in done.stderr
    kept = (mail_host.pin_directory, mail_host.directory / "state")
    after = {path: one for path, one in artifacts(mail_host).items() if not path.startswith(tuple(map(str, kept)))}
    # What was published before it failed has been put back, as a copy: another i-node.
    assert {path: one[1:] for path, one in after.items()} == {path: one[1:] for path, one in before.items()}


def test_an_old_map_with_a_loose_mode_is_replaced_and_never_written_into(mail_host: MailHost, default: Issued) -> None:
    """Whoever opened the old files before sees no key through them; the new ones are 0600 from the first byte."""
    issued = mail_host.issue(FIRST)
    old = [mail_host.map, mail_host.map.with_name("mailsni.cdb")]
    old[0].write_text("# an old source\n")
    for path in old:
        path.chmod(0o644)
    with old[0].open("rb") as source, old[1].open("rb") as compiled:
        contents = [source.read(), compiled.read()]
        inodes = [path.stat().st_ino for path in old]
        mail_host.apply()
        for stream in (source, compiled):
            stream.seek(0)
        assert [source.read(), compiled.read()] == contents
        assert all(path.stat().st_ino not in inodes for path in old)
    assert [stat.S_IMODE(path.stat().st_mode) for path in old] == [0o600, 0o600]
    assert mail_host.served_everywhere(FIRST) == dict.fromkeys(mail_host.endpoints, issued.fingerprint)
    assert mail_host.served_everywhere(None) == dict.fromkeys(mail_host.endpoints, default.fingerprint)


def test_a_published_map_that_somebody_opened_up_is_closed_again(mail_host: MailHost, deployed: dict[str, str]) -> None:
    paths = [mail_host.map, mail_host.map.with_name("mailsni.cdb"), *mail_host.pin_directory.iterdir()]
    for path in paths:
        path.chmod(0o644)
    assert mail_host.mailsni("apply").returncode == 0
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    assert served(mail_host) == deployed


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(mail_host: MailHost, umask: int) -> None:
    mail_host.issue(FIRST)
    previous = os.umask(umask)
    try:
        done = mail_host.mailsni("apply")
    finally:
        os.umask(previous)
    assert done.returncode == 0, done.stdout + done.stderr
    private = [mail_host.map, mail_host.map.with_name("mailsni.cdb"), *mail_host.pin_directory.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE(mail_host.include_file.stat().st_mode) == 0o644
    assert stat.S_IMODE(mail_host.pin_directory.stat().st_mode) == 0o700
