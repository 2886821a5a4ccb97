"""Lineages that leave the exit code 0: served all the same, or not served and nobody is at fault."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mailsni.sandbox.authority import Issued
from tests.e2e.lineages.bad import LONGEST_NAME
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

EXPIRED = {"not_before": NOW - 90 * DAY, "not_after": NOW - DAY}


def longest_name(builder: LineageBuilder) -> Issued:
    builder.name = LONGEST_NAME
    return builder.add()


def leading_dash(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.rename("-rf")
    return issued


def traditional_key_after_its_parameters(_: LineageBuilder, own: Issued) -> bytes:
    """What ``openssl ecparam -genkey`` writes."""
    key = load_pem_private_key(own.key_pem, None)
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    return parameters + key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def mislabelled_key(_: LineageBuilder, own: Issued) -> bytes:
    key = load_pem_private_key(own.key_pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).replace(b"EC ", b"")


def older_than_its_duplicate(builder: LineageBuilder) -> Issued:
    builder.add(not_before=NOW - 2 * DAY)
    return beside(builder, builder.issue())


def self_signed_beside_another(builder: LineageBuilder) -> Issued:
    builder.add(self_signed=True)
    return beside(builder, builder.issue(not_before=NOW - 2 * DAY))


def self_signed_beside_a_wildcard(builder: LineageBuilder) -> Issued:
    builder.add(self_signed=True)
    return beside(builder, builder.issue(f"*.{builder.name.partition('.')[2]}", not_before=NOW - 2 * DAY))


def expired_beside_another(builder: LineageBuilder) -> Issued:
    builder.add(**EXPIRED)
    return beside(builder, builder.issue())


def beside(builder: LineageBuilder, issued: Issued) -> Issued:
    """Put another lineage with a certificate beside the builder's."""
    builder.store.add(f"{builder.lineage}-0001", issued)
    return issued


def link_to_another_lineage(builder: LineageBuilder) -> Issued:
    """The same certificate under two names: the first one in the order of the directories serves."""
    issued = builder.issue()
    builder.store.add(f"0-{builder.lineage}", issued)
    builder.directory.symlink_to(f"0-{builder.lineage}")
    return issued


SERVED: Mapping[str, Mapping[str, Plant]] = {
    "": {
        "upper_case_name": lambda builder: builder.add(builder.name.upper()),
        "name_of_253_octets": longest_name,
        "directory_with_a_leading_dash": leading_dash,
        "carriage_returns": files(
            privkey=lambda _, own: own.key_pem.replace(b"\n", b"\r\n"),
            fullchain=lambda _, own: own.fullchain_pem.replace(b"\n", b"\r\n"),
        ),
        "no_final_newline": files(
            privkey=lambda _, own: own.key_pem.rstrip(b"\n"), fullchain=lambda _, own: own.fullchain_pem.rstrip(b"\n")
        ),
        "leaf_after_its_issuer": files(fullchain=lambda _, own: own.chain_pem + own.leaf_pem),
        "leaf_without_its_issuer": files(fullchain=lambda _, own: own.leaf_pem),
        "leaf_twice": files(fullchain=lambda _, own: own.leaf_pem + own.fullchain_pem),
        "key_in_the_traditional_format_after_its_parameters": files(privkey=traditional_key_after_its_parameters),
        "key_in_sec1_with_the_label_of_pkcs8": files(privkey=mislabelled_key),
        "key_and_chain_in_one_file": files(privkey=lambda _, own: own.key_pem + own.fullchain_pem),
    },
    "self_signed": {"self_signed_alone": certificate(self_signed=True)},
    "lost_to_other": {
        "older_than_its_duplicate": older_than_its_duplicate,
        "self_signed_beside_another": self_signed_beside_another,
        "self_signed_beside_a_wildcard": self_signed_beside_a_wildcard,
        "link_to_another_lineage": link_to_another_lineage,
    },
    "expired": {"expired_beside_another": expired_beside_another},
}
"""By reason code, which may be none, and label: the name is served, by this lineage or by another one."""

WEB = certificate("www.{}")


def key_missing(builder: LineageBuilder) -> None:
    WEB(builder)
    builder.without("privkey")


def key_is_a_fifo(builder: LineageBuilder) -> None:
    WEB(builder)
    os.mkfifo(builder.without("privkey"))


def common_name_only(builder: LineageBuilder) -> None:
    issued = builder.issue(common_name=builder.name, raw_san=None)
    bare = builder.authority.issue([], common_name=builder.name, key=issued.key_pem)
    builder.store.add(builder.lineage, bare)


def mail_address_only(builder: LineageBuilder) -> None:
    address = f"postmaster@{builder.name}".encode()
    general_name = bytes((0x81, len(address))) + address
    builder.add(raw_san=bytes((0x30, len(general_name))) + general_name, common_name=builder.name)


def directory_without_certificates(builder: LineageBuilder) -> None:
    builder.directory.mkdir()
    (builder.directory / "notes.txt").write_text("not certbot's\n")


def directory_with_a_space_without_certificates(builder: LineageBuilder) -> None:
    builder.directory.mkdir()
    builder.rename("old certificates")


NOT_SERVED: Mapping[str, Mapping[str, Plant]] = {
    "staging": {"staging": certificate(issuer_name="(STAGING) Sandbox E1")},
    "no_matching_name": {
        "web_only": WEB,
        "web_only_and_expired": certificate("www.{}", **EXPIRED),
        "web_only_and_its_key_is_missing": key_missing,
        "web_only_and_its_key_is_another": files(WEB, privkey=another_key),
        "web_only_and_its_key_is_a_fifo": key_is_a_fifo,
        "web_only_and_its_key_is_empty": files(WEB, privkey=b""),
        "web_only_with_an_ed25519_key": certificate("www.{}", algorithm="ed25519"),
        "web_only_with_a_foreign_chain": files(WEB, fullchain=foreign_chain),
        "common_name_only": common_name_only,
        "address_only": lambda builder: builder.add("192.0.2.1", "2001:db8::1", common_name=builder.name),
        "mail_address_only": mail_address_only,
    },
    "": {
        "directory_without_certificates": directory_without_certificates,
        "directory_with_a_space_without_certificates": directory_with_a_space_without_certificates,
        "empty_directory": lambda builder: builder.directory.mkdir(),
        "plain_file": lambda builder: builder.directory.write_text("not a lineage\n"),
        "fifo_in_live": lambda builder: os.mkfifo(builder.directory),
        "link_to_a_plain_file": lambda builder: builder.directory.symlink_to("README"),
    },
}
"""By reason code, which may be none, and label."""

HARMLESS: Mapping[str, Kind] = {
    label: Kind(plant, {reason: True} if reason else {}, served=table is SERVED)
    for table in (SERVED, NOT_SERVED)
    for reason, plants in table.items()
    for label, plant in plants.items()
}
"""By label."""
