"""Renewals that are damaged, weak or odd, beside good ones: whatever is made of them, every name is served.

Whole pairs are mutated: bits, algorithms, extensions, keys and their labels, the order of the chain. Each mutant
replaces a certificate that is served. Afterwards both servers complete every handshake of TLS 1.2 and 1.3 for its name,
with the mutant or with the last good one, and the good renewals are served. So the servers judge, with an OpenSSL of
their own; and ``openssl s_server`` judges what the program refused. ``MAILSNI_FAULTS=all`` tries thousands.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailsni.host.commands import require_tool
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import LOOPBACK
from tests.support import refused
from tests.support.authority import Authority
from tests.support.fault_host import ALL
from tests.support.mail_host import ABORTED, DEFAULT_NAME, ONE_EACH, MailHost, Version, served
from tests.support.processes import running, until
from tests.support.refused import Extension, Key
from tests.support.servers import free_ports

ROUNDS = 40 if ALL else 1
MUTANTS = 50
"""In each round."""
GOOD = ("mail.good.test", "mail.other.test")
VERSIONS: tuple[Version, ...] = ("tls1_2", "tls1_3")
SEED = os.urandom(4).hex() if ALL else os.environ.get("MAILSNI_LAB_RELEASE", "")
"""The same mutations in every run of a release, but for the bytes of the keys; others with all faults."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600 if ALL else 300)]


@dataclass(frozen=True)
class Mutant:
    """A key and a chain in DER, and what is odd about them."""

    oddities: tuple[str, ...]
    key: bytes = field(repr=False)
    label: bytes
    leaf: bytes = field(repr=False)
    issuers: tuple[bytes, ...] = field(repr=False)

    def issued(self, good: Issued) -> Issued:
        """The files of a lineage with it, in the place of a good one."""
        leaf, chain = refused.armoured(self.leaf), b"".join(map(refused.armoured, self.issuers))
        return replace(
            good,
            key_pem=refused.armoured(self.key, self.label),
            leaf_pem=leaf,
            chain_pem=chain,
            fullchain_pem=leaf + chain,
            fingerprint=hashlib.sha256(self.leaf).hexdigest(),
        )


# ── mutations ────────────────────────────────────────────────────────────────────────────────────────────────────────

LABELS = (b"PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY")
ISSUER_KEYS: tuple[Callable[[], Key], ...] = (
    *(refused.ec_key, refused.rsa_key, lambda: refused.rsa_key(1024), lambda: refused.rsa_key(1536)),
    *(lambda: ec.generate_private_key(ec.SECP384R1()), lambda: ec.generate_private_key(ec.SECP224R1())),
)
LEAF_KEYS: tuple[Callable[[], Key], ...] = (
    *(refused.new_key, refused.rsa_key, lambda: refused.rsa_key(3072), lambda: refused.rsa_key(1024)),
    *(lambda: ec.generate_private_key(ec.SECP521R1()), lambda: ec.generate_private_key(ec.SECP224R1())),
)
EXTENSIONS: tuple[Extension, ...] = (
    *(refused.key_usage(bit) for bit in ("digital_signature", "key_encipherment", "key_agreement", "key_cert_sign")),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True),
    (x509.TLSFeature([x509.TLSFeatureType.status_request]), False),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    (x509.AuthorityKeyIdentifier(b"another key", None, None), False),
    refused.CA,
)
RSA_SIGNATURES = tuple(bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("04", "05", "0b", "0e", "7f"))
"""MD5, SHA-1, SHA-256, SHA-224, none that is known."""
ECDSA_SIGNATURES = tuple(bytes.fromhex(f"06082a8648ce3d0403{last}") for last in ("01", "02", "03", "7f"))
"""SHA-224, SHA-256, SHA-384, none that is known."""


