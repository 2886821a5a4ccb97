"""Bad lineages beside good ones: every reason code, and what the servers do then.

One mail host for all of them. Each *kind* is a function that plants one lineage, and the decorator above it says what
the program must make of it. Every kind is planted

* under a name that was never served, beside good lineages, in front of both servers (``crowd``);
* if it can, over a lineage that was deployed before and must therefore keep its last good certificate (``crowd``);
* alone with the good lineages, in a store of its own, for the exit code that it alone causes (``alone``).
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import NameOID

from mailsni.host.commands import environment, require_tool, run
from mailsni.sandbox.authority import Authority, Issued, subject_alternative_names
from mailsni.sandbox.lineages import KINDS, CertbotDirectory
from mailsni.sandbox.servers import PrivateDovecot, PrivatePostfix, workspace
from tests.support.mail_host import MailHost, require, run_mailsni

LIMIT = 20.0
"""Seconds that any run of the program may take, whatever lies in the store."""
SERVICES = ("smtp", "imaps")
"""One of each server: STARTTLS, and TLS from the first byte."""
GOOD, OTHER = "mail.good.test", "mail.other.test"
SECRET = "the-content-of-a-file-that-is-none-of-the-programs-business"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)

# ---------------------------------------------------------------------------------------------------------------------
# How a kind is planted and described


@dataclass
class Plot:
    """Where one lineage is planted.

    Attributes:
        name: the mail name it is about.
        lineage: the name of its directory in live/.
        outside: a directory that is no part of the store, with :data:`SECRET` in the file ``secret``.
        keys: every private key that was planted, to look for afterwards.
    """

    store: CertbotDirectory
    authority: Authority
    name: str
    lineage: str
    outside: Path
    keys: list[bytes] = field(default_factory=list, repr=False)

    @property
    def directory(self) -> Path:
        """The lineage's directory in live/."""
        return self.store.live / self.lineage

    def issue(self, *names: str, **options: Any) -> Issued:  # noqa: ANN401  # what Authority.issue takes
        """Have a certificate made, for the mail name if for no other; its key is remembered."""
        issued = self.authority.issue(names or [self.name], **options)
        self.keys.append(issued.key_pem)
        return issued

    def add(self, *names: str, **options: Any) -> Issued:  # noqa: ANN401  # what Authority.issue takes
        """Plant a lineage that is whole as far as its files go."""
        issued = self.issue(*names, **options)
        self.store.add(self.lineage, issued)
        return issued

    def add_pair(self, chain_pem: bytes, key_pem: bytes) -> None:
        """Plant a lineage of these two files."""
        self.keys.append(key_pem)
        self.add()
        self.put("fullchain", chain_pem)
        self.put("privkey", key_pem)

    def put(self, kind: str, content: bytes) -> None:
        """Write something else into a file of the lineage."""
        (self.store.archive / self.lineage / f"{kind}1.pem").write_bytes(content)

    def link(self, kind: str, target: Path | str) -> None:
        """Have a link of the lineage point elsewhere."""
        self.unlink(kind)
        self.store.path(self.lineage, kind).symlink_to(target)

    def unlink(self, kind: str) -> None:
        """Remove a link of the lineage."""
        self.store.path(self.lineage, kind).unlink()

    def rename(self, name: str | bytes) -> None:
        """Give the lineage's directory in live/ another name."""
        os.rename(os.fsencode(self.directory), os.path.join(os.fsencode(self.store.live), os.fsencode(name)))  # noqa: PTH104, PTH118
        self.lineage = os.fsdecode(name)


Builder = Callable[[Plot], Issued | None]
"""Plants a lineage. Returns the certificate that must then be served for the name; None for the default one."""


@dataclass(frozen=True)
class Kind:
    """A kind of lineage, and what the program must say of it.

    Attributes:
        reasons: the reason codes, each with whether it is only information.
        replaces: it can be planted over a deployed lineage, whose name must then keep its last good certificate.
    """

    build: Builder
    reasons: Mapping[str, bool]
    replaces: bool = False


BAD: dict[str, Kind] = {}
"""Exit code 4, and the name falls back to the default certificate."""
HARMLESS: dict[str, Kind] = {}
"""Exit code 0."""


def bad(reason: str, *, label: str = "", replaces: bool = True) -> Callable[[Builder], Builder]:
    """Register a kind that a person must look at."""

    def register(build: Builder) -> Builder:
        BAD[label or build.__name__] = Kind(build, {reason: False}, replaces)
        return build

    return register


def harmless(*reasons: str) -> Callable[[Builder], Builder]:
    """Register a kind that leaves the exit code 0, with reasons that are only information, or none."""

    def register(build: Builder) -> Builder:
        HARMLESS[build.__name__] = Kind(build, dict.fromkeys(reasons, True))
        return build

    return register


# ---------------------------------------------------------------------------------------------------------------------
# Bad: not valid at this time


@bad("expired")
def expired(plot: Plot) -> None:
    plot.add(not_before=NOW - 90 * DAY, not_after=NOW - DAY)


@bad("not_yet_valid")
def not_yet_valid(plot: Plot) -> None:
    plot.add(not_before=NOW + DAY)


# Bad: files that are missing, empty, cut off or not what they should be


@bad("key_mismatch")
def key_of_another_certificate(plot: Plot) -> None:
    plot.add()
    plot.put("privkey", plot.issue().key_pem)


@bad("key_mismatch")
def key_of_another_algorithm(plot: Plot) -> None:
    plot.add()
    plot.put("privkey", plot.issue(algorithm="rsa").key_pem)


