"""PEM (RFC 7468): the blocks of a file, whatever lies between them.

Text between blocks, byte-order marks, Windows line ends and files that were joined without a newline do no harm.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

BEGIN = b"-----BEGIN "
_HEAD = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----[ \t]*\r?\n")
_ENCRYPTED = b"ENCRYPTED"


class PemError(ValueError):
    """It is no whole PEM. The message holds none of its content."""


@dataclass(frozen=True, slots=True)
class Block:
    """A PEM block."""

    label: bytes
    body: bytes = field(repr=False)

    @property
    def is_key(self) -> bool:
        """Whether it is a private key of any kind."""
        return self.label.endswith(b"PRIVATE KEY")

    @property
    def is_encrypted(self) -> bool:
        """Whether it takes a passphrase to read it: as PKCS #8, or in the older form with headers (RFC 1421)."""
        return self.label.startswith(_ENCRYPTED) or _ENCRYPTED in self.body.partition(b"\n\n")[0]

    def der(self) -> bytes:
        """What it encodes.

        Raises:
            PemError: it is not base64.
        """
        try:
            return base64.b64decode(b"".join(self.body.split()), validate=True)
        except binascii.Error:
            raise PemError("a PEM block is not base64") from None


def blocks(pem: bytes) -> Iterator[Block]:
    """The blocks of a file. The time is linear in its size.

    A file cut inside a block must not pass as a shorter file, and cryptography's own loader of many certificates does
    not see the difference (measured): each beginning must have its end.

    Raises:
        PemError: a block begins and does not end; those before it were given.
    """
    at = pem.find(BEGIN)
    while at >= 0:
        head = _HEAD.match(pem, at)
        end = pem.find(b"-----END %b-----" % head[1], head.end()) if head else -1
        at = pem.find(BEGIN, at + len(BEGIN))
        if head is None or end < 0 or 0 <= at < end:
            raise PemError("a PEM block begins and does not end")
        yield Block(head[1], pem[head.end() : end])


def armoured(label: bytes, der: bytes) -> bytes:
    """A block, with a newline behind it."""
    body = base64.b64encode(der)
    lines = (body[at : at + 64] for at in range(0, len(body), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, b"\n".join(lines), label)