def made(chance: random.Random, name: str) -> Mutant:
    """A pair that an authority may really sign; in half of them something is odd."""
    odd = chance.random() < 0.5
    key = chance.choice(LEAF_KEYS if odd else LEAF_KEYS[:2])()
    signer = chance.choice(ISSUER_KEYS if odd else ISSUER_KEYS[:2])()
    extensions = chance.sample(EXTENSIONS, chance.randrange(3)) if odd else []
    extensions = list({type(extension): (extension, critical) for extension, critical in extensions}.values())
    names = refused.names(name, *(f"x{number}.{name}" for number in range(chance.choice((0, 9, 900)) if odd else 0)))
    layout = chance.choice((PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL))
    traditional = b"RSA PRIVATE KEY" if isinstance(key, rsa.RSAPrivateKey) else b"EC PRIVATE KEY"
    label = b"PRIVATE KEY" if layout is PrivateFormat.PKCS8 else traditional
    words = [f"{type(key).__name__} {key.key_size}", f"issuer {signer.key_size}", label.decode()]
    words += [type(extension).__name__ for extension, _ in extensions]
    return Mutant(
        tuple(words) if odd else (),
        key.private_bytes(Encoding.DER, layout, NoEncryption()),
        label,
        refused.certificate("", "Issuer", key, signer, [names, *extensions]),
        (refused.issuer(signer),),
    )


def flipped(chance: random.Random, der: bytes) -> bytes:
    """One bit changed."""
    at = chance.randrange(len(der))
    return der[:at] + bytes([der[at] ^ (1 << chance.randrange(8))]) + der[at + 1 :]


def resigned(chance: random.Random, der: bytes) -> bytes:
    """Said to be signed with another algorithm."""
    of_rsa, of_ecdsa = chance.choice(RSA_SIGNATURES), chance.choice(ECDSA_SIGNATURES)
    return der.replace(refused.SHA256_WITH_RSA, of_rsa).replace(refused.ECDSA_WITH_SHA256, of_ecdsa)


def spoil_leaf(chance: random.Random, mutant: Mutant) -> Mutant:
    change = chance.choice((flipped, resigned))
    return replace(mutant, leaf=change(chance, mutant.leaf))


def spoil_issuer(chance: random.Random, mutant: Mutant) -> Mutant:
    change = chance.choice((flipped, resigned))
    return replace(mutant, issuers=tuple(change(chance, issuer) for issuer in mutant.issuers))


def spoil_issuers_key(chance: random.Random, mutant: Mutant) -> Mutant:
    """A bit in the second half of the certificate's key: it follows its name, which stands there twice."""
    issuer, *others = mutant.issuers
    at = issuer.rindex(b"Issuer") + 40 + chance.randrange(24)
    return replace(mutant, issuers=(issuer[:at] + bytes([issuer[at] ^ 1]) + issuer[at + 1 :], *others))


def spoil_key(chance: random.Random, mutant: Mutant) -> Mutant:
    return replace(mutant, key=flipped(chance, mutant.key))


def relabel(chance: random.Random, mutant: Mutant) -> Mutant:
    return replace(mutant, label=chance.choice(LABELS))


def lengthen(chance: random.Random, mutant: Mutant) -> Mutant:
    """Roots, duplicates and strangers, of 600 to 300,000 bytes together."""
    strangers = [refused.issuer(refused.ec_key(), signer_name=f"Root {number}") for number in range(3)]
    root = refused.certificate("Root", "Root", refused.rsa_key(), refused.rsa_key(chance.choice((1024, 2048))))
    return replace(mutant, issuers=(*mutant.issuers, root, *strangers * chance.choice((0, 1, 200))))


SPOILERS = (spoil_leaf, spoil_issuer, spoil_issuers_key, spoil_key, relabel, lengthen)


def mutant(chance: random.Random, name: str) -> Mutant:
    """A pair with something odd about it, or several things."""
    pair = made(chance, name)
    for spoiler in chance.sample(SPOILERS, chance.randrange(0 if pair.oddities else 1, 3)):
        pair = replace(spoiler(chance, pair), oddities=(*pair.oddities, spoiler.__name__))
    return pair


# ── the servers' judgement ───────────────────────────────────────────────────────────────────────────────────────────