@bad("key_mismatch")
def foreign_certificates_only(plot: Plot) -> None:
    """The chain file holds somebody else's leaf and chain."""
    plot.add()
    plot.put("fullchain", plot.issue().fullchain_pem)


@bad("key_missing")
def key_link_missing(plot: Plot) -> None:
    plot.add()
    plot.unlink("privkey")


@bad("key_missing")
def key_link_dangling(plot: Plot) -> None:
    plot.add()
    (plot.store.archive / plot.lineage / "privkey1.pem").unlink()


@bad("chain_missing")
def chain_link_missing(plot: Plot) -> None:
    plot.add()
    plot.unlink("fullchain")


@bad("chain_missing")
def chain_link_dangling(plot: Plot) -> None:
    plot.add()
    (plot.store.archive / plot.lineage / "fullchain1.pem").unlink()


@bad("chain_missing")
def both_links_dangling(plot: Plot) -> None:
    plot.add()
    for path in (plot.store.archive / plot.lineage).iterdir():
        path.unlink()


@bad("chain_missing")
def lineage_is_a_link_to_nothing(plot: Plot) -> None:
    plot.directory.symlink_to(plot.outside / "nothing")


@bad("bad_pem")
def chain_empty(plot: Plot) -> None:
    plot.add()
    plot.put("fullchain", b"")


@bad("bad_pem")
def key_empty(plot: Plot) -> None:
    plot.add()
    plot.put("privkey", b"")


