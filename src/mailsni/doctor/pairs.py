"""What is wrong with a certificate and its key that somebody else lets a server serve, whichever server it is."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsni.core.expiry import DAY, warning_days
from mailsni.core.model import Certificate, Reason
from mailsni.core.names import covered_by, is_wildcard
from mailsni.core.text import counted, summarize_names
from mailsni.core.x509 import InvalidPair, chain_digests, validate_pair
from mailsni.doctor.finding import Severity
from mailsni.doctor.helpers import chain_severity, lonely_leaf, quoted, sed_literal
from mailsni.sources.kinds import SourceSettings, renewal_of

ARCHIVED = re.compile(
    r"(?P<root>/.+)/archive/(?P<lineage>[A-Za-z0-9._@+-]+)/(?P<kind>cert|privkey|chain|fullchain)\d+\.pem"
)
"""The path of one version of a certificate of certbot's: it is not renewed."""
_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[^-]*-----END [A-Z0-9 ]{1,64}-----\n?")
_SERVED_ALL_THE_SAME = frozenset({Reason.BAD_NAME, Reason.UNSUPPORTED_KEY})
"""Reasons for which this program skips a certificate that a server may serve."""


class Fault(enum.Enum):
    """What can be wrong with a pair."""

    UNUSABLE = "unusable"
    """The server cannot load it."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    EXPIRES = "expires"
    """It is due, so its renewal has failed for weeks, or nobody renews it."""
    LEAF_ALONE = "leaf alone"
    OTHER_NAMES = "other names"


@dataclass(frozen=True, slots=True)
class PairFault:
    """Something that is wrong with a pair."""

    fault: Fault
    text: str
    """What is wrong, as the end of a sentence."""
    severity: Severity | None = None
    """Where it is not that of the kind of finding."""
    names: tuple[str, ...] = ()
    """The names that the certificate is not for."""


def judge(
    chain_pem: bytes,
    key_pem: bytes,
    names: Sequence[str],
    now: datetime,
    *,
    issuers: bytes = b"",
    password: bool = False,
) -> Iterator[PairFault]:
    """Find what is wrong with a certificate and its key.

    Args:
        chain_pem: what the server takes the certificate and its issuers from: the first certificate is the leaf.
        key_pem: what it takes the key from.
        names: those that clients get it for, a wildcard as ``*.example.com``; none for a default certificate.
        now: with a time zone.
        issuers: certificates with which the server completes a chain that is the leaf alone.
        password: whether the server knows the password of the key.
    """
    lonely, leaf_pem = lonely_leaf(chain_pem), _first_certificate(chain_pem)
    outcome = validate_pair("", chain_pem, key_pem)
    if isinstance(outcome, InvalidPair) and lonely is not None:
        outcome = validate_pair("", leaf_pem, key_pem)  # servers send what stands behind it, whoever's it is (measured)
    if isinstance(outcome, InvalidPair):
        if outcome.reason not in _SERVED_ALL_THE_SAME and not (outcome.reason is Reason.ENCRYPTED_KEY and password):
            yield PairFault(Fault.UNUSABLE, outcome.detail)
    elif _body(leaf_pem) != _body(_first_certificate(outcome.pem)):  # a valid pair begins with the key's certificate
        yield PairFault(Fault.UNUSABLE, "the certificate of the key is not the first in its file")
    else:
        yield from _dates(outcome.certificate, now)
        if lonely is not None and not is_completed(chain_pem, issuers):
            text = f"the leaf is alone, without its issuer ({lonely.issuer})"
            yield PairFault(Fault.LEAF_ALONE, text, chain_severity(lonely))
        yield from _other_names(outcome.certificate.names, names)


def _dates(certificate: Certificate, now: datetime) -> Iterator[PairFault]:
    day, left = f"{certificate.not_after:%Y-%m-%d}", (certificate.not_after - now) / DAY
    if left <= 0:
        yield PairFault(Fault.EXPIRED, f"the certificate expired on {day}")
    elif not certificate.valid_at(now):
        yield PairFault(Fault.NOT_YET_VALID, f"the certificate is not valid before {certificate.not_before:%Y-%m-%d}")
    elif left <= warning_days(certificate.not_before, certificate.not_after):
        yield PairFault(Fault.EXPIRES, f"the certificate expires in {counted(int(left), 'day')}, on {day}")


def _other_names(covered: Sequence[str], asked: Sequence[str]) -> Iterator[PairFault]:
    wrong = tuple(name for name in asked if not covered_by(name, covered))
    if wrong and covered:
        # Of a wildcard's names some may be asked for, and others not.
        partly = all(is_wildcard(name) and any(own.endswith(name[1:]) for own in covered) for name in wrong)
        text = f"the certificate for {summarize_names(wrong)} is for {summarize_names(covered)}"
        yield PairFault(Fault.OTHER_NAMES, text, Severity.WARNING if partly else None, wrong)


def is_completed(chain_pem: bytes, issuers: bytes) -> bool:
    """Whether a server adds the issuer of a leaf: OpenSSL does so where nothing stands behind it (measured)."""
    return len(chain_digests(chain_pem)) == 1 and bool(issuers) and lonely_leaf(chain_pem + b"\n" + issuers) is None


def _first_certificate(pem: bytes) -> bytes:
    match = _CERTIFICATE.search(pem)
    return match[0] if match is not None else b""


def _body(pem: bytes) -> bytes:
    """The content of a PEM block without its lines."""
    return b"".join(pem.split(b"-----")[2:3]).translate(None, b" \t\r\n")


def live_path(archived: re.Match[str]) -> Path:
    """The file that is renewed, for a match of :data:`ARCHIVED`."""
    return Path(archived["root"], "live", archived["lineage"], f"{archived['kind']}.pem")


def live_script(archived: re.Match[str]) -> str:
    """What makes sed(1) name the file that is renewed."""
    lineage, kind = archived["lineage"], archived["kind"]
    return f"s|/archive/{sed_literal(lineage)}/{kind}[0-9]*|/live/{lineage}/{kind}|"


def renewal(sources: Iterable[SourceSettings], chain: Path) -> str:
    """What a person does about a certificate that is due."""
    renew = renewal_of(sources, chain)
    if renew is None:
        return f"put the renewed certificate and its key where {chain} is"
    return f"see why it is not renewed: {quoted(*renew)}"
