"""Lineages that leave the exit code 0: served all the same, or not served and nobody is at fault."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import serialization

from mailsni.sandbox.authority import Issued
from tests.e2e.lineages.kinds import DAY, NOW, LineageBuilder, harmless
from tests.e2e.lineages.names import LONGEST_NAME


@harmless()
def upper_case_name(builder: LineageBuilder) -> Issued:
    return builder.add(builder.name.upper())


@harmless()
def name_of_253_octets(builder: LineageBuilder) -> Issued:
    builder.name = LONGEST_NAME
    return builder.add()


@harmless()
def directory_with_a_leading_dash(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.rename("-rf")
    return issued


@harmless()
def carriage_returns(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    for kind, content in (("privkey", issued.key_pem), ("fullchain", issued.fullchain_pem)):
        builder.put(kind, content.replace(b"\n", b"\r\n"))
    return issued


@harmless()
def no_final_newline(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    for kind, content in (("privkey", issued.key_pem), ("fullchain", issued.fullchain_pem)):
        builder.put(kind, content.rstrip(b"\n"))
    return issued


@harmless()
def leaf_after_its_issuer(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.put("fullchain", issued.chain_pem + issued.leaf_pem)
    return issued


@harmless()
def leaf_without_its_issuer(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.put("fullchain", issued.leaf_pem)
    return issued


@harmless()
def leaf_twice(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.put("fullchain", issued.leaf_pem + issued.fullchain_pem)
    return issued


@harmless()
def key_in_the_traditional_format_after_its_parameters(builder: LineageBuilder) -> Issued:
    """What ``openssl ecparam -genkey`` writes."""
    issued = builder.add()
    key = serialization.load_pem_private_key(issued.key_pem, None)
    layout, nothing = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    builder.put("privkey", parameters + key.private_bytes(serialization.Encoding.PEM, layout, nothing))
    return issued


@harmless()
def key_and_chain_in_one_file(builder: LineageBuilder) -> Issued:
    issued = builder.add()
    builder.put("privkey", issued.key_pem + issued.fullchain_pem)
    return issued


@harmless("self_signed")
def self_signed_alone(builder: LineageBuilder) -> Issued:
    return builder.add(self_signed=True)


# Harmless: not served, and no fault of anybody's


@harmless("staging")
def staging(builder: LineageBuilder) -> None:
    builder.add(issuer_name="(STAGING) Sandbox E1")


@harmless("no_matching_name")
def web_only(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}")


@harmless("no_matching_name")
def web_only_and_expired(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}", not_before=NOW - 90 * DAY, not_after=NOW - DAY)


@harmless("no_matching_name")
def web_only_and_its_key_is_missing(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}")
    builder.unlink("privkey")


@harmless("no_matching_name")
def web_only_and_its_key_is_another(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}")
    builder.put("privkey", builder.issue().key_pem)


@harmless("no_matching_name")
def web_only_and_its_key_is_a_fifo(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}")
    builder.unlink("privkey")
    os.mkfifo(builder.store.path(builder.lineage, "privkey"))


@harmless("no_matching_name")
def web_only_and_its_key_is_empty(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}")
    builder.put("privkey", b"")


@harmless("no_matching_name")
def web_only_with_an_ed25519_key(builder: LineageBuilder) -> None:
    builder.add(f"www.{builder.name}", algorithm="ed25519")


@harmless("no_matching_name")
def web_only_with_a_foreign_chain(builder: LineageBuilder) -> None:
    issued = builder.add(f"www.{builder.name}")
    builder.put("fullchain", issued.leaf_pem + builder.authority.issue(["x.test"], issuer_name="Another E2").chain_pem)


@harmless("no_matching_name")
def common_name_only(builder: LineageBuilder) -> None:
    issued = builder.issue(common_name=builder.name, raw_san=None)
    bare = builder.authority.issue([], common_name=builder.name, key=issued.key_pem)
    builder.store.add(builder.lineage, bare)


@harmless("no_matching_name")
def address_only(builder: LineageBuilder) -> None:
    builder.add("192.0.2.1", "2001:db8::1", common_name=builder.name)


@harmless("no_matching_name")
def mail_address_only(builder: LineageBuilder) -> None:
    address = f"postmaster@{builder.name}".encode()
    general_name = bytes((0x81, len(address))) + address
    builder.add(raw_san=bytes((0x30, len(general_name))) + general_name, common_name=builder.name)


# Harmless: another lineage serves the name


@harmless("lost_to_other")
def older_than_its_duplicate(builder: LineageBuilder) -> Issued:
    builder.add(not_before=NOW - 2 * DAY)
    newer = builder.issue()
    builder.store.add(f"{builder.lineage}-0001", newer)
    return newer


@harmless("lost_to_other")
def self_signed_beside_another(builder: LineageBuilder) -> Issued:
    older = builder.issue(not_before=NOW - 2 * DAY)
    builder.add(self_signed=True)
    builder.store.add(f"{builder.lineage}-0001", older)
    return older


@harmless("lost_to_other")
def self_signed_beside_a_wildcard(builder: LineageBuilder) -> Issued:
    wildcard = builder.issue(f"*.{builder.name.partition('.')[2]}", not_before=NOW - 2 * DAY)
    builder.add(self_signed=True)
    builder.store.add(f"{builder.lineage}-0001", wildcard)
    return wildcard


@harmless("expired")
def expired_beside_another(builder: LineageBuilder) -> Issued:
    builder.add(not_before=NOW - 90 * DAY, not_after=NOW - DAY)
    other = builder.issue()
    builder.store.add(f"{builder.lineage}-0001", other)
    return other


@harmless("lost_to_other")
def link_to_another_lineage(builder: LineageBuilder) -> Issued:
    """The same certificate under two names: the first one in the order of the directories serves."""
    issued = builder.issue()
    builder.store.add(f"0-{builder.lineage}", issued)
    builder.directory.symlink_to(f"0-{builder.lineage}")
    return issued


# Harmless: no lineage at all, and nothing is said


@harmless()
def directory_without_certificates(builder: LineageBuilder) -> None:
    builder.directory.mkdir()
    (builder.directory / "notes.txt").write_text("not certbot's\n")


@harmless()
def directory_with_a_space_without_certificates(builder: LineageBuilder) -> None:
    builder.directory.mkdir()
    builder.rename("old certificates")


@harmless()
def empty_directory(builder: LineageBuilder) -> None:
    builder.directory.mkdir()


@harmless()
def plain_file(builder: LineageBuilder) -> None:
    builder.directory.write_text("not a lineage\n")


@harmless()
def fifo_in_live(builder: LineageBuilder) -> None:
    os.mkfifo(builder.directory)


@harmless()
def link_to_a_plain_file(builder: LineageBuilder) -> None:
    builder.directory.symlink_to("README")
