"""Bad: keys that no mail server of Debian can use."""

from __future__ import annotations

import functools
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import NameOID

from mailsni.host.commands import require_tool, run
from tests.e2e.lineages.kinds import DAY, NOW, LineageBuilder, bad


@bad("encrypted_key")
def key_encrypted_as_pkcs8(builder: LineageBuilder) -> None:
    builder.add_pair(*_encrypted(builder, serialization.PrivateFormat.PKCS8))


@bad("encrypted_key")
def key_encrypted_with_proc_type(builder: LineageBuilder) -> None:
    chain, key = _encrypted(builder, serialization.PrivateFormat.TraditionalOpenSSL)
    assert b"Proc-Type: 4,ENCRYPTED" in key
    builder.add_pair(chain, key)


def _encrypted(builder: LineageBuilder, layout: serialization.PrivateFormat) -> tuple[bytes, bytes]:
    issued = builder.issue()
    key = serialization.load_pem_private_key(issued.key_pem, None)
    passphrase = serialization.BestAvailableEncryption(b"a passphrase")
    return issued.fullchain_pem, key.private_bytes(serialization.Encoding.PEM, layout, passphrase)


@bad("unsupported_key")
def key_ed25519(builder: LineageBuilder) -> None:
    builder.add(algorithm="ed25519")


@bad("unsupported_key")
def key_dsa(builder: LineageBuilder) -> None:
    builder.add_pair(*_dsa(builder, serialization.PrivateFormat.PKCS8))


@bad("unsupported_key")
def key_dsa_in_the_traditional_format(builder: LineageBuilder) -> None:
    builder.add_pair(*_dsa(builder, serialization.PrivateFormat.TraditionalOpenSSL))


def _dsa(builder: LineageBuilder, layout: serialization.PrivateFormat) -> tuple[bytes, bytes]:
    """A certificate of a DSA key, which the sandbox's authority does not make, signed by nobody in particular."""
    key = _dsa_key()
    signer = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 90 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(builder.name)]), critical=True)
        .sign(signer, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    return certificate.public_bytes(encoding), key.private_bytes(encoding, layout, serialization.NoEncryption())


@functools.cache
def _dsa_key() -> dsa.DSAPrivateKey:
    return dsa.generate_private_key(2048)  # takes seconds


@bad("unsupported_key")
def key_rsa_1024(builder: LineageBuilder) -> None:
    builder.add(key=_pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505  # as bad as it looks


@bad("unsupported_key")
def key_on_secp256k1(builder: LineageBuilder) -> None:
    builder.add(key=_pem(ec.generate_private_key(ec.SECP256K1())))


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    layout, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, layout, nothing)


@bad("unsupported_key")
def chain_signed_with_sha1(builder: LineageBuilder) -> None:
    """Only the openssl command still makes such a thing: it signs a self-signed certificate anew."""
    issued, signer = builder.issue(self_signed=True), builder.issue("signer.test", common_name="Signer")
    leaf, ca = (builder.outside / f"{builder.lineage}-{role}" for role in ("leaf", "ca"))
    leaf.write_bytes(issued.leaf_pem)
    ca.write_bytes(signer.key_pem + signer.leaf_pem)
    words: list[str | Path] = [require_tool("openssl"), "x509", "-in", leaf, "-CA", ca, "-CAkey", ca]
    done = run([*words, "-sha1", "-preserve_dates", "-set_serial", "7"])
    assert done.returncode == 0, done.stderr
    builder.add_pair(done.stdout, issued.key_pem)
