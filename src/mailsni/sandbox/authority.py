"""A throw-away certificate authority like Let's Encrypt's in shape.

A root signs an intermediate, the intermediate signs leaves without a common name (as in Let's Encrypt's newer
profiles). The keys are worth nothing and never leave the sandbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailsni.core.model import Algorithm

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
LIFETIME = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, as the four files of a certbot lineage hold them."""

    key_pem: bytes = field(repr=False)
    """PKCS #8 (``privkey.pem``)."""
    leaf_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    """The intermediate, empty for a self-signed certificate."""
    fullchain_pem: bytes = field(repr=False)
    fingerprint: str
    """SHA-256 of the leaf's DER, lower-case hexadecimal."""
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, leaf: x509.Certificate, key: PrivateKey, chain_pem: bytes, names: Sequence[str]) -> Issued:
        """A leaf with its key, the certificates that follow it, and the names that were asked for."""
        layout, encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        leaf_pem = leaf.public_bytes(serialization.Encoding.PEM)
        return cls(
            key_pem=key.private_bytes(serialization.Encoding.PEM, layout, encryption),
            leaf_pem=leaf_pem,
            chain_pem=chain_pem,
            fullchain_pem=leaf_pem + chain_pem,
            fingerprint=hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest(),
            names=tuple(names),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate of an authority, with its key."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    pem: bytes = field(repr=False)

    @classmethod
    def make(cls, common_name: str, parent: Signer | None = None) -> Signer:
        """A root, or an intermediate that its parent signs."""
        key = ec.generate_private_key(ec.SECP256R1())
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mailsni sandbox")
        name = x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(subject_name=name, issuer_name=parent.name if parent else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=3650))  # leaves that expired long ago have a valid issuer too
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else None), critical=True)
            .sign(parent.key if parent else key, hashes.SHA256())
        )
        return cls(name, key, certificate.public_bytes(serialization.Encoding.PEM))


class Authority:
    """A root and an intermediate; every instance has keys of its own."""

    def __init__(self) -> None:
        self.root = Signer.make("Sandbox Root")
        self.intermediate = Signer.make("Sandbox E1", self.root)

    def issue(
        self, names: Sequence[str], *, algorithm: Algorithm = "ecdsa", not_before: datetime | None = None
    ) -> Issued:
        """Make a certificate that is valid for 90 days, from an hour ago when no beginning is given."""
        key = make_key(algorithm)
        start = not_before or datetime.now(UTC) - timedelta(hours=1)
        leaf = (
            leaf_builder(key, start, start + LIFETIME)
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.name)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
            .sign(self.intermediate.key, hashes.SHA256())
        )
        return Issued.of(leaf, key, self.intermediate.pem, names)


def make_key(algorithm: Algorithm) -> PrivateKey:
    """A new key: P-256, or RSA of 2048 bits."""
    if algorithm == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def leaf_builder(key: PrivateKey, start: datetime, end: datetime) -> x509.CertificateBuilder:
    """A server's certificate without names."""
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
