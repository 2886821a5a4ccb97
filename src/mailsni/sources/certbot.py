"""A certbot directory: ``live/LINEAGE/{privkey,fullchain}.pem``, links into ``archive/LINEAGE``.

certbot is not atomic. A renewal writes four new files into ``archive``, then makes four ``previous_*.pem`` links,
then replaces the four links in ``live`` one by one by unlink and symlink (cert, privkey, chain, fullchain), then
removes the ``previous_*`` links (certbot 5.6, ``storage.py``, ``update_all_links_to``). In between a link is missing,
or the new key stands beside the old chain. A first issuance makes the links first and writes the files through them.
So both files are read once and must belong together. A lineage that changed a moment ago and is inconsistent is read
again; one that stays inconsistent is reported, not used.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.core.model import (
    CachedLineage,
    Certificate,
    FileIdentity,
    Inventory,
    KeyAndChain,
    Progress,
    Reason,
    SkippedLineage,
)
from mailsni.core.names import RefusedNameError, safe_path
from mailsni.core.text import printable_name
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import file_identity
from mailsni.sources.base import CommandLine, StoreFiles, WatchPath
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary, StoreFile

RETRIES = 5
RETRY_PAUSE = 0.2
"""Seconds between two reads of the inconsistent lineages, all of them together."""
RECENT = 60.0
"""Seconds. A lineage that has not changed for longer than this is not being renewed: it is read once."""
TRANSIENT_REASONS = frozenset({Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM})

_DAMAGED = (Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM, Reason.ENCRYPTED_KEY)
_RENEWALS = {
    **dict.fromkeys(_DAMAGED, ("--force-renewal",)),
    Reason.UNSUPPORTED_KEY: ("--force-renewal", "--key-type", "ecdsa"),
    Reason.REFUSED_BY_OPENSSL: ("--force-renewal",),
    Reason.EXPIRED: ("--dry-run",),
}
"""The options with which certbot repairs a lineage."""
_KEY = "privkey.pem"
_CHAIN = "fullchain.pem"
_PEM_NAMES = frozenset({"cert.pem", _KEY, "chain.pem", _CHAIN})
_PREVIOUS = frozenset(f"previous_{name}" for name in _PEM_NAMES)
_ReadFile = StoreFile | ReadRefusedError


@dataclass(frozen=True, slots=True)
class LineageRead:
    """What one read of one lineage gave."""

    lineage: CachedLineage | None = None
    pair: KeyAndChain | None = None
    """The certificate with its key and chain, if they were read: those of a known one are not."""
    skipped: tuple[SkippedLineage, ...] = ()
    foreign: bool = False
    """It is no lineage, but somebody's own file or directory."""
    torn: bool = False
    """It is inconsistent and may be in the middle of a renewal."""


