"""What `mailsni doctor` finds in Dovecot's configuration: each fault is planted in a real one, named, and mended.

What a finding says of Dovecot ("does not start", "that block is taken") is shown with the real one, too. Faults that
need no more than that are tables in tests/data/doctor/dovecot.toml.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config.parser import load
from mailsni.config.settings import DovecotSettings, Settings
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.checks.dovecot import findings
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.runner import SAME_CODE_LIMIT, in_order
from mailsni.errors import HostError
from mailsni.host.commands import find_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.targets.dovecot.parser import DEPTH_LIMIT
from mailsni.targets.dovecot.target import find
from tests.support.authority import Authority
from tests.support.doctor_host import NOT_RUNNING, Fault, load_faults, run_at_terminal, run_script
from tests.support.mail_host import ABORTED, MailHost, require, served
from tests.support.servers import PrivateDovecot

NAME, OTHER, UNKNOWN = "mail.one.test", "mail.two.test", "nobody.test"
WILDCARD = "*.one.test"
NOBODY = 65534


def facts_of(settings: Settings) -> Facts:
    """Dovecot as it is found on this host, and nothing else."""
    return Facts(HostFacts(settings, datetime.now(UTC), dovecot=find(settings.dovecot)))


@dataclass
class Host:
    """A private Dovecot that does not run yet, and a configuration of mailsni that knows it.

    Attributes:
        certificates: by the names of the variables that hold the paths of their files, key first.
    """

    server: PrivateDovecot
    settings: Settings
    modern: bool
    certificates: Mapping[str, Issued]

    @property
    def own(self) -> Path:
        """A file of conf.d that the administrator wrote."""
        return self.server.include_directory / "10-own.conf"

    @property
    def include(self) -> Path:
        """The file that mailsni writes."""
        return self.settings.dovecot.include_file

    def variables(self) -> dict[str, str]:
        """What the scripts and the expected texts of faults may name."""
        paths = {
            "CONF": self.server.config_file,
            "CONF_D": self.server.include_directory,
            "OWN": self.own,
            "INCLUDE": self.include,
            "DIRECTORY": self.server.directory,
            **{name: self.server.directory / f"{name.lower()}.pem" for name in self.certificates},
        }
        syntax = (
            ("ssl_server_cert_file = ", "ssl_server_key_file = ") if self.modern else ("ssl_cert = <", "ssl_key = <")
        )
        return {**{name: str(path) for name, path in paths.items()}, **dict(zip(("CERT", "KEY"), syntax, strict=True))}

    def shell(self, script: str, **variables: str) -> None:
        """Run a script. What ends in a reload of Dovecot fails while it does not run."""
        code, output = run_script(script, {**self.variables(), **variables})
        assert code == 0 or not self.server.running(), f"{script}: {output}"

    def run_fix(self, command: str) -> None:
        """Run the command of a fix. Only a reload of Dovecot may fail, while it does not run."""
        code, output = run_at_terminal(command, {})
        assert code == 0 or (NOT_RUNNING in output and not self.server.running()), f"{command}: {output}"

    def findings(self) -> list[Finding]:
        """What the doctor finds. Nothing of a key may be in it, whatever is wrong."""
        found = list(in_order(findings(facts_of(self.settings))))
        assert not any("-----BEGIN" in repr(one) or "PRIVATE" in repr(one) for one in found)
        assert all(text.isprintable() for one in found for text in (one.what, one.where, one.why))
        fixes = [part for one in found for part in (one.fix.command, one.fix.edit, one.fix.note) if part is not None]
        assert all(part.isprintable() for part in fixes)
        return found

    def find(self, *, with_dovecot: bool = True) -> dict[str, Finding]:
        """What the doctor finds in Dovecot's configuration, by its code, each once."""
        assert with_dovecot
        found = self.findings()
        assert len({one.code for one in found}) == len(found), found
        return {one.code: one for one in found}

    def served(self, name: str | None) -> str:
        """The variable of the certificate that a client of IMAPS gets."""
        fingerprint = served(self.server.endpoints["imaps"], name, "imaps")
        variables = {issued.fingerprint: variable for variable, issued in self.certificates.items()}
        return variables.get(fingerprint, "ABORTED" if fingerprint == ABORTED else fingerprint)

    def behaves(self, expected: str) -> bool:
        """Whether a client of :data:`NAME` gets this certificate, or Dovecot really does not start."""
        try:
            with self.server:
                return self.served(NAME) == expected
        except HostError as error:
            return expected == "no start" and "exited 89" in error.message

    def mend(self, finding: Finding) -> None:
        """Run the command of a finding; its reload fails while another finding keeps Dovecot from starting."""
        assert finding.fix.command is not None
        self.shell('sh -c "$RUN"', RUN=finding.fix.command)


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> Mapping[str, Issued]:
    """By variables of the shell; made once, because to make them takes longer than to check them."""
    now, day = datetime.now(UTC), timedelta(days=1)
    return {
        "ONE": authority.issue([NAME]),
        "TWO": authority.issue([OTHER]),
        "BOTH": authority.issue([NAME, OTHER]),
        "MANY": authority.issue([f"n{number}.test" for number in range(200)]),
        **{variable: authority.issue([WILDCARD]) for variable in ("WILDCARD", "WILDCARD2", "WILDCARD3")},
        "EXPIRED": authority.issue([WILDCARD], not_before=now - 92 * day, not_after=now - 2 * day),
        "DUE": authority.issue([WILDCARD], not_before=now - 87 * day, not_after=now + 3.1 * day),
        "FUTURE": authority.issue([WILDCARD], not_before=now + day, not_after=now + 90 * day),
    }


