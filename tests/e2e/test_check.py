"""The monitoring plugin against real servers: what is planted is named, with the exit code of its weight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailsni.config.parser import load
from mailsni.deploy import transaction
from mailsni.host.commands import require_tool, run
from mailsni.runs import history
from tests.support import command_line
from tests.support.command_line import Result
from tests.support.mail_host import MailHost
from tests.support.processes import AS_NOBODY, NOBODY, run_mailsni, start_mailsni, until

pytestmark = pytest.mark.shared

OK, WARNING, CRITICAL, UNKNOWN = range(4)
STATUSES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
VALUE = r"'[^'=]+'=-?[0-9.]+(;([0-9.]*:?)(;([0-9.]*:?)(;-?[0-9.]*(;-?[0-9.]*)?)?)?)?"
LINE = re.compile(rf"MAILSNI (OK|WARNING|CRITICAL|UNKNOWN) - [ -{{}}~]+( \| {VALUE}( {VALUE})*)?")


@pytest.fixture
def mail_host(idle_mail_host: MailHost) -> MailHost:
    """The servers do not run: no check but the one with --wire probes them."""
    return idle_mail_host


def quickly(mail_host: MailHost, *words: str) -> Result:
    """A check in this process: to start another takes longer than what it does."""
    return command_line.invoke("--config", str(mail_host.config), "check", *words)


def checked(mail_host: MailHost, code: int, *words: str) -> str:
    """The text of the one line of a check, which ends with this code."""
    done = quickly(mail_host, *words)
    assert done.exit_code == code, done.stdout + done.stderr
    assert LINE.fullmatch(done.stdout.removesuffix("\n")), done.stdout
    assert done.stdout.startswith(f"MAILSNI {STATUSES[code]} - ")
    assert done.stderr == ""
    return done.stdout.partition(" - ")[2].partition(" | ")[0].removesuffix("\n")


def why_not(mail_host: MailHost, code: int, words: str) -> str | None:
    """What is wrong with a check that shall end with this code, and say this; None when it does."""
    done = quickly(mail_host)
    good = done.exit_code == code and words in done.stdout and LINE.fullmatch(done.stdout.removesuffix("\n"))
    return None if good else f"{done.exit_code}: {done.stdout}"


def document(mail_host: MailHost, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(quickly(mail_host, "--json", *words).stdout)
    return found


def deployed_again(mail_host: MailHost) -> None:
    """Mend everything, whatever is broken."""
    for path in (mail_host.map, map_of(mail_host), mail_host.include_file):
        if path.is_dir():
            path.rmdir()
    if mail_host.pin_directory.exists():
        mail_host.pin_directory.chmod(0o700)
        os.chown(mail_host.pin_directory, 0, 0)
    transaction.run(load(mail_host.config, required=True), transaction.Options(reload=False, verify=False))


def map_of(mail_host: MailHost) -> Path:
    return mail_host.map.with_name("mailsni.cdb")


def postmap(mail_host: MailHost, table: str, *options: str) -> None:
    done = run([require_tool("postmap"), "-c", mail_host.postfix.config_directory, *options, table])
    assert done.returncode == 0, done.stderr


def main_cf(mail_host: MailHost, maps: str) -> None:
    directory = mail_host.postfix.config_directory
    done = run([require_tool("postconf"), "-c", directory, "-e", f"tls_server_sni_maps={maps}"])
    assert done.returncode == 0
    mail_host.postfix.settle()


@pytest.mark.on_both
def test_what_is_right_is_ok_and_what_was_never_done_is_not(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test", "imap.a.test")
    assert "nothing is deployed" in checked(mail_host, CRITICAL)
    assert document(mail_host)["names"] == 0
    mail_host.apply()
    done = mail_host.mailsni("check", "-v")
    assert (done.returncode, done.stderr) == (OK, ""), done.stdout
    text, _, data = done.stdout.rstrip("\n").partition(" | ")
    assert text == "MAILSNI OK - 2 names, the first (imap.a.test) expires in 89 days"
    values = dict(one.split("=") for one in data.split())
    assert values.pop("'expiry'").endswith(";14:;7:")
    counts = {"'names'": "2;;;0", "'pending'": "0;;;0", "'warning'": "0;;;0", "'critical'": "0;;;0"}
    assert values == counts
    found = document(mail_host)
    assert (found["status"], found["exit_code"], found["findings"], found["unreadable"]) == ("OK", 0, [], [])
    assert [one["name"] for one in found["expiry"]] == ["imap.a.test", "mail.a.test"]
    assert "\n" not in data.rstrip("\n"), "-v has nothing to add"


def test_two_algorithms_and_wildcards_are_right_too(mail_host: MailHost) -> None:
    mail_host.configure(names={"include": ["*"]})
    for algorithm in ("ecdsa", "rsa"):
        issued = mail_host.authority.issue(["mail.a.test", "*.w.test"], algorithm=algorithm)
        mail_host.store.add(f"a.test-{algorithm}", issued)
    for map_type in ("cdb", "texthash"):
        mail_host.configure(postfix={"map_type": map_type})
        main_cf(mail_host, f"{map_type}:{mail_host.map}")
        deployed_again(mail_host)
        assert checked(mail_host, OK).startswith("2 names, ")
    lines = [line.split() for line in mail_host.map.read_text().splitlines() if line[:1] not in ("", "#")]
    mail_host.map.write_text("".join(f"{key} {rsa} {ecdsa}\n" for key, ecdsa, rsa in lines))
    assert "another certificate than the deployed one for *.w.test, mail.a.test" in checked(mail_host, CRITICAL)


def older_map(mail_host: MailHost, *options: str, map_type: str = "cdb") -> None:
    """Compile a map by hand, as tutorials do it, from certificates that were renewed since."""
    old = mail_host.authority.issue(["mail.a.test"], not_after=datetime.now(UTC) + timedelta(days=30))
    bundle = mail_host.directory / "old.pem"
    bundle.write_bytes(old.key_pem + old.fullchain_pem)
    lines = [f"mail.a.test {bundle}\n"]
    lines += [line for line in mail_host.map.read_text().splitlines(keepends=True) if line.startswith("mail.b.")]
    source = mail_host.directory / "mailsni"
    source.write_text("".join(lines))
    source.chmod(0o600)
    postmap(mail_host, f"{map_type}:{source}", *options)
    suffix = {"cdb": ".cdb", "lmdb": ".lmdb"}.get(map_type, ".db")
    shutil.copy(source.with_name(f"mailsni{suffix}"), mail_host.map.with_name(f"mailsni{suffix}"))
    mail_host.map.with_name(f"mailsni{suffix}").chmod(0o600)


def test_a_map_of_older_certificates_is_stale(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    mail_host.issue("mail.b.test")
    for map_type in ("hash", "btree", "lmdb", "cdb"):
        mail_host.configure(postfix={"map_type": map_type})
        main_cf(mail_host, f"{map_type}:{mail_host.map}")
        deployed_again(mail_host)
        checked(mail_host, OK)
        older_map(mail_host, "-F", map_type=map_type)
        text = checked(mail_host, CRITICAL)
        assert text.endswith("holds another certificate than the deployed one for mail.a.test")
        assert document(mail_host)["expiry"][0]["days"] < 31, "what is really served counts"
        older_map(mail_host, map_type=map_type)
        assert "was compiled without `postmap -F`: the handshakes of mail.a.test, mail.b.test are aborted" in checked(
            mail_host, CRITICAL
        )


def test_a_map_with_too_many_or_too_few_entries_is_critical(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    mail_host.issue("mail.b.test")
    deployed_again(mail_host)
    source = mail_host.directory / "mailsni"
    text = mail_host.map.read_text()
    source.write_text(text.replace("\nmail.b.test ", "\nmail.stranger.test "))
    source.chmod(0o600)
    postmap(mail_host, f"cdb:{source}", "-F")
    shutil.copy(source.with_name("mailsni.cdb"), map_of(mail_host))
    map_of(mail_host).chmod(0o600)
    text = checked(mail_host, CRITICAL)
    assert "lacks mail.b.test" in text
    assert "entries that nobody deployed: mail.stranger.test" in text


def test_a_map_of_another_type_or_none_at_all_is_critical(mail_host: MailHost) -> None:
    """Hash and btree share a suffix; each of these cuts off every client that sends a name."""
    mail_host.issue("mail.a.test")
    mail_host.configure(postfix={"map_type": "btree"})
    main_cf(mail_host, f"btree:{mail_host.map}")
    deployed_again(mail_host)
    main_cf(mail_host, f"hash:{mail_host.map}")
    own = mail_host.postfix.config_file
    assert f"is of type btree, and {own} says hash:" in checked(mail_host, CRITICAL)
    main_cf(mail_host, f"lmdb:{mail_host.map}")
    text = checked(mail_host, CRITICAL)
    assert f"there is no {mail_host.map}.lmdb (there is mailsni.db, of another type)" in text
    main_cf(mail_host, f"btree:{mail_host.map}, hash:{mail_host.directory}/mine")
    assert f"there is no {mail_host.directory}/mine.db" in checked(mail_host, CRITICAL)
    main_cf(mail_host, "")
    assert "tls_server_sni_maps does not name" in checked(mail_host, CRITICAL)


def test_texthash_is_checked_by_the_files_that_it_names(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    mail_host.configure(postfix={"map_type": "texthash"})
    main_cf(mail_host, f"texthash:{mail_host.map}")
    deployed_again(mail_host)
    checked(mail_host, OK)
    mail_host.map.write_text(f"mail.a.test {mail_host.directory}/other.pem\nmail.c.test /c.pem\n")
    text = checked(mail_host, CRITICAL)
    assert "another certificate than the deployed one for mail.a.test" in text
    assert "nobody deployed: mail.c.test" in text


def pin(mail_host: MailHost) -> Path:
    return next(mail_host.pin_directory.glob("*.pem"))


def edited(mail_host: MailHost, old: str, new: str) -> None:
    text = mail_host.include_file.read_text()
    assert old in text
    mail_host.include_file.write_text(text.replace(old, new))


def unwired(mail_host: MailHost) -> None:
    main = mail_host.dovecot.config_file
    main.write_text(main.read_text().replace("!include_try conf.d/*.conf", ""))


def directory_in_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def garbage(mail_host: MailHost) -> None:
    map_of(mail_host).write_bytes(os.urandom(5000))


def file_in_place_of_state(mail_host: MailHost) -> None:
    shutil.rmtree(mail_host.directory / "state")
    (mail_host.directory / "state").touch()


FAULTS: dict[str, tuple[Callable[[MailHost], object], int, str]] = {
    "map loose": (lambda lab: map_of(lab).chmod(0o644), CRITICAL, "mailsni.cdb has mode 0644 instead of 0600"),
    "source loose": (lambda lab: lab.map.chmod(0o640), CRITICAL, "mailsni has mode 0640 instead of 0600"),
    "map of another": (lambda lab: os.chown(map_of(lab), NOBODY, 0), CRITICAL, "mailsni.cdb belongs to user 65534"),
    "pin loose": (lambda lab: pin(lab).chmod(0o604), CRITICAL, ".pem has mode 0604 instead of 0600"),
    "pins of another": (
        lambda lab: os.chown(lab.pin_directory, NOBODY, 0),
        CRITICAL,
        "dovecot/etc/mailsni belongs to user 65534",
    ),
    "pins writable": (lambda lab: lab.pin_directory.chmod(0o777), CRITICAL, "mailsni has mode 0777 instead of 0755"),
    "pins listed": (lambda lab: lab.pin_directory.chmod(0o755), WARNING, "others may list it"),
    "pin gone": (lambda lab: pin(lab).unlink(), CRITICAL, "the pinned file of mail.a.test is gone"),
    "pin changed": (lambda lab: pin(lab).write_bytes(b"x"), CRITICAL, "the pinned file of mail.a.test in"),
    "map gone": (lambda lab: map_of(lab).unlink(), CRITICAL, "there is no"),
    "source gone": (lambda lab: lab.map.unlink(), CRITICAL, "etc/mailsni is gone"),
    "map is a directory": (lambda lab: directory_in_place_of(map_of(lab)), CRITICAL, "cdb is no regular file"),
    "map is garbage": (garbage, CRITICAL, "cannot be"),
    "include gone": (lambda lab: lab.include_file.unlink(), CRITICAL, "99-mailsni.conf is gone"),
    "include writable": (lambda lab: lab.include_file.chmod(0o666), CRITICAL, "99-mailsni.conf has mode 0666"),
    "include edited": (lambda lab: edited(lab, "# Dovecot 2", "# My Dovecot 2"), WARNING, "99-mailsni.conf was edited"),
    "block gone": (
        lambda lab: edited(lab, "mail.a.test", "mail.b.test"),
        CRITICAL,
        "was edited, or replaced: it is not as it was published, and has no block for mail.a.test",
    ),
    "block of another": (
        lambda lab: edited(lab, f"{pin(lab)}", f"{lab.dovecot.default_file}"),
        CRITICAL,
        "names other files for mail.a.test",
    ),
    "dead path": (
        lambda lab: edited(lab, f"{pin(lab)}", f"{lab.directory}/gone.pem"),
        CRITICAL,
        "Dovecot does not start again",
    ),
    "not included": (unwired, CRITICAL, "does not include"),
    "state gone": (lambda lab: shutil.rmtree(lab.directory / "state"), WARNING, "there is no record of what"),
    "state is a file": (file_in_place_of_state, WARNING, "there is no record of what was published"),
}


def test_each_fault_is_named(mail_host: MailHost) -> None:
    """One after the other on the same host; the next run mends each of them."""
    mail_host.store.add("a.test", mail_host.authority.issue(["mail.a.test"]))
    main = mail_host.dovecot.config_file.read_text()
    wrong = {}
    for fault, (plant, code, words) in FAULTS.items():
        deployed_again(mail_host)
        before = why_not(mail_host, OK, "1 name, expires in 89 days")
        plant(mail_host)
        wrong[fault] = before or why_not(mail_host, code, words)
        mail_host.dovecot.config_file.write_text(main)
    assert wrong == dict.fromkeys(wrong)


def test_a_restore_byte_by_byte_and_a_mode_that_is_right_again_are_no_edit(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    deployed_again(mail_host)
    for path in (map_of(mail_host), mail_host.map, mail_host.include_file):
        content, mode = path.read_bytes(), path.stat().st_mode
        path.unlink()
        path.write_bytes(content)
        path.chmod(mode)
    checked(mail_host, OK)
    assert json.loads(mail_host.mailsni("apply", "--json").stdout)["result"] == "unchanged"
    mail_host.renew("mail.a.test")
    text = checked(mail_host, WARNING)
    assert "renewed, but not deployed yet" in text
    assert "edited" not in text


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_expires_is_said_when_its_lifetime_says_so(mail_host: MailHost) -> None:
    """6-day certificates are renewed when half of their time is left; 90-day ones with 30 days left."""
    now = datetime.now(UTC)

    def lineage(name: str, lifetime: float, left: float) -> None:
        begin = now - timedelta(days=lifetime - left)
        issued = mail_host.authority.issue([name], not_before=begin, not_after=now + timedelta(days=left))
        mail_host.store.add(name, issued)
        deployed_again(mail_host)

    lineage("mail.short.test", 6.6, 3)
    checked(mail_host, OK)
    text = checked(mail_host, WARNING, "--warning", "10", "--critical", "2.5")
    assert "mail.short.test: the deployed certificate expires in 3.0 days (" in text
    checked(mail_host, CRITICAL, "--critical", "3.5")
    lineage("mail.long.test", 90, 13)
    assert "mail.long.test: the deployed certificate expires in 13.0 days" in checked(mail_host, WARNING)
    lineage("mail.shorter.test", 6.6, 0.5)
    text = checked(mail_host, CRITICAL)
    assert text.startswith("mail.shorter.test: the deployed certificate expires in 0.5 days")
    checked(mail_host, OK, "--warning", "0.2", "--critical", "0.1")


def test_what_is_deployed_expires_though_the_store_has_a_new_one(mail_host: MailHost) -> None:
    """The reason why the program exists: renewed, and nobody was told."""
    now = datetime.now(UTC)
    last = mail_host.authority.issue(["mail.a.test"], not_after=now + timedelta(seconds=3))
    mail_host.store.add("mail.a.test", last)
    mail_host.issue("mail.b.test")
    deployed_again(mail_host)
    mail_host.renew("mail.a.test")
    while datetime.now(UTC) <= last.not_after:
        time.sleep(0.1)
    text = checked(mail_host, CRITICAL)
    assert re.match(r"mail\.a\.test: the deployed certificate expired 0\.0 days ago \([0-9 :-]+ UTC\)", text)
    assert "mail.a.test: renewed, but not deployed yet" in text
    deployed_again(mail_host)
    checked(mail_host, OK)


def test_what_waits_and_what_cannot_be_served_are_warnings(mail_host: MailHost) -> None:
    for name in ("mail.a.test", "mail.b.test", "mail.c.test", "mail.e.test"):
        mail_host.issue(name)
    deployed_again(mail_host)
    mail_host.renew("mail.a.test")
    mail_host.issue("mail.d.test")
    for name in ("mail.b.test", "mail.e.test"):
        mail_host.store.delete(name)
    (mail_host.store.renewal / "mail.b.test.conf").touch()  # certbot would renew it: nobody told it to delete it
    key = mail_host.store.path("mail.c.test", "privkey").resolve()
    key.write_bytes(mail_host.authority.issue(["mail.x.test"]).key_pem)
    text = checked(mail_host, WARNING)
    assert "mail.a.test: renewed, but not deployed yet" in text
    assert "mail.d.test: new, but not deployed yet" in text
    assert "mail.b.test: its lineage is gone: the next run removes it" in text
    assert "mail.e.test" not in text, "certbot deleted it"
    assert "mail.c.test: key_mismatch: the private key is not the key of the certificate" in text
    assert "mail.c.test: kept_last_good: its last good certificate, valid until 20" in text

    mail_host.apply("--no-reload", "--no-verify", code=4)
    text = checked(mail_host, WARNING)
    assert "mail.b.test: not served any more: its lineage is gone, and was removed on 20" in text
    assert "not deployed yet" not in text
    assert "mail.e.test" not in text, "certbot deleted it"
    assert "kept_last_good" in text
    mail_host.renew("mail.c.test")
    mail_host.issue("mail.b.test")
    mail_host.apply("--no-reload", "--no-verify")
    checked(mail_host, OK)


# ── runs, and what they left ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_failed_is_told_until_one_works(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    deployed_again(mail_host)
    mail_host.configure(dovecot={"action": ["/bin/false"]})
    assert mail_host.mailsni("apply", "--force", MAILSNI_STARTED_BY="certbot-post").returncode == 1
    text = checked(mail_host, WARNING)
    assert re.search(r"the hook certbot-post failed, on 20[0-9 :-]+ UTC: .*/bin/false.* \(exit code 1\)", text)
    mail_host.configure(names={"include": ["mail.*"]}, dovecot={"acton": "none"})
    assert mail_host.mailsni("apply").returncode == 78
    assert "unknown key" in checked(mail_host, UNKNOWN)
    mail_host.settings["dovecot"].pop("acton")
    mail_host.configure(dovecot={"action": "none"})
    text = checked(mail_host, WARNING)
    assert "the last run failed, started by unattended with a wrong configuration, on 20" in text
    mail_host.apply()
    checked(mail_host, OK)


def test_what_was_rolled_back_is_critical(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    deployed_again(mail_host)
    state = mail_host.directory / "state"
    now = datetime.now(UTC)
    history.record(state, history.Run(now, now, 5, "dovecot: mail.a.test: cut off", "timer", error="cut off"))
    text = checked(mail_host, CRITICAL)
    assert "started by timer, on 20" in text
    assert text.endswith("UTC: dovecot: mail.a.test: cut off (exit code 5)")


def test_a_run_that_goes_on_is_no_fault(mail_host: MailHost) -> None:
    """It has its journal, and holds the lock: what it has not published yet is not wrong."""
    mail_host.issue("mail.a.test")
    deployed_again(mail_host)
    mail_host.renew("mail.a.test")
    witness = mail_host.directory / "reloading"
    mail_host.configure(
        dovecot={"action": ["/bin/sh", "-c", f"touch {witness}; while test -e {witness}; do sleep 0.1; done"]}
    )
    with start_mailsni(mail_host.config, "apply", "--no-verify") as run_that_goes_on:
        until(witness.exists, "the command was never run", beside=run_that_goes_on)
        checked(mail_host, OK)
        witness.unlink()
        assert run_that_goes_on.wait(30) == 0
    checked(mail_host, OK)


# ── who asks, and how ────────────────────────────────────────────────────────────────────────────────────────────────


def as_nobody(mail_host: MailHost, *words: str) -> subprocess.CompletedProcess[str]:
    config = mail_host.postfix.directory.parent / "config.toml"
    config.write_bytes(mail_host.config.read_bytes())
    config.chmod(0o644)
    return run_mailsni(config, "check", *words, before=AS_NOBODY)


@pytest.mark.on_both
def test_anybody_sees_the_public_parts(mail_host: MailHost) -> None:
    now = datetime.now(UTC)
    issued = mail_host.authority.issue(["mail.a.test", "imap.a.test"], not_after=now + timedelta(days=20))
    mail_host.store.add("a.test", issued)
    deployed_again(mail_host)
    done = as_nobody(mail_host)
    assert done.returncode == OK, done.stdout
    assert done.stderr == ""
    text, _, data = done.stdout.partition(" | ")
    assert text.startswith(
        "MAILSNI OK - 2 names, the first (imap.a.test) expires in 19 days; public parts only, not readable: "
    )
    assert "the record of what is deployed" in text
    assert "the entries of the map" in text
    assert re.match(r"'expiry'=(19\.9|20\.0)", data)
    assert as_nobody(mail_host, "--warning", "21").returncode == WARNING
    map_of(mail_host).chmod(0o640)
    done = as_nobody(mail_host)
    assert done.returncode == CRITICAL
    assert f"{map_of(mail_host)} has mode 0640 instead of 0600" in done.stdout
    map_of(mail_host).chmod(0o600)
    mail_host.include_file.chmod(0o600)
    done = as_nobody(mail_host)
    assert done.returncode == UNKNOWN
    assert "this user can read nothing of what is deployed" in done.stdout


def test_a_wrong_command_line_is_unknown(mail_host: MailHost) -> None:
    for words in (
        ["--warning", "soon"],
        ["--warning", "nan"],
        ["--critical", "-1"],
        ["--bogus"],
        ["one", "more"],
        ["--warning", "1", "--critical", "2"],
    ):
        assert "usage: " in checked(mail_host, UNKNOWN, *words)
    done = mail_host.mailsni("--bogus", "check")
    assert (done.returncode, done.stdout[:27]) == (UNKNOWN, "MAILSNI UNKNOWN - usage: No")
    with_full_disk = ("/bin/sh", "-c", 'exec "$@" >/dev/full', "sh")
    assert run_mailsni(mail_host.config, "check", before=with_full_disk).returncode == UNKNOWN


@pytest.mark.on_both
def test_with_wire_the_running_servers_are_probed(mail_host: MailHost, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = mail_host.directory / "root.pem"
    trusted.write_bytes(mail_host.authority.root_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    issued = mail_host.issue("mail.a.test")
    with mail_host.postfix, mail_host.dovecot:
        mail_host.apply()
        assert checked(mail_host, OK, "--wire").endswith(" answers as intended")
        mail_host.renew("mail.a.test")
        text = checked(mail_host, WARNING, "--wire")
        assert text == "mail.a.test: renewed, but not deployed yet"
        mail_host.map.write_text("")
        postmap(mail_host, f"cdb:{mail_host.map}", "-F")
        text = checked(mail_host, CRITICAL, "--wire")
        assert re.search(r"postfix on the wire: mail\.a\.test at smtp://.*: wrong certificate \(serves ", text)
        assert issued.fingerprint == mail_host.served("imaps", "mail.a.test")
        mail_host.dovecot.stop()
        text = checked(mail_host, CRITICAL, "--wire")
        assert re.search(
            r"dovecot on the wire: imap://[^ ]+, imaps://[^ ]+, pop3://[^ ]+ and 2 more: not listening", text
        )
