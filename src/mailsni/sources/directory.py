"""A store in which each certificate has files of its own, laid out as a :mod:`mailsni.sources.layout` says.

Hardly a tool replaces a key and its chain in one step, so both are read once and must belong together. What changed a
moment ago and is inconsistent, or cut off, is read again; what stays inconsistent is reported, not used.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from mailsni.core.model import (
    CachedLineage,
    Certificate,
    FileIdentity,
    Inventory,
    KeyAndChain,
    Progress,
    Reason,
)
from mailsni.core.names import RefusedNameError, safe_origin, safe_path
from mailsni.core.text import printable_name
from mailsni.errors import HostError
from mailsni.host import file_identity
from mailsni.sources.base import AcmeClient, StoreFiles, WatchPath
from mailsni.sources.layout import Layout, Place
from mailsni.sources.outcome import Outcome, accepted, inventory, names_staging_authority, paired, refused
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary, StoreFile, listing_errors

RETRIES = 5
RETRY_PAUSE = 0.2
"""Seconds between two reads of the inconsistent certificates, all of them together."""
RECENT = 60.0
"""Seconds. What has not changed for longer than this is not being renewed: it is read once."""
STILL_WRITING = 2.0
"""Seconds. A leaf alone in a file that changed a shorter time ago may have its issuers behind it in a moment."""
TRANSIENT_REASONS = frozenset({Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM})
KEY_FILES = ("privkey*.pem", "key.pem", "*.key")
"""Keys that an administrator or an ACME client leaves beside those in use."""
_ReadFile = StoreFile | ReadRefusedError


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    """See :class:`mailsni.sources.base.Source`. The origin of a certificate is the path of its directory or files.

    Args:
        path: the directory.
        layout: what lies where in it.
        acme_client: what fills it.
        pause: waits between two reads of inconsistent certificates.
    """

    path: Path
    layout: Layout
    acme_client: AcmeClient | None = None
    pause: Callable[[float], None] = time.sleep

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.path)

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        """Read every certificate."""
        places = self._places()
        boundary = self._boundary()
        outcomes: dict[str, Outcome] = {}
        for done, (origin, place) in enumerate(places.items(), 1):
            outcomes[origin] = _unchanged(known.get(origin), place) or self._read(place, boundary)
            if progress is not None:
                progress("reading certificates", done, len(places))
        # Some tools replace a whole directory by two renames, or a link by two steps.
        gone = {each for each in known if self.owns(each) and (each not in outcomes or outcomes[each].foreign)}
        outcomes |= dict.fromkeys(gone, Outcome(foreign=True, torn=True))
        for _ in range(RETRIES):
            torn = [origin for origin, outcome in outcomes.items() if outcome.torn]
            if not torn:
                break
            self.pause(RETRY_PAUSE)
            now = self._places()
            absent = Outcome(foreign=True)
            outcomes |= {origin: self._read(now[origin], boundary) if origin in now else absent for origin in torn}
        return inventory(dict(sorted(outcomes.items())), self.path)

    def owns(self, origin: str) -> bool:
        """Whether an origin lies in this directory."""
        return f"{origin}/".startswith(f"{self.path}/")

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read one certificate again."""
        place = self._places().get(certificate.source)
        pair = self._read(place, self._boundary()).pair if place is not None else None
        return pair if pair and pair.certificate.ident == certificate.ident else None

    def change_token(self) -> bytes:
        """A digest of which file each key and chain is. None of them is opened."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            places = self._places()
        except HostError as error:
            return error.message.encode("utf-8", "surrogateescape")
        for place in places.values():
            identities = [_identity_of(path) for path in (place.key, *place.chain)]
            if any(identities):
                digest.update(repr((place.key, place.chain, identities)).encode("utf-8", "surrogateescape"))
        return digest.digest()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """The directory and those into which its links lead, also where links lead to these."""
        directories = dict.fromkeys((*self._roots(self.path), *self._roots(Path(os.path.realpath(self.path)))))
        trees = [WatchPath(directory, name) for directory in directories for name in self.layout.contents]
        return (*trees, *(WatchPath(path, path.name) for path in self.layout.elsewhere(self.path)))

    def files(self) -> StoreFiles:
        """The keys of the certificates and those that lie beside them, and the directories down to them."""
        places = self._places().values()
        boundary = self._boundary()
        own = {Path(place.key) for place in places}
        real = {os.path.realpath(place.key): place for place in places}
        own |= {Path(path) for path, place in real.items() if _boundary_of(place, boundary).holds(path)}
        roots = [root for root in self._roots(self.path) if root.is_dir()]
        directories = dict.fromkeys(roots)
        if self.layout.beyond:  # keys that were replaced lie there too
            directories |= dict.fromkeys(path for root in roots for path in _directories(root))
        within = {path for key in own for path in key.parents if path.is_relative_to(self.path)}
        above = within | {key.parent for key in own}
        directories |= dict.fromkeys(sorted(path for path in above if path.is_dir()))
        beside = (path for directory in directories for path in directory.iterdir() if _is_named_as_key(path.name))
        keys = sorted(path for path in {*own, *beside} if path.is_file() and not path.is_symlink())
        return StoreFiles(tuple(keys), (self.path.parent, *directories))

    def _roots(self, path: Path) -> list[Path]:
        return [Path(os.path.normpath(path / name)) for name in ("", *self.layout.beyond)]

    def _places(self) -> dict[str, Place]:
        """By origin, sorted.

        Raises:
            PermissionMissingError: this user may not list the store.
            HostError: it is missing or cannot be listed.
        """
        with listing_errors(self.path):
            return dict(sorted((place.origin, place) for place in self.layout.places(self.path)))

    def _boundary(self) -> StoreBoundary:
        roots = (*self._roots(self.path), *self._roots(Path(os.path.realpath(self.path))))
        return StoreBoundary(tuple(sorted({os.path.realpath(root) for root in roots})))

    def _read(self, place: Place, boundary: StoreBoundary) -> Outcome:
        has_files = any(map(_is_there, (place.key, *place.chain, *place.others, *place.in_progress)))
        try:
            safe_origin(place.origin)
        except RefusedNameError as error:
            if has_files:
                return refused(printable_name(place.origin), Reason.BAD_NAME, str(error))
            return Outcome(foreign=True)
        if not has_files:
            return _without_files(place, boundary)
        around = _boundary_of(place, boundary)
        chain = _read_chain(place.chain, around)
        key = _read_file(place.key, Reason.KEY_MISSING, around)
        return _judge(place, chain, key)


def _boundary_of(place: Place, boundary: StoreBoundary) -> StoreBoundary:
    """Where the files of a place may lie."""
    return replace(boundary, roots=(*boundary.roots, *map(os.path.realpath, place.roots))) if place.roots else boundary


def _judge(place: Place, chain: tuple[StoreFile, ...] | ReadRefusedError, key: _ReadFile) -> Outcome:
    """Pair what was read, and tell whether it may be in the middle of a replacement."""
    outcome = _paired(place, chain, key)
    read = [part for part in (*(chain if isinstance(chain, tuple) else ()), key) if isinstance(part, StoreFile)]
    directory = _status(place.directory)
    age = abs(time.time() - max([part.changed for part in read] + [directory.st_ctime if directory else 0.0]))
    if outcome.lineage is not None:
        is_cut = age < STILL_WRITING and outcome.lineage.certificate.issuer_missing
        commit = _status(place.commit)
        last = max(part.identity.mtime_ns for part in read)
        is_uncommitted = age < RECENT and commit is not None and commit.st_mtime_ns < last
        return replace(outcome, torn=is_cut or is_uncommitted)
    (skipped,) = outcome.skipped
    if skipped.reason not in TRANSIENT_REASONS:
        return outcome
    if not (left := sorted(os.path.basename(path) for path in place.in_progress if _is_there(path))):
        return replace(outcome, torn=age < RECENT)
    detail = f"{', '.join(left)} of a renewal are there and {skipped.detail}; the next renewal mends it"
    interrupted = replace(skipped, reason=Reason.RENEWAL_IN_PROGRESS, detail=detail)
    return replace(outcome, skipped=(interrupted,), torn=True)


def _paired(place: Place, chain: tuple[StoreFile, ...] | ReadRefusedError, key: _ReadFile) -> Outcome:
    if isinstance(chain, ReadRefusedError):
        return refused(place.origin, chain.reason, chain.detail)
    content = b"\n".join(part.content for part in chain)
    if isinstance(key, ReadRefusedError):
        from mailsni.core.x509 import leaf_names  # only a changed certificate needs cryptography

        # The leaf is read all the same: without a mail name it is nobody's concern, whatever its key is like.
        return refused(place.origin, key.reason, key.detail, leaf_names(content))
    return paired(
        place.origin,
        content,
        key.content,
        (key.identity, *(part.identity for part in chain)),
        staging=place.staging or _is_of_staging(place.authority),
        paths=_paths_for_servers(place),
    )


def _paths_for_servers(place: Place) -> tuple[str, str]:
    """The files of the store that a server can read as they are: one with the whole chain, and one with the key."""
    if len(place.chain) != 1 or place.key in place.chain:
        return "", ""
    try:
        return safe_path(_entrance(place, place.chain[0])), safe_path(_entrance(place, place.key))
    except RefusedNameError:
        return "", ""


def _entrance(place: Place, path: str) -> str:
    return f"{place.entrance}/{os.path.basename(path)}" if place.entrance else path


def _is_of_staging(authority: str) -> bool:
    """Whether a file names a staging authority; one that cannot be read does not."""
    if not authority:
        return False
    boundary = StoreBoundary((os.path.realpath(os.path.dirname(authority)),))
    file = _read_file(authority, Reason.UNREADABLE, boundary)
    return isinstance(file, StoreFile) and names_staging_authority(file.content)


def _unchanged(lineage: CachedLineage | None, place: Place) -> Outcome | None:
    """A certificate that an earlier scan read, if its files are still the same."""
    if lineage is None:
        return None
    files = tuple(file for file in map(_identity_of, (place.key, *place.chain)) if file is not None)
    return accepted(lineage) if files == lineage.files else None


def _read_chain(paths: Iterable[str], boundary: StoreBoundary) -> tuple[StoreFile, ...] | ReadRefusedError:
    """Those of the files that are there."""
    read = [_read_file(path, Reason.CHAIN_MISSING, boundary) for path in paths]
    files = tuple(part for part in read if isinstance(part, StoreFile))
    errors = [part for part in read if isinstance(part, ReadRefusedError)]
    wrong = next((error for error in errors if error.reason is not Reason.CHAIN_MISSING), None)
    return wrong or files or errors[0]


def _read_file(path: str, missing: Reason, boundary: StoreBoundary) -> _ReadFile:
    try:
        return boundary.read(path, missing=missing)
    except ReadRefusedError as error:
        return error


def _without_files(place: Place, boundary: StoreBoundary) -> Outcome:
    """What to say of a place where no file of a certificate is: nothing, unless it is a link that leads astray."""
    directory = place.directory
    if not Path(directory).is_symlink():
        return Outcome(foreign=True)
    try:
        target = os.stat(directory)
    except FileNotFoundError:
        return refused(place.origin, Reason.CHAIN_MISSING, "its directory is a link to nothing")
    except OSError as error:
        return refused(place.origin, Reason.UNREADABLE, str(error.strerror))
    if stat.S_ISDIR(target.st_mode) and not boundary.holds(os.path.realpath(directory)):
        return refused(place.origin, Reason.SYMLINK_OUTSIDE_STORE, "its directory is a link that leaves the store")
    return Outcome(foreign=True)


def _is_there(path: str) -> bool:
    """Whether something lies at a path, or nobody can tell."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _identity_of(path: str) -> FileIdentity | int | None:
    """Which file a path leads to; None when to none; an error's number where that cannot be told."""
    try:
        return file_identity.of_status(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) or -1


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _is_named_as_key(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in KEY_FILES)


def _directories(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())
