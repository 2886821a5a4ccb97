"""The monitoring plugin against real servers: what is planted is named, with the exit code of its weight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mailsni import deploy
from mailsni.cli import app
from mailsni.config import load
from mailsni.process import environment, require_tool, run
from mailsni.sandbox.authority import Authority, Issued
from mailsni.sandbox.servers import PrivateDovecot, PrivatePostfix
from tests.e2e.support import Laboratory

pytestmark = pytest.mark.shared

OK, WARNING, CRITICAL, UNKNOWN = range(4)
STATUSES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
VALUE = r"'[^'=]+'=-?[0-9.]+(;([0-9.]*:?)(;([0-9.]*:?)(;-?[0-9.]*(;-?[0-9.]*)?)?)?)?"
LINE = re.compile(rf"MAILSNI (OK|WARNING|CRITICAL|UNKNOWN) - [ -{{}}~]+( \| {VALUE}( {VALUE})*)?")
NOBODY = 65534


def checked(laboratory: Laboratory, code: int, *words: str) -> str:
    """The one line of a check, which ends with this code."""
    done = laboratory.mailsni("check", *words)
    assert done.returncode == code, done.stdout + done.stderr
    line, *further = done.stdout.splitlines()
    assert LINE.fullmatch(line), line
    assert line.startswith(f"MAILSNI {STATUSES[code]} - ")
    assert not further
    assert done.stderr == ""
    return line.partition(" - ")[2].partition(" | ")[0]


def document(laboratory: Laboratory, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(laboratory.mailsni("check", "--json", *words).stdout)
    return found


def applied(laboratory: Laboratory, *words: str, code: int = 0) -> None:
    done = laboratory.mailsni("apply", *words)
    assert done.returncode == code, done.stdout + done.stderr


def map_of(laboratory: Laboratory) -> Path:
    return laboratory.map.with_name("mailsni.cdb")


def postmap(laboratory: Laboratory, table: str, *options: str) -> None:
    done = run([require_tool("postmap"), "-c", laboratory.postfix.config_directory, *options, table])
    assert done.returncode == 0, done.stderr


def main_cf(laboratory: Laboratory, maps: str) -> None:
    words = [require_tool("postconf"), "-c", laboratory.postfix.config_directory, "-e", f"tls_server_sni_maps={maps}"]
    assert run(words).returncode == 0


@pytest.mark.on_both
def test_what_is_right_is_ok_and_what_was_never_done_is_not(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test", "imap.a.test")
    assert "nothing is deployed" in checked(laboratory, CRITICAL)
    applied(laboratory)
    done = laboratory.mailsni("check")
    assert done.returncode == OK, done.stdout
    text, _, data = done.stdout.rstrip("\n").partition(" | ")
    assert text == "MAILSNI OK - 2 names, the first (imap.a.test) expires in 89 days"
    values = dict(one.split("=") for one in data.split())
    assert values.pop("'expiry'").endswith(";14:;7:")
    counts = {"'names'": "2;;;0", "'pending'": "0;;;0", "'warning'": "0;;;0", "'critical'": "0;;;0"}
    assert values == counts
    found = document(laboratory)
    assert (found["status"], found["exit_code"], found["findings"], found["unseen"]) == ("OK", 0, [], [])
    assert [one["name"] for one in found["expiry"]] == ["imap.a.test", "mail.a.test"]
    assert laboratory.mailsni("check", "-v").stdout == done.stdout, "-v has nothing to add"


def older_map(laboratory: Laboratory, *options: str, map_type: str = "cdb") -> None:
    """Compile a map by hand, as tutorials do it, from certificates that were renewed since."""
    old = laboratory.authority.issue(["mail.a.test"], not_after=datetime.now(UTC) + timedelta(days=30))
    bundle = laboratory.directory / "old.pem"
    bundle.write_bytes(old.key_pem + old.fullchain_pem)
    lines = [f"mail.a.test {bundle}\n"]
    lines += [line for line in laboratory.map.read_text().splitlines(keepends=True) if line.startswith("mail.b.")]
    source = laboratory.directory / "mailsni"
    source.write_text("".join(lines))
    source.chmod(0o600)
    postmap(laboratory, f"{map_type}:{source}", *options)
    suffix = {"cdb": ".cdb", "lmdb": ".lmdb"}.get(map_type, ".db")
    shutil.copy(source.with_name(f"mailsni{suffix}"), laboratory.map.with_name(f"mailsni{suffix}"))
    laboratory.map.with_name(f"mailsni{suffix}").chmod(0o600)


@pytest.mark.parametrize("map_type", ["hash", "btree", "lmdb", "cdb"])
def test_a_map_of_older_certificates_is_stale(laboratory: Laboratory, map_type: str) -> None:
    laboratory.issue("mail.a.test")
    laboratory.issue("mail.b.test")
    laboratory.configure(postfix={"map_type": map_type})
    main_cf(laboratory, f"{map_type}:{laboratory.map}")
    applied(laboratory, "--no-verify")
    checked(laboratory, OK)
    older_map(laboratory, "-F", map_type=map_type)
    text = checked(laboratory, CRITICAL)
    assert "holds another certificate than the deployed one for mail.a.test" in text
    assert "mail.b.test" not in text
    assert min(document(laboratory)["expiry"], key=lambda one: one["days"])["days"] < 30, "what is really served counts"
    older_map(laboratory, map_type=map_type)
    text = checked(laboratory, CRITICAL)
    assert "was compiled without `postmap -F`" in text
    assert "mail.a.test" in text
    assert "mail.b.test" in text


def test_entries_too_many_and_too_few(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    laboratory.issue("mail.b.test")
    applied(laboratory)
    source = laboratory.directory / "mailsni"
    text = laboratory.map.read_text()
    source.write_text(text.replace("\nmail.b.test ", "\nmail.stranger.test "))
    source.chmod(0o600)
    postmap(laboratory, f"cdb:{source}", "-F")
    shutil.copy(source.with_name("mailsni.cdb"), map_of(laboratory))
    map_of(laboratory).chmod(0o600)
    text = checked(laboratory, CRITICAL)
    assert "lacks mail.b.test" in text
    assert "entries that nobody deployed: mail.stranger.test" in text


def test_a_map_of_another_type_or_none(laboratory: Laboratory) -> None:
    """Hash and btree share a suffix; each of these cuts off every client that sends a name."""
    laboratory.issue("mail.a.test")
    laboratory.configure(postfix={"map_type": "btree"})
    main_cf(laboratory, f"btree:{laboratory.map}")
    applied(laboratory)
    main_cf(laboratory, f"hash:{laboratory.map}")
    assert "is of type btree, and main.cf says hash:" in checked(laboratory, CRITICAL)
    main_cf(laboratory, f"lmdb:{laboratory.map}")
    text = checked(laboratory, CRITICAL)
    assert f"there is no {laboratory.map}.lmdb (there is mailsni.db, of another type)" in text
    main_cf(laboratory, f"btree:{laboratory.map}, hash:{laboratory.directory}/mine")
    assert f"there is no {laboratory.directory}/mine.db" in checked(laboratory, CRITICAL)
    main_cf(laboratory, "")
    assert "tls_server_sni_maps does not name" in checked(laboratory, CRITICAL)


def test_texthash_is_checked_by_the_files_that_it_names(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    laboratory.configure(postfix={"map_type": "texthash"})
    main_cf(laboratory, f"texthash:{laboratory.map}")
    applied(laboratory)
    checked(laboratory, OK)
    laboratory.map.write_text(f"mail.a.test {laboratory.directory}/other.pem\nmail.c.test /c.pem\n")
    text = checked(laboratory, CRITICAL)
    assert "another certificate than the deployed one for mail.a.test" in text
    assert "nobody deployed: mail.c.test" in text


def quickly(laboratory: Laboratory, *words: str) -> tuple[int, str]:
    """The exit code and the line of a check in this process, where starting another takes longer than what it does."""
    done = CliRunner().invoke(app, ["--config", str(laboratory.config), "check", *words])
    return done.exit_code, done.stdout.removesuffix("\n")


def deployed_again(laboratory: Laboratory) -> None:
    """Mend everything, whatever is broken."""
    for path in (laboratory.map, map_of(laboratory), laboratory.include_file):
        if path.is_dir():
            path.rmdir()
    if laboratory.pin_directory.exists():
        laboratory.pin_directory.chmod(0o700)
        os.chown(laboratory.pin_directory, 0, 0)
    deploy.run(load(laboratory.config, required=True), deploy.Options(reload=False, verify=False))


def pin(laboratory: Laboratory) -> Path:
    return next(laboratory.pin_directory.glob("*.pem"))


def edited(laboratory: Laboratory, old: str, new: str) -> None:
    text = laboratory.include_file.read_text()
    assert old in text
    laboratory.include_file.write_text(text.replace(old, new))


def unwired(laboratory: Laboratory) -> None:
    main = laboratory.dovecot.config_file
    main.write_text(main.read_text().replace("!include_try conf.d/*.conf", ""))


def garbage(laboratory: Laboratory) -> None:
    map_of(laboratory).write_bytes(os.urandom(5000))


FAULTS: dict[str, tuple[Callable[[Laboratory], object], int, str]] = {
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
    "map is a directory": (lambda lab: (map_of(lab).unlink(), map_of(lab).mkdir()), CRITICAL, "mailsni.cdb"),
    "map is garbage": (garbage, CRITICAL, "mailsni.cdb"),
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
}


def test_each_fault_is_named(laboratory: Laboratory) -> None:
    """One after the other on the same host; the next run mends each of them."""
    laboratory.store.add("a.test", laboratory.authority.issue(["mail.a.test"]))
    main = laboratory.dovecot.config_file.read_text()
    wrong = {}
    for fault, (plant, code, words) in FAULTS.items():
        deployed_again(laboratory)
        before = quickly(laboratory)
        plant(laboratory)
        after = quickly(laboratory)
        if before[0] != OK or after[0] != code or words not in after[1] or not LINE.fullmatch(after[1]):
            wrong[fault] = (before, after)
        laboratory.dovecot.config_file.write_text(main)
    assert wrong == {}
