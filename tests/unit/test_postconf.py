"""What postconf(1) and postmulti(1) print is read once, for everybody; a stand-in for them prints it here."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.errors import HostError
from mailsni.targets.postfix import postconf
from mailsni.targets.postfix.postconf import Installation, Instance, Override
from tests.support.fake_executor import FakeExecutor

DIRECTORY = Path("/etc/postfix")


def test_a_parameter_that_postfix_does_not_know_has_no_value() -> None:
    executor = FakeExecutor({"-x": "tls_server_sni_maps = hash:/a,\tinline:{ {b = /c} }\nsmtpd_use_tls =\n"})
    found = Installation(DIRECTORY, executor).parameters("tls_server_sni_maps", "smtpd_use_tls", "unknown")
    assert found == {"tls_server_sni_maps": "hash:/a,\tinline:{ {b = /c} }", "smtpd_use_tls": ""}
    tables = Installation(DIRECTORY, executor).sni_tables()
    assert [table.written for table in tables] == ["hash:/a", "inline:{ {b = /c} }"]


def test_values_are_read_as_they_are_written_where_that_is_asked_for() -> None:
    executor = FakeExecutor({"tls_server_sni_maps": "tls_server_sni_maps = $mine\n"})
    (table,) = Installation(DIRECTORY, executor).sni_tables(expanded=False)
    assert (table.written, table.source) == ("$mine", None)
    assert executor.calls == [("/usr/sbin/postconf", "-c", "/etc/postfix", "tls_server_sni_maps")]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("postconf: fatal: /etc/postfix/main.cf, line 10: missing '=' after attribute name", 10),
        ("postconf: fatal: something else", None),
        ("", None),
    ],
)
def test_a_configuration_that_cannot_be_read_is_blamed_with_its_line(message: str, line: int | None) -> None:
    with pytest.raises(HostError) as raised:
        Installation(DIRECTORY, FakeExecutor(error=message or " ")).parameters("x")
    assert (raised.value.path, raised.value.line) == (DIRECTORY / "main.cf", line)
    with pytest.raises(HostError) as raised:
        Installation(DIRECTORY, FakeExecutor(error="bad transport type: usocket")).overrides()
    assert raised.value.path == DIRECTORY / "master.cf"


def test_a_service_may_override_a_parameter_with_nothing() -> None:
    text = "submission/inet/tls_server_sni_maps =\n127.0.0.1:25/inet/smtpd_tls_chain_files = /a, /b\n"
    executor = FakeExecutor({"-Px": text})
    assert Installation(DIRECTORY, executor).overrides("tls_server_sni_maps") == (
        Override("submission/inet", "tls_server_sni_maps", ""),
        Override("127.0.0.1:25/inet", "smtpd_tls_chain_files", "/a, /b"),
    )
    assert executor.calls[0][3:] == ("-Px", "*/*/tls_server_sni_maps")


def test_the_instances_of_another_family_are_none_of_ours() -> None:
    executor = FakeExecutor(
        {"-l": "-               -               y         /etc/postfix\nout - n /etc/postfix-out\n"}
    )
    assert Installation(DIRECTORY, executor).instances() == (
        Instance("", DIRECTORY),
        Instance("out", Path("/etc/postfix-out")),
    )
    assert Installation(Path("/private"), executor).instances() == ()


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ({"postscreen_tls_security_level": "may"}, True),
        ({"postscreen_tls_security_level": "none", "smtpd_tls_wrappermode": "yes"}, False),
        ({"postscreen_use_tls": "yes"}, True),
        ({"smtpd_use_tls": "yes"}, False),
    ],
)
def test_postscreen_has_switches_of_its_own(values: dict[str, str], *, offered: bool) -> None:
    assert postconf.offers_tls(values, "postscreen") is offered


@pytest.mark.parametrize(
    ("level", "redirected"), [("", False), ("disable", False), ("enable-redirect", True), ("enable-reindex", True)]
)
def test_berkeley_db_is_redirected_from_the_level_on_that_says_so(level: str, *, redirected: bool) -> None:
    assert postconf.redirects_berkeley_db({"non_bdb_migration_level": level}) is redirected
