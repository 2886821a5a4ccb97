"""What a command may print: PEM and JSON of many shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping

import pytest

from mailsni.core.model import Algorithm, Inventory, Reason
from mailsni.sandbox.authority import Issued
from mailsni.sources.base import StoreFiles, WatchPath
from mailsni.sources.document import Content, DamagedDocumentError, DocumentStore
from mailsni.sources.printed import entries
from tests.support.builders import authority


class Printed:
    """A document that holds what a test says."""

    location = "/bin/print"
    path = None
    origins = ("/bin/print",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def fetch(self) -> Content:
        """What it holds."""
        return Content(self.data, "/bin/print")

    def change_token(self) -> bytes:
        """It never changes."""
        return b""

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """None."""
        return ()

    def files(self) -> StoreFiles:
        """None."""
        return StoreFiles()


def scan(printed: bytes | str | object) -> Inventory:
    data = printed if isinstance(printed, bytes) else json.dumps(printed).encode()
    return DocumentStore(Printed(data), entries).scan({})


def found(inventory: Inventory) -> dict[str, str]:
    return {each.source.removeprefix("/bin/print#"): each.fingerprint for each in inventory.certificates}


def issue(*names: str, algorithm: Algorithm = "ecdsa") -> Issued:
    return authority().issue(names or ["mail.a.test"], algorithm=algorithm)


@pytest.fixture(scope="module")
def a() -> Issued:
    return issue()


# ── PEM ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pem_may_come_in_any_order(a: Issued) -> None:
    b, rsa = issue("mail.b.test"), issue(algorithm="rsa")
    leaves = [one.fullchain_pem.removesuffix(one.chain_pem) for one in (a, b, rsa)]
    for pem in (
        b"".join((a.key_pem, a.fullchain_pem, b.key_pem, b.fullchain_pem, rsa.fullchain_pem, rsa.key_pem)),
        b"".join((b"some text\n", rsa.chain_pem, *leaves, rsa.key_pem, b.key_pem, a.key_pem, a.chain_pem)),
        b"\xef\xbb\xbf" + b"\r\n".join((a.chain_pem, *leaves, a.key_pem, rsa.key_pem, b.key_pem)),
    ):
        inventory = scan(pem)
        assert found(inventory) == {
            "mail.a.test": a.fingerprint,
            "mail.a.test#2": rsa.fingerprint,
            "mail.b.test": b.fingerprint,
        }
        pems = {pair.certificate.fingerprint: pair.pem for pair in inventory.read}
        assert pems == {one.fingerprint: one.key_pem + one.fullchain_pem for one in (a, b, rsa)}


def test_an_issuer_that_is_printed_with_each_certificate_is_taken_once(a: Issued) -> None:
    found_entries = entries((a.fullchain_pem + a.key_pem) * 3 + a.chain_pem * 200)
    assert [(each.name, each.chain, each.key) for each in found_entries] == [
        ("mail.a.test", a.fullchain_pem, a.key_pem)
    ]


def test_a_certificate_without_a_key_keeps_its_name(a: Issued) -> None:
    b = issue("mail.b.test")
    inventory = scan(a.key_pem + a.fullchain_pem + b.fullchain_pem)
    assert found(inventory) == {"mail.a.test": a.fingerprint}
    (skipped,) = inventory.skipped
    assert (skipped.source, skipped.reason) == ("/bin/print#mail.b.test", Reason.KEY_MISSING)
    assert skipped.names == ("mail.b.test",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: a.key_pem, "1 of the private keys have no certificate"),
        (lambda a: a.key_pem + issue().key_pem + a.fullchain_pem, "1 of the private keys have no certificate"),
        (lambda a: a.key_pem + a.fullchain_pem[:-40], "begins and does not end"),
        (lambda a: a.fullchain_pem + a.key_pem.replace(b"PRIVATE", b"ENCRYPTED PRIVATE"), "encrypted"),
        (lambda a: a.fullchain_pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "parsed"),
        (lambda a: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + a.key_pem, "decoded|parsed"),
    ],
)
def test_pem_that_is_not_whole_is_no_inventory(a: Issued, make: Callable[[Issued], bytes], message: str) -> None:
    with pytest.raises(DamagedDocumentError, match=message):
        entries(make(a))


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(pem: bytes) -> str:
    return pem.decode()


def leaf(issued: Issued) -> str:
    return text(issued.fullchain_pem.removesuffix(issued.chain_pem))


def vault_pki(a: Issued) -> object:
    """``vault write -format=json pki/issue/…``."""
    return {
        "request_id": "1",
        "lease_id": "",
        "data": {
            "ca_chain": [text(a.chain_pem)],
            "certificate": leaf(a),
            "expiration": 1700000000,
            "issuing_ca": text(a.chain_pem),
            "private_key": text(a.key_pem),
            "private_key_type": "ec",
            "serial_number": "1",
        },
        "warnings": None,
    }


def vault_kv1(a: Issued) -> object:
    """``vault kv get -format=json``."""
    return {"data": {"cert": text(a.fullchain_pem), "key": text(a.key_pem)}}


def vault_kv2(a: Issued) -> object:
    """Likewise."""
    secret = {"fullchain": text(a.fullchain_pem), "privkey": text(a.key_pem)}
    return {"data": {"data": secret, "metadata": {"version": 3, "custom_metadata": None}}}


def one_password(a: Issued) -> object:
    """``op item get --format json``."""
    return {
        "id": "abc",
        "category": "SECURE_NOTE",
        "fields": [
            {"id": "notesPlain", "label": "notesPlain"},
            {"id": "x1", "label": "Certificate", "value": leaf(a)},
            {"id": "x2", "label": "Private Key", "value": text(a.key_pem).replace("\n", "\\n")},
            {"id": "chain", "value": text(a.chain_pem)},
        ],
    }


def kubernetes(a: Issued) -> object:
    """``kubectl get secret -o json``."""
    pair = {"tls.crt": a.fullchain_pem, "tls.key": a.key_pem, "ca.crt": a.chain_pem}
    data = {name: base64.b64encode(pem).decode() for name, pem in pair.items()}
    return {"apiVersion": "v1", "kind": "Secret", "data": data, "type": "kubernetes.io/tls"}


SHAPES: Mapping[str, Callable[[Issued], object]] = {
    "vault-pki": vault_pki,
    "vault-kv1": vault_kv1,
    "vault-kv2": vault_kv2,
    "1password": one_password,
    "kubernetes": kubernetes,
    "object": lambda a: {"crt": leaf(a), "chain": text(a.chain_pem), "key": text(a.key_pem)},
    "chain-first": lambda a: {"certificate_chain": text(a.fullchain_pem), "private_key": text(a.key_pem)},
    "both": lambda a: {"pem": text(a.key_pem + a.fullchain_pem)},
    "list": lambda a: [{"certificate": text(a.fullchain_pem), "privateKey": text(a.key_pem)}],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_shape_gives_the_certificate(a: Issued, shape: Callable[[Issued], object]) -> None:
    inventory = scan(shape(a))
    assert found(inventory) == {"mail.a.test": a.fingerprint}
    assert inventory.skipped == ()
    assert inventory.read[0].pem == a.key_pem + a.fullchain_pem


def test_several_are_called_by_their_own_names(a: Issued) -> None:
    b = issue("mail.b.test")
    pairs = [{"cert": text(one.fullchain_pem), "key": text(one.key_pem)} for one in (a, b)]
    assert found(scan(pairs)) == {"mail.a.test": a.fingerprint, "mail.b.test": b.fingerprint}
    assert found(scan({"x": pairs[0], "y": pairs[1]})) == {"x": a.fingerprint, "y": b.fingerprint}
    named = [{"title": "Mail (A)", "data": pairs[0]}, {"metadata": {"namespace": "n", "name": "b"}, "data": pairs[1]}]
    assert found(scan({"items": named})) == {"Mail__A_": a.fingerprint, "n/b": b.fingerprint}


def test_a_named_object_that_is_wrong_is_skipped_and_the_others_are_used(a: Issued) -> None:
    wrong = {
        "cut": {"cert": text(a.fullchain_pem)[:-60], "key": text(a.key_pem)},
        "keyless": {"cert": text(a.fullchain_pem)},
        "bare": {"key": text(a.key_pem)},
        "mixed": {"cert": text(a.fullchain_pem), "key": text(issue().key_pem)},
        "odd": {"cert": "\udcff", "key": 7},
    }
    inventory = scan({**wrong, "good": {"cert": text(a.fullchain_pem), "key": text(a.key_pem)}})
    assert found(inventory) == {"good": a.fingerprint}
    assert {each.source.removeprefix("/bin/print#"): each.reason for each in inventory.skipped} == {
        "cut": Reason.BAD_PEM,
        "keyless": Reason.KEY_MISSING,
        "bare": Reason.CHAIN_MISSING,
        "mixed": Reason.KEY_MISMATCH,
        "odd": Reason.KEY_MISSING,
    }


def test_a_nameless_object_that_is_wrong_is_no_inventory(a: Issued) -> None:
    """Nobody can tell whose names would go."""
    good = {"cert": text(a.fullchain_pem), "key": text(a.key_pem)}
    for wrong in ({**good, "cert": text(a.fullchain_pem)[:-60]}, {"key": text(a.key_pem)}):
        with pytest.raises(DamagedDocumentError, match="does not say its name"):
            entries(json.dumps([good, wrong]).encode())


@pytest.mark.parametrize("printed", [{}, []])
def test_an_empty_list_is_an_empty_store(printed: object) -> None:
    assert scan(printed) == Inventory((), (), frozenset())


@pytest.mark.parametrize(
    "printed",
    [
        b"garbage",
        b"\0\1\2",
        b'{"errors": ["permission denied"]}',
        b'{"data": null}',
        b"[[]]",
        b'{"key": "value", "x": {"y": [1, null, "z"]}}',
        b'{"data": {"cert',
        b"[" * 5000,
        b"null",
        b'"text"',
    ],
)
def test_what_has_no_certificate_is_no_empty_store(printed: bytes) -> None:
    with pytest.raises(DamagedDocumentError):
        entries(printed)
