"""What OpenSSL refuses is left out before anything is made of it, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mailsni.core.model import CachedLineage, FileIdentity, Inventory, KeyAndChain, Reason
from mailsni.core.x509 import validate_pair
from mailsni.deploy import proof
from mailsni.probes import openssl
from mailsni.sandbox.authority import Issued
from tests.support import refused
from tests.support.authority import Algorithm
from tests.support.builders import authority
from tests.support.refused import RECIPES

FILES = (FileIdentity(1, 2, 3, 4, 5, 0o600, 0),)


def read(source: str, issued: Issued) -> KeyAndChain:
    outcome = validate_pair(f"/live/{source}", issued.fullchain_pem, issued.key_pem)
    assert isinstance(outcome, KeyAndChain), outcome
    return outcome


def scanned(*pairs: KeyAndChain) -> Inventory:
    """A scan that read these."""
    certificates = tuple(pair.certificate for pair in pairs)
    lineages = frozenset(certificate.source for certificate in certificates)
    cached = tuple(CachedLineage(FILES, certificate) for certificate in certificates)
    return Inventory(certificates, (), lineages, cached, pairs)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What OpenSSL is asked about."""
    asked: list[bytes] = []
    refusal = openssl.refusal

    def counted(pem: bytes) -> str | None:
        asked.append(pem)
        return refusal(pem)

    monkeypatch.setattr(openssl, "refusal", counted)
    return asked


BY_OPENSSL = {
    "intermediate_of_1024_bits": "OpenSSL does not load it: ca key too small",
    "unknown_signature_of_the_leaf": "OpenSSL does not load it: ca md too weak",
    "unknown_signature_of_the_intermediate": "OpenSSL does not load it: ca md too weak",
    "self_issued_and_not_self_signed": "OpenSSL does not load it: ca md too weak",
    "key_usage_without_signatures": "no client of TLS 1.2 gets through: no shared cipher",
    "flipped_bit_in_the_key_of_the_intermediate": "OpenSSL does not load it: ca key too small",
}


@pytest.mark.parametrize("recipe", BY_OPENSSL)
def test_what_openssl_refuses_is_skipped_beside_a_good_renewal(recipe: str) -> None:
    good, bad = read("good", refused.good("mail.good.test")), read("bad", RECIPES[recipe]("mail.bad.test"))
    inventory = scanned(bad, good)
    result = proof.proven(inventory, ())
    (skipped,) = result.skipped
    assert (skipped.source, skipped.reason) == ("/live/bad", Reason.REFUSED_BY_OPENSSL)
    assert (skipped.detail, skipped.names) == (BY_OPENSSL[recipe], ("mail.bad.test",))
    assert result == replace(scanned(good), skipped=(skipped,), lineages=inventory.lineages)


def test_what_arithmetic_refuses_openssl_refuses_too() -> None:
    """For all others :func:`validate_pair` is the first to refuse; otherwise it would refuse too much."""
    by_arithmetic = RECIPES.keys() - BY_OPENSSL.keys()
    assert len(by_arithmetic) == 4
    for recipe in by_arithmetic:
        issued = RECIPES[recipe]("mail.a.test")
        assert not isinstance(validate_pair("/live/a", issued.fullchain_pem, issued.key_pem), KeyAndChain)
        assert openssl.refusal(issued.key_pem + issued.fullchain_pem) is not None, recipe


@pytest.mark.parametrize("algorithm", ["ecdsa", "ecdsa-p384", "rsa"])
def test_a_good_pair_is_not_refused(algorithm: Algorithm) -> None:
    issued = authority().issue(["mail.a.test"], algorithm=algorithm)
    assert openssl.refusal(read("a", issued).pem) is None


def test_a_long_chain_is_no_reason_to_refuse() -> None:
    many = b"".join(refused.armoured(refused.issuer(refused.new_key(), signer=refused.ec_key())) for _ in range(250))
    good = refused.good("mail.a.test")
    assert len(many) * 3 // 4 > 80_000
    assert openssl.refusal(good.key_pem + good.fullchain_pem + many) is None


def test_what_the_servers_load_already_is_not_proven_again(asked: list[bytes]) -> None:
    pairs = [read(name, refused.good(f"mail.{name}.test")) for name in "ab"]
    result = proof.proven(scanned(*pairs), {pairs[0].certificate.ident})
    assert asked == [pairs[1].pem]
    assert result == scanned(*pairs)


def crowd(count: int, *odd: KeyAndChain) -> Sequence[KeyAndChain]:
    """So many certificates of one kind, and the odd ones in their midst."""
    alike = [read(f"{number:03}", refused.good(f"mail.{number}.test")) for number in range(count)]
    return (*alike[: count // 2], *odd, *alike[count // 2 :])


def test_of_many_one_of_each_kind_is_proven(asked: list[bytes]) -> None:
    odd = [read(recipe, RECIPES[recipe](f"mail.{number}.test")) for number, recipe in enumerate(BY_OPENSSL)]
    done: list[tuple[str, int, int]] = []
    pairs = crowd(proof.MANY, *odd)
    result = proof.proven(scanned(*pairs), (), lambda *progress: done.append(progress))
    assert len(asked) == 1 + len(odd)
    assert {skipped.source for skipped in result.skipped} == {pair.certificate.source for pair in odd}
    assert len(result.certificates) == len(result.read) == len(result.cached) == proof.MANY
    assert done[-1] == ("proving certificates", len(pairs), len(pairs))


def test_where_one_of_a_kind_is_refused_all_of_the_kind_are_proven(
    asked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = crowd(proof.MANY + 1)
    first = pairs[0].pem
    truthful = openssl.refusal
    monkeypatch.setattr(openssl, "refusal", lambda pem: truthful(pem) or ("made up" if pem == first else None))
    result = proof.proven(scanned(*pairs), ())
    assert len(asked) == len(pairs)
    assert [skipped.source for skipped in result.skipped] == [pairs[0].certificate.source]
