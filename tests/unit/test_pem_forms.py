"""The forms in which tools and people leave keys and chains, and which certificates of a file are served."""

from __future__ import annotations

import base64
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mailsni.core.model import KeyAndChain, Reason
from mailsni.core.x509 import ChainDescription, InvalidPair, describe, leaf_names, validate_pair
from mailsni.probes import openssl
from mailsni.sandbox.authority import Issued
from mailsni.sources.outcome import paired
from tests.support import refused
from tests.support.builders import authority

NAME = "mail.a.test"
BOM = b"\xef\xbb\xbf"
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@functools.cache
def issued() -> Issued:
    return authority().issue([NAME])


def served(chain: bytes, key: bytes) -> bytes:
    outcome = validate_pair("/live/a", chain, key)
    assert isinstance(outcome, KeyAndChain), outcome
    return outcome.pem


def windows(pem: bytes) -> bytes:
    return pem.replace(b"\n", b"\r\n")


def marked(pem: bytes) -> bytes:
    """Files with a byte-order mark, concatenated."""
    return BOM + pem.replace(b"-----\n-----BEGIN", b"-----\n" + BOM + b"-----BEGIN")


def without_newlines(pem: bytes) -> bytes:
    """Files without a newline at their ends, concatenated."""
    return pem.replace(b"-----\n-----BEGIN", b"----------BEGIN").rstrip(b"\n")


def with_text(pem: bytes) -> bytes:
    between = b"Bag Attributes\n    localKeyID: 01\nsubject=CN = x\nissuer=C = US, O = Let's Encrypt - no block\n"
    return between + pem.replace(b"-----\n-----BEGIN", b"-----\n" + between + b"-----BEGIN") + b"the end"


def long_lines(pem: bytes) -> bytes:
    """Base64 in one line, as some control panels have it."""
    parts = pem.split(b"-----")
    return b"-----".join(b"\n" + b"".join(part.split()) + b"\n" if b"\n" in part.strip() else part for part in parts)


FORMS = (windows, marked, without_newlines, with_text, long_lines)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_makes_no_difference(form: Callable[[bytes], bytes]) -> None:
    plain = issued()
    expected = served(plain.fullchain_pem, plain.key_pem)
    assert served(form(plain.fullchain_pem), form(plain.key_pem)) == expected
    assert served(form(plain.fullchain_pem), form(PARAMETERS + plain.key_pem)) == expected
    for parts in itertools.permutations((plain.key_pem, plain.leaf_pem, plain.chain_pem)):
        combined = form(PARAMETERS + b"".join(parts))
        assert combined != PARAMETERS + b"".join(parts)
        assert served(combined, combined) == expected


def test_a_chain_is_put_in_order_without_duplicates_and_without_the_root() -> None:
    plain, root = issued(), authority().root_pem
    expected = served(plain.fullchain_pem, plain.key_pem)
    assert expected == plain.key_pem + plain.leaf_pem + plain.chain_pem
    for parts in itertools.permutations((plain.leaf_pem, plain.chain_pem, root, plain.chain_pem, plain.leaf_pem)):
        assert served(b"".join(parts), plain.key_pem) == expected
        assert leaf_names(b"".join(parts)) == (NAME,)


def test_a_root_that_openssl_refuses_does_no_harm() -> None:
    small = refused.with_small_root(NAME)
    outcome = validate_pair("/live/a", small.fullchain_pem, small.key_pem)
    assert isinstance(outcome, KeyAndChain)
    assert openssl.refusal(outcome.pem) is None
    assert outcome.pem.count(b"BEGIN CERTIFICATE") == 2


def test_the_lineage_of_a_chain_in_reverse_is_known_by_the_names_of_its_leaf() -> None:
    outcome = validate_pair("/live/a", authority().root_pem + issued().chain_pem + issued().leaf_pem, b"")
    assert isinstance(outcome, InvalidPair)
    assert outcome.names == (NAME,)


def test_a_self_signed_leaf_stays() -> None:
    own = authority().issue([NAME], self_signed=True)
    assert served(own.leaf_pem, own.key_pem) == own.key_pem + own.leaf_pem
    assert served(authority().root_pem + own.leaf_pem, own.key_pem) == own.key_pem + own.leaf_pem


