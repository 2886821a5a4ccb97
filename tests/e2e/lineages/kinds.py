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


Build = Callable[[LineageBuilder], Issued | None]
"""Plants a lineage. Returns the certificate that must then be served for the name; None for the default one."""


@dataclass(frozen=True)
class Kind:
    """A kind of lineage, and what the program must say of it.

    Attributes:
        reasons: the reason codes, each with whether it is only information.
        replaces: it can be planted over a deployed lineage, whose name must then keep its last good certificate.
    """

    build: Build
    reasons: Mapping[str, bool]
    replaces: bool = False


BAD: dict[str, Kind] = {}
"""Exit code 4, and the name falls back to the default certificate."""
HARMLESS: dict[str, Kind] = {}
"""Exit code 0."""


def bad(reason: str, *, label: str = "", replaces: bool = True) -> Callable[[Build], Build]:
    """Register a kind that a person must look at."""

    def register(build: Build) -> Build:
        BAD[label or build.__name__] = Kind(build, {reason: False}, replaces)
        return build

    return register


def harmless(*reasons: str) -> Callable[[Build], Build]:
    """Register a kind that leaves the exit code 0, with reasons that are only information, or none."""

    def register(build: Build) -> Build:
        HARMLESS[build.__name__] = Kind(build, dict.fromkeys(reasons, True))
        return build

    return register


def as_key_and_as_chain(
    reason: str,
) -> Callable[[Callable[[LineageBuilder, str], None]], Callable[[LineageBuilder, str], None]]:
    """Register a kind twice: it plants something in the place of the key, and of the chain."""

    def register(build: Callable[[LineageBuilder, str], None]) -> Callable[[LineageBuilder, str], None]:
        for kind in ("privkey", "fullchain"):

            def plant(builder: LineageBuilder, kind: str = kind) -> None:
                builder.add()
                build(builder, kind)

            bad(reason, label=f"{kind}_{build.__name__}")(plant)
        return build

    return register