@bad("bad_pem")
def chain_cut_in_the_leaf(plot: Plot) -> None:
    issued = plot.add()
    plot.put("fullchain", issued.leaf_pem[: len(issued.leaf_pem) // 2])


@bad("bad_pem")
def chain_cut_in_the_intermediate(plot: Plot) -> None:
    issued = plot.add()
    plot.put("fullchain", issued.fullchain_pem[: len(issued.leaf_pem) + len(issued.chain_pem) // 2])


@bad("bad_pem")
def key_cut(plot: Plot) -> None:
    issued = plot.add()
    plot.put("privkey", issued.key_pem[: len(issued.key_pem) // 2])


@bad("bad_pem")
def chain_is_garbage(plot: Plot) -> None:
    plot.add()
    plot.put("fullchain", bytes(range(256)) * 8)


@bad("bad_pem")
def key_is_garbage(plot: Plot) -> None:
    plot.add()
    plot.put("privkey", bytes(range(256)) * 8)


@bad("bad_pem")
def chain_is_not_base64(plot: Plot) -> None:
    plot.add()
    plot.put("fullchain", b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")


@bad("bad_pem")
def chain_is_base64_of_something_else(plot: Plot) -> None:
    body = base64.encodebytes(b"no certificate" * 20)
    plot.add()
    plot.put("fullchain", b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")


@bad("bad_pem")
def key_is_base64_of_something_else(plot: Plot) -> None:
    body = base64.encodebytes(b"no private key" * 20)
    plot.add()
    plot.put("privkey", b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n")


@bad("bad_pem")
def chain_in_der(plot: Plot) -> None:
    issued = plot.add()
    leaf = x509.load_pem_x509_certificate(issued.leaf_pem)
    plot.put("fullchain", leaf.public_bytes(serialization.Encoding.DER))


@bad("bad_pem")
def key_in_der(plot: Plot) -> None:
    key = serialization.load_pem_private_key(plot.add().key_pem, None)
    layout, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    plot.put("privkey", key.private_bytes(serialization.Encoding.DER, layout, nothing))


@bad("bad_pem")
def chain_file_holds_the_key_only(plot: Plot) -> None:
    issued = plot.add()
    plot.put("fullchain", issued.key_pem)


@bad("bad_pem")
def key_file_holds_the_chain_only(plot: Plot) -> None:
    issued = plot.add()
    plot.put("privkey", issued.fullchain_pem)


@bad("bad_pem")
def key_file_holds_two_keys(plot: Plot) -> None:
    issued = plot.add()
    plot.put("privkey", issued.key_pem + plot.issue().key_pem)


@bad("bad_pem")
def chain_of_foreign_certificates(plot: Plot) -> None:
    """The leaf is right, and what follows it did not issue it."""
    stranger = plot.authority.issue(["stranger.test"], issuer_name="Another E2")
    issued = plot.add()
    plot.put("fullchain", issued.leaf_pem + stranger.chain_pem)


# Bad: keys that no mail server of Debian's can use


@bad("encrypted_key")
def key_encrypted_as_pkcs8(plot: Plot) -> None:
    plot.add_pair(*_encrypted(plot, serialization.PrivateFormat.PKCS8))


@bad("encrypted_key")
def key_encrypted_with_proc_type(plot: Plot) -> None:
    chain, key = _encrypted(plot, serialization.PrivateFormat.TraditionalOpenSSL)
    assert b"Proc-Type: 4,ENCRYPTED" in key
    plot.add_pair(chain, key)


def _encrypted(plot: Plot, layout: serialization.PrivateFormat) -> tuple[bytes, bytes]:
    issued = plot.issue()
    key = serialization.load_pem_private_key(issued.key_pem, None)
    passphrase = serialization.BestAvailableEncryption(b"a passphrase")
    return issued.fullchain_pem, key.private_bytes(serialization.Encoding.PEM, layout, passphrase)


@bad("unsupported_key")
def key_ed25519(plot: Plot) -> None:
    plot.add(algorithm="ed25519")


@bad("unsupported_key")
def key_dsa(plot: Plot) -> None:
    plot.add_pair(*_dsa(plot, serialization.PrivateFormat.PKCS8))


@bad("unsupported_key")
def key_dsa_in_the_traditional_format(plot: Plot) -> None:
    plot.add_pair(*_dsa(plot, serialization.PrivateFormat.TraditionalOpenSSL))


def _dsa(plot: Plot, layout: serialization.PrivateFormat) -> tuple[bytes, bytes]:
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
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(plot.name)]), critical=True)
        .sign(signer, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    return certificate.public_bytes(encoding), key.private_bytes(encoding, layout, serialization.NoEncryption())


@functools.cache
def _dsa_key() -> dsa.DSAPrivateKey:
    return dsa.generate_private_key(2048)  # takes seconds


@bad("unsupported_key")
def key_rsa_1024(plot: Plot) -> None:
    plot.add(key=_pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505  # as bad as it looks


@bad("unsupported_key")
def key_on_secp256k1(plot: Plot) -> None:
    plot.add(key=_pem(ec.generate_private_key(ec.SECP256K1())))


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    layout, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, layout, nothing)


@bad("unsupported_key")
def chain_signed_with_sha1(plot: Plot) -> None:
    """Only the openssl command still makes such a thing: it signs a self-signed certificate anew."""
    issued, signer = plot.issue(self_signed=True), plot.issue("signer.test", common_name="Signer")
    leaf, ca = (plot.outside / f"{plot.lineage}-{role}" for role in ("leaf", "ca"))
    leaf.write_bytes(issued.leaf_pem)
    ca.write_bytes(signer.key_pem + signer.leaf_pem)
    words: list[str | Path] = [require_tool("openssl"), "x509", "-in", leaf, "-CA", ca, "-CAkey", ca]
    done = run([*words, "-sha1", "-preserve_dates", "-set_serial", "7"])
    assert done.returncode == 0, done.stderr
    plot.add_pair(done.stdout, issued.key_pem)


# Bad: things that are no files of the store. Each is planted as the key and as the chain.


def as_key_and_as_chain(reason: str) -> Callable[[Callable[[Plot, str], None]], Callable[[Plot, str], None]]:
    """Register a kind twice: it plants something in the place of the key, and of the chain."""

    def register(build: Callable[[Plot, str], None]) -> Callable[[Plot, str], None]:
        for kind in ("privkey", "fullchain"):

            def plant(plot: Plot, kind: str = kind) -> None:
                plot.add()
                build(plot, kind)

            bad(reason, label=f"{kind}_{build.__name__}")(plant)
        return build

    return register


@as_key_and_as_chain("not_a_regular_file")
def is_a_fifo(plot: Plot, kind: str) -> None:
    plot.unlink(kind)
    os.mkfifo(plot.store.path(plot.lineage, kind))


@as_key_and_as_chain("not_a_regular_file")
def leads_to_a_fifo(plot: Plot, kind: str) -> None:
    path = plot.store.archive / plot.lineage / f"{kind}1.pem"
    path.unlink()
    os.mkfifo(path)


@as_key_and_as_chain("not_a_regular_file")
def is_a_socket(plot: Plot, kind: str) -> None:
    plot.unlink(kind)
    directory = os.open(plot.directory, os.O_RDONLY)  # the path of a socket may not be as long as a test's
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{kind}.pem")
    os.close(directory)


@as_key_and_as_chain("not_a_regular_file")
def is_a_directory(plot: Plot, kind: str) -> None:
    plot.unlink(kind)
    plot.store.path(plot.lineage, kind).mkdir()


@as_key_and_as_chain("not_a_regular_file")
def is_a_device(plot: Plot, kind: str) -> None:
    plot.unlink(kind)
    os.mknod(plot.store.path(plot.lineage, kind), stat.S_IFCHR | 0o600, os.makedev(1, 5))


@as_key_and_as_chain("not_a_regular_file")
def leads_to_a_device(plot: Plot, kind: str) -> None:
    plot.link(kind, "/dev/zero")


@as_key_and_as_chain("too_large")
def is_a_sparse_file_of_1_gib(plot: Plot, kind: str) -> None:
    os.truncate(plot.store.archive / plot.lineage / f"{kind}1.pem", 1 << 30)


@as_key_and_as_chain("too_large")
def is_a_file_of_2_mib(plot: Plot, kind: str) -> None:
    path = plot.store.archive / plot.lineage / f"{kind}1.pem"
    path.write_bytes(path.read_bytes() + b"\n" * (2 << 20))


@as_key_and_as_chain("symlink_outside_store")
def leads_to_a_secret(plot: Plot, kind: str) -> None:
    plot.link(kind, plot.outside / "secret")


@as_key_and_as_chain("symlink_outside_store")
def leads_to_the_shadow_file(plot: Plot, kind: str) -> None:
    plot.link(kind, "/etc/shadow")


@as_key_and_as_chain("symlink_outside_store")
def leads_to_a_matching_file_elsewhere(plot: Plot, kind: str) -> None:
    inside = plot.store.archive / plot.lineage / f"{kind}1.pem"
    elsewhere = plot.outside / f"{plot.lineage}-{kind}.pem"
    elsewhere.write_bytes(inside.read_bytes())
    plot.link(kind, elsewhere)


@as_key_and_as_chain("unreadable")
def leads_to_itself(plot: Plot, kind: str) -> None:
    plot.link(kind, f"{kind}.pem")


@as_key_and_as_chain("unreadable")
def leads_through_a_file(plot: Plot, kind: str) -> None:
    plot.link(kind, f"../../archive/{plot.lineage}/cert1.pem/{kind}.pem")


@bad("symlink_outside_store")
def lineage_is_a_link_out_of_the_store(plot: Plot) -> None:
    plot.add()
    elsewhere = plot.outside / plot.lineage
    elsewhere.mkdir()
    for path in plot.directory.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
        path.unlink()
    plot.directory.rmdir()
    plot.directory.symlink_to(elsewhere)


@bad("unreadable")
def lineage_is_a_link_to_itself(plot: Plot) -> None:
    plot.directory.symlink_to(plot.lineage)


# Bad: names. A certificate of which no name can be used has no mail name either, which is only information.

LONGEST_NAME = f"mail.{'.'.join(['x' * 60] * 4)}.test"
"""Of 253 octets."""
HOSTILE_NAMES: dict[str, bytes] = {
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
UNDECODABLE: dict[str, bytes] = {
    "latin_1": subject_alternative_names(b"mail.\xfc.test"),
    "der_cut_off": b"\x30\x20\x82\x1email.x",
    "not_der_at_all": b"mail.x.test",
    "empty_der": b"",
}


def _register_names() -> None:
    for label, name in HOSTILE_NAMES.items():

        def plant(plot: Plot, name: bytes = name) -> None:
            plot.add(raw_san=subject_alternative_names(name))

        BAD[f"name_with_{label}"] = Kind(plant, {"bad_name": False, "no_matching_name": True})
    for label, san in UNDECODABLE.items():

        def plant_raw(plot: Plot, san: bytes = san) -> None:
            plot.add(raw_san=san)

        bad("bad_name", label=f"names_{label}")(plant_raw)


_register_names()

HOSTILE_DIRECTORIES: dict[str, bytes] = {
    "newline": b"x\n}\nssl = no\n#",
    "space": b"x y",
    "quote": b'x"y',
    "template": b"{{7*7}}",
    "invalid_utf_8": b"x\xff\xfe",
    "not_ascii": "x\u00fc".encode(),
    "escape_sequence": b"x\x1b[31m",
    "dollar": b"$x",
}


def _register_directories() -> None:
    for label, directory in HOSTILE_DIRECTORIES.items():

        def plant(plot: Plot, directory: bytes = directory) -> None:
            plot.add()
            plot.rename(directory)

        bad("bad_name", label=f"directory_with_{label}", replaces=False)(plant)


_register_directories()

# ---------------------------------------------------------------------------------------------------------------------
# Harmless: served all the same


@harmless()
def upper_case_name(plot: Plot) -> Issued:
    return plot.add(plot.name.upper())


@harmless()
def name_of_253_octets(plot: Plot) -> Issued:
    plot.name = LONGEST_NAME
    return plot.add()


@harmless()
def directory_with_a_leading_dash(plot: Plot) -> Issued:
    issued = plot.add()
    plot.rename("-rf")
    return issued


@harmless()
def carriage_returns(plot: Plot) -> Issued:
    issued = plot.add()
    for kind, content in (("privkey", issued.key_pem), ("fullchain", issued.fullchain_pem)):
        plot.put(kind, content.replace(b"\n", b"\r\n"))
    return issued


@harmless()
def no_final_newline(plot: Plot) -> Issued:
    issued = plot.add()
    for kind, content in (("privkey", issued.key_pem), ("fullchain", issued.fullchain_pem)):
        plot.put(kind, content.rstrip(b"\n"))
    return issued


@harmless()
def leaf_after_its_issuer(plot: Plot) -> Issued:
    issued = plot.add()
    plot.put("fullchain", issued.chain_pem + issued.leaf_pem)
    return issued


@harmless()
def leaf_without_its_issuer(plot: Plot) -> Issued:
    issued = plot.add()
    plot.put("fullchain", issued.leaf_pem)
    return issued


@harmless()
def leaf_twice(plot: Plot) -> Issued:
    issued = plot.add()
    plot.put("fullchain", issued.leaf_pem + issued.fullchain_pem)
    return issued


@harmless()
def key_in_the_traditional_format_after_its_parameters(plot: Plot) -> Issued:
    """What ``openssl ecparam -genkey`` writes."""
    issued = plot.add()
    key = serialization.load_pem_private_key(issued.key_pem, None)
    layout, nothing = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    plot.put("privkey", parameters + key.private_bytes(serialization.Encoding.PEM, layout, nothing))
    return issued


@harmless()
def key_and_chain_in_one_file(plot: Plot) -> Issued:
    issued = plot.add()
    plot.put("privkey", issued.key_pem + issued.fullchain_pem)
    return issued


@harmless("self_signed")
def self_signed_alone(plot: Plot) -> Issued:
    return plot.add(self_signed=True)


# Harmless: not served, and no fault of anybody's


@harmless("staging")
def staging(plot: Plot) -> None:
    plot.add(issuer_name="(STAGING) Sandbox E1")


@harmless("no_matching_name")
def web_only(plot: Plot) -> None:
    plot.add(f"www.{plot.name}")


@harmless("no_matching_name")
def web_only_and_expired(plot: Plot) -> None:
    plot.add(f"www.{plot.name}", not_before=NOW - 90 * DAY, not_after=NOW - DAY)


@harmless("no_matching_name")
def web_only_and_its_key_is_missing(plot: Plot) -> None:
    plot.add(f"www.{plot.name}")
    plot.unlink("privkey")


@harmless("no_matching_name")
def web_only_and_its_key_is_another(plot: Plot) -> None:
    plot.add(f"www.{plot.name}")
    plot.put("privkey", plot.issue().key_pem)


@harmless("no_matching_name")
def web_only_and_its_key_is_a_fifo(plot: Plot) -> None:
    plot.add(f"www.{plot.name}")
    plot.unlink("privkey")
    os.mkfifo(plot.store.path(plot.lineage, "privkey"))


@harmless("no_matching_name")
def web_only_and_its_key_is_empty(plot: Plot) -> None:
    plot.add(f"www.{plot.name}")
    plot.put("privkey", b"")


@harmless("no_matching_name")
def web_only_with_an_ed25519_key(plot: Plot) -> None:
    plot.add(f"www.{plot.name}", algorithm="ed25519")


@harmless("no_matching_name")
def web_only_with_a_foreign_chain(plot: Plot) -> None:
    issued = plot.add(f"www.{plot.name}")
    plot.put("fullchain", issued.leaf_pem + plot.authority.issue(["x.test"], issuer_name="Another E2").chain_pem)


@harmless("no_matching_name")
def common_name_only(plot: Plot) -> None:
    issued = plot.issue(common_name=plot.name, raw_san=None)
    bare = plot.authority.issue([], common_name=plot.name, key=issued.key_pem)
    plot.store.add(plot.lineage, bare)


@harmless("no_matching_name")
def address_only(plot: Plot) -> None:
    plot.add("192.0.2.1", "2001:db8::1", common_name=plot.name)


@harmless("no_matching_name")
def mail_address_only(plot: Plot) -> None:
    address = f"postmaster@{plot.name}".encode()
    general_name = bytes((0x81, len(address))) + address
    plot.add(raw_san=bytes((0x30, len(general_name))) + general_name, common_name=plot.name)


# Harmless: another lineage serves the name


@harmless("lost_to_other")
def older_than_its_duplicate(plot: Plot) -> Issued:
    plot.add(not_before=NOW - 2 * DAY)
    newer = plot.issue()
    plot.store.add(f"{plot.lineage}-0001", newer)
    return newer


@harmless("lost_to_other")
def self_signed_beside_another(plot: Plot) -> Issued:
    older = plot.issue(not_before=NOW - 2 * DAY)
    plot.add(self_signed=True)
    plot.store.add(f"{plot.lineage}-0001", older)
    return older


@harmless("lost_to_other")
def self_signed_beside_a_wildcard(plot: Plot) -> Issued:
    wildcard = plot.issue(f"*.{plot.name.partition('.')[2]}", not_before=NOW - 2 * DAY)
    plot.add(self_signed=True)
    plot.store.add(f"{plot.lineage}-0001", wildcard)
    return wildcard


@harmless("expired")
def expired_beside_another(plot: Plot) -> Issued:
    plot.add(not_before=NOW - 90 * DAY, not_after=NOW - DAY)
    other = plot.issue()
    plot.store.add(f"{plot.lineage}-0001", other)
    return other


@harmless("lost_to_other")
def link_to_another_lineage(plot: Plot) -> Issued:
    """The same certificate under two names: the first one in the order of the directories serves."""
    issued = plot.issue()
    plot.store.add(f"0-{plot.lineage}", issued)
    plot.directory.symlink_to(f"0-{plot.lineage}")
    return issued


# Harmless: no lineage at all, and nothing is said


@harmless()
def directory_without_certificates(plot: Plot) -> None:
    plot.directory.mkdir()
    (plot.directory / "notes.txt").write_text("not certbot's\n")


@harmless()
def directory_with_a_space_without_certificates(plot: Plot) -> None:
    plot.directory.mkdir()
    plot.rename("old certificates")


@harmless()
def empty_directory(plot: Plot) -> None:
    plot.directory.mkdir()


@harmless()
def plain_file(plot: Plot) -> None:
    plot.directory.write_text("not a lineage\n")


@harmless()
def fifo_in_live(plot: Plot) -> None:
    os.mkfifo(plot.directory)


@harmless()
def link_to_a_plain_file(plot: Plot) -> None:
    plot.directory.symlink_to("README")


# ---------------------------------------------------------------------------------------------------------------------
# Torn: certbot was killed, or is at work


def _around(before: tuple[str, ...], each: str) -> tuple[str, ...]:
    return tuple(f"{word} {each.format(kind)}" for kind in KINDS for word in before)


RENEWAL_STEPS = (
    *(f"write {kind}2.pem" for kind in ("privkey", "cert", "chain", "fullchain")),
    "write renewal/",
    *_around(("symlink",), "previous_{}.pem"),
    *_around(("unlink", "symlink"), "{}.pem"),
    *_around(("unlink",), "previous_{}.pem"),
)
"""What ``CertbotDirectory.renewal_steps`` does, as far as a lineage of one version goes."""
FIRST_STEPS = (
    "mkdir archive/",
    "mkdir live/",
    *_around(("symlink",), "{}.pem"),
    *_around(("write",), "{}1.pem"),
    "write README",
    "write renewal/",
)
"""What ``CertbotDirectory.issuance_steps`` does."""
_TORN_FROM, _TORN_TO = RENEWAL_STEPS.index("unlink privkey.pem"), RENEWAL_STEPS.index("unlink fullchain.pem")
_FIRST_SEEN, _FIRST_WHOLE = FIRST_STEPS.index("symlink cert.pem"), FIRST_STEPS.index("write fullchain1.pem")


def stop_at(steps: Iterator[str], last: str) -> None:
    """Let certbot go on to a step, and no further."""
    done = []
    for step in steps:
        done.append(step)
        if step.startswith(last):
            return
    pytest.fail(f"certbot never came to {last!r}: {done}")


# ---------------------------------------------------------------------------------------------------------------------
# Where they are planted


@dataclass
class Crowd:
    """The mail_host with every kind in it, after the program has run.

    Attributes:
        plots: by kind, for a name that was never served.
        expected: by name, the fingerprint that must be served.
        applied: the run with all of them there.
        document: what ``status --json`` says after it.
        said: everything that any run of the program said.
        planted_keys: every private key in the store.
    """

    mail_host: MailHost
    plots: dict[str, Plot]
    expected: dict[str, str]
    applied: subprocess.CompletedProcess[str]
    document: dict[str, Any]
    said: dict[str, str]
    planted_keys: list[bytes] = field(repr=False)

    def skipped(self, source: Path) -> dict[str, bool]:
        """The reason codes of a lineage, each with whether it is only information."""
        text = str(source)
        return reasons(self.document, text if text.isascii() and text.isprintable() else ascii(text))

    def assert_served(self, *names: str) -> None:
        """Both servers present what is expected for these names."""
        questions = [(service, name) for name in names for service in SERVICES]
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: self.mail_host.served(*question), questions))
        assert dict(zip(questions, answers, strict=True)) == {one: self.expected[one[1]] for one in questions}


def reasons(document: Mapping[str, Any], source: str | None = None) -> dict[str, bool]:
    """The reason codes in a document, of one source or of all, each with whether it is only information."""
    skipped = [one for one in document["skipped"] if source in (None, one["source"])]
    return {one["reason"]: one["information"] for one in skipped}


def label(kind: str) -> str:
    """A kind's name as a label of a host name."""
    return kind.replace("_", "-")[:60].rstrip("-")


def secret_place(directory: Path) -> Path:
    """A directory outside the store with a secret in it."""
    directory.mkdir(mode=0o700)
    (directory / "secret").write_text(f"{SECRET}\n")
    return directory


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, authority: Authority, default: Issued) -> Iterator[Crowd]:
    """Every kind in one store: first only good lineages, then the bad ones as well, over some of them and beside."""
    require(PrivatePostfix.unavailable())
    require(PrivateDovecot.unavailable())
    directory = tmp_path_factory.mktemp("crowd")
    with workspace() as shared_tmp:
        for server in ("postfix", "dovecot"):
            (shared_tmp / server).mkdir(mode=0o755)
        with (
            PrivatePostfix(shared_tmp / "postfix", default, sni_map=f"cdb:{shared_tmp}/postfix/etc/mailsni") as postfix,
            PrivateDovecot(shared_tmp / "dovecot", default) as dovecot,
        ):
            store = CertbotDirectory(directory / "le")  # short, or messages cut hostile names off
            yield _populated(MailHost(directory, authority, store, postfix, dovecot, default))


def _populated(mail_host: MailHost) -> Crowd:
    store, authority = mail_host.store, mail_host.authority
    outside = secret_place(mail_host.directory / "outside")
    keys: list[bytes] = []
    expected: dict[str, str] = {}

    def plot(lineage: str) -> Plot:
        return Plot(store, authority, f"mail.{lineage}.test", lineage, outside, keys)

    def add(one: Plot, **options: Any) -> None:  # noqa: ANN401  # what Authority.issue takes
        expected[one.name] = one.add(**options).fingerprint

    good, other = plot("good"), plot("other")
    replaced = {kind: plot(f"was-{label(kind)}") for kind in BAD if BAD[kind].replaces}
    torn = {step: plot(f"torn-{at}") for at, step in enumerate(RENEWAL_STEPS)}
    add(good)
    add(other, algorithm="rsa")
    for one in (*replaced.values(), *torn.values()):
        add(one, not_before=NOW - 2 * DAY)
    first = mail_host.mailsni("apply", "--json", timeout=LIMIT)
    assert first.returncode == 0, first.stdout + first.stderr

    plots = {kind: plot(label(kind)) for kind in (*BAD, *HARMLESS)}
    for kind, one in plots.items():
        served = {**BAD, **HARMLESS}[kind].build(one)
        expected[one.name] = (served or mail_host.default).fingerprint
    for kind, one in replaced.items():
        store.delete(one.lineage)
        BAD[kind].build(one)
    for at, (step, one) in enumerate(torn.items()):
        renewed = one.issue()
        stop_at(store.renewal_steps(one.lineage, renewed), step)
        if at > _TORN_TO:
            expected[one.name] = renewed.fingerprint
    for at, step in enumerate(FIRST_STEPS):
        one = plot(f"first-{at}")
        issued = one.issue()
        stop_at(store.issuance_steps(one.lineage, issued), step)
        expected[one.name] = (issued if at >= _FIRST_WHOLE else mail_host.default).fingerprint
    renewed = good.issue()
    store.renew(good.lineage, renewed)
    expected[good.name] = renewed.fingerprint

    applied = mail_host.mailsni("apply", "--json", timeout=LIMIT)
    said = {"apply": first.stdout + first.stderr, "apply --json": applied.stdout + applied.stderr}
    for words in (
        "-v apply",
        "apply --force",
        "status --json",
        "status --skipped",
        "plan --json --diff",
        "plan --diff",
        "render postfix",
        "render dovecot",
        f"explain {replaced['key_of_another_certificate'].name}",
    ):
        done = mail_host.mailsni(*words.split(), timeout=LIMIT)
        said[words] = done.stdout + done.stderr
    status = mail_host.mailsni("status", "--json", timeout=LIMIT)
    assert status.returncode == 0, status.stderr
    return Crowd(mail_host, plots, expected, applied, json.loads(status.stdout), said, keys)


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> dict[str, subprocess.CompletedProcess[str]]:
    """For each kind ``apply --json`` over a store with this one and two good lineages, where no server runs."""
    directory = tmp_path_factory.mktemp("alone")
    good = {GOOD: authority.issue([GOOD]), OTHER: authority.issue([OTHER], algorithm="rsa")}

    def apply(kind: str) -> subprocess.CompletedProcess[str]:
        return run_mailsni(_lonely(directory / kind, authority, good, kind), "apply", "--json", timeout=LIMIT)

    with ThreadPoolExecutor(12) as pool:  # most of the time Postfix's tools wait until a new file is a second old
        return dict(zip((*BAD, *HARMLESS), pool.map(apply, (*BAD, *HARMLESS)), strict=True))


def _lonely(directory: Path, authority: Authority, good: Mapping[str, Issued], kind: str) -> Path:
    directory.mkdir()
    store = CertbotDirectory(directory / "letsencrypt")
    for name, issued in good.items():
        store.add(name, issued)
    plot = Plot(store, authority, f"mail.{label(kind)}.test", label(kind), secret_place(directory / "outside"))
    {**BAD, **HARMLESS}[kind].build(plot)
    return serverless(directory, store)


def serverless(directory: Path, store: CertbotDirectory) -> Path:
    """A configuration file of a host where a map is all there is to publish, and nobody runs who could be told."""
    main_cf = directory / "main.cf"
    main_cf.write_text(f"compatibility_level = 3.6\ntls_server_sni_maps = texthash:{directory}/mailsni\n")
    os.utime(main_cf, (0, 0))  # or every program of Postfix waits until it is a second old
    config = directory / "config.toml"
    config.write_text(
        f'sources = [{{ type = "certbot", path = "{store.live}" }}]\n'
        f'state = {{ directory = "{directory}/state", lock = "{directory}/lock" }}\n'
        "dovecot = { enabled = false }\n"
        "verify = { after_apply = false }\n"
        "[postfix]\n"
        "enabled = true\n"
        f'config_directory = "{directory}"\n'
        f'map = "{directory}/mailsni"\n'
        'map_type = "texthash"\n'
        'action = "none"\n'
    )
    return config


# ---------------------------------------------------------------------------------------------------------------------
# What must be true of each


@pytest.mark.parametrize("kind", BAD)
def test_bad(kind: str, crowd: Crowd) -> None:
    """Its reason in status, the others served, its name answered with the default certificate."""
    plot = crowd.plots[kind]
    assert crowd.skipped(plot.directory) == BAD[kind].reasons
    assert crowd.expected[plot.name] == crowd.mail_host.default.fingerprint
    crowd.assert_served(GOOD, OTHER, plot.name)


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless(kind: str, crowd: Crowd) -> None:
    """Nothing but information in status, and its name is served as the kind says."""
    plot = crowd.plots[kind]
    assert crowd.skipped(plot.directory) == HARMLESS[kind].reasons
    crowd.assert_served(GOOD, OTHER, plot.name)


@pytest.mark.shared
@pytest.mark.parametrize("kind", [*BAD, *HARMLESS])
def test_alone(kind: str, alone: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """Exit code 4 of the bad ones, and 0 and not a word of the harmless ones."""
    done = alone[kind]
    assert done.returncode == (4 if kind in BAD else 0), done.stdout + done.stderr
    assert reasons(json.loads(done.stdout)) == {**BAD, **HARMLESS}[kind].reasons
    assert (done.stderr == "") is (kind in HARMLESS)


@pytest.mark.parametrize("kind", [kind for kind in BAD if BAD[kind].replaces])
def test_a_name_that_was_served_keeps_its_last_good_certificate(kind: str, crowd: Crowd) -> None:
    lineage = f"was-{label(kind)}"
    skipped = crowd.skipped(crowd.mail_host.store.live / lineage)
    assert set(skipped) == {*BAD[kind].reasons, "kept_last_good"}
    assert skipped["kept_last_good"] is False
    crowd.assert_served(f"mail.{lineage}.test")


@pytest.mark.parametrize("step", RENEWAL_STEPS)
def test_renewal_stopped_after(step: str, crowd: Crowd) -> None:
    """The name has a whole pair at every moment: the old one up to the last link, then the new one."""
    at = RENEWAL_STEPS.index(step)
    broken = _TORN_FROM <= at <= _TORN_TO
    expected = {"renewal_in_progress": False, "kept_last_good": False} if broken else {}
    assert crowd.skipped(crowd.mail_host.store.live / f"torn-{at}") == expected
    crowd.assert_served(f"mail.torn-{at}.test")


@pytest.mark.parametrize("step", FIRST_STEPS)
def test_first_issuance_stopped_after(step: str, crowd: Crowd) -> None:
    """Until the chain is written through its link there is nothing to serve, which is said once a link is there."""
    at = FIRST_STEPS.index(step)
    expected = {"chain_missing": False} if _FIRST_SEEN <= at < _FIRST_WHOLE else {}
    assert crowd.skipped(crowd.mail_host.store.live / f"first-{at}") == expected
    crowd.assert_served(f"mail.first-{at}.test")


def test_all_of_them_together_are_applied_with_exit_code_4(crowd: Crowd) -> None:
    assert crowd.applied.returncode == 4, crowd.applied.stderr
    document = json.loads(crowd.applied.stdout)
    assert document["result"] == "applied"
    assert document["servers"] == {"postfix": "reloaded", "dovecot": "reloaded"}


def test_every_reason_code_has_a_kind(crowd: Crowd) -> None:
    """Those of DESIGN.md, all of them."""
    text = (
        "expired not_yet_valid key_mismatch key_missing chain_missing bad_pem encrypted_key unreadable "
        "renewal_in_progress no_matching_name bad_name staging self_signed lost_to_other symlink_outside_store "
        "not_a_regular_file too_large unsupported_key kept_last_good"
    )
    assert set(reasons(crowd.document)) == set(text.split())


def test_nothing_secret_is_said(crowd: Crowd) -> None:
    """No line of a private key, and nothing of a file outside the store."""
    shadow = [line for line in Path("/etc/shadow").read_text().splitlines() if len(line) > 8]
    forbidden = {SECRET, *shadow, *_lines_of(crowd.planted_keys)}
    assert len(forbidden) > 300
    for words, text in crowd.said.items():
        assert [one for one in forbidden if one in text] == [], words
        assert "PRIVATE KEY" not in text, words


def _lines_of(keys: list[bytes]) -> set[str]:
    """The lines of PEM bodies; the last one of a key may be too short to mean anything."""
    texts = (key.decode("ascii", "replace") for key in keys)
    return {line for text in texts for line in re.findall(r"^[A-Za-z0-9+/=]{32,}$", text, re.MULTILINE)}


def test_everything_that_is_said_can_be_shown_on_a_terminal(crowd: Crowd) -> None:
    for words, text in crowd.said.items():
        assert [line for line in text.splitlines() if not (line.isascii() and line.isprintable())] == [], words


def test_no_hostile_text_and_no_secret_reaches_a_file(crowd: Crowd) -> None:
    """Only the pinned files and the compiled map hold keys, and only those of certificates that are served."""
    mail_host = crowd.mail_host
    artifacts = [mail_host.map, mail_host.include_file]
    for path in artifacts:
        text = path.read_text("ascii")
        assert [one for one in ("ssl = no", "7*7", "{%", "\x1b", '"x') if one in text] == [], path
    keys = _lines_of(crowd.planted_keys)
    for path in (*artifacts, *(mail_host.directory / "state").iterdir()):
        text = path.read_text("ascii")
        assert [one for one in (SECRET, *keys) if one in text] == [], path
    for path in mail_host.pin_directory.iterdir():
        assert SECRET not in path.read_text("ascii"), path


def test_the_artifacts_have_their_modes(crowd: Crowd) -> None:
    mail_host = crowd.mail_host
    compiled = mail_host.map.with_name("mailsni.cdb")
    pins = list(mail_host.pin_directory.iterdir())
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (mail_host.map, compiled, *pins)}
    assert len(pins) > 50
    assert [path for path, mode in modes.items() if mode != 0o600] == []
    assert stat.S_IMODE(mail_host.include_file.lstat().st_mode) == 0o644
    assert stat.S_IMODE(mail_host.pin_directory.lstat().st_mode) == 0o700
    assert stat.S_IMODE((mail_host.directory / "state").lstat().st_mode) == 0o700


def test_once_the_bad_ones_are_gone_all_is_well(mail_host: MailHost) -> None:
    issued = mail_host.issue(GOOD, lineage="good")
    names = {}
    for kind in ("key_of_another_certificate", "privkey_is_a_fifo", "name_with_newline"):
        plot = Plot(mail_host.store, mail_host.authority, f"mail.{label(kind)}.test", label(kind), Path("/"))
        BAD[kind].build(plot)
        names[plot.name] = plot
    assert mail_host.mailsni("apply").returncode == 4
    for plot in names.values():
        mail_host.store.delete(plot.lineage)
    done = mail_host.mailsni("apply", "--json")
    assert (done.returncode, json.loads(done.stdout)["skipped"]) == (0, [])
    assert mail_host.served_everywhere(GOOD) == dict.fromkeys(mail_host.endpoints, issued.fingerprint)


def test_a_good_name_beside_a_hostile_one_in_the_same_certificate_is_served(mail_host: MailHost) -> None:
    hostile = "mail.x.test\n}\nssl = no\n#"
    issued = mail_host.issue(GOOD, hostile, lineage="both")
    done = mail_host.mailsni("apply", "--json")
    assert done.returncode == 4
    assert reasons(json.loads(done.stdout)) == {"bad_name": False}
    assert mail_host.served_everywhere(GOOD) == dict.fromkeys(mail_host.endpoints, issued.fingerprint)
    assert mail_host.served("imaps", "mail.x.test") == mail_host.default.fingerprint


def test_a_staging_certificate_does_not_take_the_place_of_the_one_that_is_served(mail_host: MailHost) -> None:
    """``certbot --staging`` over a lineage that is in use: the last good certificate is still valid."""
    issued = mail_host.issue(GOOD, lineage="good")
    mail_host.issue(OTHER, lineage="other")
    assert mail_host.mailsni("apply").returncode == 0
    mail_host.store.renew("good", mail_host.authority.issue([GOOD], issuer_name="(STAGING) Sandbox E1"))
    done = mail_host.mailsni("apply", "--json")
    assert "kept_last_good" in reasons(json.loads(done.stdout))
    assert mail_host.served_everywhere(GOOD) == dict.fromkeys(mail_host.endpoints, issued.fingerprint)


def test_what_this_user_may_not_read(shared_tmp: Path, authority: Authority) -> None:
    """As root nothing is unreadable, so another user runs the program, in a directory of his."""
    store = CertbotDirectory(shared_tmp / "letsencrypt")
    for name in (GOOD, "mail.closed.test", "mail.shut.test"):
        store.add(name, authority.issue([name]))
    for directory in (store.live, store.archive):
        directory.chmod(0o755)
    (store.archive / GOOD / "privkey1.pem").chmod(0o644)
    (store.live / "mail.shut.test").chmod(0o700)
    home = shared_tmp / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    config = serverless(home, store)
    config.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-m", "mailsni", "--config", str(config), "apply", "--json"],
        env=environment(),
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    document = json.loads(done.stdout)
    found = {Path(one["source"]).name: one["reason"] for one in document["skipped"]}
    assert found == {"mail.closed.test": "unreadable", "mail.shut.test": "unreadable"}
    assert [change["name"] for change in document["changes"]] == [GOOD]
