"""When the program must not go on: it says why, exits as it promised, and what was live stays live."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mailsni.host.files import STAGING_NAME
from mailsni.sandbox.servers import LOOPBACK
from tests.support.mail_host import MailHost

pytestmark = pytest.mark.shared

FIRST, SECOND = "mail.first.test", "mail.second.test"
NOBODY = 65534


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


@pytest.mark.parametrize(
    "spoil",
    [delete_every_lineage, replace_live_by_an_empty_directory, leave_only_web_sites, leave_only_broken_lineages],
)
def test_an_empty_result_is_published_only_when_asked_for(
    mail_host: MailHost, deployed: dict[str, str], spoil: Callable[[MailHost], None]
) -> None:
    spoil(mail_host)
    before = mail_host.snapshot(times=False)
    for options in ([], ["--force"], ["--dry-run"]):
        done = mail_host.apply(*options, code=1)
        assert "2 names are served now" in done.stderr
        assert "--allow-empty" in done.stderr
    assert mail_host.snapshot(times=False) == before
    assert served(mail_host) == deployed
    mail_host.apply("--allow-empty", code=4 if spoil is leave_only_broken_lineages else 0)
    assert served(mail_host) == dict.fromkeys((FIRST, SECOND), mail_host.default.fingerprint)
    mail_host.age_retired_files()
    mail_host.apply("--allow-empty", code=4 if spoil is leave_only_broken_lineages else 0)
    assert list(mail_host.pin_directory.iterdir()) == []


def test_a_store_that_is_not_there_is_not_an_empty_one(mail_host: MailHost, deployed: dict[str, str]) -> None:
    """It may only not be mounted, so ``--allow-empty`` does not help here."""
    mail_host.store.live.rename(mail_host.store.root / "elsewhere")
    before = mail_host.snapshot(times=False)
    for options in ([], ["--force"], ["--allow-empty"]):
        done = mail_host.apply(*options, code=1)
        assert f"{mail_host.store.live}: cannot be read: No such file or directory" in done.stderr
    assert mail_host.snapshot(times=False) == before
    assert served(mail_host) == deployed


def test_an_empty_result_is_not_published_without_the_record_either(
    mail_host: MailHost, deployed: dict[str, str]
) -> None:
    """The state directory may be deleted at any time: what is deployed is also seen in the servers' files."""
    shutil.rmtree(mail_host.directory / "state")
    delete_every_lineage(mail_host)
    mail_host.apply(code=1)
    assert served(mail_host) == deployed


def test_one_of_two_names_may_go(mail_host: MailHost, deployed: dict[str, str]) -> None:
    mail_host.store.delete(FIRST)
    mail_host.apply()
    assert served(mail_host) == {FIRST: mail_host.default.fingerprint, SECOND: deployed[SECOND]}


# ---------------------------------------------------------------------------------------------------------------------
# Somebody else's mistakes in the servers' configuration


@pytest.mark.parametrize(("file", "line"), [("main.cf", "this is no setting"), ("master.cf", "this is no service")])
def test_a_configuration_of_postfix_that_cannot_be_read_holds_up_postfix_alone(
    mail_host: MailHost, deployed: dict[str, str], file: str, line: str
) -> None:
    """What is published for Postfix stays, byte by byte, and Dovecot gets what is new."""
    path = mail_host.postfix.config_directory / file
    whole = path.read_text()
    renewed = mail_host.renew(FIRST)
    maps = {each: each.read_bytes() for each in mail_host.map.parent.glob("mailsni*")}
    path.write_text(f"{whole}\n{line}\n")
    complaint = f"postfix: nothing new is published there: {path}: postconf cannot read it"
    first, second = mail_host.apply(code=4), mail_host.apply(code=4)
    for done in (first, second, mail_host.mailsni("plan")):
        assert f"mailsni: warning: {complaint}" in done.stderr
    assert "nothing to do" in second.stdout
    assert f"mailsni: error: {path}: postconf cannot read it" in mail_host.mailsni("render", "postfix").stderr
    # A new smtpd that cannot read main.cf dies, and master(8) waits a minute before it starts another one.
    verified = mail_host.mailsni("verify", "--endpoint", f"imaps://{LOOPBACK}:{mail_host.endpoints['imaps']}")
    assert f"mailsni: warning: postfix: would not start again: {path}: " in verified.stderr
    assert verified.returncode == 4
    metrics = mail_host.mailsni("metrics", "--no-wire").stdout
    assert f'deployed_not_after_timestamp_seconds{{algorithm="ecdsa",name="{FIRST}"' in metrics
    assert {each: each.read_bytes() for each in maps} == maps
    mail_host.assert_served(FIRST, renewed, mail_host.dovecot.endpoints)
    path.write_text(whole)
    mail_host.postfix.settle()
    assert {mail_host.served(service, FIRST) for service in mail_host.postfix.endpoints} == {deployed[FIRST]}
    mail_host.apply()
    mail_host.assert_served(FIRST, renewed)


