"""Traefik's acme.json in all its forms, beyond what the contract of all kinds says of it."""

from __future__ import annotations

import base64
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailsni.core.model import Inventory, Reason
from mailsni.core.names import NamePatterns
from mailsni.core.selection import select
from mailsni.errors import HostError
from mailsni.sandbox.authority import Issued
from mailsni.sources.document import DOCUMENT_LIMIT, RETRIES, DamagedDocumentError, DocumentStore
from mailsni.sources.traefik import entries, traefik_store
from tests.support.builders import authority
from tests.support.document_stores import traefik_account, traefik_certificate
from tests.support.store_builder import no_pause

STAGING = "acme-staging-v02.api.letsencrypt.org"


def issue(*names: str, days_ago: int = 0) -> Issued:
    return authority().issue(names or ["mail.a.test"], not_before=datetime.now(UTC) - timedelta(days=days_ago, hours=1))


def modern(name: str, issued: Issued) -> Mapping[str, Any]:
    return traefik_certificate(name, issued.fullchain_pem, issued.key_pem)


def resolver(*certificates: Mapping[str, Any] | None, host: str | None = None) -> Mapping[str, Any]:
    account = traefik_account(host) if host else traefik_account()
    return {"Account": account, "Certificates": list(certificates)}


def v1(name: str, issued: Issued) -> Mapping[str, Any]:
    """As Traefik 1.7 leaves it."""
    pair = {"Certificate": issued.fullchain_pem, "Key": issued.key_pem}
    certificate = {"Domain": {"Main": name, "SANs": None}} | {k: base64.b64encode(v).decode() for k, v in pair.items()}
    return {
        "Account": traefik_account(),
        "Certificates": [certificate],
        "HTTPChallenges": {},
        "TLSChallenges": {},
    }


def cluster(name: str, issued: Issued) -> Mapping[str, Any]:
    """As Traefik 1 keeps it in a key-value store, with the certificate of a challenge."""
    pair = {"PrivateKey": issued.key_pem, "Certificate": issued.fullchain_pem}
    encoded = {part: base64.b64encode(pem).decode() for part, pem in pair.items()}
    certificate = {"Domain": name, "CertURL": "https://acme-v02.api.letsencrypt.org/acme/cert/1", **encoded}
    return {
        "Email": "me@a.test",
        "Registration": traefik_account()["Registration"],
        "PrivateKey": "YW4gYWNjb3VudCdz",
        "DomainsCertificate": {"Certs": [{"Domains": {"Main": name, "SANs": []}, "Certificate": certificate}]},
        "ChallengeCerts": {"x": encoded},
        "HTTPChallenge": {},
    }


def store(tmp_path: Path, document: object, pause: Callable[[float], None] = no_pause) -> DocumentStore:
    (tmp_path / "acme.json").write_text(json.dumps(document, indent=2))
    return traefik_store(tmp_path / "acme.json", pause)


def names(inventory: Inventory) -> dict[str, tuple[str, ...]]:
    return {each.source.partition("#")[2]: each.names for each in inventory.certificates}


@pytest.mark.parametrize("form", [v1, cluster], ids=["v1", "cluster"])
def test_the_older_forms_are_told_by_their_content(tmp_path: Path, form: Callable[..., Mapping[str, Any]]) -> None:
    issued = issue("mail.a.test", "a.test")
    inventory = store(tmp_path, form("a.test", issued)).scan({})
    assert names(inventory) == {"a.test": ("a.test", "mail.a.test")}
    assert inventory.skipped == ()
    assert inventory.read[0].pem == issued.key_pem + issued.fullchain_pem


@pytest.mark.parametrize("inside", [False, True], ids=["file", "directory"])
def test_the_path_is_the_file_or_its_directory(tmp_path: Path, inside: bool) -> None:  # noqa: FBT001
    source = store(tmp_path, {"le": resolver(modern("mail.a.test", issue()))})
    source = traefik_store(tmp_path, no_pause) if inside else source
    inventory = source.scan({})
    assert inventory.lineages == {f"{tmp_path}/acme.json#le/mail.a.test"}
    assert source.files().keys == (tmp_path / "acme.json",)
    (tmp_path / "acme.json").unlink()
    assert source.owns(*inventory.lineages)
    with pytest.raises(HostError) as caught:
        source.scan({})
    assert caught.value.path == (tmp_path if inside else tmp_path / "acme.json")


def test_of_several_resolvers_the_newest_certificate_wins_a_name(tmp_path: Path) -> None:
    old, new, wildcard = issue(days_ago=40), issue(), issue("*.b.test", "b.test")
    document = {
        "tls": resolver(modern("mail.a.test", new)),
        "http": resolver(modern("mail.a.test", old), modern("*.b.test", wildcard)),
        "idle": {"Account": traefik_account(), "Certificates": None},
        "new": {"Account": None, "Certificates": None},
        "gone": None,
    }
    inventory = store(tmp_path, document).scan({})
    assert sorted(names(inventory)) == ["http/*.b.test", "http/mail.a.test", "tls/mail.a.test"]
    chosen = select(inventory, NamePatterns(["mail.*"]), datetime.now(UTC))
    winners = {winner.name: [each.fingerprint for each in winner.certificates] for winner in chosen.winners}
    assert winners == {"mail.a.test": [new.fingerprint], "mail.b.test": [wildcard.fingerprint]}