def test_whatever_a_renewal_is_its_name_and_all_others_are_served(
    shared_tmp: Path, tmp_path: Path, authority: Authority, figures: list[str]
) -> None:
    chance = random.Random(SEED)  # noqa: S311
    host = MailHost.build(tmp_path, shared_tmp, authority, authority.issue([DEFAULT_NAME]))
    reasons: Counter[str] = Counter()
    with host.postfix, host.dovecot:
        for _ in range(ROUNDS):
            reasons += _try_mutants(host, chance)
    figures.append(f"{reasons.total()} mutated renewals, seed {SEED!r}: {dict(reasons.most_common())}")
    assert {"served", "refused_by_openssl", "bad_pem"} <= reasons.keys()


def _try_mutants(host: MailHost, chance: random.Random) -> Counter[str]:
    """Renew the certificates of many names by mutants; gives what became of them."""
    names = [f"mail.{hashlib.sha256(bytes([number])).hexdigest()[:8]}.test" for number in range(MUTANTS)]
    before = {name: host.renew(name) for name in (*names, *GOOD)}
    host.apply()
    mutants = {name: mutant(chance, name) for name in names}
    after = {name: each.issued(before[name]) for name, each in mutants.items()}
    for name, issued in after.items():
        host.store.renew(name, issued)
    after |= {name: host.renew(name) for name in GOOD}
    done = host.mailsni("apply", "--json")
    assert done.returncode == 4, done.stdout + done.stderr
    reasons = _reasons(json.loads(done.stdout)["skipped"])
    assert "set_aside" not in reasons.values(), "what the servers refuse is known before they are asked"
    expected = {name: (before if name in reasons else after)[name].fingerprint for name in before}
    wrong = [
        f"{question}: {answer}, {reasons.get(question[0])}, {mutants.get(question[0])}"
        for question, answer in _answers(host, expected).items()
        if answer != expected[question[0]] and (answer == ABORTED or not _may_lose_its_name(mutants[question[0]]))
    ]
    refused_ones = {name: after[name] for name, reason in reasons.items() if reason == "refused_by_openssl"}
    for name, issued in refused_ones.items():
        # OpenSSL mends some damages of a key by a slower computation; the program refuses them all.
        if _is_taken_by_openssl(host.directory, issued) and spoil_key.__name__ not in mutants[name].oddities:
            wrong.append(f"{name}: refused, and taken by openssl s_server: {mutants[name]}")
    assert wrong == []
    return Counter(reasons.get(name, "served") for name in names)


def _reasons(skipped: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By lineage, why its certificate is not served."""
    beside = ("kept_last_good", "bad_name")
    reasons = {Path(each["source"]).name: each["reason"] for each in skipped if each["reason"] == "bad_name"}
    return reasons | {Path(each["source"]).name: each["reason"] for each in skipped if each["reason"] not in beside}


def _may_lose_its_name(mutant: Mutant) -> bool:
    """A flipped bit of the leaf may change its name."""
    return spoil_leaf.__name__ in mutant.oddities


def _answers(host: MailHost, names: Mapping[str, object]) -> dict[tuple[str, str, str], str]:
    """What a client of each version of TLS gets from each server, by name, service and version."""
    questions = [(name, service, version) for name in names for service in ONE_EACH for version in VERSIONS]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda at: served(host.endpoints[at[1]], at[0], at[1], version=at[2]), questions)
        return dict(zip(questions, answers, strict=True))


def _is_taken_by_openssl(directory: Path, issued: Issued) -> bool:
    """Whether ``openssl s_server`` loads a key and chain, and clients of both versions of TLS get through."""
    words = [str(require_tool("openssl")), "s_server", "-quiet"]
    for option, content in (("key", issued.key_pem), ("cert", issued.leaf_pem), ("cert_chain", issued.chain_pem)):
        path = directory / f"{option}.pem"
        path.write_bytes(content)
        words += [f"-{option}", str(path)]
    (port,) = free_ports(1)
    with running([*words, "-accept", f"{LOOPBACK}:{port}"], directory / "s_server.log") as process:
        until(lambda: process.poll() is not None or _listens(port), "s_server listens, or ends")
        if process.poll() is not None:
            return False
        return all(served(port, None, "tls", version=version) != ABORTED for version in VERSIONS)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((LOOPBACK, port)) == 0
