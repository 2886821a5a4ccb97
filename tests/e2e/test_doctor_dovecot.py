"""What `mailsni doctor` finds in Dovecot's configuration: each fault is planted in a real one, named, and mended.

What a finding says of Dovecot ("does not start", "that block is taken") is shown with the real one, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config.parser import load
from mailsni.config.settings import DovecotSettings, Settings
from mailsni.doctor.checks.dovecot import findings
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.doctor.runner import SAME_CODE_LIMIT, in_order
from mailsni.errors import HostError
from mailsni.host.commands import environment, find_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import LOOPBACK
from mailsni.targets.dovecot.parser import DEPTH_LIMIT
from tests.support.authority import Authority
from tests.support.doctor_facts import facts_of
from tests.support.mail_host import ABORTED, MailHost, require, served
from tests.support.servers import PrivateDovecot

NAME, OTHER, UNKNOWN = "mail.one.test", "mail.two.test", "nobody.test"
WILDCARD = "*.one.test"
NOBODY = 65534


@dataclass
class Host:
    """A private Dovecot that does not run yet, and a configuration of mailsni that knows it."""

    server: PrivateDovecot
    authority: Authority
    default: Issued
    settings: Settings
    modern: bool

    @property
    def include(self) -> Path:
        """The file that mailsni writes."""
        return self.settings.dovecot.include_file

    def pair(self, *names: str, mode: int = 0o600, end: datetime | None = None) -> tuple[Path, str]:
        """A new certificate's file, key first, and its fingerprint."""
        begin = end - timedelta(days=90) if end is not None else None
        issued = self.authority.issue(names or (NAME,), not_before=begin, not_after=end)
        path = self.server.directory / f"{issued.fingerprint[:12]}.pem"
        path.write_bytes(issued.key_pem + issued.fullchain_pem)
        path.chmod(mode)
        return path, issued.fingerprint

    def setting(self, kind: str, path: Path | str) -> str:
        """A line such as ``ssl_cert = </path``, as this release has it."""
        return f"ssl_server_{kind}_file = {path}" if self.modern else f"ssl_{kind} = <{path}"

    def block(self, name: str, path: Path | str, key: Path | str | None = None) -> str:
        """A ``local_name`` block as this release has it."""
        return f"local_name {name} {{\n  {self.setting('cert', path)}\n  {self.setting('key', key or path)}\n}}\n"

    def write(self, name: str, text: str) -> Path:
        """A file of conf.d."""
        path = self.server.include_directory / name
        path.write_text(text)
        return path

    def append(self, text: str) -> int:
        """Put text at the end of dovecot.conf; returns the number of its first line."""
        file = self.server.config_file
        before = file.read_text()
        file.write_text(before + text)
        return before.count("\n") + 1

    def findings(self) -> list[Finding]:
        """What the doctor finds. Nothing of a key may be in it, whatever is wrong."""
        found = list(in_order(findings(facts_of(self.settings))))
        assert not any("-----BEGIN" in repr(one) or "PRIVATE" in repr(one) for one in found)
        assert all(text.isprintable() for one in found for text in (one.what, one.where, one.why))
        fixes = [part for one in found for part in (one.fix.command, one.fix.edit, one.fix.note) if part is not None]
        assert all(part.isprintable() for part in fixes)
        return found

    def only(self) -> Finding:
        """The one thing that is found."""
        found = self.findings()
        assert len(found) == 1, found
        return found[0]

    def served(self, name: str | None) -> str:
        """What a client of IMAPS gets."""
        return served(self.server.endpoints["imaps"], name, "imaps")

    def refuses(self) -> bool:
        """Whether Dovecot really does not start."""
        try:
            with self.server:
                return False
        except HostError as error:
            return "exited 89" in error.message

    def mend(self, finding: Finding) -> None:
        """Run the command of a finding; its last word is the reload, which fails while nothing runs."""
        assert finding.fix.command is not None
        silent = subprocess.DEVNULL  # a Dovecot that it starts would hold a pipe open
        words = ["/bin/sh", "-c", finding.fix.command]
        done = subprocess.run(words, env=environment(), stdin=silent, stdout=silent, stderr=silent, check=False)
        assert done.returncode == 0 or not self.server.running(), finding.fix.command


