"""Each mistake in Postfix that `mailsni doctor` knows, planted on a real one: named, placed, mended."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.doctor.finding import Finding, Fix
from mailsni.sandbox.authority import Issued
from tests.support.doctor_host import (
    ERROR,
    LONG_AGO,
    NAME,
    NOTE,
    WARNING,
    DoctorHost,
    Mistake,
    edit_of,
    edited,
    run_fix,
)
from tests.support.mail_host import DEFAULT_NAME


def _no_default(host: DoctorHost) -> str:
    host.postconf("-X", "smtpd_tls_chain_files")
    return str(host.main_cf)


def _empty_default(host: DoctorHost) -> str:
    host.postconf("-e", "smtpd_tls_chain_files=")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _vanished_default(host: DoctorHost) -> str:
    host.postconf("-e", "smtpd_tls_chain_files=/nowhere/chain.pem")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _renamed(host: DoctorHost, finding: Finding) -> None:
    assert "name files that exist" in edit_of(finding)
    host.postconf("-e", f"smtpd_tls_chain_files={host.mail_host.postfix.default_file}")


def _name_left_out(host: DoctorHost) -> str:
    host.mail_host.configure(names={"include": ["mail.*", "imap.*"]})
    host.shell("mailsni apply --no-reload")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _included(host: DoctorHost, finding: Finding) -> None:
    include = edit_of(finding).partition("include = ")[2]
    host.mail_host.configure(names={"include": json.loads(include)})
    run_fix(host, finding)


def _default_set(host: DoctorHost, finding: Finding) -> None:
    """The lineage of the edit is a placeholder."""
    parameter, _, value = edit_of(finding).removeprefix("in main.cf: ").partition(" = ")
    value = value.replace("/etc/letsencrypt/live/NAME", f"{host.live}/{DEFAULT_NAME}")
    host.postconf("-e", f"{parameter}={value}")
    run_fix(host, finding)


def _tls_off(host: DoctorHost) -> str:
    host.postconf("-e", "smtpd_tls_security_level=none")
    return host.line(host.main_cf, "smtpd_tls_security_level")


def _type_not_built(host: DoctorHost) -> str:
    host.postconf("-e", f"tls_server_sni_maps = gdbm:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _others_type_not_built(host: DoctorHost) -> str:
    host.table(host.entry("extra.test"))
    text = host.main_cf.read_text()
    written = f"hash:{host.etc}/theirs, cdb:{host.mail_host.map}"
    host.main_cf.write_text(
        text.replace(written, f"\n  gdbm:{host.etc}/theirs\n# a comment\n  cdb:{host.mail_host.map}")
    )
    host.postconf()
    return host.line(host.main_cf, "gdbm:")


def _own_map_gone(host: DoctorHost) -> str:
    host.mail_host.map.with_name("mailsni.cdb").unlink()
    return host.line(host.main_cf, "tls_server_sni_maps")


def _never_compiled(host: DoctorHost) -> str:
    host.table(host.entry("extra.test"), compiled="")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _compiled_without_f(host: DoctorHost) -> str:
    return f"{host.table(host.entry('extra.test'), compiled='plain')}.db"


def _cdb_without_f(host: DoctorHost) -> str:
    return f"{host.table(host.entry('extra.test'), kind='cdb', compiled='plain')}.cdb"


def _garbage(host: DoctorHost) -> str:
    compiled = Path(f"{host.table(host.entry('extra.test'))}.db")
    compiled.write_bytes(b"\xff\x00\x1b[31m" * 1000)
    return str(compiled)


def _source_newer(host: DoctorHost) -> str:
    source = host.table(host.entry("extra.test"))
    os.utime(f"{source}.db", (time.time() - 60, time.time() - 60))
    for pem in host.archive.rglob("*.pem"):
        os.utime(pem, (LONG_AGO, LONG_AGO))
    return str(source)


def _renewed_since(host: DoctorHost) -> str:
    source = host.table("# none", f"extra.test {host.pair('one.test')}", f"more.test {host.pair('two.test')}")
    for path in (source, Path(f"{source}.db")):
        os.utime(path, (LONG_AGO + 60, LONG_AGO + 60))
    for pem in (host.archive / "one.test").iterdir():
        os.utime(pem, (LONG_AGO, LONG_AGO))
    return f"{source}:4"


def _star(host: DoctorHost) -> str:
    return f"{host.table('', host.entry('*.extra.test'))}:3"


def _twice(host: DoctorHost) -> str:
    pair = host.pair("one.test")
    return f"{host.table(f'extra.test {pair}', f'EXTRA.test  {pair}')}:3"


def _backwards(host: DoctorHost) -> str:
    key, chain = host.pair("one.test").split()
    return f"{host.table(f'good.test {key},{chain}', 'extra.test', f'  {chain}', f'  {key}')}:3"


def _turned_round(host: DoctorHost, finding: Finding) -> None:
    key, chain = host.pair("one.test").split()
    edited(f"  {chain}\n  {key}", f"  {key}\n  {chain}")(host, finding)


def _without_key(host: DoctorHost) -> str:
    return f"{host.table(f'extra.test {host.live}/one.test/fullchain.pem')}:2"


def _dead_file(host: DoctorHost) -> str:
    return f"{host.table(host.entry('extra.test', 'gone.test'), host.entry('more.test'))}:2"


def _old_copy(host: DoctorHost) -> str:
    old = host.mail_host.authority.issue(["extra.test"], not_before=datetime.now(UTC) - timedelta(days=100))
    pem = host.etc / "old.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(old.key_pem + old.fullchain_pem)
    return f"{host.table(f'extra.test {pem}')}:2"


def _renewed_copy(host: DoctorHost, finding: Finding) -> None:
    new = host.mail_host.authority.issue(["extra.test"])
    (host.etc / "old.pem").write_bytes(new.key_pem + new.fullchain_pem)
    run_fix(host, finding)


def _other_has_our_name(host: DoctorHost) -> str:
    return f"{host.table(host.entry('extra.test'), host.entry(NAME))}:3"


def _taken_out(host: DoctorHost, finding: Finding) -> None:
    assert finding.fix == Fix("mailsni setup --take-over", note="or remove these lines and compile the table again")
    host.table(host.entry("extra.test"))


def _not_named(host: DoctorHost) -> str:
    host.postconf("-X", "tls_server_sni_maps")
    return str(host.main_cf)


def _named(host: DoctorHost, finding: Finding) -> None:
    assert finding.fix == Fix("mailsni setup")
    host.postconf("-e", f"tls_server_sni_maps=cdb:{host.mail_host.map}")


def _misspelt(host: DoctorHost) -> str:
    host.postconf("-X", "tls_server_sni_maps")
    host.postconf("-e", f"tls_server_chain_sni_maps=cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_chain_sni_maps")


def _readable(host: DoctorHost) -> str:
    path = host.mail_host.map.with_name("mailsni.cdb")
    path.chmod(0o644)
    return str(path)


def _source_readable(host: DoctorHost) -> str:
    source = host.table(host.entry("extra.test"))
    source.chmod(0o644)
    return str(source)


def _directory_writable(host: DoctorHost) -> str:
    host.etc.chmod(0o777)
    return str(host.etc)


def _somebodys(host: DoctorHost) -> str:
    source = host.table(host.entry("extra.test"))
    os.chown(source, 65534, 0)
    return str(source)


def _typeless(host: DoctorHost) -> str:
    host.table(host.entry("extra.test"))
    host.postconf("-e", f"tls_server_sni_maps={host.etc}/theirs, cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _proxied(host: DoctorHost) -> str:
    host.table(host.entry("extra.test"))
    host.postconf("-e", f"tls_server_sni_maps=proxy:hash:{host.etc}/theirs, cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _with_type(host: DoctorHost, finding: Finding) -> None:
    assert f"hash:{host.etc}/theirs" in edit_of(finding)
    host.postconf("-e", f"tls_server_sni_maps=hash:{host.etc}/theirs, cdb:{host.mail_host.map}")


def _open_service(host: DoctorHost) -> str:
    """One that is not on loopback, where a content filter may do without."""
    text = host.master_cf.read_text()
    host.master_cf.write_text(f"{text}2525 inet n - n - - smtpd\n  -o smtpd_tls_security_level=none\n")
    return host.line(host.master_cf, "smtpd_tls_security_level=none")


def _corrected(host: DoctorHost, finding: Finding) -> None:
    assert "tls_server_sni_maps" in edit_of(finding)
    host.master_cf.write_text(
        host.master_cf.read_text().replace("  -o tls_server_sni_map=", "  -o tls_server_sni_maps=")
    )


def _own_without_f(host: DoctorHost) -> str:
    host.shell(f"postmap -c {host.etc} cdb:{host.mail_host.map}")
    return f"{host.mail_host.map}.cdb"


def _other_kind(host: DoctorHost) -> str:
    """A btree table under the name of a hash one: both are called .db."""
    source = host.table(host.entry("extra.test"), kind="btree")
    host.postconf("-e", f"tls_server_sni_maps=hash:{source}, cdb:{host.mail_host.map}")
    return f"{source}.db"


def _said_twice(host: DoctorHost) -> str:
    first = f"tls_server_sni_maps = hash:{host.etc}/forgotten\n"
    host.main_cf.write_text(first + host.main_cf.read_text())
    host.postconf()
    return f"{host.main_cf}:1"


def _backward_default(host: DoctorHost) -> str:
    key, chain = host.pair("one.test").split()
    host.postconf("-e", f"smtpd_tls_chain_files={chain}, {key}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _forward_default(host: DoctorHost, finding: Finding) -> None:
    assert "name the key first: smtpd_tls_chain_files = " in edit_of(finding)
    host.postconf("-e", f"smtpd_tls_chain_files={host.pair(DEFAULT_NAME)}")


def _legacy_key_gone(host: DoctorHost) -> str:
    host.postconf("-X", "smtpd_tls_chain_files")
    host.postconf(
        "-e", f"smtpd_tls_cert_file={host.live}/{DEFAULT_NAME}/fullchain.pem", "smtpd_tls_key_file=/nowhere/k"
    )
    return host.line(host.main_cf, "smtpd_tls_cert_file")


def _default_of(host: DoctorHost, issued: Issued) -> str:
    pem = host.etc / "default.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(issued.key_pem + issued.fullchain_pem)
    host.postconf("-e", f"smtpd_tls_chain_files={pem}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _expired_default(host: DoctorHost) -> str:
    old = datetime.now(UTC) - timedelta(days=100)
    return _default_of(host, host.mail_host.authority.issue([DEFAULT_NAME], not_before=old))


def _new_default(host: DoctorHost, finding: Finding) -> None:
    assert (finding.fix.command or "").startswith("certbot renew && ")
    (host.etc / "default.pem").write_bytes(host.mail_host.default.key_pem + host.mail_host.default.fullchain_pem)


def _snake_oil(host: DoctorHost) -> str:
    return _default_of(host, host.mail_host.authority.issue([DEFAULT_NAME], self_signed=True))


def _once(host: DoctorHost, finding: Finding) -> None:
    assert edit_of(finding) == "remove the line"
    host.table(host.entry("a.test"), kind="texthash", compiled="")


def _texthash_twice(host: DoctorHost) -> str:
    return f"{host.table(host.entry('a.test'), host.entry('a.test'), kind='texthash', compiled='')}:3"


POSTFIX = [
    Mistake("default_key_not_first", ERROR, _backward_default, _forward_default),
    Mistake("default_certificate_unreadable", ERROR, _legacy_key_gone, _renamed),
    Mistake("map_compiled_without_f", ERROR, _own_without_f, run_fix),
    Mistake("map_unusable", ERROR, _other_kind, run_fix),
    Mistake("map_duplicate_key", ERROR, _texthash_twice, _once),
    Mistake("parameter_duplicated", WARNING, _said_twice, run_fix),
    Mistake("default_certificate_expired", ERROR, _expired_default, _new_default),
    Mistake("default_certificate_self_signed", NOTE, _snake_oil, _default_set),
    Mistake("default_certificate_missing", ERROR, _no_default, _default_set),
    Mistake("default_certificate_missing", ERROR, _empty_default, _default_set),
    Mistake("default_certificate_missing", ERROR, lambda host: host.option(1, "smtpd_tls_chain_files="), run_fix),
    Mistake("default_certificate_unreadable", ERROR, _vanished_default, _renamed),
    Mistake("default_name_not_in_map", NOTE, _name_left_out, _included),
    Mistake("tls_off", WARNING, _tls_off, run_fix),
    Mistake("service_without_tls", WARNING, _open_service, run_fix),
    Mistake("service_bypasses_map", WARNING, lambda host: host.option(2, "tls_server_sni_maps="), run_fix),
    Mistake(
        "service_certificate",
        NOTE,
        lambda host: host.option(0, f"{{ smtpd_tls_chain_files = {host.pair('one.test')} }}"),
        run_fix,
    ),
    Mistake("map_type_unsupported", ERROR, _type_not_built, run_fix),
    Mistake("map_type_unsupported", ERROR, _others_type_not_built, run_fix),
    Mistake("map_type_missing", ERROR, _typeless, _with_type),
    Mistake("map_proxied", WARNING, _proxied, _with_type),
    Mistake("map_missing", ERROR, _own_map_gone, run_fix),
    Mistake("map_missing", ERROR, _never_compiled, run_fix),
    Mistake("map_compiled_without_f", ERROR, _compiled_without_f, run_fix),
    Mistake("map_compiled_without_f", ERROR, _cdb_without_f, run_fix),
    Mistake("map_unusable", ERROR, _garbage, run_fix),
    Mistake("map_older_than_source", WARNING, _source_newer, run_fix),
    Mistake("map_older_than_certificates", ERROR, _renewed_since, run_fix),
    Mistake("map_literal_wildcard", WARNING, _star, edited("*.extra", ".extra")),
    Mistake("map_duplicate_key", WARNING, _twice, edited("EXTRA.test", "further.test")),
    Mistake(
        "map_certificate_first",
        ERROR,
        _backwards,
        _turned_round,
    ),
    Mistake("map_key_missing", ERROR, _without_key, edited("test ", "test {live}/one.test/privkey.pem,")),
    Mistake("map_file_missing", WARNING, _dead_file, edited("gone.test", "two.test")),
    Mistake("map_expired", ERROR, _old_copy, _renewed_copy),
    Mistake("name_in_earlier_map", WARNING, _other_has_our_name, _taken_out),
    Mistake("map_not_configured", WARNING, _not_named, _named),
    Mistake("parameter_misspelt", ERROR, _misspelt, run_fix, ("map_not_configured",)),
    Mistake(
        "parameter_misspelt",
        WARNING,
        lambda host: host.option(1, f"tls_server_sni_map=cdb:{host.mail_host.map}"),
        _corrected,
    ),
    Mistake("map_world_readable", ERROR, _readable, run_fix),
    Mistake("map_source_world_readable", WARNING, _source_readable, run_fix),
    Mistake("map_writable", ERROR, _directory_writable, run_fix),
    Mistake("map_wrong_owner", ERROR, _somebodys, run_fix),
]


@pytest.mark.shared("trixie")
@pytest.mark.parametrize("mistake", POSTFIX, ids=[f"{one.code}-{at}" for at, one in enumerate(POSTFIX)])
def test_a_mistake_in_postfix_is_named_and_its_fix_mends_it(doctor_host: DoctorHost, mistake: Mistake) -> None:
    mistake.try_on(doctor_host)