@pytest.mark.parametrize(
    ("chain", "missing"),
    [
        (lambda plain: plain.fullchain_pem, False),
        (lambda plain: plain.fullchain_pem + authority().root_pem, False),
        (lambda plain: plain.leaf_pem, True),
    ],
)
def test_a_missing_issuer_is_told(chain: Callable[[Issued], bytes], missing: bool) -> None:  # noqa: FBT001
    outcome = validate_pair("/live/a", chain(issued()), issued().key_pem)
    assert isinstance(outcome, KeyAndChain)
    assert outcome.certificate.issuer_missing is missing
    description = describe(chain(issued()))
    assert isinstance(description, ChainDescription)
    assert description.alone is missing


def test_a_leaf_that_says_nothing_of_its_issuer_needs_none() -> None:
    private = authority().issue([NAME], issuer_address=False)
    outcome = validate_pair("/live/a", private.leaf_pem, private.key_pem)
    assert isinstance(outcome, KeyAndChain)
    assert not outcome.certificate.issuer_missing


@pytest.mark.parametrize("cut", [20, 200, -30])
def test_a_chain_that_is_cut_in_its_second_certificate_is_no_shorter_chain(cut: int) -> None:
    whole = issued().fullchain_pem
    at = len(issued().leaf_pem) + cut if cut > 0 else cut
    outcome = validate_pair("/live/a", whole[:at], issued().key_pem)
    assert isinstance(outcome, InvalidPair)
    assert outcome.reason is Reason.BAD_PEM


def test_servers_are_given_the_path_of_a_chain_that_is_as_it_is_to_be_served_and_of_no_other() -> None:
    plain, paths, nothing = issued(), ("/live/a/fullchain.pem", "/live/a/privkey.pem"), ("", "")
    for chain, expected in (
        (plain.fullchain_pem, paths),
        (plain.chain_pem + plain.leaf_pem, nothing),
        (plain.fullchain_pem + authority().root_pem, nothing),
        (plain.fullchain_pem + plain.chain_pem, nothing),
    ):
        lineage = paired("/live/a", chain, plain.key_pem, (), paths=paths).lineage
        assert lineage is not None
        assert (lineage.certificate.chain_path, lineage.certificate.key_path) == expected


# ── one name, several intermediates ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Rekeyed:
    """A leaf, and the certificates of two intermediates of one name, the right one first."""

    leaf: bytes
    key: bytes
    issuers: tuple[bytes, bytes]


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, identified: bool
) -> bytes:
    now = datetime.now(UTC)
    is_leaf = subject == ""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([] if is_leaf else [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=not is_leaf, path_length=None), critical=True)
    )
    if is_leaf:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=True)
    if identified:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(theirs, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


@functools.cache
def rekeyed(*, identified: bool) -> Rekeyed:
    root, right, wrong, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    issuers = tuple(_certificate("E1", key, "Root", root, identified=identified) for key in (right, wrong))
    leaf = _certificate("", own, "E1", right, identified=identified)
    form, encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Rekeyed(leaf, own.private_bytes(Encoding.PEM, form, encryption), (issuers[0], issuers[1]))


@pytest.mark.parametrize("identified", [True, False], ids=["key-identifiers", "signatures"])
def test_of_two_intermediates_of_one_name_the_one_that_signed_is_served(identified: bool) -> None:  # noqa: FBT001
    case = rekeyed(identified=identified)
    right, wrong = case.issuers
    expected = case.key + case.leaf + right
    for parts in itertools.permutations((case.leaf, right, wrong)):
        assert served(b"".join(parts), case.key) == expected


def test_an_intermediate_of_the_right_name_with_another_key_is_not_the_issuer() -> None:
    case = rekeyed(identified=True)
    outcome = validate_pair("/live/a", case.leaf + case.issuers[1], case.key)
    assert isinstance(outcome, InvalidPair)
    assert outcome.detail == "the chain file has other certificates than the issuer of the leaf"
    assert outcome.names == (NAME,)


def test_a_certificate_whose_key_identifiers_do_not_fit_is_taken_where_the_signature_does() -> None:
    """RFC 5280 has them only as a help."""
    case = rekeyed(identified=True)
    issuer = x509.load_pem_x509_certificate(case.issuers[0])
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    der = issuer.public_bytes(Encoding.DER)
    changed = der.replace(identifier, bytes(len(identifier)), 1)
    assert changed != der
    pem = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % base64.encodebytes(changed)
    assert served(case.leaf + pem, case.key).count(b"BEGIN CERTIFICATE") == 2
