"""Each way in which a pair of files is no certificate to serve, and what is read of one that is."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from mailsni.core.model import Certificate, KeyAndChain, Reason
from mailsni.core.x509 import (
    InvalidPair,
    chain_digests,
    chain_order_problem,
    parse_leaf,
    validate_pair,
)
from mailsni.sandbox.authority import Issued
from tests.support import refused
from tests.support.authority import Algorithm, subject_alternative_names
from tests.support.builders import authority
from tests.support.refused import RECIPES

PLAIN = serialization.NoEncryption()
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey


@functools.cache
def pair(algorithm: Algorithm = "ecdsa") -> Issued:
    return authority().issue(["Mail.a.test", "*.a.test", "a.test"], algorithm=algorithm)


def loaded(issued: Issued) -> Private:
    key = serialization.load_pem_private_key(issued.key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


def pem_of(key: Private, layout: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, layout, PLAIN)


def der_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def armoured(der: bytes, label: bytes = b"CERTIFICATE") -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)


def with_key(issued: Issued, key_pem: bytes | None = None) -> KeyAndChain:
    outcome = validate_pair("/live/a", issued.fullchain_pem, key_pem or issued.key_pem)
    assert isinstance(outcome, KeyAndChain), outcome
    return outcome


def proven(issued: Issued) -> Certificate:
    return with_key(issued).certificate


def rejected(chain: bytes, key: bytes) -> InvalidPair:
    outcome = validate_pair("/live/a", chain, key)
    assert isinstance(outcome, InvalidPair)
    return outcome


def self_made(key: Private, issuer: str = "x") -> bytes:
    """A certificate of a key that the sandbox's authority would not take."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    san = x509.SubjectAlternativeName([x509.DNSName("mail.a.test")])
    builder = (
        x509.CertificateBuilder(name, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(san, critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("algorithm", "kind"), [("ecdsa", "ecdsa"), ("ecdsa-p384", "ecdsa"), ("rsa", "rsa")])
def test_a_whole_pair_is_proven(algorithm: Algorithm, kind: str) -> None:
    issued = pair(algorithm)
    whole = with_key(issued)
    found = whole.certificate
    leaf = x509.load_pem_x509_certificate(issued.leaf_pem)
    spki = leaf.public_key().public_bytes(Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert found.source == "/live/a"
    assert found.names == ("*.a.test", "a.test", "mail.a.test")
    assert found.algorithm == kind
    assert found.fingerprint == issued.fingerprint
    assert found.spki == hashlib.sha256(spki).hexdigest()
    assert (found.not_before, found.not_after) == (issued.not_before, issued.not_after)
    assert "Sandbox E1" in found.issuer
    assert (found.self_signed, found.staging, found.kept) == (False, False, False)
    assert whole.pem == issued.key_pem + issued.fullchain_pem
    assert found.digest == hashlib.sha256(whole.pem).hexdigest()


def test_a_pinned_file_gives_the_same_certificate_back() -> None:
    whole = with_key(pair())
    assert validate_pair("/live/a", whole.pem, whole.pem) == whole


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa"])
def test_a_key_in_the_old_form_keeps_its_form(algorithm: Algorithm) -> None:
    issued = pair(algorithm)
    old_form = pem_of(loaded(issued), PrivateFormat.TraditionalOpenSSL)
    assert with_key(issued, old_form).pem == old_form + issued.fullchain_pem


def test_parameters_before_a_key_are_left_out() -> None:
    """Postfix warns of them on every handshake."""
    parameters = armoured(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"EC PARAMETERS")
    assert with_key(pair(), parameters + pair().key_pem) == with_key(pair())


def test_the_common_name_is_not_a_name() -> None:
    issued = authority().issue([], common_name="mail.a.test")
    assert proven(issued).names == ()


def test_names_outside_the_grammar_are_told_apart() -> None:
    raw = subject_alternative_names("mail.a.test", "mail b", "\n}\nssl = no", "192.0.2.1", "ä.test", b"a\0.test")
    issued = authority().issue([], raw_san=raw)
    outcome = proven(issued)
    assert outcome.names == ("mail.a.test",)
    assert outcome.refused_names == ("mail b", r"'\n}\nssl = no'", r"'\xe4.test'", r"'a\x00.test'")


@pytest.mark.parametrize(
    ("issuer", "staging"), [("(STAGING) Sandbox E1", True), ("Fake LE Intermediate X1", True), ("STAGING", False)]
)
def test_a_staging_authority_is_known_by_its_name(issuer: str, staging: bool) -> None:  # noqa: FBT001
    assert proven(authority().issue(["mail.a.test"], issuer_name=issuer)).staging == staging


def test_a_self_signed_certificate_is_proven_and_said_to_be_one() -> None:
    assert proven(authority().issue(["mail.a.test"], self_signed=True)).self_signed


def test_the_name_of_an_issuer_alone_makes_nothing_self_signed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = pair()
    forged = x509.load_pem_x509_certificate(self_made(key))
    assert forged.issuer == forged.subject
    damaged = forged.public_bytes(Encoding.DER)
    damaged = damaged[:-1] + bytes([damaged[-1] ^ 1])
    outcome = validate_pair("/live/a", armoured(damaged), pem_of(key))
    assert isinstance(outcome, KeyAndChain)
    assert not outcome.certificate.self_signed
    assert not proven(other).self_signed


LAYOUTS = (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("label", [b"PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY"])
def test_the_label_of_a_key_is_made_to_fit_its_form(algorithm: Algorithm, layout: PrivateFormat, label: bytes) -> None:
    issued = pair(algorithm)
    right = pem_of(loaded(issued), layout)
    assert with_key(issued, armoured(der_of(right), label)).pem == right + issued.fullchain_pem


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", ["p", "q", "d", "dmp1", "dmq1", "iqmp"])
def test_an_rsa_key_with_a_damaged_number_is_refused(layout: PrivateFormat, number: str) -> None:
    issued = pair("rsa")
    key = loaded(issued)
    assert isinstance(key, rsa.RSAPrivateKey)
    value = getattr(key.private_numbers(), number)
    length = (value.bit_length() + 7) // 8
    der = der_of(pem_of(key, layout))
    changed = der.replace(value.to_bytes(length, "big"), (value ^ 0x40).to_bytes(length, "big"))
    assert changed != der
    outcome = rejected(issued.fullchain_pem, armoured(changed, b"PRIVATE KEY"))
    assert (outcome.reason, outcome.names) == (Reason.REFUSED_BY_OPENSSL, ("*.a.test", "a.test", "mail.a.test"))
    assert "damaged" in outcome.detail


def test_the_public_half_of_an_ecdsa_key_must_fit_the_private_one() -> None:
    issued, stranger = pair(), authority().issue(["mail.a.test"])
    own, foreign = (
        loaded(each).public_key().public_bytes(Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for each in (issued, stranger)
    )
    mixed = armoured(der_of(stranger.key_pem).replace(foreign, own), b"PRIVATE KEY")
    assert rejected(issued.fullchain_pem, mixed).detail == "the private key cannot be parsed"


@pytest.mark.parametrize(
    ("recipe", "detail"),
    [
        ("pss_certificate_of_a_plain_key", "the certificate is for RSA-PSS alone, and the private key is not"),
        ("pss_key_of_a_plain_certificate", "the private key is for RSA-PSS alone, and the certificate is not"),
        ("message_over_100_kb", "clients refuse more than 102400"),
    ],
)
def test_what_arithmetic_tells_openssl_is_not_asked(recipe: str, detail: str) -> None:
    issued = RECIPES[recipe]("mail.a.test")
    outcome = rejected(issued.fullchain_pem, issued.key_pem)
    assert outcome.reason is Reason.REFUSED_BY_OPENSSL
    assert detail in outcome.detail
    assert "mail.a.test" in outcome.names


def test_certificates_of_one_authority_for_one_sort_of_key_are_of_one_kind() -> None:
    others = [
        authority().issue([name, "mail.b.test"], not_before=datetime(2026, 1, day, tzinfo=UTC))
        for day, name in enumerate(("mail.c.test", "mail.d.test"), 1)
    ]
    assert len({with_key(issued).kind for issued in (pair(), *others)}) == 1
    odd = (
        refused.good("mail.a.test"),
        refused.good("mail.a.test", refused.rsa_key()),
        RECIPES["key_usage_without_signatures"]("mail.a.test"),
        RECIPES["intermediate_of_1024_bits"]("mail.a.test"),
        RECIPES["unknown_signature_of_the_leaf"]("mail.a.test"),
        pair("ecdsa-p384"),
        pair("rsa"),
    )
    assert len({with_key(issued).kind for issued in (pair(), *odd)}) == 1 + len(odd)
    assert with_key(pair(), pem_of(loaded(pair()), PrivateFormat.TraditionalOpenSSL)).kind != with_key(pair()).kind


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def encrypted(layout: PrivateFormat) -> bytes:
    return loaded(pair()).private_bytes(Encoding.PEM, layout, serialization.BestAvailableEncryption(b"secret"))


MAIL = pair().fullchain_pem
KEY = pair().key_pem


@pytest.mark.parametrize(
    ("chain", "key", "reason", "detail"),
    [
        (MAIL, b"", Reason.BAD_PEM, "there is no private key in the key file"),
        (MAIL, MAIL, Reason.BAD_PEM, "there is no private key in the key file"),
        (MAIL, KEY + KEY, Reason.BAD_PEM, "more than one private key"),
        (MAIL, pair("rsa").key_pem, Reason.KEY_MISMATCH, "not the key of the certificate"),
        (MAIL, armoured(b"\0" * 9, b"PRIVATE KEY"), Reason.BAD_PEM, "the private key cannot be parsed"),
        (MAIL, encrypted(PrivateFormat.PKCS8), Reason.ENCRYPTED_KEY, "encrypted"),
        (MAIL, encrypted(PrivateFormat.TraditionalOpenSSL), Reason.ENCRYPTED_KEY, "encrypted"),
        (MAIL, armoured(b"x", b"OPENSSH PRIVATE KEY"), Reason.UNSUPPORTED_KEY, "neither RSA nor ECDSA"),
        (b"", KEY, Reason.BAD_PEM, "no certificate in the chain file"),
        (KEY, KEY, Reason.BAD_PEM, "no certificate in the chain file"),
        (armoured(b"\0" * 9), KEY, Reason.BAD_PEM, "cannot be parsed"),
        (MAIL.replace(b"\n", b"\n*", 1), KEY, Reason.BAD_PEM, "not base64"),
        (MAIL[:-9], KEY, Reason.BAD_PEM, "begins and does not end"),
        (MAIL[:300] + MAIL, KEY, Reason.BAD_PEM, "begins and does not end"),
        (MAIL + b"-----BEGIN ODDITIES------\n", KEY, Reason.BAD_PEM, "begins and does not end"),
    ],
)
def test_a_pair_that_cannot_be_served_is_rejected(chain: bytes, key: bytes, reason: Reason, detail: str) -> None:
    outcome = rejected(chain, key)
    assert outcome.reason is reason
    assert detail in outcome.detail


def test_a_lineage_with_a_bad_key_is_known_by_its_names() -> None:
    for key in (KEY + KEY, pair("rsa").key_pem, encrypted(PrivateFormat.PKCS8)):
        assert rejected(MAIL, key).names == ("*.a.test", "a.test", "mail.a.test")


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (rsa.generate_private_key(65537, 1024), "an RSA key of 1024 bits"),  # noqa: S505
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (dsa.generate_private_key(2048), "neither RSA nor ECDSA"),
    ],
)
def test_a_key_that_the_servers_refuse_is_unsupported(key: Private, detail: str) -> None:
    outcome = rejected(self_made(key), pem_of(key))
    assert outcome.reason is Reason.UNSUPPORTED_KEY
    assert detail in outcome.detail
    assert outcome.names == ("mail.a.test",)


def test_an_edwards_key_is_unsupported() -> None:
    issued = authority().issue(["mail.a.test"], algorithm="ed25519")
    assert rejected(issued.fullchain_pem, issued.key_pem).reason is Reason.UNSUPPORTED_KEY


def with_sha1(pem: bytes) -> bytes:
    """The same said to be signed with SHA-1, which cryptography does not do any more."""
    sha256_with_rsa = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
    der = der_of(pem)
    assert der.count(sha256_with_rsa) == 2
    return armoured(der.replace(sha256_with_rsa, sha256_with_rsa[:-1] + b"\x05"))


def test_a_weak_signature_is_refused_but_not_that_of_a_root() -> None:
    key = loaded(pair("rsa"))
    outcome = rejected(with_sha1(self_made(key, issuer="somebody")), pem_of(key))
    assert (outcome.reason, outcome.detail) == (Reason.UNSUPPORTED_KEY, "signed with SHA1, which the servers refuse")
    assert isinstance(validate_pair("/live/a", with_sha1(self_made(key)), pem_of(key)), KeyAndChain)


def test_the_chain_of_another_certificate_is_refused() -> None:
    stranger = authority().issue(["mail.b.test"], issuer_name="Sandbox E2")
    outcome = rejected(pair().leaf_pem + stranger.chain_pem, KEY)
    assert (outcome.reason, outcome.names) == (Reason.BAD_PEM, ("*.a.test", "a.test", "mail.a.test"))


def test_what_belongs_to_another_certificate_is_left_out_of_the_chain() -> None:
    stranger = authority().issue(["mail.b.test"], issuer_name="Sandbox E2")
    mixed = replace(pair(), fullchain_pem=stranger.fullchain_pem + pair().fullchain_pem)
    assert proven(mixed) == proven(pair())


# ── parts that cryptography cannot decode, each with an exception of its own ─────────────────────────────────────────


def general_name(tag: int) -> bytes:
    """A SubjectAltName with one good dNSName and one name of another kind, with nonsense in it."""
    good = subject_alternative_names("mail.a.test")[2:]
    body = good + bytes((tag, 3)) + b"abc"
    return bytes((0x30, len(body))) + body


@pytest.mark.parametrize("raw", [b"nonsense", *(general_name(tag) for tag in (0xA0, 0xA3, 0xA4, 0xA5, 0x87, 0x8F))])
def test_undecodable_names_are_bad_names(raw: bytes) -> None:
    issued = authority().issue([], raw_san=raw)
    assert rejected(issued.fullchain_pem, issued.key_pem).reason is Reason.BAD_NAME


COMMON_NAME = "x" * 60


def test_an_undecodable_part_is_bad_pem() -> None:
    late = datetime(2055, 1, 1, tzinfo=UTC)  # from 2050 on, dates have four digits for the year
    issued = authority().issue(["mail.a.test"], common_name=COMMON_NAME, not_before=late)
    leaf, issuer = der_of(issued.leaf_pem), der_of(issued.chain_pem)
    date = re.search(rb"\x18\x0f(\d{14}Z)", leaf)
    assert date is not None
    for chain in (
        armoured(leaf.replace(COMMON_NAME.encode(), b"\xff" * 60)) + issued.chain_pem,
        armoured(leaf.replace(b"Sandbox E1", b"\xff" * 10)) + issued.chain_pem,
        armoured(leaf.replace(date[1], b"00000101000000Z")) + issued.chain_pem,
        armoured(leaf.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)) + issued.chain_pem,
        issued.leaf_pem + armoured(issuer.replace(b"Sandbox E1", b"\xff" * 10)),
    ):
        assert chain != issued.fullchain_pem
        assert rejected(chain, issued.key_pem).reason is Reason.BAD_PEM


KEY_USAGE = bytes.fromhex("0603551d0f0101ff040403020780")
BASIC_CONSTRAINTS = bytes.fromhex("0603551d130101ff04023000")
AUTHORITY_KEY = bytes.fromhex("0603551d23040c300a8008") + b"identify"
UNKNOWN = bytes.fromhex("0603551d7e040403020780")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("keyUsage", KEY_USAGE, KEY_USAGE[:-4] + bytes.fromhex("03ff0780")),
        ("keyUsage", KEY_USAGE, KEY_USAGE[:-4] + bytes.fromhex("04020780")),
        ("authorityKeyIdentifier", AUTHORITY_KEY, AUTHORITY_KEY.replace(b"\x80\x08", b"\x80\x09")),
        ("basicConstraints", BASIC_CONSTRAINTS, BASIC_CONSTRAINTS[:-1] + b"\x01"),
        ("keyUsage", UNKNOWN, UNKNOWN[:4] + KEY_USAGE[4:5] + UNKNOWN[5:]),
    ],
    ids=["length", "tag", "key-identifier", "constraints", "twice"],
)
def test_an_extension_that_cannot_be_decoded_is_named_and_so_are_the_names(name: str, good: bytes, bad: bytes) -> None:
    key = refused.new_key()
    extensions = (
        refused.key_usage("digital_signature"),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.AuthorityKeyIdentifier(b"identify", None, None), False),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.126"), bytes.fromhex("03020780")), False),
    )
    leaf = refused.leaf("mail.a.test", key, *extensions)
    assert leaf.count(good) == 1
    outcome = rejected(armoured(leaf.replace(good, bad)), pem_of(key))
    assert outcome == InvalidPair(
        Reason.BAD_PEM, f"the extension {name} is malformed, or there twice", ("mail.a.test",)
    )


