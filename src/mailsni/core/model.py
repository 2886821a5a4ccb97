"""What a scan gives: certificates, and skipped ones with a reason code. Only data, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

from mailsni.core import json_values
from mailsni.core.text import ContractWord

Algorithm = Literal["ecdsa", "rsa"]
Progress = Callable[[str, int, int], None]
"""Called with what goes on, how much of it is done, and how much there is."""


class Reason(ContractWord):
    """Why a certificate, or a name of it, is not served as it lies in the store."""

    EXPIRED = "expired", "its validity has ended"
    NOT_YET_VALID = "not_yet_valid", "its validity has not begun"
    KEY_MISMATCH = "key_mismatch", "the private key does not belong to the certificate"
    KEY_MISSING = "key_missing", "there is no key file, or its link leads nowhere"
    CHAIN_MISSING = "chain_missing", "there is no chain file, or its link leads nowhere"
    BAD_PEM = "bad_pem", "a file cannot be parsed"
    ENCRYPTED_KEY = "encrypted_key", "the key needs a passphrase"
    UNREADABLE = "unreadable", "a file cannot be read"
    RENEWAL_IN_PROGRESS = "renewal_in_progress", "a renewal was interrupted while it replaced the files"
    NO_MATCHING_NAME = "no_matching_name", "no name matches `names.include`, as with a web site's certificate"
    BAD_NAME = (
        "bad_name",
        "a name in the certificate, or the directory's name, violates the grammar of host names or paths",
    )
    STAGING = "staging", "a staging authority issued it, which no client trusts"
    SELF_SIGNED = "self_signed", "it is self-signed, and served because there is no better one"
    LOST_TO_OTHER = "lost_to_other", "another certificate wins these names"
    SYMLINK_OUTSIDE_STORE = "symlink_outside_store", "a link leads out of the store"
    NOT_A_REGULAR_FILE = "not_a_regular_file", "a file is not a regular file"
    TOO_LARGE = "too_large", "a file is too large"
    UNSUPPORTED_KEY = (
        "unsupported_key",
        "neither RSA of at least 2048 bits nor ECDSA on P-256, P-384 or P-521; or signed with MD5 or SHA-1",
    )
    REFUSED_BY_OPENSSL = (
        "refused_by_openssl",
        "OpenSSL, as the servers use it, does not load the key and chain, or no client gets through with them",
    )
    SET_ASIDE = (
        "set_aside",
        "a server cut off the clients of its names, so it was taken back; tried again once it changes, or with \
`apply --force`",
    )
    KEPT_LAST_GOOD = "kept_last_good", "the names keep their last valid certificate"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a leaf, its chain and its private key are, which belong together. It holds no key: :class:`KeyAndChain`."""

    source: str
    """Its origin in the store, printable: a path, or ``path#name``. Equal from scan to scan, and opaque: only the store
    itself takes it apart."""
    names: tuple[str, ...]
    """Its dNSName SANs that are of the grammar of :mod:`mailsni.core.names`, sorted; no other name counts."""
    algorithm: Algorithm
    fingerprint: str
    """SHA-256 of the leaf's DER, hexadecimal: what ``openssl x509 -fingerprint -sha256`` prints without colons."""
    spki: str
    """SHA-256 of the leaf's public key (SubjectPublicKeyInfo): what a TLSA record ``3 1 1`` holds."""
    not_before: datetime
    not_after: datetime
    issuer: str
    """For people: printable ASCII, bounded."""
    self_signed: bool
    staging: bool
    digest: str
    """SHA-256 of key and chain as the pinned file has them, hexadecimal."""
    kept: bool = False
    """It is the last good one of a lineage that is broken now."""
    chain_path: str = ""
    """The file of the store with leaf and intermediates, for servers that read it there; empty: there is none."""
    key_path: str = ""
    """The file of the store with the private key."""
    refused_names: tuple[str, ...] = ()
    """Its SANs that are outside the grammar, printable."""
    issuer_missing: bool = False
    """The store lacks its issuer's certificate, and it says where to fetch that: clients need it."""

    @property
    def ident(self) -> str:
        """The name of its pinned file: equal exactly when key, leaf and chain are equal."""
        return f"{self.fingerprint}-{self.digest[:16]}"

    def encode(self) -> dict[str, Any]:
        """The JSON form."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "not_before": self.not_before.timestamp(),
            "not_after": self.not_after.timestamp(),
        }

    @classmethod
    def decode(cls, document: object) -> Certificate:
        """The certificate of a JSON form.

        Raises:
            ValueError, KeyError: it is damaged, or of another version.
        """
        members = json_values.members(document)
        if members.keys() != _CERTIFICATE_VALUES.keys():
            raise ValueError("not the members of a certificate")
        return cls(**{name: read(members[name]) for name, read in _CERTIFICATE_VALUES.items()})

    def valid_at(self, now: datetime) -> bool:
        """Whether the leaf's validity period holds."""
        return self.not_before <= now < self.not_after


def _names(value: object) -> tuple[str, ...]:
    return json_values.items(value, json_values.name)


def _refused_names(value: object) -> tuple[str, ...]:
    return json_values.items(value, json_values.text)


