"""The parts of `mailsni doctor` that need no server; tests/e2e/test_doctor_faults.py plants faults on real ones."""

from __future__ import annotations

import ast
import base64
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.core.model import Reason
from mailsni.core.x509 import ChainDescription, InvalidPair, describe
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor import helpers
from mailsni.doctor.checks import hooks, schedule, scripts, stores
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding, kinds
from mailsni.doctor.runner import examine
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files, permissions
from mailsni.output import documents, text
from mailsni.runs import history
from mailsni.runs.history import Run
from mailsni.sources.kinds import SourceSettings
from mailsni.targets.postfix import lines, map_source
from mailsni.targets.postfix.map_source import Mistake
from mailsni.targets.postfix.map_types import TableReference
from mailsni.targets.postfix.postconf import Configuration, Override, Service
from tests.support.builders import NOW, authority, without_servers
from tests.support.lineages import CertbotDirectory

MAIN_CF = """\
# smtpd_tls_chain_files = /not/this
smtpd_tls_chain_files = /first
tls_server_sni_maps =
  hash:/etc/postfix/one

# between
  lmdb:/etc/postfix/two
smtpd_tls_chain_files=/second
"""
MASTER_CF = """\
smtp      inet  n - y - - smtpd
submission inet n - y - - smtpd
  -o syslog_name=postfix/submission
  -o { smtpd_tls_chain_files = /a, /b }
  -o tls_server_sni_maps=hash:/x
"""


def configuration(*overrides: Override, values: dict[str, str] | None = None) -> Configuration:
    services = (Service("smtp", "inet", "smtpd"), Service("submission", "inet", "smtpd"))
    main, master = (tuple(lines.entries(one)) for one in (MAIN_CF, MASTER_CF))
    return Configuration(Path("/etc/postfix"), values or {}, services, overrides, frozenset(), (), main, master)


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parameter", "word", "line"),
    [
        ("smtpd_tls_chain_files", "", ":8"),
        ("tls_server_sni_maps", "", ":3"),
        ("tls_server_sni_maps", "lmdb:/etc/postfix/two", ":7"),
        ("tls_server_sni_maps", "cdb:/elsewhere", ":3"),
        ("smtpd_tls_cert_file", "", ""),
    ],
)
def test_a_parameter_of_main_cf_has_a_line_the_last_one_that_counts(parameter: str, word: str, line: str) -> None:
    assert configuration().where(parameter, word) == f"/etc/postfix/main.cf{line}"


@pytest.mark.parametrize(
    ("service", "parameter", "line"),
    [
        ("submission/inet", "smtpd_tls_chain_files", ":4"),
        ("submission/inet", "tls_server_sni_maps", ":5"),
        ("submission/inet", "", ":2"),
        ("smtp/inet", "tls_server_sni_maps", ":1"),
        ("smtp/unix", "", ""),
    ],
)
def test_an_option_of_a_service_has_a_line(service: str, parameter: str, line: str) -> None:
    assert configuration().where_service(service, parameter) == f"/etc/postfix/master.cf{line}"


def test_a_service_has_what_it_has_for_itself_and_else_what_main_cf_says() -> None:
    own = Override("submission/inet", "smtpd_tls_chain_files", "/a, /b")
    values = {"smtpd_tls_cert_file": "/cert", "smtpd_tls_security_level": "none"}
    found = configuration(own, Override("smtp/inet", "smtpd_tls_wrappermode", "yes"), values=values)
    smtp, submission = found.services
    assert found.certificate() == found.certificate(smtp) == ("smtpd_tls_cert_file", (Path("/cert"),))
    assert found.certificate(submission) == ("smtpd_tls_chain_files", (Path("/a"), Path("/b")))
    assert [found.offers_tls(one) for one in (None, smtp, submission)] == [False, True, False]


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ({"smtpd_tls_security_level": "may"}, True),
        ({"smtpd_tls_security_level": "none", "smtpd_use_tls": "yes"}, False),
        ({"smtpd_use_tls": "yes"}, True),
        ({"smtpd_enforce_tls": "yes"}, True),
        ({"smtpd_use_tls": "no"}, False),
        ({}, False),
    ],
)
def test_the_level_decides_and_the_older_switches_where_there_is_none(values: dict[str, str], *, offered: bool) -> None:
    assert configuration(values=values).offers_tls() is offered


