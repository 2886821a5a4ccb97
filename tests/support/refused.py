"""Keys and chains that belong together and that no server can use: OpenSSL does not load them, or clients refuse them.

Each recipe gives a pair for a name, in which that one thing is wrong.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtensionOID

from mailsni.sandbox.authority import Issued
from tests.support.authority import subject_alternative_names

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extension = tuple[x509.ExtensionType, bool]
"""And whether it is critical."""

RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
RSA_PSS = bytes.fromhex("300d06092a864886f70d01010a3000")
"""Of a key: the algorithm with its parameters, which are those that RFC 4055, 3.1, has for nothing said."""
SHA256_WITH_RSA = bytes.fromhex("06092a864886f70d01010b")
SHA1_WITH_RSA = bytes.fromhex("06092a864886f70d010105")
ECDSA_WITH_SHA256 = bytes.fromhex("06082a8648ce3d040302")
NOBODYS_ALGORITHM = bytes.fromhex("06082a8648ce3d04037f")


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key of a length, made once: making one takes long."""
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """The key of an authority."""
    return ec.generate_private_key(ec.SECP256R1())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A leaf's key."""
    return ec.generate_private_key(ec.SECP256R1())


def armoured(der: bytes, label: bytes = b"CERTIFICATE") -> bytes:
    """DER as PEM."""
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)


def key_pem(key: Key, layout: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, layout, NoEncryption())


