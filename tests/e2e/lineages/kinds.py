"""How a kind of lineage is planted, and what the program must say of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mailsni.sandbox.authority import Issued
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory

SECRET = "the-content-of-a-file-that-is-none-of-the-programs-business"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@dataclass
class LineageBuilder:
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

    def file(self, kind: str) -> Path:
        """The file in archive/ that a link of the lineage leads to."""
        return self.store.archive / self.lineage / f"{kind}1.pem"

    def without(self, kind: str) -> Path:
        """Remove a link of the lineage; returns where it was."""
        path = self.store.path(self.lineage, kind)
        path.unlink()
        return path

    def rename(self, name: str | bytes) -> None:
        """Give the lineage's directory in live/ another name."""
        os.rename(os.fsencode(self.directory), os.path.join(os.fsencode(self.store.live), os.fsencode(name)))  # noqa: PTH104, PTH118
        self.lineage = os.fsdecode(name)


Plant = Callable[[LineageBuilder], object]
Content = Callable[[LineageBuilder, Issued], bytes]
"""What a file of a lineage holds instead, made of the certificate that the lineage was issued with."""


@dataclass(frozen=True)
class Kind:
    """A kind of lineage, and what the program must say of it.

    Attributes:
        plant: what plants it; of a kind that is served, it returns the certificate that the name must be served with.
        reasons: the reason codes, each with whether it is only information.
        replaces: it can be planted over a deployed lineage, whose name must then keep its last good certificate.
        served: clients get a certificate other than the server's default one.
    """

    plant: Plant
    reasons: Mapping[str, bool]
    replaces: bool = False
    served: bool = False


def certificate(*names: str, **options: Any) -> Callable[[LineageBuilder], Issued]:  # noqa: ANN401  # as Authority.issue
    """A lineage whose files are whole, for names in which ``{}`` stands for the mail name."""
    return lambda builder: builder.add(*(name.format(builder.name) for name in names), **options)


def files(
    of: Callable[[LineageBuilder], Issued] = LineageBuilder.add, **contents: bytes | Content
) -> Callable[[LineageBuilder], Issued]:
    """A lineage in which ``privkey`` or ``fullchain`` hold something else."""

    def plant(builder: LineageBuilder) -> Issued:
        issued = of(builder)
        for kind, content in contents.items():
            builder.file(kind).write_bytes(content if isinstance(content, bytes) else content(builder, issued))
        return issued

    return plant


def another_key(builder: LineageBuilder, _: Issued) -> bytes:
    """The key of another certificate for the same name."""
    return builder.issue().key_pem


def foreign_chain(builder: LineageBuilder, own: Issued) -> bytes:
    """The leaf is right, and what follows it did not issue it."""
    return own.leaf_pem + builder.authority.issue(["stranger.test"], issuer_name="Another E2").chain_pem
