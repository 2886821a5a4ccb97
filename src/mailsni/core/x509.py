"""PEM in, a valid certificate or a reason out: the only door for private keys, and to the cryptography package.

A certificate is accepted when one of the certificates in the chain file carries the public key of the private key,
when the others continue it issuer by issuer, and when both servers can load the result: OpenSSL as Debian builds it
(security level 2) refuses RSA keys under 2048 bits and chains signed with MD5 or SHA-1, and a refused chain aborts
every handshake for that name instead of falling back to the default certificate. The last word on that has OpenSSL
itself (:mod:`mailsni.probes.openssl`); here is what arithmetic can tell of each pair in microseconds.

Whether the primes of an RSA key are prime is not tested: that costs 30 ms and more (measured, cryptography 50).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID

from mailsni.core.model import Algorithm, Certificate, KeyAndChain, Reason
from mailsni.core.names import RefusedNameError, host_name
from mailsni.core.pem import Block, PemError, armoured, blocks
from mailsni.core.text import printable_name

_Result = TypeVar("_Result")

RSA_MINIMUM_BITS = 2048
RSA_MAXIMUM_BITS = 16384
"""OpenSSL verifies no signature by a longer key (OPENSSL_RSA_MAX_MODULUS_BITS); the time for one grows cubically."""
MAXIMUM_MESSAGE = 102_400
"""Bytes of a Certificate message, more of which an OpenSSL client refuses (SSL_CTX_set_max_cert_list(3))."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_CANDIDATES = 10
"""Certificates of one subject that are tried as the issuer of another one."""
_WEAK_HASHES = ("md5", "sha1")
_STAGING = re.compile(r"\(STAGING\)|\bFake LE\b")
_SEQUENCE, _OCTET_STRING, _INTEGER = 0x30, 0x04, 0x02
_LABELS_BY_FORM = {_SEQUENCE: b"PRIVATE KEY", _OCTET_STRING: b"EC PRIVATE KEY", _INTEGER: b"RSA PRIVATE KEY"}
"""A key's label, by what follows the version number in its DER: PKCS #8 (RFC 5208), SEC 1 (RFC 5915), PKCS #1."""
_KEY_LABELS = tuple(_LABELS_BY_FORM.values())
_CERTIFICATE_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE")
_RSA_PSS = "1.2.840.113549.1.1.10"
_RSA_PSS_DER = bytes.fromhex("06092a864886f70d01010a")
_EXTENSIONS = {
    "subjectAltName": bytes.fromhex("0603551d11"),
    "keyUsage": bytes.fromhex("0603551d0f"),
    "extendedKeyUsage": bytes.fromhex("0603551d25"),
    "basicConstraints": bytes.fromhex("0603551d13"),
    "authorityKeyIdentifier": bytes.fromhex("0603551d23"),
    "subjectKeyIdentifier": bytes.fromhex("0603551d0e"),
    "nameConstraints": bytes.fromhex("0603551d1e"),
    "cRLDistributionPoints": bytes.fromhex("0603551d1f"),
    "certificatePolicies": bytes.fromhex("0603551d20"),
    "authorityInfoAccess": bytes.fromhex("06082b06010505070101"),
    "signedCertificateTimestampList": bytes.fromhex("060a2b06010401d679020402"),
}
"""Their identifiers in DER (RFC 5280, 4.2; RFC 6962, 3.3)."""
_UNDECODABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
"""What cryptography raises for a part of a certificate that it cannot decode. It looks at a part when asked for it."""


@dataclass(frozen=True, slots=True)
class InvalidPair:
    """Why a chain and a key are no certificate to serve. It holds no content of the files."""

    reason: Reason
    detail: str
    names: tuple[str, ...] = ()
    """The names of the leaf, as far as it could be read."""