def test_none_is_no_default_certificate() -> None:
    assert configuration(values={"smtpd_tls_cert_file": "none"}).certificate() == ("", ())


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", []),
        ("hash:/a, cdb:/b", ["hash:/a", "cdb:/b"]),
        ("hash:/a\tcdb:/b", ["hash:/a", "cdb:/b"]),
        ("inline:{ a=/x, b=/y } hash:/c", ["inline:{ a=/x, b=/y }", "hash:/c"]),
        ("inline:{ {a = /x, /y}, { b = /z } }, hash:/c", ["inline:{ {a = /x, /y}, { b = /z } }", "hash:/c"]),
        ("hash:/c,inline:{{a=/x}}\n cdb:/d", ["hash:/c", "inline:{{a=/x}}", "cdb:/d"]),
        (
            "pipemap:{hash:/a, inline:{ {a = /b} }},unionmap:{a:/b,c:/d}",
            ["pipemap:{hash:/a, inline:{ {a = /b} }}", "unionmap:{a:/b,c:/d}"],
        ),
        ("${a?{hash:/a, hash:/b}:{}} $b", ["${a?{hash:/a, hash:/b}:{}}", "$b"]),
        ('"hash:/a hash:/b"', ['"hash:/a', 'hash:/b"']),
        ("inline:{ {a = /x} , hash:/c", ["inline:{ {a = /x} , hash:/c"]),
        ("hash:/a} hash:/b", ["hash:/a}", "hash:/b"]),
    ],
)
def test_the_tables_in_a_value(value: str, found: Sequence[str]) -> None:
    assert lines.split_tables(value) == found


@pytest.mark.parametrize(
    ("written", "map_type", "source", "file"),
    [
        ("hash:/etc/postfix/sni", "hash", "/etc/postfix/sni", "/etc/postfix/sni.db"),
        ("proxy:lmdb:/x", "lmdb", "/x", "/x.lmdb"),
        ("texthash:/x", "texthash", "/x", "/x"),
        ("/x", "", "/x", None),
        ("inline:{a=/b}", "inline", None, None),
        ("inline:{ {a = hash:/b} }", "inline", None, None),
        ("${type?{hash}:{cdb}}:/x", "${type?{hash}:{cdb}}", "/x", None),
        ("pcre:/x", "pcre", "/x", None),
    ],
)
def test_a_table_from_how_it_is_written(written: str, map_type: str, source: str | None, file: str | None) -> None:
    table = TableReference.parse(written)
    assert (table.written, table.map_type, table.proxied) == (written, map_type, written.startswith("proxy:"))
    assert table.source == (source and Path(source))
    assert (table.map and table.map.file) == (file and Path(file))


def test_the_lines_of_a_source() -> None:
    source = "# comment\n\nMail.A.test /k,/c\n\nmail.b.test\n  /k2\n# within\n  /c2 , /i2\nalone\nodd \0x /y\n"
    found = [(one.number, one.key, [str(path) for path in one.files]) for one in map_source.source_lines(source)]
    assert found == [
        (3, "mail.a.test", ["/k", "/c"]),
        (5, "mail.b.test", ["/k2", "/c2", "/i2"]),
        (9, "alone", []),
        (10, "odd", ["/y"]),
    ]


@pytest.mark.parametrize(
    ("problem", "place"),
    [
        (HostError("x", path=Path("/etc/postfix/main.cf"), line=10), "/etc/postfix/main.cf:10"),
        (PermissionMissingError("x", path=Path("/x/y")), "/x/y"),
        (OSError(5, "Input/output error", "/y"), "/y"),
        (HostError("/x: line 7: not read"), None),
        (ValueError("/x: line 7"), None),
    ],
)
def test_the_place_that_an_error_carries(problem: Exception, place: str | None) -> None:
    assert helpers.place_of(problem) == place


# ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_can_be_wrong_with_a_stored_value() -> None:
    good = authority().issue(["mail.a.test"])
    pem = good.key_pem + good.fullchain_pem
    stored = {
        b"/etc/letsencrypt/live/x/privkey.pem /etc/letsencrypt/live/x/fullchain.pem": Mistake.NO_CONTENT,
        b"": Mistake.EMPTY,
        base64.b64encode(b"hello"): Mistake.NO_CONTENT,
        base64.b64encode(good.fullchain_pem + good.key_pem): Mistake.CERTIFICATE_FIRST,
        base64.b64encode(good.fullchain_pem): Mistake.KEY_MISSING,
        base64.b64encode(pem): None,
    }
    assert {value: map_source.stored_mistake(value) for value in stored} == stored


