"""Bad: dates, and files that are missing, empty, cut off or not what they should be."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.e2e.lineages.kinds import DAY, NOW, LineageBuilder, bad


@bad("expired")
def expired(builder: LineageBuilder) -> None:
    builder.add(not_before=NOW - 90 * DAY, not_after=NOW - DAY)


@bad("not_yet_valid")
def not_yet_valid(builder: LineageBuilder) -> None:
    builder.add(not_before=NOW + DAY)


@bad("key_mismatch")
def key_of_another_certificate(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("privkey", builder.issue().key_pem)


@bad("key_mismatch")
def key_of_another_algorithm(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("privkey", builder.issue(algorithm="rsa").key_pem)


@bad("key_mismatch")
def foreign_certificates_only(builder: LineageBuilder) -> None:
    """The chain file holds somebody else's leaf and chain."""
    builder.add()
    builder.put("fullchain", builder.issue().fullchain_pem)


@bad("key_missing")
def key_link_missing(builder: LineageBuilder) -> None:
    builder.add()
    builder.unlink("privkey")


@bad("key_missing")
def key_link_dangling(builder: LineageBuilder) -> None:
    builder.add()
    (builder.store.archive / builder.lineage / "privkey1.pem").unlink()


@bad("chain_missing")
def chain_link_missing(builder: LineageBuilder) -> None:
    builder.add()
    builder.unlink("fullchain")


@bad("chain_missing")
def chain_link_dangling(builder: LineageBuilder) -> None:
    builder.add()
    (builder.store.archive / builder.lineage / "fullchain1.pem").unlink()


@bad("chain_missing")
def both_links_dangling(builder: LineageBuilder) -> None:
    builder.add()
    for path in (builder.store.archive / builder.lineage).iterdir():
        path.unlink()


@bad("chain_missing")
def lineage_is_a_link_to_nothing(builder: LineageBuilder) -> None:
    builder.directory.symlink_to(builder.outside / "nothing")


@bad("bad_pem")
def chain_empty(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("fullchain", b"")


@bad("bad_pem")
def key_empty(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("privkey", b"")


@bad("bad_pem")
def chain_cut_in_the_leaf(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("fullchain", issued.leaf_pem[: len(issued.leaf_pem) // 2])


@bad("bad_pem")
def chain_cut_in_the_intermediate(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("fullchain", issued.fullchain_pem[: len(issued.leaf_pem) + len(issued.chain_pem) // 2])


@bad("bad_pem")
def key_cut(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("privkey", issued.key_pem[: len(issued.key_pem) // 2])


@bad("bad_pem")
def chain_is_garbage(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("fullchain", bytes(range(256)) * 8)


@bad("bad_pem")
def key_is_garbage(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("privkey", bytes(range(256)) * 8)


@bad("bad_pem")
def chain_is_not_base64(builder: LineageBuilder) -> None:
    builder.add()
    builder.put("fullchain", b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")


@bad("bad_pem")
def chain_is_base64_of_something_else(builder: LineageBuilder) -> None:
    body = base64.encodebytes(b"no certificate" * 20)
    builder.add()
    builder.put("fullchain", b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")


@bad("bad_pem")
def key_is_base64_of_something_else(builder: LineageBuilder) -> None:
    body = base64.encodebytes(b"no private key" * 20)
    builder.add()
    builder.put("privkey", b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n")


@bad("bad_pem")
def chain_in_der(builder: LineageBuilder) -> None:
    issued = builder.add()
    leaf = x509.load_pem_x509_certificate(issued.leaf_pem)
    builder.put("fullchain", leaf.public_bytes(serialization.Encoding.DER))


@bad("bad_pem")
def key_in_der(builder: LineageBuilder) -> None:
    key = serialization.load_pem_private_key(builder.add().key_pem, None)
    layout, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    builder.put("privkey", key.private_bytes(serialization.Encoding.DER, layout, nothing))


@bad("bad_pem")
def chain_file_holds_the_key_only(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("fullchain", issued.key_pem)


@bad("bad_pem")
def key_file_holds_the_chain_only(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("privkey", issued.fullchain_pem)


@bad("bad_pem")
def key_file_holds_two_keys(builder: LineageBuilder) -> None:
    issued = builder.add()
    builder.put("privkey", issued.key_pem + builder.issue().key_pem)


@bad("bad_pem")
def chain_of_foreign_certificates(builder: LineageBuilder) -> None:
    """The leaf is right, and what follows it did not issue it."""
    stranger = builder.authority.issue(["stranger.test"], issuer_name="Another E2")
    issued = builder.add()
    builder.put("fullchain", issued.leaf_pem + stranger.chain_pem)