class _InvalidPairError(Exception):
    def __init__(self, reason: Reason, detail: str, names: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.pair = InvalidPair(reason, detail, tuple(names))


def validate_pair(source: str, chain_pem: bytes, key_pem: bytes) -> KeyAndChain | InvalidPair:
    """Check that a chain and a private key belong together, and that the servers can serve them.

    Args:
        source: the origin of both, for the result.
        chain_pem: leaf and intermediates.
        key_pem: the private key.
    """
    return _outcome(lambda: _key_and_chain(source, chain_pem, key_pem))


def leaf_names(pem: bytes) -> tuple[str, ...]:
    """The names of the leaf of a PEM file; none when they cannot be read."""
    outcome = _outcome(lambda: _names(_lowest(_certificates(pem))))
    return () if isinstance(outcome, InvalidPair) else outcome[0]


def _outcome(read: Callable[[], _Result]) -> _Result | InvalidPair:
    try:
        return read()
    except _InvalidPairError as error:
        return error.pair
    except _UNDECODABLE:
        return InvalidPair(Reason.BAD_PEM, "a part of a certificate cannot be decoded")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate says, on the wire or in a file. It may be anybody's, and say anything."""

    names: tuple[str, ...]
    """Its dNSName SANs that are of the grammar, sorted."""
    not_before: datetime
    not_after: datetime
    issuer: str
    """For people: printable ASCII, bounded."""
    self_signed: bool
    has_issuer_address: bool
    """Whether it says where its issuer's certificate can be fetched (RFC 5280, 4.2.2.1), as those of public
    authorities do. A client must not need to."""


@functools.lru_cache(maxsize=4096)
def parse_leaf(der: bytes) -> Leaf | None:
    """A leaf as it came over the wire; None when it cannot be decoded."""
    try:
        return _leaf(_parsed(der))
    except (_InvalidPairError, *_UNDECODABLE):
        return None


def _leaf(parsed: _Parsed) -> Leaf:
    names, _ = _names(parsed)
    return Leaf(
        names,
        parsed.certificate.not_valid_before_utc,
        parsed.certificate.not_valid_after_utc,
        _issuer_text(parsed.issuer),
        _is_self_signed(parsed),
        _has_issuer_address(parsed.certificate),
    )


@dataclass(frozen=True, slots=True)
class ChainDescription:
    """What the certificates of a file say."""

    leaf: Leaf
    alone: bool
    """The file lacks the certificate that issued the leaf."""


def describe(pem: bytes) -> ChainDescription | InvalidPair:
    """Read the first certificate of a PEM file, and whether its issuer is there too. Keys are ignored."""
    return _outcome(lambda: _description(pem))


def _description(pem: bytes) -> ChainDescription:
    first, *others = _certificates(pem)
    candidates = [parsed for parsed in others if parsed.subject == first.issuer and parsed.der != first.der]
    return ChainDescription(_leaf(first), alone=not first.is_root and _take_issuer(first, candidates) is None)


def chain_order_problem(chain: Sequence[bytes]) -> str | None:
    """Why a chain is not "each certificate is issued by the next" (RFC 5246, 7.4.2); None when it is.

    Args:
        chain: certificates in DER, the leaf first.
    """
    try:
        parsed = [_parsed(chain[0]), *map(_parsed_issuer, chain[1:])]
        for at, (certificate, following) in enumerate(itertools.pairwise(parsed)):
            if certificate.issuer != following.subject:
                return f"certificate {at + 1} of {len(parsed)} is not issued by the one behind it"
    except _UNDECODABLE:
        return "a certificate of the chain cannot be decoded"
    return None


def chain_digests(pem: bytes) -> tuple[str, ...]:
    """SHA-256 of each certificate of a file, hexadecimal, in its order; none when it is not whole PEM."""
    try:
        return tuple(hashlib.sha256(der).hexdigest() for label, der in _blocks(pem) if label in _CERTIFICATE_LABELS)
    except _InvalidPairError:
        return ()


@dataclass(frozen=True, slots=True)
class LooseCertificate:
    """A certificate of a file that may hold anything."""

    pem: bytes = field(repr=False)
    spki: str
    """SHA-256 of its public key: a certificate and its private key have the same."""
    subject: bytes
    issuer: bytes
    """The subject of the certificate that issued it."""
    names: tuple[str, ...]
    """See :attr:`Leaf.names`."""
    is_leaf: bool
    """Whether it is for names of hosts, as far as it can be decoded: authorities' have none."""
    is_root: bool
    not_after: datetime


@dataclass(frozen=True, slots=True)
class LooseKey:
    """A private key of a file that may hold anything."""

    pem: bytes = field(repr=False)
    spki: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a PEM file holds, each part by itself."""

    certificates: tuple[LooseCertificate, ...] = ()
    keys: tuple[LooseKey, ...] = ()
    useless_key: InvalidPair | None = None
    """Why one of its private keys cannot be used."""
    damage: str = ""
    """Why a certificate of it, or the whole file, cannot be read; empty: all can."""


def contents(content: bytes) -> Contents:
    """The certificates and private keys of a file. What is neither is left out; nothing is checked."""
    certificates: list[LooseCertificate] = []
    keys: list[LooseKey] = []
    useless_key, damage = None, ""
    try:
        for block in blocks(content):
            if block.label in _CERTIFICATE_LABELS:
                try:
                    certificates.append(_loose_certificate(block.der()))
                except _UNDECODABLE:
                    damage = "a certificate of the file cannot be parsed"
            elif block.is_key:
                key = _outcome(functools.partial(_loose_key, block))
                if isinstance(key, InvalidPair):
                    useless_key = key
                else:
                    keys.append(key)
    except PemError as error:
        if _CERTIFICATE_LABELS[0] + b"-----" in content:
            damage = str(error)
        else:
            useless_key = InvalidPair(Reason.BAD_PEM, str(error))
    return Contents(tuple(certificates), tuple(keys), useless_key, damage)


@functools.lru_cache(maxsize=4096)
def _loose_certificate(der: bytes) -> LooseCertificate:
    parsed = _parsed(der)
    try:
        names, refused = _names(parsed)
        is_leaf = bool(names or refused)
    except (_InvalidPairError, *_UNDECODABLE):
        names, is_leaf = (), True
    return LooseCertificate(
        pem=armoured(b"CERTIFICATE", der),
        spki=_spki(parsed.certificate.public_key()),
        subject=parsed.subject.public_bytes(),
        issuer=parsed.issuer.public_bytes(),
        names=names,
        is_leaf=is_leaf,
        is_root=parsed.is_root,
        not_after=parsed.certificate.not_valid_after_utc,
    )


def _loose_key(block: Block) -> LooseKey:
    label, der = _decoded(block)
    if label == b"ENCRYPTED PRIVATE KEY":
        raise _InvalidPairError(Reason.ENCRYPTED_KEY, "a private key is encrypted")
    try:
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    except _UNDECODABLE:
        raise _InvalidPairError(Reason.BAD_PEM, "a private key cannot be parsed") from None
    return LooseKey(armoured(label, der), _spki(key.public_key()))


def _spki(public: PublicKeyTypes) -> str:
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _has_issuer_address(certificate: x509.Certificate) -> bool:
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(method.access_method == AuthorityInformationAccessOID.CA_ISSUERS for method in access)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A certificate of a chain file, with what is needed more than once."""

    certificate: x509.Certificate
    der: bytes
    subject: x509.Name
    issuer: x509.Name
    is_root: bool
    """Whether it names itself as its issuer."""


def _key_and_chain(source: str, chain_pem: bytes, key_pem: bytes) -> KeyAndChain:
    certificates = _certificates(chain_pem)
    try:
        key = _private_key(key_pem)
    except _InvalidPairError as error:
        names, _ = _names(_lowest(certificates))
        raise _InvalidPairError(error.pair.reason, error.pair.detail, names) from None
    leaf = next((parsed for parsed in certificates if _has_public_key(parsed, key.public)), None)
    if leaf is None:
        names, _ = _names(_lowest(certificates))
        raise _InvalidPairError(Reason.KEY_MISMATCH, "the private key is not the key of the certificate", names)
    names, refused = _names(leaf)
    algorithm = _algorithm(key.public, names)
    _refuse_odd_key(key, leaf, names)
    whole_chain = _ordered_chain(leaf, certificates, names)
    chain = _without_root(whole_chain)
    _refuse_weak_signatures(chain, names)
    _refuse_long_message(chain, names)
    pem = b"".join(
        (
            armoured(key.label, key.der),
            armoured(b"CERTIFICATE", leaf.der),
            *(_issuer_pem(issuer.der) for issuer in chain[1:]),
        )
    )
    issuer = _issuer_text(leaf.issuer if len(whole_chain) == 1 else whole_chain[1].subject)
    certificate = Certificate(
        source=source,
        names=names,
        algorithm=algorithm,
        fingerprint=hashlib.sha256(leaf.der).hexdigest(),
        spki=_spki(key.public),
        not_before=leaf.certificate.not_valid_before_utc,
        not_after=leaf.certificate.not_valid_after_utc,
        issuer=issuer,
        self_signed=_is_self_signed(leaf),
        staging=bool(_STAGING.search(issuer)),
        digest=hashlib.sha256(pem).hexdigest(),
        refused_names=refused,
        issuer_missing=_is_alone(whole_chain) and _has_issuer_address(leaf.certificate),
    )
    return KeyAndChain(certificate, pem, _kind(key, chain))


def _kind(key: _Key, chain: Sequence[_Parsed]) -> str:
    """A digest of what OpenSSL judges a key and chain by, once the arithmetic is right.

    That is everything of the leaf but its names, dates, serial number, key and signature, and the issuers to the byte.
    """
    leaf, public = chain[0].certificate, key.public
    usage = None
    extensions = []
    for extension in leaf.extensions:
        extensions.append((extension.oid.dotted_string, extension.critical))
        if extension.oid == ExtensionOID.KEY_USAGE:
            usage = extension.value.public_bytes()
    own = (
        key.label,
        leaf.public_key_algorithm_oid.dotted_string,
        public.public_numbers().e if isinstance(public, rsa.RSAPublicKey) else public.curve.name,
        public.key_size,
        leaf.signature_algorithm_oid.dotted_string,
        chain[0].is_root,
        extensions,
        usage,
    )
    digest = hashlib.sha256(repr(own).encode())
    for issuer in chain[1:]:
        digest.update(issuer.der)
    return digest.hexdigest()


def _blocks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Label and DER of each PEM block; no DER for what is encrypted, or neither key nor certificate."""
    try:
        yield from map(_decoded, blocks(content))
    except PemError as error:
        raise _InvalidPairError(Reason.BAD_PEM, str(error)) from None


def _decoded(block: Block) -> tuple[bytes, bytes]:
    if block.is_encrypted:
        return b"ENCRYPTED PRIVATE KEY", b""
    return block.label, block.der() if block.label in (*_KEY_LABELS, *_CERTIFICATE_LABELS) else b""


@functools.lru_cache(maxsize=256)
def _issuer_pem(der: bytes) -> bytes:
    """Cached: thousands of chains share an intermediate."""
    return armoured(b"CERTIFICATE", der)


def _certificates(pem: bytes) -> list[_Parsed]:
    ders = [der for label, der in _blocks(pem) if label in _CERTIFICATE_LABELS]
    if not ders:
        raise _InvalidPairError(Reason.BAD_PEM, "there is no certificate in the chain file")
    try:
        return [_parsed_issuer(der) if at else _parsed(der) for at, der in enumerate(ders)]
    except _UNDECODABLE:
        raise _InvalidPairError(Reason.BAD_PEM, "a certificate of the chain file cannot be parsed") from None


def _parsed(der: bytes) -> _Parsed:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cryptography warns of, OpenSSL takes: a negative serial number
        certificate = x509.load_der_x509_certificate(der)
    subject, issuer = certificate.subject, certificate.issuer
    return _Parsed(certificate, der, subject, issuer, is_root=subject == issuer)


_parsed_issuer = functools.lru_cache(maxsize=256)(_parsed)


_Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class _Key:
    """A private key."""

    label: bytes
    """The one that fits its form, whatever the file says: OpenSSL takes no other one."""
    der: bytes = field(repr=False)
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)
    public: _Public


def _private_key(pem: bytes) -> _Key:
    """The one private key in the file. The two halves of an ECDSA key fit: cryptography sees to that."""
    keys = [(label, der) for label, der in _blocks(pem) if label.endswith(b"PRIVATE KEY")]
    if not keys:
        raise _InvalidPairError(Reason.BAD_PEM, "there is no private key in the key file")
    if len(keys) > 1:
        raise _InvalidPairError(Reason.BAD_PEM, "there is more than one private key in the key file")
    label, der = keys[0]
    if label == b"ENCRYPTED PRIVATE KEY":
        raise _InvalidPairError(
            Reason.ENCRYPTED_KEY, "the private key is encrypted; a server cannot ask for a passphrase"
        )
    if label not in _KEY_LABELS:
        raise _InvalidPairError(Reason.UNSUPPORTED_KEY, "the private key is neither RSA nor ECDSA")
    try:
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        raise _InvalidPairError(Reason.UNSUPPORTED_KEY, "the private key is of an unknown kind or curve") from None
    except (ValueError, TypeError):
        raise _InvalidPairError(Reason.BAD_PEM, "the private key cannot be parsed") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise _InvalidPairError(Reason.UNSUPPORTED_KEY, "the private key is neither RSA nor ECDSA")
    return _Key(_key_label(der), der, key, key.public_key())


def _key_label(der: bytes) -> bytes:
    """The label of a key that could be parsed: a sequence of a version number, which takes three bytes, and more."""
    length_of_length = der[1] & 0x7F if der[1] & 0x80 else 0
    return _LABELS_BY_FORM[der[2 + length_of_length + 3]]


def _refuse_odd_key(key: _Key, leaf: _Parsed, names: Sequence[str]) -> None:
    """Refuse a key that OpenSSL does not load beside its certificate, or that signs what no client accepts."""
    leaf_for_pss = leaf.certificate.public_key_algorithm_oid.dotted_string == _RSA_PSS
    if leaf_for_pss != (_RSA_PSS_DER in key.der[:40]):
        first, second = ("certificate", "private key") if leaf_for_pss else ("private key", "certificate")
        detail = f"the {first} is for RSA-PSS alone, and the {second} is not"
        raise _InvalidPairError(Reason.REFUSED_BY_OPENSSL, detail, names)
    if isinstance(key.private, rsa.RSAPrivateKey) and not _fits_itself(key.private.private_numbers()):
        detail = "the private key is damaged, its numbers do not fit each other: clients refuse what it signs"
        raise _InvalidPairError(Reason.REFUSED_BY_OPENSSL, detail, names)


def _fits_itself(key: rsa.RSAPrivateNumbers) -> bool:
    """Whether the numbers of an RSA key are as RFC 8017, 3.2, has them, but for the primes being prime."""
    p, q, n, e = key.p, key.q, key.public_numbers.n, key.public_numbers.e
    return (
        min(p, q) > 1
        and p * q == n
        and key.d * e % (p - 1) == 1
        and key.d * e % (q - 1) == 1
        and key.dmp1 == key.d % (p - 1)
        and key.dmq1 == key.d % (q - 1)
        and key.iqmp * q % p == 1
    )


def _has_public_key(parsed: _Parsed, public: _Public) -> bool:
    try:
        return parsed.certificate.public_key() == public
    except (ValueError, UnsupportedAlgorithm):
        return False


def _algorithm(public: _Public, names: Sequence[str]) -> Algorithm:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < RSA_MINIMUM_BITS:
            detail = f"an RSA key of {public.key_size} bits: the servers refuse fewer than {RSA_MINIMUM_BITS}"
            raise _InvalidPairError(Reason.UNSUPPORTED_KEY, detail, names)
        if public.key_size > RSA_MAXIMUM_BITS:
            detail = f"an RSA key of {public.key_size} bits: clients refuse more than {RSA_MAXIMUM_BITS}"
            raise _InvalidPairError(Reason.UNSUPPORTED_KEY, detail, names)
        return "rsa"
    if public.curve.name not in CURVES:
        detail = f"an ECDSA key on {public.curve.name}: mail clients know P-256, P-384 and P-521"
        raise _InvalidPairError(Reason.UNSUPPORTED_KEY, detail, names)
    return "ecdsa"


def _names(leaf: _Parsed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dNSName SANs of the grammar, sorted, and the others as printable text."""
    try:
        extensions = leaf.certificate.extensions
    except _UNDECODABLE:
        raise _undecodable_extension(leaf.der) from None
    return _names_of(extensions)


def _names_of(extensions: x509.Extensions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    texts = found.get_values_for_type(x509.DNSName)
    good: set[str] = set()
    refused: list[str] = []
    for text in texts:
        try:
            good.add(host_name(text))
        except RefusedNameError:
            refused.append(printable_name(text))
    return tuple(sorted(good)), tuple(refused)


def _undecodable_extension(leaf: bytes) -> _InvalidPairError:
    """Which extension of a leaf cannot be decoded: with an identifier that nobody knows in its place, all can."""
    for name, identifier in _EXTENSIONS.items():
        without = leaf.replace(identifier, identifier[:-1] + b"\x7f", 1)
        try:
            extensions = _parsed(without).certificate.extensions
        except _UNDECODABLE:
            continue
        if name == "subjectAltName":
            return _InvalidPairError(Reason.BAD_NAME, "the subject alternative names cannot be decoded")
        names, _ = _names_of(extensions)
        return _InvalidPairError(Reason.BAD_PEM, f"the extension {name} is malformed, or there twice", names)
    return _InvalidPairError(Reason.BAD_PEM, "the extensions of the certificate cannot be decoded")


def _is_self_signed(leaf: _Parsed) -> bool:
    if not leaf.is_root:
        return False
    try:
        leaf.certificate.verify_directly_issued_by(leaf.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _lowest(certificates: Sequence[_Parsed]) -> _Parsed:
    """The first certificate that issued no other one of the file."""
    issuers = {parsed.issuer for parsed in certificates if not parsed.is_root}
    return next((parsed for parsed in certificates if parsed.subject not in issuers), certificates[0])


def _ordered_chain(leaf: _Parsed, certificates: Sequence[_Parsed], names: Sequence[str]) -> list[_Parsed]:
    """The leaf, its issuer, the issuer of that, as far as the file has them. Other certificates are left out."""
    by_subject: dict[x509.Name, list[_Parsed]] = defaultdict(list)
    for parsed in reversed(certificates):
        if parsed.der != leaf.der:
            by_subject[parsed.subject].append(parsed)
    chain = [leaf]
    while not chain[-1].is_root and (issuer := _take_issuer(chain[-1], by_subject.get(chain[-1].issuer, []))):
        chain.append(issuer)
    if len(chain) == 1 and by_subject and not leaf.is_root:
        detail = "the chain file has other certificates than the issuer of the leaf"
        raise _InvalidPairError(Reason.BAD_PEM, detail, names)
    return chain


def _take_issuer(parsed: _Parsed, candidates: list[_Parsed]) -> _Parsed | None:
    """Take the certificate that issued another one from those with the right subject, the last of the list first.

    An authority that gets a new key, or a second parent, has several certificates of one name.
    """
    alone = len(candidates) == 1
    for candidate in candidates[: -_CANDIDATES - 1 : -1]:
        if _is_issued_by(parsed, candidate, alone=alone):
            candidates.remove(candidate)
            return candidate
    return None


def _is_issued_by(parsed: _Parsed, issuer: _Parsed, *, alone: bool) -> bool:
    """Whether a certificate with the right subject issued another one, by key identifier (RFC 5280, 4.2.1.1).

    Where that does not tell, the signature does; it costs 0.4 ms (measured), and is spared where there is no other
    candidate and nothing speaks against this one.
    """
    wanted, own = _authority_key_identifier(parsed.certificate), _subject_key_identifier(issuer.certificate)
    if wanted is not None and own is not None and wanted == own:
        return True
    if alone and (wanted is None or own is None):
        return True
    try:
        parsed.certificate.verify_directly_issued_by(issuer.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _authority_key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, *_UNDECODABLE):
        return None


def _subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, *_UNDECODABLE):
        return None


def _is_alone(chain: Sequence[_Parsed]) -> bool:
    """Whether an ordered chain lacks the issuer of the leaf."""
    return len(chain) == 1 and not chain[0].is_root


def _without_root(chain: Sequence[_Parsed]) -> Sequence[_Parsed]:
    """An ordered chain as it is served: who trusts the root has it (RFC 8446, 4.4.2)."""
    last = chain[-1]
    return chain[:-1] if len(chain) > 1 and last.is_root and _is_issued_by(last, last, alone=True) else chain


def _refuse_weak_signatures(chain: Sequence[_Parsed], names: Sequence[str]) -> None:
    for parsed in chain:
        if parsed.is_root:
            continue  # nobody checks a root's own signature
        try:
            algorithm = parsed.certificate.signature_hash_algorithm
        except UnsupportedAlgorithm:
            algorithm = None
        if algorithm is not None and algorithm.name in _WEAK_HASHES:
            detail = f"signed with {algorithm.name.upper()}, which the servers refuse"
            raise _InvalidPairError(Reason.UNSUPPORTED_KEY, detail, names)


def _refuse_long_message(chain: Sequence[_Parsed], names: Sequence[str]) -> None:
    """In TLS 1.3, where it is longest, it has four bytes of its own and five for each certificate (RFC 8446, 4.4.2)."""
    size = 4 + sum(len(parsed.der) + 5 for parsed in chain)
    if size > MAXIMUM_MESSAGE:
        detail = f"the chain makes a message of {size} bytes: clients refuse more than {MAXIMUM_MESSAGE}"
        raise _InvalidPairError(Reason.REFUSED_BY_OPENSSL, detail, names)


@functools.lru_cache(maxsize=256)
def _issuer_text(name: x509.Name) -> str:
    try:
        return printable_name(name.rfc4514_string())
    except ValueError:
        return "?"