def test_two_configurations_that_cannot_be_read_leave_nothing_to_publish_to(
    mail_host: MailHost, deployed: dict[str, str]
) -> None:
    mail_host.renew(FIRST)
    files = (mail_host.postfix.config_file, mail_host.dovecot.config_file)
    whole = [file.read_text() for file in files]
    for file in files:
        file.write_text("this is no setting\n")
    before = mail_host.snapshot(times=False)
    done = mail_host.apply(code=1)
    assert mail_host.snapshot(times=False) == before
    for file, text in zip(files, whole, strict=True):
        file.write_text(text)
    assert f"{mail_host.dovecot.config_file}: Dovecot's configuration is broken already" in done.stderr
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
    """What is published for Dovecot stays, byte by byte, and Postfix gets what is new; alone it gets nothing."""
    renewed = mail_host.renew(FIRST)
    own = mail_host.dovecot.include_directory / "10-own.conf"
    own.write_text(mistake(mail_host))
    include = mail_host.include_file.read_bytes()
    first, second = mail_host.mailsni("apply"), mail_host.mailsni("apply")
    own.unlink()  # or Dovecot cannot be told to stop
    assert first.returncode == 4, first.stdout + first.stderr
    assert "warning: dovecot: nothing new is published there: its own configuration is broken" in first.stderr
    assert "10-own.conf" in first.stderr or "/nowhere/" in first.stderr
    assert second.returncode == 1, second.stdout + second.stderr
    assert f"{mail_host.dovecot.config_file}: Dovecot's configuration is broken already" in second.stderr
    assert mail_host.include_file.read_bytes() == include
    mail_host.assert_served(FIRST, renewed, mail_host.postfix.endpoints)
    shown = {mail_host.served(service, FIRST) for service in mail_host.dovecot.endpoints}
    assert shown <= set(deployed.values())
    mail_host.apply()
    mail_host.assert_served(FIRST, renewed)


# ---------------------------------------------------------------------------------------------------------------------
# Traps that lie where the program wants to write; tests/unit/test_files.py lays them at every kind of name


TRAPS: Mapping[str, Callable[[Path, Path], object]] = {
    "a link": lambda place, victim: place.symlink_to(victim),
    "a dangling link": lambda place, victim: place.symlink_to(victim.with_name("not-there")),
    "a FIFO": lambda place, _: os.mkfifo(place),
    "a file": lambda place, _: place.write_text("somebody's\n"),
    "a hard link": lambda place, victim: place.hardlink_to(victim),
}
"""By what it is: lays it at a place, where it may lead to another file, the victim."""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that a trap leads to, in a directory of its own; both must be the same afterwards."""
    path = tmp_path / "victim/file"
    path.parent.mkdir()
    path.write_text("precious\n")
    path.chmod(0o644)
    yield path
    assert [found.name for found in path.parent.iterdir()] == ["file"]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("precious\n", 0o644)


def test_a_trap_at_the_name_of_a_staging_directory_is_refused_and_neither_followed_nor_removed(
    mail_host: MailHost, victim: Path
) -> None:
    mail_host.pin_directory.mkdir(mode=0o700)
    mail_host.issue(FIRST)
    for directory in (mail_host.map.parent, mail_host.include_file.parent, mail_host.pin_directory):
        place = directory / STAGING_NAME
        place.symlink_to(victim.parent)
        done = mail_host.apply(code=1)
        assert f"{place}: is not the staging directory of this program" in done.stderr
        assert place.readlink() == victim.parent
        place.unlink()
    assert not mail_host.include_file.exists()
    mail_host.assert_served(FIRST, mail_host.default)
    mail_host.apply()


@pytest.mark.parametrize("artifact", ["map", "compiled map", "include", "pin"])
def test_traps_at_the_name_of_an_artifact_are_replaced(mail_host: MailHost, victim: Path, artifact: str) -> None:
    """By rename, so that nothing is written through them: what lies there afterwards is the program's own file."""
    issued = mail_host.issue(FIRST)
    if artifact == "pin":
        mail_host.apply()
        (place,) = mail_host.pin_directory.iterdir()
    else:
        place = _places(mail_host)[artifact]
    if artifact == "compiled map":
        mail_host.postfix.stop()  # or it fails at the trap, and waits a minute before it tries again
    for kind, trap in TRAPS.items():
        place.unlink(missing_ok=True)
        trap(place, victim)
        mail_host.apply()
        status = place.lstat()
        assert stat.S_ISREG(status.st_mode), kind
        assert stat.S_IMODE(status.st_mode) == (0o644 if artifact == "include" else 0o600), kind
        assert status.st_nlink == 1, kind
    mail_host.postfix.start()
    mail_host.assert_served(FIRST, issued)


