"""The seam between certificate stores and the rest of the program: what every kind of store can do.

A store may be a directory with one directory for each certificate, one file with many certificates, or a service on
the network. What leaves this package is an :class:`~mailsni.core.model.Inventory`. Its certificates carry an origin
(``Certificate.source``): printable, unique, and the same from scan to scan, such as a path or ``path#name``. Nobody
outside takes an origin apart.

The kinds are in :mod:`mailsni.sources.kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailsni.core.model import CachedLineage, Certificate, Inventory, KeyAndChain, Progress, Reason


@dataclass(frozen=True, slots=True)
class WatchPath:
    """A place whose changes make the watcher look at the store again."""

    path: Path
    """A directory, which is watched with all below it, or a file. It need not exist."""
    content: str = "*"
    """Which files in a directory hold keys and chains: a shell pattern for their names. A change of one is applied even
    when the change token stays the same; after any other event the token decides."""


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """What decides who can read or replace the private keys of a store; nothing where the store has no files."""

    keys: tuple[Path, ...] = ()
    """The files with private keys, links left out."""
    directories: tuple[Path, ...] = ()
    """Whoever can write to one of these can replace a key."""


CommandLine = tuple[str, ...]


class AcmeClient(Protocol):
    """The program that fills a store and renews its certificates: its hooks, and its command lines for a certificate.

    A certificate is given by its origin.
    """

    @property
    def name(self) -> str:
        """Its command, such as ``certbot``. This program ships ``hooks/NAME-post`` for it."""

    @property
    def directory(self) -> Path:
        """Its configuration directory."""

    @property
    def hook(self) -> Path:
        """Where a hook is installed that runs after renewals."""

    def renewal_file(self, origin: str) -> Path:
        """The file without which the certificate is not renewed."""

    def paths(self, origin: str) -> tuple[Path, ...]:
        """Every file and directory with the certificate or its keys in it."""

    def renew(self, origin: str) -> CommandLine:
        """What renews the certificate now, though it may not be due."""

    def repair(self, origin: str, reason: Reason) -> tuple[str, str | None] | None:
        """What repairs a certificate that is skipped for a reason, and a note on it; None when nothing does.

        It is a command line for a POSIX shell.
        """

    def issue(self, origin: str, names: Iterable[str]) -> CommandLine:
        """What replaces the certificate by one for these names. It may ask how to prove that they are this host's."""

    def delete(self, origin: str) -> CommandLine:
        """What deletes the certificate."""


class Source(Protocol):
    """A store of certificates, read-only.

    One bad certificate is data (:class:`~mailsni.core.model.SkippedLineage`), never an exception. A store that cannot
    be read at all (not mounted, no permission, no answer) is an exception, never an empty inventory: an empty store
    takes the names away that were deployed from it.
    """

    @property
    def location(self) -> str:
        """Where the store is, printable: a path or an address."""

    @property
    def acme_client(self) -> AcmeClient | None:
        """What fills the store, as far as the store tells: setup installs its hook, doctor names its commands."""

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        """Read every certificate.

        A key and its chain are read once and used only when they belong together. While the store is being written,
        the scan tries again for a bounded time, and reports what stays inconsistent with a reason that says so.

        Args:
            known: what earlier scans read, by origin. A certificate whose files are still the same is taken from
                there, and its key is not read.
            progress: called for each certificate.

        Raises:
            PermissionMissingError: this user may not read the store.
            HostError: the store is missing or cannot be read.
        """

    def owns(self, origin: str) -> bool:
        """Whether an origin is one of this store's, also when the certificate or the store is not there now."""

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read the key and chain of one certificate again; None when the store holds another one now."""

    def change_token(self) -> bytes:
        """What tells cheaply, and without reading a key, whether the store changed: equal tokens, equal content.

        It never raises. A store that cannot be read has a token too, so that the watcher sees it come back. The token
        of a store that tells nothing cheaply changes with time.
        """

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """Where changes make file events; nothing for a store without files."""

    def files(self) -> StoreFiles:
        """The files whose permissions matter.

        Raises:
            PermissionMissingError: this user may not list the store.
            HostError: the store is missing or cannot be listed.
        """