def test_the_same_name_twice_in_one_resolver_is_two_certificates(tmp_path: Path) -> None:
    """Traefik tells certificates by all names that it was asked for, the first of which may be the same."""
    document = {"le": resolver(modern("a.test", issue("a.test")), modern("a.test", issue("a.test", "mail.a.test")))}
    source = store(tmp_path, document)
    inventory = source.scan({})
    assert names(inventory) == {"le/a.test": ("a.test",), "le/a.test#2": ("a.test", "mail.a.test")}
    assert all(map(source.owns, inventory.lineages))
    assert source.scan({}).lineages == inventory.lineages
    assert [source.reload(pair.certificate) for pair in inventory.read] == list(inventory.read)


def test_what_a_staging_authority_issued_is_told_by_the_account(tmp_path: Path) -> None:
    test = resolver(modern("mail.a.test", issue()), host=STAGING)
    document = {"test": test, "le": resolver(modern("mail.b.test", issue("mail.b.test")))}
    inventory = store(tmp_path, document).scan({})
    assert {each.names[0]: each.staging for each in inventory.certificates} == {
        "mail.a.test": True,
        "mail.b.test": False,
    }
    old = dict(cluster("mail.a.test", issue()))
    old["DomainsCertificate"]["Certs"][0]["Certificate"]["CertURL"] = f"https://{STAGING}/acme/cert/1"
    (certificate,) = store(tmp_path, old).scan({}).certificates
    assert certificate.staging


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"certificate": "LS0t!"}, Reason.BAD_PEM),
        ({"certificate": "ä"}, Reason.BAD_PEM),
        ({"certificate": base64.b64encode(b"no PEM").decode()}, Reason.BAD_PEM),
        ({"certificate": 7}, Reason.BAD_PEM),
        ({"certificate": ""}, Reason.CHAIN_MISSING),
        ({"key": None}, Reason.KEY_MISSING),
        ({"key": "LS0t"}, Reason.BAD_PEM),
        ({"key": base64.b64encode(b"\0" * (1 << 20) + b"x").decode()}, Reason.TOO_LARGE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_entry_that_is_wrong_is_skipped_and_the_others_are_used(
    tmp_path: Path, change: Mapping[str, Any], reason: Reason
) -> None:
    document = {"le": resolver({**modern("mail.a.test", issue()), **change}, modern("b", issue("mail.b.test")))}
    inventory = store(tmp_path, document).scan({})
    assert names(inventory) == {"le/b": ("mail.b.test",)}
    (skipped,) = inventory.skipped
    assert (skipped.source, skipped.reason) == (f"{tmp_path}/acme.json#le/mail.a.test", reason)


def test_an_entry_without_a_name_is_used_and_one_that_is_none_is_skipped(tmp_path: Path) -> None:
    nameless = {**modern("a", issue()), "domain": None}
    inventory = store(tmp_path, {"le": resolver(None, nameless)}).scan({})
    assert names(inventory) == {"le/2": ("mail.a.test",)}
    assert [(each.source[-5:], each.reason) for each in inventory.skipped] == [("#le/1", Reason.BAD_PEM)]


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    document = {"le": resolver(modern("mail.a.test", issue()))}
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == RETRIES:
            store(tmp_path, document)

    source = store(tmp_path, document, finish)
    text = (tmp_path / "acme.json").read_text()
    for rest in ("", text[:100], text[:-2]):
        waited.clear()
        (tmp_path / "acme.json").write_text(rest)
        assert names(source.scan({})) == {"le/mail.a.test": ("mail.a.test",)}
        assert len(waited) == RETRIES


NO_ACME_JSON = {
    "empty": b"",
    "zeros": b"\0" * 4096,
    "cut": b'{"le": {"Account": null, "Certificates": [',
    "html": b"<html></html>",
    "binary": bytes(range(256)),
    "null": b"null",
    "list": b"[]",
    "text": b'{"le": "x"}',
    "other": b'{"le": {"x": 1}}',
    "certificates": b'{"le": {"Certificates": {}}}',
    "deep": b"[" * 100_000,
    "brackets": b"[" + b"[]," * 1_000_000 + b"[]]",
    "number": b"9" * 10_000,
}


@pytest.mark.parametrize("content", NO_ACME_JSON.values(), ids=NO_ACME_JSON)
def test_a_file_that_stays_damaged_is_an_error_in_bounded_time(tmp_path: Path, content: bytes) -> None:
    waited: list[float] = []
    file = tmp_path / "acme.json"
    file.write_bytes(content)
    with pytest.raises(HostError, match="half written or damaged") as caught:
        traefik_store(file, waited.append).scan({})
    assert caught.value.path == file
    assert 0 < sum(waited) < 5


def test_a_file_that_was_damaged_long_ago_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    source = store(tmp_path, [], waited.append)
    later = time.time() + 3600
    monkeypatch.setattr("mailsni.sources.document.time.time", lambda: later)
    with pytest.raises(HostError):
        source.scan({})
    assert waited == []


def test_a_file_of_100_megabytes_is_an_error_and_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "acme.json"
    file.touch()
    os.truncate(file, 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(HostError, match=f"100000000 bytes, more than {DOCUMENT_LIMIT}"):
            traefik_store(file, no_pause).scan({})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_error_shows_nothing_of_the_content() -> None:
    with pytest.raises(DamagedDocumentError) as caught:
        entries(b'{"le": {"secret": "LS0t"}}')
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    shown = repr(entries(json.dumps({"le": resolver(modern("mail.a.test", issue()))}).encode()))
    assert "PRIVATE" not in shown