@pytest.fixture
def host(shared_tmp: Path, certificates: Mapping[str, Issued], default: Issued) -> Iterator[Host]:
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
    host = Host(server, settings, server.version == "2.4", {**certificates, "DEFAULT": default})
    for variable, issued in certificates.items():
        path = Path(host.variables()[variable])
        path.touch(mode=0o600)
        path.write_bytes(issued.key_pem + issued.fullchain_pem)
    yield host
    server.stop()


def place(path: Path, line: int | str) -> str:
    """A place in a file; its line is given by its number, or by a text in it."""
    if isinstance(line, str):
        line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if line in text)
    return f"{path}:{line}"


def test_a_healthy_dovecot_after_apply_gives_nothing(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test", "imap.a.test")
    mail_host.issue("*.b.test", "b.test")
    mail_host.configure(names={"include": ["*"]})
    mail_host.apply()
    assert len(mail_host.include_file.read_text().splitlines()) > 10
    assert list(findings(facts_of(load(mail_host.config, required=True)))) == []


def test_no_dovecot_gives_nothing() -> None:
    assert list(findings(facts_of(Settings(dovecot=DovecotSettings(enabled=False))))) == []


@pytest.mark.shared
@pytest.mark.parametrize("fault", load_faults("dovecot"))
def test_a_fault_in_dovecot_is_named_and_its_fix_mends_it(host: Host, fault: Fault) -> None:
    if fault.only and fault.only != host.server.version:
        pytest.skip(f"Dovecot {host.server.version} does not have it")
    finding = fault.plant_on(host)
    assert not fault.before or host.behaves(fault.before)
    fault.mend_on(host, finding)
    assert not fault.after or host.behaves(fault.after)


# ---------------------------------------------------------------------------------------------------------------------
# Certificates


@pytest.mark.shared
def test_a_default_certificate_in_a_file_that_cannot_be_read_is_not_called_missing(host: Host) -> None:
    for number in range(DEPTH_LIMIT + 5):
        (host.server.config_directory / f"{number}.deep").write_text(f"!include {number + 1}.deep\n")
    host.shell(
        f"""
        grep '^ssl_.*default.pem' "$CONF" >"${{CONF%/*}}/{DEPTH_LIMIT + 5}.deep"
        sed -i '/^ssl_.*default.pem/d' "$CONF"
        echo '!include 0.deep' >>"$CONF"
        """
    )
    assert list(host.find()) == ["dovecot_include_unreadable"]


@pytest.mark.shared
def test_a_missing_file_is_found_though_a_reload_is_silent_about_it(host: Host) -> None:
    with host.server:
        host.shell('block mail.one.test /nonexistent/a.pem >"$OWN"')
        host.server.reload()  # exits 0
        assert host.served(UNKNOWN) == "DEFAULT"
        assert list(host.find()) == ["dovecot_file_missing"]


@pytest.mark.shared
def test_the_mode_of_a_key_that_nobody_can_reach_does_not_matter(host: Host) -> None:
    host.shell(
        'mkdir -m 700 "$DIRECTORY/closed"; cp "$ONE" "$DIRECTORY/closed/"; chmod 644 "$DIRECTORY/closed/one.pem"'
    )
    host.shell('block mail.one.test "$DIRECTORY/closed/one.pem" >"$OWN"')
    assert host.find() == {}


# ---------------------------------------------------------------------------------------------------------------------
# Syntax


def test_the_mark_before_a_path_must_be_that_of_the_release(host: Host) -> None:
    """``<`` forgotten on 2.3, where it is needed, and written on 2.4, where it is not."""
    host.shell('block mail.one.test "$ONE" >"$OWN"')
    block = host.own.read_text()
    host.own.write_text(block.replace("= ", "= <") if host.modern else block.replace("= <", "= "))
    found = host.findings()
    code = "dovecot_file_mark_unexpected" if host.modern else "dovecot_file_mark_missing"
    assert [(one.code, one.where) for one in found] == [(code, place(host.own, 2)), (code, place(host.own, 3))]
    assert host.behaves("no start" if host.modern else "ABORTED")
    for one in found:
        host.mend(one)
    assert host.own.read_text() == block
    assert host.findings() == []
    assert host.behaves("ONE")


def test_the_syntax_of_the_other_release_is_found_and_rewritten(host: Host) -> None:
    path = host.variables()["ONE"]
    old = f"local_name {NAME} {{\n  ssl_cert = <{path}\n  ssl_key =< {path}\n}}\n"
    new = (
        f"dovecot_config_version = 2.4.0\nlocal_name {NAME} {{\n"
        f"  ssl_server_cert_file = {path}\n  ssl_server_key_file={path}\n}}\n"
    )
    host.own.write_text(old if host.modern else new)
    found = host.findings()
    assert {one.code for one in found} == {"dovecot_wrong_release_syntax"}
    assert [one.where for one in found] == [place(host.own, line) for line in ([2] if host.modern else [1, 3])]
    assert host.behaves("no start")
    for one in found:
        host.mend(one)
    assert host.findings() == []
    assert host.behaves("ONE")


def test_several_names_in_a_block_are_a_fault_where_dovecot_refuses_them(host: Host) -> None:
    host.shell("""block '"mail.one.test mail.two.test"' "$BOTH" >"$OWN" """)
    if not host.modern:
        assert host.findings() == []
        with host.server:
            assert {host.served(name) for name in (NAME, OTHER)} == {"BOTH"}
        return
    assert {code: one.where for code, one in host.find().items()} == {"dovecot_several_names": place(host.own, 1)}
    assert host.behaves("no start")
    host.shell('{ block mail.one.test "$BOTH"; block mail.two.test "$BOTH"; } >"$OWN"')
    assert host.findings() == []


# ---------------------------------------------------------------------------------------------------------------------
# Which block is taken


@pytest.mark.parametrize("first", ["10", "zz"])
@pytest.mark.parametrize("pattern", [NAME, WILDCARD])
def test_a_block_elsewhere_for_a_name_of_ours_is_found_and_the_winner_named(
    host: Host, pattern: str, first: str
) -> None:
    """The winner is the one that the real Dovecot serves."""
    file = host.own.with_name(f"{first}-own.conf")
    host.shell(
        'block mail.one.test "$ONE" >"$INCLUDE"; block "$PATTERN" "$WILDCARD" >"$FILE"', PATTERN=pattern, FILE=str(file)
    )
    with host.server:
        now = host.served(NAME)
        assert now in ("ONE", "WILDCARD")
        found = host.findings()
        if pattern == WILDCARD and now == "ONE":
            assert found == []  # a wildcard that leaves exact names alone
            return
        (finding,) = found
        assert (finding.code, finding.where) == ("dovecot_foreign_block", place(file, 1))
        assert finding.severity is (Severity.ERROR if now == "WILDCARD" else Severity.WARNING)
        assert ("Dovecot uses this one" in finding.what) is (now == "WILDCARD")
        if pattern == NAME:
            host.mend(finding)
        else:
            file.rename(file.with_name("99-zz.conf" if first == "10" else "00-own.conf"))
            host.server.reload()
        assert host.findings() == []
        assert host.served(NAME) == "ONE"


def test_blocks_elsewhere_that_repeat_each_other_are_found_and_the_winner_named(host: Host) -> None:
    """Blocks of one name are one, at the place of the first, with the value of the last; so 2.4 takes the wildcard."""
    host.shell(
        """
        block mail.one.test "$WILDCARD" >"$OWN"
        block '*.one.test' "$WILDCARD2" >>"$OWN"
        block mail.one.test "$WILDCARD3" >>"$OWN"
        """
    )
    found = host.findings()
    assert {one.code for one in found} == {"dovecot_duplicate_block"}
    assert host.behaves("WILDCARD2" if host.modern else "WILDCARD3")
    assert [one.where for one in found] == [place(host.own, line) for line in ([1, 9] if host.modern else [1])]
    assert f"Dovecot uses the one at {place(host.own, 5 if host.modern else 9)}" in found[-1].what


# ---------------------------------------------------------------------------------------------------------------------
# The order, what else lies there


def test_settings_for_all_after_the_blocks_are_found_where_dovecot_warns_of_them(host: Host) -> None:
    file = host.include.with_name("99-zz.conf")
    host.shell(
        'block mail.one.test "$ONE" >"$INCLUDE"; printf "%s\\n" "$CERT$DEFAULT" "$KEY$DEFAULT" >"$FILE"', FILE=str(file)
    )
    found = host.findings()
    said = run([find_tool("doveconf") or "", "-c", host.server.config_file, "-n"]).stderr
    # 2.4 serves the same and says nothing.
    assert ("won't change the setting" in said) is not host.modern
    expected = [("dovecot_global_setting_after_blocks", place(file, line)) for line in (1, 2)]
    assert [(one.code, one.where) for one in found] == ([] if host.modern else expected)
    assert host.behaves("ONE")


@pytest.mark.shared
def test_what_other_programs_left_behind_is_noted(host: Host) -> None:
    host.shell(
        """
        mkdir "$CONF_D/domains"
        block n0.test "$MANY" >"$CONF_D/sni.conf"
        block n1.test "$MANY" >"$CONF_D/domains/a.conf"
        echo '!include_try conf.d/domains/*.conf' >>"$CONF"
        """
    )
    directory = host.server.include_directory
    assert {(one.code, one.severity, one.where) for one in host.findings()} == {
        ("dovecot_leftover_blocks", Severity.NOTE, str(directory / file)) for file in ("sni.conf", "domains/a.conf")
    }


@pytest.mark.shared
def test_without_root_it_says_what_it_could_not_see(host: Host) -> None:
    host.shell('{ block mail.one.test "$TWO"; block .x.test "$TWO"; } >"$OWN"')
    os.seteuid(NOBODY)
    try:
        found = host.findings()
    finally:
        os.seteuid(0)
    assert [(one.code, one.where) for one in found] == [
        ("dovecot_name_never_matches", place(host.own, 5)),
        ("dovecot_certificates_not_checked", place(host.server.config_file, "default.pem")),
    ]


@pytest.mark.shared
def test_hostile_files_beside_the_configuration(host: Host) -> None:
    """A FIFO is not opened and not shown to doveconf, a loop is left: the look ends, and says what it did not see."""
    os.mkfifo(host.server.include_directory / "10-pipe.conf")
    (host.server.include_directory / "20-loop.conf").write_text("!include_try ../dovecot.conf\n")
    evil = host.server.include_directory / "30-evil\n\x1b[31m.conf"
    evil.write_bytes(b"\xff\xfe = \0{\n}}}}\nlocal_name .\x1b[31m {\nssl_cert = </\xff\n")
    codes = [one.code for one in host.findings()]
    assert codes.count("dovecot_include_unreadable") == 2
    assert "dovecot_name_never_matches" in codes


# ---------------------------------------------------------------------------------------------------------------------
# Thousands of blocks


def write_blocks(host: Host, blocks: int, variable: str = "MANY") -> None:
    """So many blocks, for ``n0.test`` and so on, all with one certificate."""
    path = host.variables().get(variable, "/nonexistent/a.pem")
    host.shell(f'for n in $(seq 0 {blocks - 1}); do block "n$n.test" "$FILE"; done >"$OWN"', FILE=path)


def test_blocks_that_the_config_process_cannot_hold_are_found_before_it_fails(host: Host) -> None:
    host.shell('printf "service config {\\n  vsz_limit = 32M\\n}\\n" >>"$CONF"')
    write_blocks(host, 200)
    found = host.find()
    assert host.server.greets_within_its_memory() is host.modern
    if host.modern:
        assert found == {}
        return
    finding = found.pop("dovecot_too_many_blocks")
    assert found == {}
    assert (finding.severity, finding.where) == (Severity.ERROR, place(host.server.config_file, "vsz_limit"))
    host.mend(finding)
    assert host.find() == {}
    assert host.server.greets_within_its_memory()
    assert host.served("n199.test") == "MANY"
    # What is near the limit is a warning, what is far from it is nothing.
    host.shell('sed -i "s/256M/32M/" "$CONF"')
    for blocks, expected in ((150, {"dovecot_too_many_blocks": Severity.WARNING}), (100, {})):
        write_blocks(host, blocks)
        assert {code: one.severity for code, one in host.find().items()} == expected


@pytest.mark.shared
def test_a_fault_in_each_of_many_blocks_is_told_so_often_and_no_more(host: Host) -> None:
    write_blocks(host, SAME_CODE_LIMIT + 30, "no certificate")
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


def test_our_include_must_be_applied_again_after_an_upgrade_of_dovecot(host: Host) -> None:
    """It is still in the syntax of the release before; that is one finding, whatever the number of blocks."""
    path = host.variables()["ONE"]
    old = f'local_name "{NAME} {OTHER}" {{\n  ssl_cert = <{path}\n  ssl_key = <{path}\n}}\n'
    new = f"local_name {NAME} {{\n  ssl_server_cert_file = {path}\n  ssl_server_key_file = {path}\n}}\n"
    host.include.write_text((old if host.modern else new) * 2)
    found = host.findings()
    places = {"dovecot_wrong_release_syntax": place(host.include, 2)}
    places |= {"dovecot_several_names": place(host.include, 1)} if host.modern else {}
    assert {one.code: one.where for one in found} == places
    assert len(found) == len(places)
    assert {one.fix for one in found} == {Fix("mailsni apply")}
    assert host.behaves("no start")


def test_a_complaint_of_dovecot_is_found_after_its_warnings(host: Host) -> None:
    host.shell(
        """
        block mail.one.test "$ONE" >"$OWN"
        printf '%s\\n' "$CERT$DEFAULT" 'no_such_setting = yes' >>"$CONF"
        """
    )
    (finding,) = host.findings()
    assert finding.code == "dovecot_configuration_rejected"
    assert finding.where == place(host.server.config_file, "no_such_setting")
    assert "no_such_setting" in finding.what


@pytest.mark.shared
def test_a_configuration_that_is_not_there_is_found(host: Host) -> None:
    host.server.config_file.unlink()
    assert [one.code for one in host.findings()] == ["dovecot_configuration_rejected"]
