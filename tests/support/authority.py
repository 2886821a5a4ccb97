"""The sandbox's authority, which also makes what no public authority would.

Hostile SubjectAltNames, certificates of any age, self-signed ones, "(STAGING)" issuers.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

from mailsni.sandbox import authority
from mailsni.sandbox.authority import LIFETIME, Issued, PrivateKey, Signer, leaf_builder

Algorithm = Literal["ecdsa", "ecdsa-p384", "ed25519", "rsa"]
Flaw = Literal[
    "expired intermediate",
    "leaf for clients",
    "intermediate without CA",
    "bad signature",
    "path too long",
    "name constraints",
]
"""Why no client takes a chain, though it leads to the root."""

_ISSUER_ADDRESS = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://sandbox.invalid/e1.der")
        )
    ]
)


class Authority(authority.Authority):
    """A root and its intermediates; every instance has keys of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._intermediates = {"Sandbox E1": self.intermediate}

    @property
    def root_pem(self) -> bytes:
        """The root certificate: what a client has to trust."""
        return self.root.pem

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
        start = not_before or datetime.now(UTC) - timedelta(hours=1)
        attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        subject = x509.Name(attributes)
        signer = None if self_signed else self._intermediate(issuer_name)
        builder = leaf_builder(private, start, not_after or start + LIFETIME).subject_name(subject)
        builder = builder.issuer_name(signer.name if signer else subject)
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
        return Issued.of(leaf, private, b"" if signer is None else signer.pem, names)

    def issue_flawed(self, flaw: Flaw, name: str) -> Issued:
        """Make a certificate below the root whose chain no client takes, though it leads to the root."""
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sandbox {flaw}")])
        end = now - timedelta(days=1) if flaw == "expired intermediate" else now + timedelta(days=30)
        is_authority = flaw != "intermediate without CA"
        intermediate = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self.root.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        )
        if flaw == "name constraints":
            only = x509.NameConstraints([x509.DNSName("elsewhere.test")], None)
            intermediate = intermediate.add_extension(only, critical=True)
        pem = intermediate.sign(self.root.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        issuer = Signer(subject, key, pem)
        if flaw == "path too long":
            second = Signer.make("Sandbox below", issuer)
            issuer = Signer(second.name, second.key, second.pem + pem)
        private = _make_key("ecdsa")
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if flaw == "leaf for clients" else ExtendedKeyUsageOID.SERVER_AUTH
        san = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, subject_alternative_names(name))
        leaf = (
            x509.CertificateBuilder(subject_name=x509.Name([]), issuer_name=issuer.name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + LIFETIME)
            .add_extension(san, critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(_make_key("ecdsa") if flaw == "bad signature" else issuer.key, hashes.SHA256())
        )
        return Issued.of(leaf, private, issuer.pem, [name])

    def _intermediate(self, name: str) -> Signer:
        if name not in self._intermediates:
            self._intermediates[name] = Signer.make(name, self.root)
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


def _make_key(algorithm: Algorithm) -> PrivateKey:
    match algorithm:
        case "ecdsa":
            return authority.make_key(algorithm)
        case "ecdsa-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return next(_rsa_keys())


@functools.cache
def _rsa_keys() -> Iterator[PrivateKey]:
    return itertools.cycle([authority.make_key("rsa") for _ in range(2)])


def _load(pem: bytes) -> PrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise TypeError(f"no certificate is made for a key of type {type(key).__name__}")
    return key