@dataclass(frozen=True, slots=True)
class CertbotStore:
    """See :class:`mailsni.sources.base.Source`. The origin of a certificate is its lineage's directory.

    Args:
        path: the ``live`` directory.
        pause: waits between two reads of inconsistent lineages.
    """

    path: Path
    pause: Callable[[float], None] = time.sleep

    @property
    def location(self) -> str:
        """The ``live`` directory."""
        return str(self.path)

    @property
    def acme_client(self) -> Certbot:
        """Certbot, with the directory above ``live``."""
        return Certbot(self.path.parent)

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        """Read every lineage."""
        names = self._names()
        boundary = self._boundary()
        reads: dict[str, LineageRead] = {}
        for done, name in enumerate(names, 1):
            reads[name] = _unchanged(known.get(f"{self.path}/{name}")) or _read_lineage(self.path, name, boundary)
            if progress is not None:
                progress("reading certificates", done, len(names))
        torn = [name for name in names if reads[name].torn]
        for _ in range(RETRIES):
            if not torn:
                break
            self.pause(RETRY_PAUSE)
            reads |= {name: _read_lineage(self.path, name, boundary) for name in torn}
            torn = [name for name in torn if reads[name].torn]
        return _inventory(self.path, reads)

    def owns(self, origin: str) -> bool:
        """Whether an origin lies in this ``live`` directory."""
        return origin.rpartition("/")[0] == str(self.path)

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read one lineage again."""
        pair = _read_lineage(self.path, _name(certificate.source), self._boundary()).pair
        return pair if pair and pair.certificate.ident == certificate.ident else None

    def change_token(self) -> bytes:
        """A digest of which file each key and chain is. No file is opened."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            return b"errno %d" % (error.errno or 0)
        for name in names:
            identities = [_identity_of(f"{self.path}/{name}/{file}") for file in (_KEY, _CHAIN)]
            if any(identities):
                digest.update(repr((name, identities)).encode("utf-8", "surrogateescape"))
        return digest.digest()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """``live`` and ``archive``, also where links lead to."""
        lives = (self.path, Path(os.path.realpath(self.path)))
        directories = dict.fromkeys(directory for live in lives for directory in (live, _archive(live)))
        return tuple(WatchPath(directory, "*.pem") for directory in directories)

    def files(self) -> StoreFiles:
        """The keys in ``live`` and ``archive``, an administrator's ``*.key`` too, and the directories down to them."""
        self._names()
        archive = _archive(self.path)
        directories = [path for root in (self.path, archive) for path in (root, *_directories(root))]
        patterns = ("privkey*.pem", "*.key")
        keys = [path for directory in directories for pattern in patterns for path in directory.glob(pattern)]
        return StoreFiles(
            tuple(path for path in keys if path.is_file() and not path.is_symlink()), (self.path.parent, *directories)
        )

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                # A link first: to follow one that leads to itself is an error, and not one of the whole directory.
                return sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir())
        except PermissionError as error:
            raise PermissionMissingError(
                f"{self.path}: cannot be read: {error.strerror}", hint="run it as root", path=self.path
            ) from None
        except OSError as error:
            raise HostError(
                f"{self.path}: cannot be read: {error.strerror}",
                hint="[[sources]] path in the configuration names the directory with one directory per certificate",
                path=self.path,
            ) from None

    def _boundary(self) -> StoreBoundary:
        real = self.path.resolve()
        roots = {real, _archive(real).resolve(), _archive(self.path).resolve()}
        return StoreBoundary(tuple(sorted(str(root) for root in roots)))


@dataclass(frozen=True, slots=True)
class Certbot:
    """See :class:`mailsni.sources.base.AcmeClient`."""

    directory: Path
    name: str = "certbot"

    @property
    def hook(self) -> Path:
        """A post hook: it runs once, after all renewals."""
        return self.directory / "renewal-hooks/post/mailsni"

    def renewal_file(self, origin: str) -> Path:
        """``renewal/LINEAGE.conf``."""
        return self.directory / "renewal" / f"{_name(origin)}.conf"

    def paths(self, origin: str) -> tuple[Path, ...]:
        """The directories in ``live`` and ``archive``."""
        return (Path(origin), self.directory / "archive" / _name(origin))

    def repair(self, origin: str, reason: Reason) -> tuple[CommandLine, str | None] | None:
        """A renewal, with options."""
        if reason is Reason.RENEWAL_IN_PROGRESS:
            return ("certbot", "certificates"), "it completes the interrupted renewal"
        if (options := _RENEWALS.get(reason)) is None:
            return None
        note = "it shows why the certificate is not renewed" if reason is Reason.EXPIRED else None
        return ("certbot", "renew", "--cert-name", _name(origin), *options), note

    def issue(self, origin: str, names: Iterable[str]) -> CommandLine:
        """``certbot certonly``."""
        return ("certbot", "certonly", "--cert-name", _name(origin), *(word for name in names for word in ("-d", name)))

    def delete(self, origin: str) -> CommandLine:
        """``certbot delete``."""
        return ("certbot", "delete", "--cert-name", _name(origin))


def _name(origin: str) -> str:
    """What certbot calls a lineage."""
    return origin.rpartition("/")[2]


def _archive(live: Path) -> Path:
    return live.parent / "archive"


def _directories(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _identity_of(path: str) -> FileIdentity | int | None:
    """Which file a path leads to; None when to none; an error's number where that cannot be told."""
    try:
        return file_identity.of_status(os.stat(path))  # noqa: PTH116  # twice for every lineage
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) or -1


def _inventory(live: Path, reads: Mapping[str, LineageRead]) -> Inventory:
    own = {name: read for name, read in reads.items() if not read.foreign}
    cached = tuple(read.lineage for read in own.values() if read.lineage)
    return Inventory(
        certificates=tuple(lineage.certificate for lineage in cached),
        skipped=tuple(skipped for read in own.values() for skipped in read.skipped),
        lineages=frozenset(f"{live}/{name}" for name in own),
        cached=cached,
        read=tuple(read.pair for read in own.values() if read.pair),
    )