def certificate(
    subject: str, issuer: str, key: Key, signer: Key, extensions: Iterable[Extension] = (), *, serial: int = 0
) -> bytes:
    """A certificate in DER, valid for a day before and 90 days after now."""
    now = datetime.now(UTC)
    subject_name, issuer_name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else [])
        for common_name in (subject, issuer)
    )
    builder = (
        x509.CertificateBuilder(issuer_name, subject_name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def names(*texts: str) -> Extension:
    """The subject alternative names."""
    value = subject_alternative_names(*texts)
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value), True


CA: Extension = (x509.BasicConstraints(ca=True, path_length=None), True)


def key_usage(*bits: str) -> Extension:
    """A key usage of these bits alone."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{bit: bit in bits for bit in every.split()}), True


@functools.cache
def issuer(key: Key, *, signer: Key | None = None, signer_name: str = "Root") -> bytes:
    """The intermediate ``Issuer``."""
    return certificate("Issuer", signer_name, key, signer or rsa_key(), [CA])


def leaf(name: str, key: Key, *extensions: Extension, signer: Key | None = None, issuer_name: str = "Issuer") -> bytes:
    """A leaf for a name."""
    return certificate("", issuer_name, key, signer or ec_key(), [names(name), *extensions])


def issued(name: str, key: Key | bytes, leaf_der: bytes, *issuers: bytes) -> Issued:
    """The four files of a lineage; a key may be given as PEM."""
    if isinstance(key, bytes):
        return replace(issued(name, ec_key(), leaf_der, *issuers), key_pem=key)
    return Issued.of(x509.load_der_x509_certificate(leaf_der), key, b"".join(map(armoured, issuers)), [name])


def good(name: str, key: Key | None = None) -> Issued:
    """A pair in which nothing is wrong."""
    key = key or new_key()
    return issued(name, key, leaf(name, key), issuer(ec_key()))


def _small_intermediate(name: str) -> Issued:
    key, small = new_key(), rsa_key(1024)
    return issued(name, key, leaf(name, key, signer=small), issuer(small))


def with_small_root(name: str) -> Issued:
    """Its file has the root too, with a key that OpenSSL refuses."""
    key, small = new_key(), rsa_key(1024)
    root = certificate("Root", "Root", small, small, [CA])
    return issued(name, key, leaf(name, key), issuer(ec_key(), signer=small), root)


def _unknown_signature_of_the_leaf(name: str) -> Issued:
    key = new_key()
    return issued(name, key, leaf(name, key).replace(ECDSA_WITH_SHA256, NOBODYS_ALGORITHM), issuer(ec_key()))


def _unknown_signature_of_the_intermediate(name: str) -> Issued:
    key = new_key()
    intermediate = issuer(ec_key(), signer=ec_key()).replace(ECDSA_WITH_SHA256, NOBODYS_ALGORITHM)
    return issued(name, key, leaf(name, key), intermediate)


def _self_issued(name: str) -> Issued:
    """A root's name, and SHA-1, which nobody checks in a root; but another key has signed it, as it says."""
    key = new_key()
    of_another = x509.AuthorityKeyIdentifier.from_issuer_public_key(rsa_key().public_key())
    own = x509.SubjectKeyIdentifier.from_public_key(ec_key().public_key())
    der = certificate("Issuer", "Issuer", ec_key(), rsa_key(), [CA, (of_another, False), (own, False)])
    return issued(name, key, leaf(name, key), der.replace(SHA256_WITH_RSA, SHA1_WITH_RSA))


def _pss_certificate_of_a_plain_key(name: str) -> Issued:
    key = rsa_key()
    return issued(name, key, leaf(name, key).replace(RSA_ENCRYPTION, RSA_PSS), issuer(ec_key()))


def _pss_key_of_a_plain_certificate(name: str) -> Issued:
    key = rsa_key()
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return issued(
        name, armoured(der.replace(RSA_ENCRYPTION, RSA_PSS, 1), b"PRIVATE KEY"), leaf(name, key), issuer(ec_key())
    )


def damaged_prime(key: rsa.RSAPrivateKey, layout: PrivateFormat = PrivateFormat.TraditionalOpenSSL) -> bytes:
    """The key with another number in the place of its first prime, and of the private exponent."""
    numbers = key.private_numbers()
    der = key.private_bytes(Encoding.DER, layout, NoEncryption())
    for number in (numbers.p, numbers.d):
        length = (number.bit_length() + 7) // 8
        assert number.to_bytes(length, "big") in der
        der = der.replace(number.to_bytes(length, "big"), (number ^ 0x40).to_bytes(length, "big"))
    return armoured(der, b"RSA PRIVATE KEY" if layout is PrivateFormat.TraditionalOpenSSL else b"PRIVATE KEY")


def _damaged_primes(name: str) -> Issued:
    return issued(name, damaged_prime(rsa_key()), leaf(name, rsa_key()), issuer(ec_key()))


def _long_message(name: str) -> Issued:
    key = new_key()
    many = names(name, *(f"m{number}.{'a' * 40}.test" for number in range(2500)))
    return issued(name, key, certificate("", "Issuer", key, ec_key(), [many]), issuer(ec_key()))


def _key_agreement_only(name: str) -> Issued:
    key = new_key()
    return issued(name, key, leaf(name, key, key_usage("key_agreement")), issuer(ec_key()))


def _flipped_bit_in_the_key_of_the_intermediate(name: str) -> Issued:
    key, der = new_key(), issuer(ec_key())
    point = ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return issued(name, key, leaf(name, key), der.replace(point, point[:-1] + bytes([point[-1] ^ 1])))


RECIPES: Mapping[str, Callable[[str], Issued]] = {
    "intermediate_of_1024_bits": _small_intermediate,
    "unknown_signature_of_the_leaf": _unknown_signature_of_the_leaf,
    "unknown_signature_of_the_intermediate": _unknown_signature_of_the_intermediate,
    "self_issued_and_not_self_signed": _self_issued,
    "pss_certificate_of_a_plain_key": _pss_certificate_of_a_plain_key,
    "pss_key_of_a_plain_certificate": _pss_key_of_a_plain_certificate,
    "damaged_primes": _damaged_primes,
    "message_over_100_kb": _long_message,
    "key_usage_without_signatures": _key_agreement_only,
    "flipped_bit_in_the_key_of_the_intermediate": _flipped_bit_in_the_key_of_the_intermediate,
}
"""By label."""
