"""Certificates from nowhere: a throw-away certificate authority like Let's Encrypt's in shape.

A root signs an intermediate, the intermediate signs leaves; a leaf has no common name unless one is asked for (as in
Let's Encrypt's newer profiles). It also makes what no public authority would: hostile SubjectAltNames, certificates
of any age, self-signed ones, "(STAGING)" issuers. The keys are worth nothing: they are made for tests and never leave
the sandbox.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

Algorithm = Literal["ecdsa", "ecdsa-p384", "ed25519", "rsa"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

LIFETIME = timedelta(days=90)
_ISSUER_ADDRESS = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://sandbox.invalid/e1.der")
        )
    ]
)
_RSA_KEYS = 2
_rsa_keys: list[rsa.RSAPrivateKey] = []
_rsa_turn = 0


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, as the four files of a certbot lineage hold them.

    Attributes:
        key_pem: the private key, PKCS #8; not shown by ``repr``.
        leaf_pem: the certificate alone (``cert.pem``).
        chain_pem: the intermediate, empty for a self-signed certificate (``chain.pem``).
        fullchain_pem: leaf, then chain (``fullchain.pem``).
        fingerprint: SHA-256 of the leaf's DER, lower-case hexadecimal.
        names: what ``issue`` was asked for.
        not_before: start of validity, in UTC.
        not_after: end of validity, in UTC.
    """

    key_pem: bytes = field(repr=False)
    leaf_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    fullchain_pem: bytes = field(repr=False)
    fingerprint: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Signer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    pem: bytes = field(repr=False)


class Authority:
    """A root and its intermediates; every instance has keys of its own."""

    def __init__(self) -> None:
        self._root = _make_signer("Sandbox Root", parent=None)
        self._intermediates: dict[str, _Signer] = {}

    @property
    def root_pem(self) -> bytes:
        """The root certificate: what a client has to trust."""
        return self._root.pem

    def issue(
        self,
        names: Sequence[str],
        *,
        algorithm: Algorithm = "ecdsa",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        common_name: str | None = None,
        key: bytes | None = None,
        raw_san: bytes | None = None,
        self_signed: bool = False,
        issuer_name: str = "Sandbox E1",
        issuer_address: bool = True,
    ) -> Issued:
        """Make a certificate.

        Args:
            names: the SubjectAltNames, in this order; an IP address in text form becomes an iPAddress, everything else
                a dNSName, unchecked. No name at all: no SubjectAltName extension.
            algorithm: of the leaf's key. RSA keys take long to make, so a few (2048 bits) are made per process and
                handed out in turn: two RSA certificates may have the same key.
            not_before: start of validity, an hour ago when None.
            not_after: end of validity, 90 days after ``not_before`` when None.
            common_name: the subject's, if it shall have one.
            key: the PEM of a key to use instead of a new one (``Issued.key_pem`` of an earlier certificate).
            raw_san: the DER value of the SubjectAltName extension, taken as it is (:func:`subject_alternative_names`
                makes a well-formed one of any bytes); ``names`` are then not looked at.
            self_signed: signed by its own key, with no chain.
            issuer_name: common name of the intermediate, such as ``(STAGING) Sandbox E1``.
            issuer_address: say where the intermediate can be fetched, as public authorities do.
        """
        private = _load(key) if key is not None else _make_key(algorithm)
        start = _whole_seconds(not_before or datetime.now(UTC) - timedelta(hours=1))
        end = _whole_seconds(not_after or start + LIFETIME)
        attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        subject = x509.Name(attributes)
        signer = None if self_signed else self._intermediate(issuer_name)
        public = private.public_key()
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=signer.name if signer else subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        if signer is not None and issuer_address:
            builder = builder.add_extension(_ISSUER_ADDRESS, critical=False)
        san = raw_san if raw_san is not None else subject_alternative_names(*names) if names else None
        if san is not None:
            extension = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, san)
            builder = builder.add_extension(extension, critical=not attributes)
        if signer is not None:
            leaf = builder.sign(signer.key, hashes.SHA256())
        else:
            leaf = builder.sign(private, None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256())
        leaf_pem = leaf.public_bytes(serialization.Encoding.PEM)
        chain_pem = b"" if signer is None else signer.pem
        return Issued(
            key_pem=key if key is not None else _dump(private),
            leaf_pem=leaf_pem,
            chain_pem=chain_pem,
            fullchain_pem=leaf_pem + chain_pem,
            fingerprint=hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest(),
            names=tuple(names),
            not_before=start,
            not_after=end,
        )

    def _intermediate(self, name: str) -> _Signer:
        if name not in self._intermediates:
            self._intermediates[name] = _make_signer(name, parent=self._root)
        return self._intermediates[name]


def subject_alternative_names(*names: str | bytes) -> bytes:
    """The DER value of a SubjectAltName extension (RFC 5280, 4.2.1.6).

    Args:
        names: text that is an IP address becomes an iPAddress, other text a dNSName in UTF-8, bytes a dNSName as they
            are. Nothing is checked: NUL bytes, line feeds, quotes and empty names go in unchanged.
    """
    return _tlv(0x30, b"".join(_general_name(name) for name in names))


def _general_name(name: str | bytes) -> bytes:
    if isinstance(name, bytes):
        return _tlv(0x82, name)
    try:
        return _tlv(0x87, ipaddress.ip_address(name).packed)
    except ValueError:
        return _tlv(0x82, name.encode())


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def _make_signer(common_name: str, parent: _Signer | None) -> _Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mailsni sandbox")
    name = x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = _whole_seconds(datetime.now(UTC))
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=parent.name if parent else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3650))  # leaves that expired long ago have a valid issuer too
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else None), critical=True)
        .sign(parent.key if parent else key, hashes.SHA256())
    )
    return _Signer(name, key, certificate.public_bytes(serialization.Encoding.PEM))


def _make_key(algorithm: Algorithm) -> PrivateKey:
    global _rsa_turn
    match algorithm:
        case "ecdsa":
            return ec.generate_private_key(ec.SECP256R1())
        case "ecdsa-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            if len(_rsa_keys) < _RSA_KEYS:
                _rsa_keys.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))
            _rsa_turn += 1
            return _rsa_keys[_rsa_turn % len(_rsa_keys)]


def _load(pem: bytes) -> PrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise TypeError(f"no certificate is made for a key of type {type(key).__name__}")
    return key


def _dump(key: PrivateKey) -> bytes:
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, layout, serialization.NoEncryption())


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
