"""Lineages that a person must look at: exit code 4, and the name falls back to the default certificate.

What cryptography makes of every odd key and chain is told in tests/unit/test_x509.py.
"""

from __future__ import annotations

import base64
import os
import socket
import stat
from collections.abc import Callable, Mapping
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mailsni.sandbox.authority import Issued
from tests.e2e.lineages.kinds import (
    DAY,
    NOW,
    Kind,
    LineageBuilder,
    Plant,
    another_key,
    certificate,
    files,
    foreign_chain,
)
from tests.support.authority import subject_alternative_names
from tests.support.refused import RECIPES

GARBAGE = bytes(range(256)) * 8
NOTHING_IN_BASE64 = base64.encodebytes(b"neither a certificate nor a key" * 20)


def pem(kind: bytes, body: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (kind, body, kind)


def rewritten(
    builder: LineageBuilder, own: Issued, *, encoding: Encoding, encryption: KeySerializationEncryption
) -> bytes:
    """The key in another form."""
    key = load_pem_private_key(own.key_pem, None).private_bytes(encoding, PrivateFormat.PKCS8, encryption)
    builder.keys.append(key)
    return key


def key_of_1024_bits(builder: LineageBuilder) -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # as bad as it looks
    builder.add(key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def both_links_dangling(builder: LineageBuilder) -> None:
    builder.add()
    for path in builder.file("cert").parent.iterdir():
        path.unlink()


def link_out_of_the_store(builder: LineageBuilder) -> None:
    builder.add()
    elsewhere = builder.outside / builder.lineage
    elsewhere.mkdir()
    for path in builder.directory.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
        path.unlink()
    builder.directory.rmdir()
    builder.directory.symlink_to(elsewhere)


def refused_pair(recipe: str) -> Plant:
    """A lineage that OpenSSL refuses."""

    def plant(builder: LineageBuilder) -> Issued:
        issued = RECIPES[recipe](builder.name)
        builder.keys.append(issued.key_pem)
        builder.store.add(builder.lineage, issued)
        return issued

    return plant


LINEAGES: Mapping[str, Mapping[str, Plant]] = {
    "expired": {"expired": certificate(not_before=NOW - 90 * DAY, not_after=NOW - DAY)},
    "not_yet_valid": {"not_yet_valid": certificate(not_before=NOW + DAY)},
    "key_mismatch": {
        "key_of_another_certificate": files(privkey=another_key),
        "key_of_another_algorithm": files(privkey=lambda builder, _: builder.issue(algorithm="rsa").key_pem),
        "chain_of_another_certificate": files(fullchain=lambda builder, _: builder.issue().fullchain_pem),
    },
    "chain_missing": {
        "both_links_dangling": both_links_dangling,
        "lineage_is_a_link_to_nothing": lambda builder: builder.directory.symlink_to(builder.outside / "nothing"),
    },
    "bad_pem": {
        "chain_cut_in_the_leaf": files(fullchain=lambda _, own: own.leaf_pem[: len(own.leaf_pem) // 2]),
        "chain_cut_in_the_intermediate": files(fullchain=lambda _, own: own.fullchain_pem[: -len(own.chain_pem) // 2]),
        "key_cut": files(privkey=lambda _, own: own.key_pem[: len(own.key_pem) // 2]),
        "chain_empty": files(fullchain=b""),
        "key_empty": files(privkey=b""),
        "chain_is_garbage": files(fullchain=GARBAGE),
        "key_is_garbage": files(privkey=GARBAGE),
        "chain_is_not_base64": files(fullchain=pem(b"CERTIFICATE", b"!!!!\n")),
        "chain_is_base64_of_something_else": files(fullchain=pem(b"CERTIFICATE", NOTHING_IN_BASE64)),
        "key_is_base64_of_something_else": files(privkey=pem(b"PRIVATE KEY", NOTHING_IN_BASE64)),
        "chain_in_der": files(
            fullchain=lambda _, own: x509.load_pem_x509_certificate(own.leaf_pem).public_bytes(Encoding.DER)
        ),
        "key_in_der": files(privkey=partial(rewritten, encoding=Encoding.DER, encryption=NoEncryption())),
        "chain_file_holds_the_key_only": files(fullchain=lambda _, own: own.key_pem),
        "key_file_holds_the_chain_only": files(privkey=lambda _, own: own.fullchain_pem),
        "key_file_holds_two_keys": files(privkey=lambda builder, own: own.key_pem + another_key(builder, own)),
        "chain_of_foreign_certificates": files(fullchain=foreign_chain),
    },
    "encrypted_key": {
        "key_encrypted": files(
            privkey=partial(rewritten, encoding=Encoding.PEM, encryption=BestAvailableEncryption(b"a phrase"))
        ),
    },
    "unsupported_key": {"key_ed25519": certificate(algorithm="ed25519"), "key_rsa_1024": key_of_1024_bits},
    "refused_by_openssl": {recipe: refused_pair(recipe) for recipe in RECIPES},
    "symlink_outside_store": {"lineage_is_a_link_out_of_the_store": link_out_of_the_store},
    "unreadable": {"lineage_is_a_link_to_itself": lambda builder: builder.directory.symlink_to(builder.lineage)},
}
"""By reason code and label."""


# ── things in the place of the key, and of the chain ─────────────────────────────────────────────────────────────────


def bind_socket(builder: LineageBuilder, kind: str) -> None:
    builder.without(kind)
    directory = os.open(builder.directory, os.O_RDONLY)  # the path of a socket may not be as long as a test's
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{kind}.pem")
    os.close(directory)


def fifo_in_the_archive(builder: LineageBuilder, kind: str) -> None:
    builder.file(kind).unlink()
    os.mkfifo(builder.file(kind))


def device(builder: LineageBuilder, kind: str) -> None:
    os.mknod(builder.without(kind), stat.S_IFCHR | 0o600, os.makedev(1, 5))


def two_mebibytes(builder: LineageBuilder, kind: str) -> None:
    path = builder.file(kind)
    path.write_bytes(path.read_bytes() + b"\n" * (2 << 20))


def link_to_a_copy_elsewhere(builder: LineageBuilder, kind: str) -> None:
    elsewhere = builder.outside / f"{builder.lineage}-{kind}.pem"
    elsewhere.write_bytes(builder.file(kind).read_bytes())
    builder.without(kind).symlink_to(elsewhere)


def link(target: str) -> Callable[[LineageBuilder, str], None]:
    """A link that leads elsewhere, with the builder ``at`` and the ``kind`` of file in its target."""
    return lambda builder, kind: builder.without(kind).symlink_to(target.format(at=builder, kind=kind))


FILES: Mapping[str, Mapping[str, Callable[[LineageBuilder, str], object]]] = {
    "missing": {
        "is_missing": LineageBuilder.without,
        "link_is_dangling": lambda builder, kind: builder.file(kind).unlink(),
    },
    "not_a_regular_file": {
        "is_a_fifo": lambda builder, kind: os.mkfifo(builder.without(kind)),
        "leads_to_a_fifo": fifo_in_the_archive,
        "is_a_socket": bind_socket,
        "is_a_directory": lambda builder, kind: builder.without(kind).mkdir(),
        "is_a_device": device,
        "leads_to_a_device": link("/dev/zero"),
    },
    "too_large": {
        "is_a_sparse_file_of_1_gib": lambda builder, kind: os.truncate(builder.file(kind), 1 << 30),
        "is_a_file_of_2_mib": two_mebibytes,
    },
    "symlink_outside_store": {
        "leads_to_a_secret": link("{at.outside}/secret"),
        "leads_to_the_shadow_file": link("/etc/shadow"),
        "leads_to_a_matching_file_elsewhere": link_to_a_copy_elsewhere,
    },
    "unreadable": {
        "leads_to_itself": link("{kind}.pem"),
        "leads_through_a_file": link("../../archive/{at.lineage}/cert1.pem/{kind}.pem"),
    },
}
"""By reason code and label: what befalls a file of a good lineage."""


def spoiled(spoil: Callable[[LineageBuilder, str], object], kind: str, builder: LineageBuilder) -> None:
    """A good lineage of which one file is spoiled."""
    builder.add()
    spoil(builder, kind)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


LONGEST_NAME = f"mail.{'.'.join(['x' * 60] * 4)}.test"
"""Of 253 octets."""
HOSTILE_NAMES: Mapping[str, bytes] = {
    "newline": b"mail.x.test\n}\nssl = no\n#",
    "closing_brace": b"mail.x}.test",
    "double_quote": b'mail.x".test',
    "single_quote": b"mail.x'.test",
    "hash": b"mail.x#.test",
    "template": b"mail.{{7*7}}.test",
    "template_block": b"mail.{% raw %}.test",
    "dollar": b"mail.$x.test",
    "backslash": b"mail.x\\.test",
    "slash": b"mail.x/../../y.test",
    "space": b"mail.x y.test",
    "tab": b"mail.x\ty.test",
    "escape_sequence": b"mail.\x1b[31mx.test",
    "nul": b"mail.x\0.test",
    "non_ascii_letter": "mail.\u00fc.test".encode(),
    "label_of_64_octets": b"mail." + b"x" * 64 + b".test",
    "254_octets": b"mails." + LONGEST_NAME.removeprefix("mail.").encode(),
    "trailing_dot": b"mail.x.test.",
    "leading_dot": b".mail.x.test",
    "empty_label": b"mail..test",
    "underscore": b"mail.x_y.test",
    "single_label": b"mail",
    "address": b"192.0.2.1",
    "empty": b"",
    "star_alone": b"*",
    "two_stars": b"*.*.test",
    "star_inside": b"mail.*.test",
    "star_in_a_label": b"mail.x*.test",
}
"""A certificate of which no name can be used has no mail name either, which is only information."""
UNDECODABLE_NAMES: Mapping[str, bytes] = {
    "latin_1": subject_alternative_names(b"mail.\xfc.test"),
    "der_cut_off": b"\x30\x20\x82\x1email.x",
    "not_der_at_all": b"mail.x.test",
    "empty_der": b"",
}
HOSTILE_DIRECTORIES: Mapping[str, bytes] = {
    "newline": b"x\n}\nssl = no\n#",
    "space": b"x y",
    "quote": b'x"y',
    "template": b"{{7*7}}",
    "invalid_utf_8": b"x\xff\xfe",
    "not_ascii": "x\u00fc".encode(),
    "escape_sequence": b"x\x1b[31m",
    "dollar": b"$x",
}


def renamed(directory: bytes, builder: LineageBuilder) -> None:
    """A good lineage in a directory of another name."""
    builder.add()
    builder.rename(directory)


BAD: Mapping[str, Kind] = {
    **{
        label: Kind(plant, {reason: False}, replaces=True)
        for reason, plants in LINEAGES.items()
        for label, plant in plants.items()
    },
    **{
        f"{kind}_{label}": Kind(
            partial(spoiled, spoil, file), {f"{kind}_missing" if reason == "missing" else reason: False}, replaces=True
        )
        for kind, file in (("key", "privkey"), ("chain", "fullchain"))
        for reason, spoils in FILES.items()
        for label, spoil in spoils.items()
    },
    **{
        f"name_with_{label}": Kind(
            certificate(raw_san=subject_alternative_names(name)), {"bad_name": False, "no_matching_name": True}
        )
        for label, name in HOSTILE_NAMES.items()
    },
    **{
        f"names_{label}": Kind(certificate(raw_san=san), {"bad_name": False}, replaces=True)
        for label, san in UNDECODABLE_NAMES.items()
    },
    **{
        f"directory_with_{label}": Kind(partial(renamed, directory), {"bad_name": False})
        for label, directory in HOSTILE_DIRECTORIES.items()
    },
}
"""By label."""
