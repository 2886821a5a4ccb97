"""A map that something reads is never taken away, and is kept up to date, whichever place names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.servers import LOOPBACK
from tests.support.mail_host import MailHost

pytestmark = pytest.mark.shared


def postconf(mail_host: MailHost, *words: str, directory: Path | None = None) -> None:
    done = run([require_tool("postconf"), "-c", directory or mail_host.postfix.config_directory, *words])
    assert done.returncode == 0, done.stderr


def name_tables(mail_host: MailHost, *map_types: str) -> None:
    """Have main.cf name our map in these types, and nothing else."""
    tables = ", ".join(f"{map_type}:{mail_host.map}" for map_type in map_types)
    postconf(mail_host, "-e", f"tls_server_sni_maps={tables}")


def maps_there(mail_host: MailHost) -> set[str]:
    return {path.suffix for path in mail_host.map.parent.glob("mailsni.*")}


def applied(mail_host: MailHost) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(mail_host.apply("--json").stdout)
    return document


def checked(mail_host: MailHost) -> tuple[int, str]:
    done = mail_host.mailsni("check")
    return done.returncode, done.stdout


def stored(mail_host: MailHost, table: str, name: str) -> str:
    """The certificates that a table holds for a name, as postmap(1) decodes them."""
    postmap = require_tool("postmap")
    return run([postmap, "-c", mail_host.postfix.config_directory, "-F", "-q", name, table]).text


def test_a_map_that_a_service_names_is_kept_up_to_date_and_goes_when_nothing_names_it(mail_host: MailHost) -> None:
    renewed = mail_host.issue("mail.a.test")
    service = f"{LOOPBACK}:{mail_host.endpoints['smtps']}/inet/tls_server_sni_maps"
    postconf(mail_host, "-P", f"{service}=cdb:{mail_host.map}")
    mail_host.postfix.reload()
    mail_host.apply()
    name_tables(mail_host, "hash")
    mail_host.apply()
    for _ in range(2):
        renewed = mail_host.renew("mail.a.test")
        mail_host.apply()
        mail_host.assert_served("mail.a.test", renewed, ("smtp", "smtps"))
        assert maps_there(mail_host) == {".cdb", ".db"}
        mail_host.age_retired_files()
    assert checked(mail_host)[0] == 0
    postconf(mail_host, "-PX", service)
    for _ in range(2):
        assert applied(mail_host)["result"] == "unchanged"
        mail_host.age_retired_files()
    assert maps_there(mail_host) == {".cdb", ".db"}, "master(8) was not told, and starts smtpd with it"
    mail_host.assert_served("mail.a.test", renewed, ("smtp", "smtps"))
    renewed = mail_host.renew("mail.a.test")
    mail_host.apply()
    assert maps_there(mail_host) == {".cdb", ".db"}, "a smtpd that starts slowly may be about to open it"
    mail_host.age_retired_files()
    assert applied(mail_host)["result"] == "unchanged"
    assert maps_there(mail_host) == {".db"}
    assert applied(mail_host)["result"] == "unchanged"
    mail_host.assert_served("mail.a.test", renewed, ("smtp", "smtps"))


def test_a_map_that_main_cf_names_by_a_parameter_of_a_service_is_made(mail_host: MailHost) -> None:
    renewed = mail_host.issue("mail.a.test")
    postconf(mail_host, "-e", "my_type=hash", f"tls_server_sni_maps=$my_type:{mail_host.map}")
    postconf(mail_host, "-P", f"{LOOPBACK}:{mail_host.endpoints['smtps']}/inet/my_type=cdb")
    mail_host.postfix.reload()
    mail_host.apply()
    assert maps_there(mail_host) == {".cdb", ".db"}
    for _ in range(2):
        mail_host.assert_served("mail.a.test", renewed, ("smtp", "smtps"))
        renewed = mail_host.renew("mail.a.test")
        mail_host.apply()
        mail_host.age_retired_files()
    assert checked(mail_host)[0] == 0


def test_two_maps_in_main_cf_are_both_made_and_of_two_in_one_file_the_first_is(mail_host: MailHost) -> None:
    issued = mail_host.issue("mail.a.test")
    name_tables(mail_host, "hash", "cdb")
    mail_host.apply()
    renewed = mail_host.renew("mail.a.test")
    mail_host.apply()
    assert maps_there(mail_host) == {".cdb", ".db"}
    for map_type in ("hash", "cdb"):
        held = stored(mail_host, f"{map_type}:{mail_host.map}", "mail.a.test")
        assert renewed.leaf_pem.decode() in held
        assert issued.leaf_pem.decode() not in held
    assert checked(mail_host)[0] == 0
    mail_host.map.with_name("mailsni.cdb").unlink()
    assert "names cdb:" in checked(mail_host)[1]
    assert applied(mail_host)["result"] == "applied"
    assert checked(mail_host)[0] == 0

    name_tables(mail_host, "hash", "btree")
    (warning,) = applied(mail_host)["warnings"]
    assert f"names btree:{mail_host.map}, which is not made" in warning
    assert "its file would be that of the hash table" in warning
    code, text = checked(mail_host)
    assert (code, "is of type hash" in text) == (2, True)
    said = mail_host.mailsni("doctor").stdout
    assert f"write hash:{mail_host.map} instead of btree:{mail_host.map}" in said


def test_a_map_that_another_instance_names_is_kept_up_to_date(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    mail_host.apply()
    other = mail_host.postfix.config_directory.with_name("out")
    other.mkdir()
    (other / "main.cf").write_text(f"tls_server_sni_maps = cdb:{mail_host.map}\n")
    (other / "master.cf").write_text("")
    postconf(mail_host, "-e", f"multi_instance_directories={other}")
    name_tables(mail_host, "hash")
    mail_host.apply()
    renewed = mail_host.renew("mail.a.test")
    mail_host.apply()
    assert not (mail_host.directory / "state/retired.json").read_text().count("mailsni.cdb")
    assert renewed.leaf_pem.decode() in stored(mail_host, f"cdb:{mail_host.map}", "mail.a.test")
    assert checked(mail_host)[0] == 0
    (other / "main.cf").write_text("no configuration\n")
    mail_host.renew("mail.a.test")
    (warning,) = applied(mail_host)["warnings"]
    assert f"{other}: cannot be read" in warning
    mail_host.age_retired_files()
    mail_host.apply()
    assert maps_there(mail_host) == {".cdb", ".db"}, "nobody knows whether it is named"
