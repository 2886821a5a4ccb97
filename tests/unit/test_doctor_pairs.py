"""What is wrong with a key and its chain: the one judge for Postfix's tables and Dovecot's blocks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from mailsni.doctor.finding import Severity
from mailsni.doctor.pairs import ARCHIVED, Fault, judge, live_path, live_script, renewal
from mailsni.sources.kinds import SourceSettings
from mailsni.targets.postfix.authorities import authorities
from mailsni.targets.postfix.lines import entries
from mailsni.targets.postfix.map_source import inline_lines, stored_pairs
from mailsni.targets.postfix.postconf import Configuration, Override, Service
from tests.support.builders import NOW, authority

NAME = "mail.a.test"


def day(number: float) -> timedelta:
    return timedelta(days=number)


def faults(chain: bytes, key: bytes, *names: str, issuers: bytes = b"", password: bool = False) -> list[Fault]:
    return [each.fault for each in judge(chain, key, names, NOW, issuers=issuers, password=password)]


GOOD = authority().issue([NAME], not_before=NOW - day(1))
OTHER = authority().issue(["mail.b.test"], not_before=NOW - day(1))
WILDCARD = authority().issue(["*.a.test"], not_before=NOW - day(1))


def test_a_pair_in_order_has_no_fault() -> None:
    assert faults(GOOD.fullchain_pem, GOOD.key_pem, NAME) == []
    assert faults(GOOD.key_pem + GOOD.fullchain_pem, GOOD.key_pem + GOOD.fullchain_pem) == []
    assert faults(WILDCARD.fullchain_pem, WILDCARD.key_pem, NAME, "*.a.test") == []


def test_what_a_server_cannot_load() -> None:
    issuer_first = GOOD.chain_pem + GOOD.leaf_pem
    for chain in (
        OTHER.fullchain_pem,
        issuer_first,
        GOOD.fullchain_pem[:-40],
        b"",
        OTHER.leaf_pem + GOOD.fullchain_pem,
    ):
        assert faults(chain, GOOD.key_pem, NAME) == [Fault.UNUSABLE], chain
    assert faults(GOOD.fullchain_pem, b"", NAME) == [Fault.UNUSABLE]


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_a_fault_where_the_server_has_no_password(form: PrivateFormat) -> None:
    key = serialization.load_pem_private_key(GOOD.key_pem, None)
    encrypted = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"x"))
    assert faults(GOOD.fullchain_pem, encrypted, NAME) == [Fault.UNUSABLE]
    assert faults(GOOD.fullchain_pem, encrypted, NAME, password=True) == []


@pytest.mark.parametrize(
    ("begin", "end", "fault", "text"),
    [
        (-100, -10, Fault.EXPIRED, "the certificate expired on 2"),
        (1, 91, Fault.NOT_YET_VALID, "the certificate is not valid before 2"),
        (-87, 3.5, Fault.EXPIRES, "the certificate expires in 3 days, on 2"),
        (-89, 1.5, Fault.EXPIRES, "the certificate expires in 1 day, on 2"),
        (-76, 13.9, Fault.EXPIRES, "the certificate expires in 13 days, on 2"),
        (-4.6, 1.4, Fault.EXPIRES, "the certificate expires in 1 day, on 2"),
        (-75, 14.1, None, ""),
        (-4.4, 1.6, None, ""),  # of six days: a quarter of its lifetime is left
    ],
)
def test_the_dates_are_judged_as_by_check(begin: float, end: float, fault: Fault | None, text: str) -> None:
    issued = authority().issue([NAME], not_before=NOW + day(begin), not_after=NOW + day(end))
    told = list(judge(issued.fullchain_pem, issued.key_pem, [NAME], NOW))
    assert [each.fault for each in told] == ([] if fault is None else [fault])
    assert all(each.text.startswith(text) for each in told)


def test_a_leaf_alone_is_completed_where_the_server_has_its_issuer() -> None:
    root = authority().root_pem
    (told,) = judge(GOOD.leaf_pem, GOOD.key_pem, [NAME], NOW)
    assert (told.fault, told.severity) == (Fault.LEAF_ALONE, Severity.WARNING)
    assert faults(GOOD.leaf_pem, GOOD.key_pem, NAME, issuers=root) == [Fault.LEAF_ALONE]
    assert faults(GOOD.leaf_pem, GOOD.key_pem, NAME, issuers=root + GOOD.chain_pem) == []
    # With something behind the leaf OpenSSL adds nothing (measured).
    assert faults(GOOD.leaf_pem + root, GOOD.key_pem, NAME, issuers=GOOD.chain_pem) == [Fault.LEAF_ALONE]
    private = authority().issue([NAME], not_before=NOW - day(1), issuer_address=False)
    (told,) = judge(private.leaf_pem, private.key_pem, [NAME], NOW)
    assert told.severity is Severity.NOTE


def test_the_names_that_a_certificate_is_not_for() -> None:
    (told,) = judge(GOOD.fullchain_pem, GOOD.key_pem, [NAME, "mail.b.test"], NOW)
    assert (told.fault, told.names, told.severity) == (Fault.OTHER_NAMES, ("mail.b.test",), None)
    (told,) = judge(GOOD.fullchain_pem, GOOD.key_pem, ["*.a.test"], NOW)
    assert (told.fault, told.severity) == (Fault.OTHER_NAMES, Severity.WARNING)
    assert faults(GOOD.fullchain_pem, GOOD.key_pem, "*.b.test") == [Fault.OTHER_NAMES]


PIECES = st.sampled_from(
    [GOOD.key_pem, GOOD.leaf_pem, GOOD.chain_pem, OTHER.leaf_pem, GOOD.leaf_pem[:200], b"-----BEGIN ", b"\xff\n", b""]
)


@given(st.lists(PIECES, max_size=5).map(b"".join), st.lists(PIECES, max_size=3).map(b"".join))
def test_whatever_lies_in_the_files_is_judged(chain: bytes, key: bytes) -> None:
    told = [each.text for each in judge(chain, key, [NAME], NOW, issuers=chain)]
    assert all(text.isprintable() and "BEGIN" not in text for text in told)
    if not told:
        assert GOOD.leaf_pem in chain
        assert GOOD.key_pem in key


# ── what Postfix takes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_entry_has_a_pair_for_each_key() -> None:
    rsa = authority().issue([NAME], algorithm="rsa", not_before=NOW - day(1))
    first, second = GOOD.key_pem + GOOD.fullchain_pem, rsa.key_pem + rsa.fullchain_pem
    assert stored_pairs(b"text\n" + first + b"\n" + second) == [first + b"\n", second]
    assert stored_pairs(b"") == []


@given(st.text(st.sampled_from("{}=, \n/ab\0inline:é"), max_size=40))
def test_whatever_is_written_for_an_inline_table_is_read(written: str) -> None:
    assert all(line.number == 0 and line.key == line.key.strip().lower() for line in inline_lines(written))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("inline:{ {a.test = /x, /y}, b.test=/z }", [("a.test", ["/x", "/y"]), ("b.test", ["/z"])]),
        ("inline:{{A.test=/x /y}}", [("a.test", ["/x", "/y"])]),
        ("inline:{ { .a.test = /x } }", [(".a.test", ["/x"])]),
        ("inline:{}", []),
        ("inline:{ a.test }", [("a.test", [])]),
        ("inline:{ {a = /x", []),  # Postfix refuses it
    ],
)
def test_the_entries_of_an_inline_table(written: str, expected: list[tuple[str, list[str]]]) -> None:
    assert [(line.key, [str(path) for path in line.files]) for line in inline_lines(written)] == expected


def configuration(values: dict[str, str], overrides: tuple[Override, ...] = ()) -> Configuration:
    main = "".join(f"{name} = {value}\n" for name, value in values.items())
    return Configuration(
        Path("/etc/postfix"), values, (), overrides, frozenset(), (), main=tuple(entries(main)), master=()
    )


def test_the_authorities_that_complete_a_chain(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"file")
    directory = tmp_path / "certs"
    directory.mkdir()
    for name in ("0123abcd.0", "0123abcd.1", "plain.pem", "0123abcd.r0"):
        (directory / name).write_bytes(name.encode())
    both = configuration({"smtpd_tls_CAfile": str(tmp_path / "ca.pem"), "smtpd_tls_CApath": str(directory)})
    assert authorities(both) == b"file\n0123abcd.0\n0123abcd.1"
    assert authorities(configuration({"smtpd_tls_CAfile": "/nowhere", "smtpd_tls_CApath": "/nowhere"})) == b""
    service = Service("smtps", "inet", "smtpd")
    own = (Override("smtps/inet", "smtpd_tls_CAfile", str(tmp_path / "ca.pem")),)
    assert authorities(configuration({}, own), service) == b"file"
    assert authorities(configuration({}, own)) == b""


def test_the_file_with_the_key_of_a_default_certificate() -> None:
    service = Service("smtps", "inet", "smtpd")
    own_certificate = (Override("smtps/inet", "smtpd_tls_cert_file", "/own.pem"),)
    own_key = (*own_certificate, Override("smtps/inet", "smtpd_tls_key_file", "/own.key"))
    values = {"smtpd_tls_cert_file": "/main.pem"}
    assert configuration(values).key_file("smtpd_tls_cert_file") == Path("/main.pem")
    # What is not set says the file of the certificate, and so that of the service.
    assert configuration(values, own_certificate).key_file("smtpd_tls_cert_file", service) == Path("/own.pem")
    assert configuration(values, own_key).key_file("smtpd_tls_cert_file", service) == Path("/own.key")
    with_key = {**values, "smtpd_tls_key_file": "/main.key"}
    assert configuration(with_key, own_certificate).key_file("smtpd_tls_cert_file", service) == Path("/main.key")
    assert configuration({**values, "smtpd_tls_key_file": "relative"}).key_file("smtpd_tls_cert_file") is None


def test_each_algorithm_may_have_a_default_certificate_and_the_chain_files_override_them() -> None:
    legacy = {"smtpd_tls_cert_file": "/rsa.pem", "smtpd_tls_eccert_file": "/ec.pem", "smtpd_tls_dcert_file": "none"}
    assert configuration(legacy).certificates() == [
        ("smtpd_tls_cert_file", (Path("/rsa.pem"),)),
        ("smtpd_tls_eccert_file", (Path("/ec.pem"),)),
    ]
    chain_files = configuration({**legacy, "smtpd_tls_chain_files": "/key.pem, /chain.pem"})
    assert chain_files.certificates() == [("smtpd_tls_chain_files", (Path("/key.pem"), Path("/chain.pem")))]
    assert configuration({}).certificates() == []


# ── fixes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_renewed_in_place_of_a_version() -> None:
    match = ARCHIVED.fullmatch("/etc/letsencrypt/archive/a.test-0001/fullchain12.pem")
    assert match is not None
    assert live_path(match) == Path("/etc/letsencrypt/live/a.test-0001/fullchain.pem")
    assert live_script(match) == r"s|/archive/a\.test-0001/fullchain[0-9]*|/live/a.test-0001/fullchain|"
    assert ARCHIVED.fullmatch("/etc/letsencrypt/live/a.test/fullchain.pem") is None


def test_who_renews_a_certificate_that_is_due(tmp_path: Path) -> None:
    chain = tmp_path / "live/a.test/fullchain.pem"
    sources = [SourceSettings.of("certbot", path=tmp_path / "live")]
    assert f"where {chain} is" in renewal(sources, chain)
    (tmp_path / "renewal").mkdir()
    (tmp_path / "renewal/a.test.conf").touch()
    assert f"certbot renew --config-dir {tmp_path} --cert-name a.test --force-renewal" in renewal(sources, chain)
    assert "/etc/ssl/a.pem" in renewal(sources, Path("/etc/ssl/a.pem"))