@pytest.fixture
def host(shared_tmp: Path, authority: Authority, default: Issued) -> Iterator[Host]:
    require(PrivateDovecot.unavailable())
    directory = shared_tmp / "dovecot"
    directory.mkdir(mode=0o755)
    server = PrivateDovecot(directory, default)
    settings = Settings(
        dovecot=DovecotSettings(
            enabled=True,
            config_file=server.config_file,
            include_file=server.include_directory / "99-mailsni.conf",
            pin_directory=server.config_directory / "mailsni",
        )
    )
    yield Host(server, authority, default, settings, modern=server.version == "2.4")
    server.stop()


def place(path: Path, line: int) -> str:
    return f"{path}:{line}"


def found_line(host: Host, text: str) -> int:
    """The number of the first line of dovecot.conf with a text in it."""
    texts = host.server.config_file.read_text().splitlines()
    return next(number for number, line in enumerate(texts, 1) if text in line)


def mends(host: Host, finding: Finding) -> None:
    """What the finding says to do is done, nothing is found any more, and Dovecot runs, or starts."""
    host.mend(finding)
    assert host.findings() == []
    host.server.start()


def silences(host: Host, finding: Finding) -> None:
    """What the finding says to do is done, and nothing is found any more, not by Dovecot's own check either."""
    host.mend(finding)
    assert host.findings() == []