def test_what_a_chain_file_says_without_its_key() -> None:
    issued = authority().issue(["mail.a.test"])
    whole, alone = describe(issued.fullchain_pem), describe(issued.key_pem + issued.leaf_pem)
    assert isinstance(whole, ChainDescription)
    assert isinstance(alone, ChainDescription)
    assert (whole.leaf.names, whole.leaf.not_after) == (("mail.a.test",), issued.not_after)
    assert (whole.alone, alone.alone) == (False, True)
    own = describe(authority().issue(["mail.a.test"], self_signed=True, common_name="x").leaf_pem)
    assert isinstance(own, ChainDescription)
    assert (own.leaf.self_signed, own.alone) == (True, False)
    for public in (True, False):
        told = describe(authority().issue(["mail.a.test"], issuer_address=public).fullchain_pem)
        assert isinstance(told, ChainDescription)
        assert told.leaf.has_issuer_address is public
    for garbage in (
        b"",
        os.urandom(10_000),
        issued.leaf_pem[:-40],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        assert isinstance(describe(garbage), InvalidPair)


# ── reading what is somebody else's ──────────────────────────────────────────────────────────────────────────────────


def test_nothing_but_a_regular_file_is_read_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "good").symlink_to("file")
    for name in ("fifo", "link", "nothing", "file/below"):
        assert files.read_untrusted(tmp_path / name, 10) is None
    assert files.read_untrusted(tmp_path, 10) is None
    assert files.read_untrusted(tmp_path / "good", 5) == b"12345"
    with pytest.raises(HostError, match="more than 4 bytes"):
        files.read_untrusted(tmp_path / "file", 4)
    with pytest.raises(HostError, match="cannot be read"):
        files.read_untrusted(tmp_path / "loop", 4)


def test_who_can_read_a_file_is_a_matter_of_all_directories_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)
    open_above = all(above.stat().st_mode & 0o001 for above in tmp_path.parents) and tmp_path.stat().st_mode & 0o001
    assert permissions.world_readable(path) == ("mode 0644" if open_above else None)
    assert permissions.world_readable(tmp_path / "nothing") is None
    path.parent.chmod(0o700)
    assert permissions.world_readable(path) is None
    assert permissions.world_readable(Path("/etc/passwd")) == "mode 0644"


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("systemctl restart postfix", "postfix"),
        ("/bin/systemctl --quiet restart nginx dovecot postfix", "dovecot"),
        ("service dovecot restart", "dovecot"),
        ("/etc/init.d/postfix restart", "postfix"),
        ("postfix stop; postfix start", "postfix"),
        ("systemctl reload postfix dovecot", None),
        ("systemctl restart nginx; systemctl reload postfix", None),
        ("systemctl restart postfix-exporter-not", None),
        ("# systemctl restart postfix", None),
    ],
)
def test_a_restart_is_told_from_a_reload(line: str, server: str | None) -> None:
    found = scripts.Script.parse(Path("/x"), f"#!/bin/sh\n{line}\n").first(hooks.RESTART)
    assert (found and next((one for one in found[1].groups() if one), "postfix")) == server


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("certbot renew", True),
        ("/usr/bin/certbot -q renew", True),
        ("test -x /x && certbot renew", True),
        ("if true; then certbot delete --cert-name x; fi", True),
        ("sudo certbot certificates", True),
        ("echo certbot renewed $RENEWED_LINEAGE", False),
        ("logger -t certbot done", False),
        ("ls /etc/letsencrypt # certbot renew", False),
    ],
)
def test_a_call_of_certbot_is_told_from_its_name(line: str, *, calls: bool) -> None:
    assert (scripts.Script.parse(Path("/x"), line).first(hooks.CERTBOT) is not None) is calls


@pytest.mark.parametrize(
    ("names", "backups"),
    [
        (["x.bak", "x.sh.old", "x.BAK", "x.orig", "x.dpkg-old", "x.save", "x.bak2", "x~"], True),
        (["mailsni", "x.sh", "backup-keys", "10-reload", "bak.sh"], False),
    ],
)
def test_a_backup_is_known_by_its_name(names: Sequence[str], *, backups: bool) -> None:
    assert {hooks.BACKUP.fullmatch(name) is not None for name in names} == {backups}