def _unchanged(lineage: CachedLineage | None) -> LineageRead | None:
    """A lineage that an earlier scan read, if its links lead to the same files."""
    if lineage is None:
        return None
    certificate = lineage.certificate
    try:
        chain, key = os.stat(certificate.chain_path), os.stat(certificate.key_path)  # noqa: PTH116
    except OSError:
        return None
    files = (file_identity.of_status(chain), file_identity.of_status(key))
    return _accepted(lineage) if files == lineage.files else None


def _accepted(lineage: CachedLineage, pair: KeyAndChain | None = None) -> LineageRead:
    source = lineage.certificate.source
    refused = (f"the name {name} in the certificate is refused" for name in lineage.certificate.refused_names)
    return LineageRead(lineage, pair, tuple(SkippedLineage(source, Reason.BAD_NAME, detail) for detail in refused))


def _refused(source: str, reason: Reason, detail: str) -> LineageRead:
    return LineageRead(skipped=(SkippedLineage(source, reason, detail),))


def _read_lineage(live: Path, name: str, boundary: StoreBoundary) -> LineageRead:
    path = f"{live}/{name}"
    try:
        source = safe_path(path)
    except RefusedNameError as error:
        if _holds_no_certificate(Path(path)):
            return LineageRead(foreign=True)
        return _refused(printable_name(path), Reason.BAD_NAME, str(error))
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if Path(path).is_symlink() and not Path(path).exists():
            return _refused(source, Reason.CHAIN_MISSING, "the lineage is a link to nothing")
        return LineageRead(foreign=True)
    except OSError as error:
        return _refused(source, Reason.UNREADABLE, str(error.strerror))
    try:
        return _read_open_lineage(source, directory, boundary)
    finally:
        os.close(directory)


def _holds_no_certificate(path: Path) -> bool:
    """Whether somebody's own directory or link lies there, and no lineage."""
    try:
        return _PEM_NAMES.isdisjoint(entry.name for entry in path.iterdir())
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _read_open_lineage(source: str, directory: int, boundary: StoreBoundary) -> LineageRead:
    try:
        if not boundary.contains(directory):
            return _refused(source, Reason.SYMLINK_OUTSIDE_STORE, "the lineage is a link that leaves the store")
        entries = frozenset(os.listdir(directory))
        changed = os.fstat(directory).st_ctime
    except OSError as error:
        return _refused(source, Reason.UNREADABLE, str(error.strerror))
    in_renewal = bool(entries & _PREVIOUS)
    if not in_renewal and not entries & _PEM_NAMES:
        return LineageRead(foreign=True)
    chain = _read(_CHAIN, Reason.CHAIN_MISSING, directory, boundary)
    key = _read(_KEY, Reason.KEY_MISSING, directory, boundary)
    outcome = _pair(source, chain, key)
    if isinstance(outcome, LineageRead):
        return outcome
    transient = outcome.reason in TRANSIENT_REASONS
    touched = max(changed, *(part.changed for part in (chain, key) if isinstance(part, StoreFile)), 0.0)
    recent = abs(time.time() - touched) < RECENT
    if in_renewal and transient:
        detail = f"certbot's previous_*.pem links are there and {outcome.detail}; the next certbot run mends it"
        outcome = SkippedLineage(source, Reason.RENEWAL_IN_PROGRESS, detail, outcome.names)
    return LineageRead(skipped=(outcome,), torn=transient and (in_renewal or recent))


def _read(name: str, missing: Reason, directory: int, boundary: StoreBoundary) -> _ReadFile:
    try:
        return boundary.read(name, directory, missing=missing)
    except ReadRefusedError as error:
        return error


def _pair(source: str, chain: _ReadFile, key: _ReadFile) -> LineageRead | SkippedLineage:
    if isinstance(chain, ReadRefusedError):
        return SkippedLineage(source, chain.reason, chain.detail)
    from mailsni.core.x509 import InvalidPair, leaf_names, validate_pair  # only a changed lineage needs cryptography

    if isinstance(key, ReadRefusedError):
        # The leaf is read all the same: a lineage without a mail name is nobody's concern, whatever its key is like.
        return SkippedLineage(source, key.reason, key.detail, leaf_names(chain.content))
    outcome = validate_pair(source, chain.content, key.content)
    if isinstance(outcome, InvalidPair):
        return SkippedLineage(source, outcome.reason, outcome.detail, outcome.names)
    certificate = replace(outcome.certificate, chain_path=f"{source}/{_CHAIN}", key_path=f"{source}/{_KEY}")
    return _accepted(
        CachedLineage((chain.identity, key.identity), certificate), replace(outcome, certificate=certificate)
    )
