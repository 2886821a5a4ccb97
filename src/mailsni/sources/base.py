"""The seam between certificate stores and the rest of the program: what every kind of store can do, and the kinds.

A store may be a directory with one directory for each certificate, one file with many certificates, or a service on
the network. What leaves this package is an :class:`~mailsni.core.model.Inventory`. Its certificates carry an origin
(``Certificate.source``): printable, unique, and the same from scan to scan, such as a path or ``path#name``. Nobody
outside takes an origin apart.

A new kind is a module here and a line in :data:`KINDS`. The module is imported when a store of the kind is opened.
``tests/unit/test_source_contract.py`` holds what every kind must pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mailsni.core.model import CachedLineage, Certificate, Inventory, KeyAndChain, Progress

DEFAULT_KIND = "certbot"


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


@dataclass(frozen=True, slots=True)
class CertbotLineage:
    """What certbot knows a certificate by."""

    directory: Path
    """Certbot's configuration directory."""
    name: str

    @property
    def renewal(self) -> Path:
        """The file without which certbot does not renew it."""
        return self.directory / "renewal" / f"{self.name}.conf"


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
    def certbot_directory(self) -> Path | None:
        """Certbot's configuration directory, where certbot fills the store: its hooks and renewals are there."""

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

    def certbot_lineage(self, origin: str) -> CertbotLineage | None:
        """The lineage of certbot's with an origin of this store's; None when certbot does not fill the store."""

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read the key and chain of one certificate again; None when the store holds another one now."""

    def change_token(self) -> bytes:
        """What tells cheaply, and without reading a key, whether the store changed: equal tokens, equal content.

        It never raises. A store that cannot be read has a token too, so that the watcher sees it come back.
        """

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """Where changes make file events; nothing for a store without files."""

    def files(self) -> StoreFiles:
        """The files whose permissions matter.

        Raises:
            PermissionMissingError: this user may not list the store.
            HostError: the store is missing or cannot be listed.
        """


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A ``type`` that ``[[sources]]`` takes."""

    factory: str
    """``module:callable``. It is called with the values of :attr:`keys` and returns a :class:`Source`."""
    keys: Mapping[str, Path | None]
    """Each key of its table, an absolute path, with its default; None: the table must have the key."""


KINDS: dict[str, SourceKind] = {
    "certbot": SourceKind("mailsni.sources.certbot:CertbotStore", {"path": Path("/etc/letsencrypt/live")}),
}


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """``[[sources]]``: one store."""

    type: str
    values: Mapping[str, Any]
    """By key, all keys that the kind takes."""

    @classmethod
    def of(cls, kind: str, **given: object) -> SourceSettings:
        """The settings of a kind, with the defaults of the keys that are not given."""
        defaults = {name: default for name, default in KINDS[kind].keys.items() if default is not None}
        return cls(kind, {**defaults, **given})

    def open(self) -> Source:
        """The store. Nothing of it is read yet."""
        module, _, name = KINDS[self.type].factory.partition(":")
        source: Source = getattr(import_module(module), name)(**self.values)
        return source


DEFAULT_SOURCES = (SourceSettings.of("certbot"),)


def certbot_directories(settings: Iterable[SourceSettings]) -> tuple[Path, ...]:
    """Certbot's configuration directories, of the stores that certbot fills; each once."""
    directories = (each.open().certbot_directory for each in settings)
    return tuple(dict.fromkeys(directory for directory in directories if directory is not None))