def _places(mail_host: MailHost) -> dict[str, Path]:
    return {
        "map": mail_host.map,
        "compiled map": mail_host.map.with_name("mailsni.cdb"),
        "include": mail_host.include_file,
    }


@pytest.mark.parametrize("artifact", ["map", "compiled map", "include"])
def test_a_directory_at_the_name_of_an_artifact_is_a_failure_that_leaves_everything_as_it_was(
    mail_host: MailHost, artifact: str
) -> None:
    """It cannot be replaced by rename."""
    mail_host.issue(FIRST)
    mail_host.postfix.stop()
    place = _places(mail_host)[artifact]
    place.unlink(missing_ok=True)
    place.mkdir()
    before = mail_host.snapshot(times=False)
    done = mail_host.apply(code=1)
    assert f"mailsni: error: {place}: " in done.stderr
    kept = (mail_host.pin_directory, mail_host.directory / "state")
    now = mail_host.snapshot(times=False)
    after = {path: entry for path, entry in now.items() if not path.startswith(tuple(map(str, kept)))}
    # What was published before it failed has been put back, as a copy: another i-node.
    was = {path: entry[1:] for path, entry in before.items() if not path.startswith(tuple(map(str, kept)))}
    assert {path: entry[1:] for path, entry in after.items()} == was


# ---------------------------------------------------------------------------------------------------------------------
# What others can change

ATTACK = '{{ cycler.__init__.__globals__.os.popen("touch %s").read() }}'


def test_what_others_can_change_is_refused_until_the_named_command_was_run(
    mail_host: MailHost, deployed: dict[str, str]
) -> None:
    ran = mail_host.directory / "ran"
    template = mail_host.put_template(ATTACK % ran) / "postfix-sni.j2"
    renewed = mail_host.renew(FIRST).fingerprint
    assert f"{template}: line 1: cannot be rendered" in mail_host.apply(code=78).stderr
    template.write_text(f"# {template}\n")
    places = (
        *(mail_host.config, template, template.parent),
        *(mail_host.map.parent, mail_host.include_file.parent, mail_host.pin_directory, mail_host.directory / "state"),
    )
    for place in places:
        for spoil in (lambda path: os.chown(path, NOBODY, -1), lambda path: path.chmod(0o777)):
            spoil(place)
            before = mail_host.snapshot(times=False)
            done = mail_host.apply(code=78)
            assert mail_host.snapshot(times=False) == before, place
            assert f"{place}: others can change it: it " in done.stderr
            (command,) = re.findall(r"^mailsni: hint: look at it, then: (.*)$", done.stderr, re.MULTILINE)
            subprocess.run(["/bin/sh", "-ec", command], check=True)
    shutil.rmtree(template.parent)
    assert served(mail_host) == deployed
    mail_host.apply()
    assert served(mail_host) == {**deployed, FIRST: renewed}
    assert not ran.exists()