def test_a_healthy_dovecot_after_apply_gives_nothing(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test", "imap.a.test")
    mail_host.issue("*.b.test", "b.test")
    mail_host.configure(names={"include": ["*"]})
    done = mail_host.mailsni("apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(mail_host.include_file.read_text().splitlines()) > 10
    assert list(findings(facts_of(load(mail_host.config, required=True)))) == []


def test_no_dovecot_gives_nothing() -> None:
    assert list(findings(facts_of(Settings(dovecot=DovecotSettings(enabled=False))))) == []


# ---------------------------------------------------------------------------------------------------------------------
# The default certificate


@pytest.mark.shared
def test_tls_that_is_switched_off_is_found_and_the_fix_mends_it(host: Host) -> None:
    line = host.append("ssl = no\n")
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_tls_off", place(host.server.config_file, line))
    mends(host, finding)
    assert host.served(UNKNOWN) == host.default.fingerprint


def test_a_missing_default_certificate_is_found_and_the_fix_mends_it(host: Host) -> None:
    file = host.server.config_file
    kept = [
        line for line in file.read_text().splitlines() if not line.startswith(("ssl_cert", "ssl_key", "ssl_server"))
    ]
    file.write_text("\n".join([*kept, ""]))
    path, _ = host.pair()
    host.write("99-mailsni.conf", host.block(NAME, path))
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_default_certificate_missing", str(file))
    with host.server:
        assert [host.served(name) for name in (NAME, UNKNOWN)] == [ABORTED, ABORTED]
    # The lines that it tells to write are of this release.
    assert host.setting("cert", "/etc/letsencrypt/live/NAME/fullchain.pem") in (finding.fix.edit or "")
    lines = (host.setting("cert", host.server.default_file), host.setting("key", host.server.default_file))
    file.write_text(
        "\n".join([*lines, *kept, ""]) if not host.modern else "\n".join([*kept[:2], *lines, *kept[2:], ""])
    )
    assert host.findings() == []


@pytest.mark.shared
def test_a_default_certificate_where_the_look_does_not_reach_is_asked_for(host: Host) -> None:
    file = host.server.config_file
    lines = file.read_text().splitlines()
    own = [line for line in lines if line.startswith(("ssl_cert", "ssl_key", "ssl_server"))]
    deep = host.server.config_directory / "deep"
    deep.mkdir()
    for number in range(DEPTH_LIMIT + 5):
        (deep / f"{number}.conf").write_text(f"!include {number + 1}.conf\n")
    (deep / f"{DEPTH_LIMIT + 5}.conf").write_text("\n".join([*own, ""]))
    file.write_text("\n".join([*(line for line in lines if line not in own), "!include deep/0.conf", ""]))
    assert host.only().code == "dovecot_include_unreadable"


@pytest.mark.shared
def test_a_default_certificate_that_is_gone(host: Host) -> None:
    host.server.default_file.unlink()
    finding = host.only()
    line = found_line(host, str(host.server.default_file))
    assert (finding.code, finding.where) == ("dovecot_file_missing", place(host.server.config_file, line))
    assert finding.what.startswith("the default certificate: ")
    assert host.refuses()


@pytest.mark.shared
def test_default_certificates_that_cannot_be_served(host: Host) -> None:
    good = host.server.default_file.read_bytes()
    key, _, rest = good.partition(b"-----BEGIN CERTIFICATE")
    chain = b"-----BEGIN CERTIFICATE" + rest
    other, _ = host.pair()
    foreign_key = other.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    leaf, issuer = (part + b"-----END CERTIFICATE-----\n" for part in chain.split(b"-----END CERTIFICATE-----\n")[:2])
    wrong = {"": "is empty", "garbage\n": "garbage"}
    faults = [*(text.encode() for text in wrong), foreign_key + chain, key + issuer + leaf, good[: len(good) // 2]]
    for content in faults:
        host.server.default_file.write_bytes(content)
        finding = host.only()
        assert (finding.code, finding.severity) == ("dovecot_certificate_unusable", Severity.ERROR), content[:20]
        assert "every client is cut off" in finding.why
    path, _ = host.pair(OTHER)
    host.write("99-mailsni.conf", host.block(OTHER, path))
    host.server.default_file.write_bytes(foreign_key + chain)
    with host.server:
        assert [host.served(name) for name in (OTHER, UNKNOWN)] == [ABORTED, ABORTED]


@pytest.mark.shared
def test_a_default_certificate_that_is_not_valid_now(host: Host) -> None:
    now = datetime.now(UTC)
    for code, begin, end in (
        ("dovecot_certificate_expired", now - timedelta(days=90), now - timedelta(days=1)),
        ("dovecot_certificate_not_yet_valid", now + timedelta(days=1), now + timedelta(days=90)),
    ):
        host.server.set_default(host.authority.issue(["default.test"], not_before=begin, not_after=end))
        assert host.only().code == code


@pytest.mark.shared
def test_a_leaf_without_its_intermediates(host: Host) -> None:
    issued = host.authority.issue([NAME])
    live = host.server.directory / "live"
    live.mkdir()
    for name, content in (("cert", issued.leaf_pem), ("fullchain", issued.fullchain_pem), ("privkey", issued.key_pem)):
        (live / f"{name}.pem").write_bytes(content)
        (live / f"{name}.pem").chmod(0o600)
    path = host.write("10-own.conf", host.block(NAME, live / "cert.pem", live / "privkey.pem"))
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_chain_incomplete", place(path, 2))
    silences(host, finding)


# ---------------------------------------------------------------------------------------------------------------------
# What other blocks name


def test_a_block_with_a_path_that_is_gone(host: Host) -> None:
    path = host.write("10-own.conf", "# mine\n" + host.block(NAME, "/nonexistent/a.pem"))
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_file_missing", place(path, 3))
    assert NAME in finding.what
    assert "/nonexistent/a.pem does not exist" in finding.what
    assert host.refuses()
    mends(host, finding)


@pytest.mark.shared
def test_a_reload_that_keeps_the_bomb_quiet(host: Host) -> None:
    with host.server:
        host.write("10-own.conf", host.block(NAME, "/nonexistent/a.pem"))
        host.server.reload()  # exits 0
        assert host.served(UNKNOWN) == host.default.fingerprint
        assert host.only().code == "dovecot_file_missing"


@pytest.mark.shared
def test_blocks_with_files_that_cannot_be_served(host: Host) -> None:
    good, _ = host.pair(NAME)
    other, _ = host.pair(OTHER)
    empty, garbage = host.server.directory / "empty.pem", host.server.directory / "garbage.pem"
    empty.write_bytes(b"")
    garbage.write_bytes(b"-----BEGIN garbage\n\xff")
    for path in (empty, garbage):
        path.chmod(0o600)
    finding = None
    for certificate, key in ((empty, good), (good, garbage), (good, other)):
        file = host.write("10-own.conf", host.block(NAME, certificate, key))
        finding = host.only()
        assert (finding.code, finding.where) == ("dovecot_certificate_unusable", place(file, 2))
    assert finding is not None
    with host.server:
        assert [host.served(name) for name in (NAME, UNKNOWN)] == [ABORTED, host.default.fingerprint]
        assert f"clients that ask for {NAME} are cut off" in finding.why
        mends(host, finding)
        assert host.served(NAME) == host.default.fingerprint


@pytest.mark.shared
def test_blocks_with_things_that_are_no_files(host: Host) -> None:
    link = host.server.directory / "link.pem"
    link.symlink_to("nowhere")
    for path, why in (("/etc", "is a directory"), (link, "is a link to nothing")):
        file = host.write("10-own.conf", host.block(NAME, path))
        finding = host.only()
        assert (finding.code, finding.where) == ("dovecot_file_missing", place(file, 2))
        assert why in finding.what
        assert host.refuses()
        host.mend(finding)
        assert host.findings() == []


@pytest.mark.shared
def test_the_certificate_of_a_block_is_of_another_name_or_expired(host: Host) -> None:
    path, _ = host.pair(OTHER)
    host.write("10-own.conf", host.block(NAME, path))
    assert host.only().code == "dovecot_certificate_name_mismatch"
    path, _ = host.pair(WILDCARD, end=datetime.now(UTC) - timedelta(days=2))
    host.write("10-own.conf", host.block(NAME, path))
    finding = host.only()
    assert finding.code == "dovecot_certificate_expired"
    silences(host, finding)


@pytest.mark.shared
def test_a_key_that_others_can_read(host: Host) -> None:
    path, fingerprint = host.pair(mode=0o644)
    file = host.write("10-own.conf", host.block(NAME, path))
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_key_exposed", place(file, 3))
    mends(host, finding)
    assert host.served(NAME) == fingerprint
    # Where nobody can get to it, its mode does not matter.
    closed = host.server.directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "key.pem").write_bytes(path.read_bytes())
    (closed / "key.pem").chmod(0o644)
    host.write("10-own.conf", host.block(NAME, closed / "key.pem"))
    assert host.findings() == []


@pytest.mark.shared
def test_a_file_of_certbots_archive(host: Host) -> None:
    root = host.server.directory / "letsencrypt"
    path, fingerprint = host.pair()
    for directory, number in (("archive", "3"), ("live", "")):
        (root / directory / "one.test").mkdir(parents=True)
        for kind in ("fullchain", "privkey"):
            (root / directory / "one.test" / f"{kind}{number}.pem").write_bytes(path.read_bytes())
            (root / directory / "one.test" / f"{kind}{number}.pem").chmod(0o600)
    old = root / "archive/one.test"
    file = host.write("10-own.conf", host.block(NAME, old / "fullchain3.pem", old / "privkey3.pem"))
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_archive_path", place(file, 2))
    mends(host, finding)
    assert file.read_text() == host.block(
        NAME, root / "live/one.test/fullchain.pem", root / "live/one.test/privkey.pem"
    )
    assert host.served(NAME) == fingerprint


# ---------------------------------------------------------------------------------------------------------------------
# Syntax


def test_the_mark_before_a_path(host: Host) -> None:
    """``<`` forgotten on 2.3, where it is needed, and written on 2.4, where it is not."""
    path, fingerprint = host.pair()
    block = host.block(NAME, path)
    wrong = block.replace("= ", "= <") if host.modern else block.replace("= <", "= ")
    file = host.write("10-own.conf", wrong)
    found = host.findings()
    code = "dovecot_file_mark_unexpected" if host.modern else "dovecot_file_mark_missing"
    assert [(one.code, one.where) for one in found] == [(code, place(file, 2)), (code, place(file, 3))]
    if host.modern:
        assert host.refuses()
    else:
        with host.server:
            assert [host.served(name) for name in (NAME, UNKNOWN)] == [ABORTED, host.default.fingerprint]
    host.mend(found[0])
    mends(host, found[1])
    assert file.read_text() == block
    assert host.served(NAME) == fingerprint


def test_the_syntax_of_the_other_release(host: Host) -> None:
    path, fingerprint = host.pair()
    old = f"local_name {NAME} {{\n  ssl_cert = <{path}\n  ssl_key =< {path}\n}}\n"
    new = (
        f"dovecot_config_version = 2.4.0\nlocal_name {NAME} {{\n"
        f"  ssl_server_cert_file = {path}\n  ssl_server_key_file={path}\n}}\n"
    )
    file = host.write("10-own.conf", old if host.modern else new)
    found = host.findings()
    assert {one.code for one in found} == {"dovecot_wrong_release_syntax"}
    assert [one.where for one in found] == ([place(file, 2)] if host.modern else [place(file, 1), place(file, 3)])
    assert host.refuses()
    for one in found:
        host.mend(one)
    assert host.findings() == []
    with host.server:
        assert host.served(NAME) == fingerprint


def test_several_names_in_a_block(host: Host) -> None:
    path, fingerprint = host.pair(NAME, OTHER)
    file = host.write("10-own.conf", host.block(f'"{NAME} {OTHER}"', path))
    if not host.modern:
        assert host.findings() == []
        with host.server:
            assert {host.served(name) for name in (NAME, OTHER)} == {fingerprint}
        return
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_several_names", place(file, 1))
    assert host.refuses()
    file.write_text(host.block(NAME, path) + host.block(OTHER, path))
    assert host.findings() == []


@pytest.mark.shared
def test_a_block_within_protocol(host: Host) -> None:
    path, _ = host.pair()
    file = host.write("10-own.conf", "protocol imap {\n" + host.block(NAME, path) + "}\n")
    finding = host.only()
    assert (finding.code, finding.where) == ("dovecot_local_name_in_protocol", place(file, 2))
    assert host.refuses()
    file.write_text(
        f"local_name {NAME} {{\n  protocol imap {{\n"
        f"    {host.setting('cert', path)}\n    {host.setting('key', path)}\n  }}\n}}\n"
    )
    assert host.findings() == []


@pytest.mark.shared
def test_names_that_match_nothing(host: Host) -> None:
    path, fingerprint = host.pair(WILDCARD)
    file = host.write("10-own.conf", host.block(".one.test", path))
    with host.server:
        assert host.served(NAME) == host.default.fingerprint
        finding = host.only()
        assert (finding.code, finding.where) == ("dovecot_name_never_matches", place(file, 1))
        mends(host, finding)
        assert host.served(NAME) == fingerprint


@pytest.mark.shared
def test_what_dovecot_itself_refuses(host: Host) -> None:
    line = host.append("no_such_setting = yes\n")
    finding = host.only()
    assert (finding.code, finding.where) == (
        "dovecot_configuration_rejected",
        place(host.server.config_file, line),
    )
    assert "no_such_setting" in finding.what
    assert host.refuses()


@pytest.mark.shared
def test_a_file_that_cannot_be_included(host: Host) -> None:
    line = host.append("!include /nonexistent/own.conf\n")
    found = {one.code: one for one in host.findings()}
    assert list(found) == ["dovecot_configuration_rejected"]
    assert found["dovecot_configuration_rejected"].where == place(host.server.config_file, line)
    assert host.refuses()


# ---------------------------------------------------------------------------------------------------------------------
# Which block is taken


@pytest.mark.parametrize("first", ["10", "zz"])
@pytest.mark.parametrize("pattern", [NAME, WILDCARD])
def test_a_block_elsewhere_for_a_name_of_ours(host: Host, pattern: str, first: str) -> None:
    """Who wins is said as the real Dovecot serves it."""
    ours, fingerprint = host.pair(NAME)
    others, foreign = host.pair(WILDCARD)
    host.include.write_text(host.block(NAME, ours))
    file = host.write(f"{first}-own.conf", host.block(pattern, others))
    with host.server:
        now = host.served(NAME)
        assert now in (fingerprint, foreign)
        found = host.findings()
        if pattern == WILDCARD and now == fingerprint:
            assert found == []  # a wildcard that leaves exact names alone
            return
        (finding,) = found
        assert (finding.code, finding.where) == ("dovecot_foreign_block", place(file, 1))
        assert finding.severity is (Severity.ERROR if now == foreign else Severity.WARNING)
        assert ("Dovecot uses this one" in finding.what) is (now == foreign)
        if pattern == NAME:
            mends(host, finding)
            assert host.served(NAME) == fingerprint
        else:
            file.rename(file.with_name("99-zz.conf" if first == "10" else "00-own.conf"))
            host.server.reload()
            assert host.findings() == []
            assert host.served(NAME) == fingerprint


def test_blocks_elsewhere_that_repeat_each_other(host: Host) -> None:
    """Blocks of one name are one, at the place of the first, with the value of the last; so 2.4 takes the wildcard."""
    pairs = [host.pair(WILDCARD) for _ in range(3)]
    blocks = [host.block(name, path) for name, (path, _) in zip((NAME, WILDCARD, NAME), pairs, strict=True)]
    file = host.write("10-own.conf", "".join(blocks))
    found = host.findings()
    assert {one.code for one in found} == {"dovecot_duplicate_block"}
    with host.server:
        served = host.served(NAME)
        assert served == pairs[1 if host.modern else 2][1]
        if host.modern:
            assert [one.where for one in found] == [place(file, 1), place(file, 9)]
            assert f"Dovecot uses the one at {place(file, 5)}" in found[1].what
        else:
            assert [one.where for one in found] == [place(file, 1)]
            assert f"Dovecot uses the one at {place(file, 9)}" in found[0].what


# ---------------------------------------------------------------------------------------------------------------------
# The include, the order, what else lies there


@pytest.mark.shared
def test_an_include_that_is_not_read(host: Host) -> None:
    path, fingerprint = host.pair()
    file = host.server.config_file
    file.write_text(file.read_text().replace("!include_try conf.d/*.conf", ""))
    assert (host.only().code, host.only().severity) == ("dovecot_include_not_configured", Severity.WARNING)
    host.include.write_text(host.block(NAME, path))
    finding = host.only()
    assert (finding.code, finding.severity, finding.where) == (
        "dovecot_include_not_configured",
        Severity.ERROR,
        str(file),
    )
    mends(host, finding)
    assert host.served(NAME) == fingerprint


def test_settings_for_all_after_the_blocks(host: Host) -> None:
    path, fingerprint = host.pair()
    host.include.write_text(host.block(NAME, path))
    default = host.server.default_file
    file = host.write("99-zz.conf", f"{host.setting('cert', default)}\n{host.setting('key', default)}\n")
    found = host.findings()
    said = run([find_tool("doveconf") or "", "-c", host.server.config_file, "-n"]).stderr
    # 2.4 serves the same and says nothing.
    assert ("won't change the setting" in said) is not host.modern
    codes = [] if host.modern else ["dovecot_global_setting_after_blocks"] * 2
    assert [one.code for one in found] == codes
    assert [one.where for one in found] == [place(file, 1), place(file, 2)][: len(codes)]
    with host.server:
        assert host.served(NAME) == fingerprint


@pytest.mark.shared
def test_what_other_programs_left_behind(host: Host) -> None:
    path, _ = host.pair()
    (host.server.include_directory / "domains").mkdir()
    files = [
        host.write(name, host.block(f"mail.{at}.test", path)) for at, name in enumerate(("sni.conf", "domains/a.conf"))
    ]
    host.append("!include_try conf.d/domains/*.conf\n")
    found = [one for one in host.findings() if one.code != "dovecot_certificate_name_mismatch"]
    assert {(one.code, one.severity, one.where) for one in found} == {
        ("dovecot_leftover_blocks", Severity.NOTE, str(file)) for file in files
    }


@pytest.mark.shared
def test_without_root_it_says_what_it_could_not_see(host: Host) -> None:
    path, _ = host.pair(OTHER)
    file = host.write("10-own.conf", host.block(NAME, path) + host.block(".x.test", path))
    os.seteuid(NOBODY)
    try:
        found = host.findings()
    finally:
        os.seteuid(0)
    assert [(one.code, one.where) for one in found] == [
        ("dovecot_name_never_matches", place(file, 5)),
        ("dovecot_certificates_not_checked", place(host.server.config_file, found_line(host, "default.pem"))),
    ]


@pytest.mark.shared
def test_hostile_files_beside_the_configuration(host: Host) -> None:
    """A FIFO is not opened and not shown to doveconf, a loop is left: the look ends, and says what it did not see."""
    os.mkfifo(host.server.include_directory / "10-pipe.conf")
    host.write("20-loop.conf", "!include_try ../dovecot.conf\n")
    evil = host.server.include_directory / "30-evil\n\x1b[31m.conf"
    evil.write_bytes(b"\xff\xfe = \0{\n}}}}\nlocal_name .\x1b[31m {\nssl_cert = </\xff\n")
    codes = [one.code for one in host.findings()]
    assert codes.count("dovecot_include_unreadable") == 2
    assert "dovecot_name_never_matches" in codes


# ---------------------------------------------------------------------------------------------------------------------
# Thousands of blocks


def many(host: Host, blocks: int, path: Path) -> str:
    return "".join(host.block(f"n{number}.test", path) for number in range(blocks))


def greets_within_its_memory(server: PrivateDovecot) -> bool:
    """Whether it greets, or its config process says that it is out of memory. It is started if it does not run."""
    if not server.running():
        command = [str(find_tool("dovecot")), "-c", str(server.config_file)]
        silent = subprocess.DEVNULL
        subprocess.run(command, env=environment(), stdin=silent, stdout=silent, stderr=silent, check=True)
    before = len(server.log.read_bytes())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, server.endpoints["imap"]), 20) as client:
            if client.recv(1):
                return True
        if b"Out of memory" in server.log.read_bytes()[before:]:
            return False
    raise AssertionError("it neither greets nor fails")


def test_blocks_that_the_config_process_cannot_hold(host: Host) -> None:
    path, fingerprint = host.pair(*(f"n{number}.test" for number in (0, 199)))
    line = host.append("service config {\n  vsz_limit = 32M\n}\n") + 1
    file = host.write("50-many.conf", many(host, 200, path))
    found = [one for one in host.findings() if one.code != "dovecot_certificate_name_mismatch"]
    assert greets_within_its_memory(host.server) is host.modern
    if host.modern:
        assert found == []
        return
    (finding,) = found
    assert (finding.code, finding.severity) == ("dovecot_too_many_blocks", Severity.ERROR)
    assert finding.where == place(host.server.config_file, line)
    host.mend(finding)
    assert [one.code for one in host.findings() if one.code != "dovecot_certificate_name_mismatch"] == []
    assert greets_within_its_memory(host.server)
    assert host.served("n199.test") == fingerprint
    # What is near the limit is a warning, what is far from it is nothing.
    host.server.config_file.write_text(host.server.config_file.read_text().replace("256M", "32M"))
    for blocks, expected in ((150, ["dovecot_too_many_blocks"]), (100, [])):
        file.write_text(many(host, blocks, path))
        near = [one for one in host.findings() if one.code != "dovecot_certificate_name_mismatch"]
        assert [one.code for one in near] == expected
        assert all(one.severity is Severity.WARNING for one in near)


@pytest.mark.shared
def test_a_fault_in_each_of_many_blocks_is_told_so_often_and_no_more(host: Host) -> None:
    path = host.server.directory / "gone.pem"
    host.write("50-many.conf", many(host, SAME_CODE_LIMIT + 30, path))
    found = host.findings()
    assert len(found) == SAME_CODE_LIMIT + 1
    assert {one.code for one in found} == {"dovecot_file_missing"}
    assert found[-1].what.startswith("30 more of this kind")


# ---------------------------------------------------------------------------------------------------------------------
# Dovecot as Debian has it, and an upgrade of it


@pytest.mark.real_host
def test_debians_own_configuration_gives_nothing(host: Host) -> None:
    """The one that the package makes, with its snake-oil certificate; a copy, in which the paths stay."""
    copy = host.server.directory / "debian"
    shutil.copytree("/etc/dovecot", copy)
    dovecot = replace(host.settings.dovecot, config_file=copy / "dovecot.conf", include_file=copy / "conf.d/99-m.conf")
    assert (copy / "conf.d/10-ssl.conf").exists()
    assert list(findings(facts_of(replace(host.settings, dovecot=dovecot)))) == []


def test_our_include_after_an_upgrade_of_dovecot(host: Host) -> None:
    """It is still in the syntax of the release before; that is one finding, whatever the number of blocks."""
    path, _ = host.pair()
    old = f'local_name "{NAME} {OTHER}" {{\n  ssl_cert = <{path}\n  ssl_key = <{path}\n}}\n'
    new = f"local_name {NAME} {{\n  ssl_server_cert_file = {path}\n  ssl_server_key_file = {path}\n}}\n"
    host.include.write_text((old if host.modern else new) * 2)
    found = host.findings()
    places = {"dovecot_wrong_release_syntax": place(host.include, 2)}
    places |= {"dovecot_several_names": place(host.include, 1)} if host.modern else {}
    assert {one.code: one.where for one in found} == places
    assert len(found) == len(places)
    assert {one.fix for one in found} == {Fix("mailsni apply")}
    assert host.refuses()


def test_a_complaint_that_comes_after_warnings(host: Host) -> None:
    path, _ = host.pair()
    host.write("10-own.conf", host.block(NAME, path))
    line = host.append(f"{host.setting('cert', host.server.default_file)}\nno_such_setting = yes\n") + 1
    (finding,) = [one for one in host.findings() if one.code == "dovecot_configuration_rejected"]
    assert finding.where == place(host.server.config_file, line)
    assert "no_such_setting" in finding.what


@pytest.mark.shared
def test_a_configuration_that_is_not_there(host: Host) -> None:
    host.server.config_file.unlink()
    assert [one.code for one in host.findings()] == ["dovecot_configuration_rejected", "dovecot_include_unreadable"]