# ── the examination ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_found_out_is_a_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path / "letsencrypt/live")
    found = {one.code: one for one in examine(settings, NOW, root=tmp_path)}
    assert set(found) == {"store_missing", "mailsni_not_scheduled"}
    assert found["store_missing"].where == str(tmp_path / "letsencrypt/live")
    (tmp_path / "letsencrypt/live").mkdir(parents=True)
    codes = [one.code for one in examine(settings, NOW, root=tmp_path)]
    assert codes == ["mailsni_not_scheduled", "no_server"]


def test_a_store_that_nobody_configured_is_a_finding_where_it_has_another_mail_name(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path / "letsencrypt/live")
    certbot = CertbotDirectory(tmp_path / "letsencrypt")
    certbot.put("a", authority().issue(["mail.a.test"]))
    (tmp_path / "opt/x/letsencrypt").mkdir(parents=True)
    other = CertbotDirectory(tmp_path / "opt/x/letsencrypt")

    def findings() -> list[Finding]:
        return [one for one in examine(settings, datetime.now(UTC), root=tmp_path) if one.code.startswith("store")]

    other.put("same", authority().issue(["mail.a.test"]))
    other.put("web", authority().issue(["www.b.test"]))
    assert findings() == []
    other.put("b", authority().issue(["mail.b.test", "mail.c.test"]))
    (found,) = findings()
    assert (found.code, found.severity, found.where) == ("store_not_configured", Severity.NOTE, str(other.live))
    assert found.what == f"{other.live}: a store of the type certbot has mail.b.test, mail.c.test"
    lines = f'[[sources]] / type = "certbot" / path = "{other.live}"'
    assert found.fix.edit == f"add to {settings.file}: {lines}"
    settings = replace(settings, sources=(*settings.sources, SourceSettings.of("certbot", path=other.live)))
    assert findings() == []
    certbot.live.rename(tmp_path / "gone")
    assert [one.code for one in findings()] == ["store_missing"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_store_of_a_tool_with_a_user_of_its_own_is_no_finding_and_what_a_third_can_change_is_one(
    tmp_path: Path,
) -> None:
    caddy, third = 995, 65534
    names = tmp_path / "caddy" / "certificates" / "an-authority"
    directory = names / "mail.a.test"
    directory.mkdir(parents=True)
    for ending, content in (("crt", b""), ("key", authority().issue(["mail.a.test"]).key_pem), ("json", b"{}")):
        (directory / f"mail.a.test.{ending}").write_bytes(content)
    for path in (tmp_path / "caddy", *(tmp_path / "caddy").rglob("*")):
        path.chmod(path.stat().st_mode & ~0o077)
        os.chown(path, caddy, caddy)
    store = SourceSettings.of("caddy", path=tmp_path / "caddy").open()
    facts = Facts(HostFacts(without_servers(tmp_path, tmp_path), NOW, stores=(store.files(),)))
    assert list(stores.key_modes(facts)) == []
    os.chown(names, third, third)
    (found,) = stores.key_modes(facts)
    assert (found.code, found.where) == ("store_writable", str(names))
    assert found.what.endswith(f"{names} belongs to user {third}")


def test_a_clock_that_went_back_is_a_finding(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path)
    run = Run(NOW, NOW + timedelta(hours=5), 0, "1 name served", "timer")
    history.record(settings.state.directory, run)
    (found,) = schedule.clock(Facts(HostFacts(settings, NOW)))
    assert found.code == "clock_went_back"
    assert found.what.startswith("the clock went back: the last run ended on ")
    assert list(schedule.clock(Facts(HostFacts(settings, NOW + timedelta(hours=5))))) == []


def test_a_check_that_fails_is_a_finding_and_the_next_one_runs() -> None:
    def refused(_: None) -> Sequence[Finding]:
        raise PermissionMissingError("/x: cannot be read: Permission denied", hint="run it as root", path=Path("/x"))

    def broken(_: None) -> Sequence[Finding]:
        raise OSError(5, "Input/output error", "/y")

    def garbled(_: None) -> Sequence[Finding]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")

    last = Finding("x", Severity.NOTE, "what", "where", "why", Fix("fix"))
    checks: helpers.Checks[None] = [("one", refused), ("two", broken), ("three", garbled), ("four", lambda _: [last])]
    found = list(helpers.run_each(checks, None))
    assert [(one.code, one.severity, one.where) for one in found] == [
        ("check_failed", Severity.NOTE, "/x"),
        ("check_failed", Severity.WARNING, "/y"),
        ("check_failed", Severity.WARNING, "three"),
        ("x", Severity.NOTE, "where"),
    ]
    assert "secret" not in str(found)


def test_the_texts_of_a_finding_do_a_terminal_no_harm() -> None:
    key = authority().issue(["mail.a.test"]).key_pem.decode()
    fix = Fix("chmod 600 /x", edit=key, note="a\x1b[2Jb")
    safe = helpers.sanitized(Finding("x", Severity.NOTE, "\x1b[2Ja\nb", "", "y" * 9000, fix))
    assert all(one.isprintable() for one in (safe.what, safe.where, safe.why))
    assert (safe.where, safe.fix) == ("?", Fix("chmod 600 /x", edit="[PEM removed]", note="a?[2Jb"))
    assert len(safe.why) < 2100


@pytest.mark.parametrize("command", ["chmod 600 '/a\x1b[2Jb'", "chmod 600 '/a\nb'", "chmod 600 " + "/x " * 2000])
def test_a_command_that_cannot_be_shown_as_it_is_is_none_to_run(command: str) -> None:
    fix = helpers.sanitized(Finding("x", Severity.NOTE, "what", "/x", "why", Fix(command, edit="look"))).fix
    assert fix.command is None
    assert fix.edit is not None
    assert fix.edit.startswith("look; ")
    assert fix.edit.isprintable()
    assert len(fix.edit) < 2100


FOUND = (
    Finding("a", Severity.ERROR, "what one", "/x:3", "why one", Fix("fix one")),
    Finding("b", Severity.NOTE, "what two", "/y", "why two", Fix("run two", "edit two", "note two")),
)


def test_findings_are_printed_with_place_reason_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    text.doctor(FOUND, errors_only=False)
    first = "error: what one\n  where: /x:3\n  why:   why one\n  run:   fix one\n\n"
    second = "note: what two\n  where: /y\n  why:   why two\n  edit:  edit two\n  run:   run two\n  note:  note two\n\n"
    assert capsys.readouterr().out == f"{first}{second}1 error, 1 note\n"
    text.doctor(FOUND, errors_only=True)
    assert capsys.readouterr().out == first
    text.doctor((), errors_only=False)
    assert capsys.readouterr().out == "no findings\n"


def test_a_document_counts_its_findings() -> None:
    document = documents.doctor(FOUND)
    assert document["counts"] == {"error": 1, "warning": 0, "note": 1}
    assert document["findings"][0]["where"] == "/x:3"
    assert document["findings"][0]["fix"] == {"command": "fix one", "edit": None, "note": None}


def test_every_code_has_a_kind_and_every_kind_is_used() -> None:
    sources = [path.read_text() for path in Path(helpers.__file__).parent.rglob("*.py")]
    text = "".join(sources)
    literals = set(re.findall(r'"([a-z]+_[a-z0-9_]+)"', text)) & set(kinds())
    built = {f"{kind}_{end}" for kind in ("hook", "cron") for end in re.findall(r'f"\{kind\}_([a-z_]+)"', text)}
    built |= {f"lineage_{reason}" for reason in Reason if f"lineage_{reason}" in kinds()}
    assert literals | built == set(kinds())
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "finding"]
    codes = {call: call.args[0].value for call in made if isinstance(call.args[0], ast.Constant)}
    assert set(codes.values()) <= set(kinds())
    for call, code in codes.items():
        assert kinds()[str(code)].why or any(keyword.arg == "why" for keyword in call.keywords), code


def test_a_finding_takes_what_its_case_does_not_say_from_its_kind() -> None:
    kind = kinds()["map_missing"]
    assert finding("map_missing", "what", Path("/x"), Fix("fix")) == Finding(
        "map_missing", kind.severity, "what", "/x", str(kind.why), Fix("fix")
    )
    own = finding("map_missing", "what", "/x", Fix("fix"), severity=Severity.NOTE, why="why")
    assert (own.severity, own.why) == (Severity.NOTE, "why")
    with pytest.raises(LookupError, match="check_failed"):
        finding("check_failed", "what", "/x", Fix("fix"))