def _algorithm(value: object) -> Algorithm:
    if value in ("ecdsa", "rsa"):
        return value
    raise ValueError("no algorithm")


_CERTIFICATE_VALUES: Mapping[str, Callable[[object], Any]] = {
    "source": json_values.origin,
    "names": _names,
    "algorithm": _algorithm,
    "fingerprint": json_values.sha256,
    "spki": json_values.sha256,
    "not_before": json_values.moment,
    "not_after": json_values.moment,
    "issuer": json_values.text,
    "self_signed": json_values.boolean,
    "staging": json_values.boolean,
    "digest": json_values.sha256,
    "kept": json_values.boolean,
    "chain_path": json_values.optional_path,
    "key_path": json_values.optional_path,
    "refused_names": _refused_names,
    "issuer_missing": json_values.boolean,
}
"""Reads each field of a certificate from its JSON form."""


@dataclass(frozen=True, slots=True)
class KeyAndChain:
    """A certificate with its private key, leaf and intermediates as PEM, key first: the very bytes of a pinned file."""

    certificate: Certificate
    pem: bytes = field(repr=False)
    kind: str
    """Equal where OpenSSL judges equally, but for the numbers of the keys, which :mod:`mailsni.core.x509` has checked:
    one authority's certificates with the same chain and the same sort of key are of one kind."""


@dataclass(frozen=True, slots=True)
class SkippedLineage:
    """A certificate of a store, or some of its names, that is not served, or not as it is in the store."""

    source: str
    """Its origin, printable."""
    reason: Reason
    detail: str
    """A sentence for a person, printable, without any content of the files."""
    names: tuple[str, ...] = ()
    """The mail names of it, as far as they are known and of the grammar."""
    information: bool = False
    """No person must look at it: the exit code stays 0."""


LINEAGES_SHOWN = 10
"""How many lineages that are skipped for the same reason have a line each; more have one together."""


def by_reason(lineages: Iterable[SkippedLineage]) -> Mapping[Reason, Sequence[SkippedLineage]]:
    """Skipped lineages by their reason, in the order of the first of each."""
    groups: dict[Reason, list[SkippedLineage]] = {}
    for lineage in lineages:
        groups.setdefault(lineage.reason, []).append(lineage)
    return groups


class FileIdentity(NamedTuple):
    """Tells a file from every other, and from itself before a change."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    """Permissions only."""
    owner: int
    """User id."""

    @classmethod
    def decode(cls, document: object) -> FileIdentity:
        """The identity of a JSON form.

        Raises:
            ValueError, TypeError: it is damaged.
        """
        return cls(*json_values.whole_numbers(document))


class PublishedFile(NamedTuple):
    """A file as it was published. One that was restored byte by byte has another identity, and the same content."""

    identity: FileIdentity
    sha256: str
    """Of its content, hexadecimal."""

    @classmethod
    def decode(cls, document: object) -> PublishedFile:
        """The file of a JSON form.

        Raises:
            ValueError, TypeError: it is damaged.
        """
        identity, digest = json_values.items(document, lambda value: value)
        return cls(FileIdentity.decode(identity), json_values.sha256(digest))


@dataclass(frozen=True, slots=True)
class CachedLineage:
    """A valid certificate and the files that it was read from: as long as they are the same, so is the certificate."""

    files: tuple[FileIdentity, ...]
    """In an order that the store decides; empty: it has no files, and is not cached."""
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Inventory:
    """The result of a scan. Everything in the stores is a certificate, or skipped, or both; ordered by origin."""

    certificates: tuple[Certificate, ...]
    skipped: tuple[SkippedLineage, ...]
    lineages: frozenset[str]
    """The origin of everything that exists, good or bad. What is deployed from any other origin is really gone."""
    cached: tuple[CachedLineage, ...] = ()
    """What the next scan need not read again as long as the files are the same."""
    read: tuple[KeyAndChain, ...] = ()
    """The keys and chains that this scan read: not those of certificates that are known from earlier scans."""
    is_bare: bool = field(default=False, compare=False)
    """The store is a directory without any entry, like the place of a file system that is not mounted."""


def with_set_aside(inventory: Inventory, reasons: Mapping[str, str]) -> Inventory:
    """An inventory in which some certificates, by ident, count as broken; ``reasons`` says why, for people."""
    refused = [each for each in inventory.certificates if each.ident in reasons]
    skipped = [SkippedLineage(each.source, Reason.SET_ASIDE, reasons[each.ident], each.names) for each in refused]
    good = tuple(each for each in inventory.certificates if each.ident not in reasons)
    return replace(inventory, certificates=good, skipped=(*inventory.skipped, *skipped))


def merged(inventories: Sequence[Inventory]) -> Inventory:
    """Several stores' inventories as one."""
    return Inventory(
        certificates=tuple(found for inventory in inventories for found in inventory.certificates),
        skipped=tuple(skipped for inventory in inventories for skipped in inventory.skipped),
        lineages=frozenset().union(*(inventory.lineages for inventory in inventories)),
        cached=tuple(lineage for inventory in inventories for lineage in inventory.cached),
        read=tuple(read for inventory in inventories for read in inventory.read),
    )