def test_reading_an_odd_certificate_warns_of_nothing() -> None:
    odd = authority().issue(["mail.a.test"], common_name=COMMON_NAME)
    longer = der_of(odd.leaf_pem).replace(COMMON_NAME.encode(), b"\0" * 60)
    key = refused.new_key()
    negative = refused.certificate("x", "Issuer", key, refused.ec_key(), [refused.names("mail.a.test")], serial=0x7ABB)
    negative = negative.replace(bytes.fromhex("02027abb"), bytes.fromhex("0202fabb"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_pair("/live/a", armoured(longer) + odd.chain_pem, odd.key_pem)
        assert isinstance(validate_pair("/live/a", armoured(negative), pem_of(key)), KeyAndChain)
        parse_leaf(negative)
    with pytest.warns(match="serial number"):
        x509.load_der_x509_certificate(negative)


@pytest.mark.parametrize(
    "unit",
    [
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN A-----\n-----END B-----\n",
        b"-----BEGIN A-----\n-----END A-----\n",
        b"-----BEGIN ",
        pair().chain_pem,
    ],
)
def test_a_file_at_the_size_limit_takes_no_time(unit: bytes) -> None:
    content = unit * ((1 << 20) // len(unit))
    begin = time.process_time()
    rejected(content, content)
    assert time.process_time() - begin < 5


def tiny_chain(key: Private, length: int) -> bytes:
    """A leaf and a chain of its issuers, the last one first."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = [refused.leaf("mail.a.test", key, issuer_name="0")]
    model = refused.certificate("#####", "$$$$$", refused.ec_key(), refused.ec_key())
    for number in range(length):
        subject, issuer = (b"%5d" % at if at else b"    0" for at in (number, number + 1))
        chain.append(model.replace(b"#####", subject).replace(b"$$$$$", issuer))
    chain[0] = refused.leaf("mail.a.test", key, issuer_name="    0")
    return b"".join(map(armoured, reversed(chain)))


def test_a_long_chain_in_reverse_order_takes_no_time() -> None:
    key = refused.new_key()
    short, long = tiny_chain(key, 250), tiny_chain(key, 2300)
    assert (1 << 19) < len(long) < (1 << 20)
    whole = validate_pair("/live/a", short, pem_of(key))
    assert isinstance(whole, KeyAndChain)
    assert whole.pem.count(b"BEGIN CERTIFICATE") == 251
    begin = time.process_time()
    assert "clients refuse more than" in rejected(long, pem_of(key)).detail
    assert time.process_time() - begin < 2


def test_bytes_that_are_no_certificate_are_no_leaf_and_no_chain() -> None:
    assert parse_leaf(b"\x30\x03") is None
    assert chain_order_problem([b"\x30\x03"]) == "a certificate of the chain cannot be decoded"
    assert chain_digests(b"-----BEGIN CERTIFICATE-----\nno end") == ()
