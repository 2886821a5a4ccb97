"""A directory in which keys and certificates lie anywhere, under any names, beside anything else.

A key belongs to the certificates that have its public key. The issuers of a certificate lie in its own file or, where
that has the leaf alone, anywhere in the tree. A certificate for names of hosts is told from those of authorities by
these names. Keys without a certificate, requests, parameters and authorities' certificates are nothing to report.

The origin of a certificate is the path of its file, and ``PATH#2`` that of the second one in it. A path with characters
that an origin must not have is escaped.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath

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
from mailsni.core.names import escaped_origin
from mailsni.core.pem import BEGIN
from mailsni.core.text import counted, printable_name
from mailsni.core.x509 import Contents, InvalidPair, LooseCertificate, LooseKey, contents
from mailsni.errors import HostError
from mailsni.host import file_identity
from mailsni.sources.base import StoreFiles, WatchPath
from mailsni.sources.directory import RECENT, RETRIES, RETRY_PAUSE, STILL_WRITING
from mailsni.sources.outcome import Outcome, accepted, inventory, paired
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary, listing_errors

FILE_LIMIT = 100_000
"""Files in a tree, links included. A listing of as many takes a second (measured)."""
ISSUERS = 10
"""Certificates above a leaf that are looked for in other files. Public authorities have two or three."""
NUMBERED = 20
"""Certificates of one file that stay deployed while it cannot be read."""
NAMED = ("*.pem", "*.key", "*.crt", "*.cer")
_PINNED = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.pem\Z")
"""What this program itself deployed from somewhere."""
_SUFFIXES = frozenset((".pem", ".crt", ".cer", ".cert", ".chain", ".fullchain", ".bundle"))
"""Of files that held a certificate, even if they are empty now."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the tree, by the best of its paths."""

    path: str
    identity: FileIdentity
    contents: Contents | None = field(repr=False)
    """None: no PEM block begins near its beginning."""

    @property
    def certificates(self) -> tuple[LooseCertificate, ...]:
        return self.contents.certificates if self.contents is not None else ()

    @property
    def keys(self) -> tuple[LooseKey, ...]:
        return self.contents.keys if self.contents is not None else ()

    @property
    def useless_key(self) -> InvalidPair | None:
        return self.contents.useless_key if self.contents is not None else None

    @property
    def damage(self) -> str:
        """Why it cannot be used; empty: it can."""
        return self.contents.damage if self.contents is not None else ""

    @property
    def directory(self) -> str:
        return os.path.dirname(self.path)

    @property
    def stem(self) -> str:
        """The path without the last suffix: ``a.crt`` and ``a.key`` belong together."""
        return os.path.splitext(self.path)[0]

    @property
    def age(self) -> float:
        """Seconds since it or its name last changed."""
        return abs(time.time() - self.identity.ctime_ns / 1e9)

    def origin(self, number: int) -> str:
        """Of its certificate with a number, from 1."""
        return escaped_origin(self.path) + (f"#{number}" if number > 1 else "")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A certificate for names of hosts, where it lies."""

    file: _File
    number: int
    """Among those of the file, from 1."""
    certificate: LooseCertificate

    @property
    def origin(self) -> str:
        return self.file.origin(self.number)

    @property
    def has_issuer(self) -> bool:
        """Whether its file has a certificate of its issuer's name too."""
        wanted = self.certificate.issuer
        return any(each.subject == wanted and each != self.certificate for each in self.file.certificates)

    @property
    def rank(self) -> tuple[bool, bool, int, str]:
        """Of several copies the one with the issuer behind it has the smallest, then the nearest to the top."""
        hidden = "/." in self.file.path
        return (not self.has_issuer, hidden, self.file.path.count("/"), self.file.path)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What lies in the tree, without a look into it."""

    files: Mapping[str, FileIdentity]
    """The regular files, links to some included, sorted."""
    strange: tuple[str, ...]
    """What lies in the place of a file, and is none."""
    astray: tuple[str, ...]
    """Links that leave the tree."""
    too_deep: tuple[str, ...]
    """Directories whose paths are longer than the kernel takes."""


@dataclass(frozen=True)
class _Tree:
    """What the files of the tree hold."""

    top: str
    listing: _Listing
    files: tuple[_File, ...]
    """Those that could be read, each once."""
    refusals: Mapping[str, ReadRefusedError]
    """Why others could not, by path."""

    @cached_property
    def leaves(self) -> tuple[_Leaf, ...]:
        """Each certificate for names of hosts once. One that is in a damaged file too is not taken from elsewhere."""
        copies: dict[LooseCertificate, list[_Leaf]] = defaultdict(list)
        damaged: set[LooseCertificate] = set()
        for file in self.files:
            certificates = dict.fromkeys(each for each in file.certificates if each.is_leaf)
            if file.damage:
                damaged |= certificates.keys()
            for number, certificate in enumerate(certificates, 1):
                copies[certificate].append(_Leaf(file, number, certificate))
        best = (min(leaves, key=lambda leaf: leaf.rank) for each, leaves in copies.items() if each not in damaged)
        return tuple(sorted(best, key=lambda leaf: leaf.origin))

    @cached_property
    def keys(self) -> Mapping[str, list[tuple[_File, LooseKey]]]:
        """By public key."""
        keys: dict[str, list[tuple[_File, LooseKey]]] = defaultdict(list)
        for file in self.files:
            for key in file.keys:
                keys[key.spki].append((file, key))
        return keys

    @cached_property
    def issuers(self) -> Mapping[bytes, list[tuple[_File, LooseCertificate]]]:
        """Authorities' certificates by subject."""
        issuers: dict[bytes, list[tuple[_File, LooseCertificate]]] = defaultdict(list)
        for file in self.files:
            for certificate in file.certificates:
                if not certificate.is_leaf:
                    issuers[certificate.subject].append((file, certificate))
        return issuers

    def key_of(self, leaf: _Leaf) -> tuple[_File, LooseKey] | None:
        """Its private key: the nearest copy."""

        def distance(copy: tuple[_File, LooseKey]) -> tuple[bool, bool, str]:
            file, _ = copy
            return file is not leaf.file, file.directory != leaf.file.directory, file.path

        return min(self.keys.get(leaf.certificate.spki, ()), key=distance, default=None)

    def chains_of(self, leaf: _Leaf) -> Iterator[tuple[bytes, tuple[_File, ...]]]:
        """What may be its chain, the best first, as PEM, and the other files that decide on it."""
        if leaf.has_issuer:
            yield (
                b"".join((leaf.certificate.pem, *(each.pem for each in leaf.file.certificates if not each.is_leaf))),
                (),
            )
        issuers = tuple(self._issuers_of(leaf))
        files = tuple(dict.fromkeys(file for file, _ in issuers))
        if issuers:
            yield b"".join((leaf.certificate.pem, *(issuer.pem for _, issuer in issuers))), files
        yield leaf.certificate.pem, files

    def _issuers_of(self, leaf: _Leaf) -> Iterator[tuple[_File, LooseCertificate]]:
        """The certificates of the authorities above it, wherever they lie."""
        subjects = [leaf.certificate.issuer]
        for subject in subjects:
            copies: dict[LooseCertificate, _File] = {}
            for file, certificate in sorted(self.issuers.get(subject, ()), key=lambda copy: _preference(leaf, *copy)):
                copies.setdefault(certificate, file)
            for certificate, file in itertools.islice(copies.items(), ISSUERS):
                yield file, certificate
                if certificate.issuer not in subjects and len(subjects) < ISSUERS:
                    subjects.append(certificate.issuer)

    @cached_property
    def by_directory(self) -> Mapping[str, list[_File]]:
        """The files of each directory."""
        files: dict[str, list[_File]] = defaultdict(list)
        for file in self.files:
            files[file.directory].append(file)
        return files

    @cached_property
    def leaves_of(self) -> Mapping[str, int]:
        """How many certificates each directory has."""
        return Counter(leaf.file.directory for leaf in self.leaves)

    @cached_property
    def used_keys(self) -> frozenset[str]:
        """The public keys of the certificates."""
        return frozenset(leaf.certificate.spki for leaf in self.leaves)

    @cached_property
    def left_out(self) -> tuple[tuple[Reason, str], ...]:
        """What was not read: the reason, and how much of it."""
        kinds: dict[Reason, list[str]] = defaultdict(list)
        for path, error in self.refusals.items():
            kinds[error.reason].append(path)
        kinds[Reason.SYMLINK_OUTSIDE_STORE] += self.listing.astray
        kinds[Reason.UNREADABLE] += self.listing.too_deep
        return tuple(
            (reason, f"{counted(len(kinds[reason]), what)} (such as {printable_name(min(kinds[reason]))})")
            for reason, what in _LEFT_OUT.items()
            if kinds[reason]
        )


_LEFT_OUT = {
    Reason.TOO_LARGE: "oversized file",
    Reason.UNREADABLE: "unreadable path",
    Reason.SYMLINK_OUTSIDE_STORE: "outward link",
}


def _preference(leaf: _Leaf, file: _File, issuer: LooseCertificate) -> tuple[bool, bool, float, str]:
    """Of several certificates of an authority a root's has the smallest, the nearest, the one that is valid longest.

    Which one really issued the leaf is found out where the pair is checked.
    """
    return not issuer.is_root, file.directory != leaf.file.directory, -issuer.not_after.timestamp(), file.path


@dataclass(frozen=True, slots=True)
class PemTree:
    """See :class:`mailsni.sources.base.Source`.

    Args:
        path: the directory.
        pause: waits between two reads of what is inconsistent.
    """

    path: Path
    pause: Callable[[float], None] = time.sleep

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.path)

    @property
    def acme_client(self) -> None:
        """None: anything may fill it."""

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        """Read every file, and pair what belongs together. What is known is not checked again."""
        tree = self._read(())
        outcomes = _outcomes(tree, known, progress)
        for _ in range(RETRIES):
            if not any(outcome.torn for outcome in outcomes.values()):
                break
            self.pause(RETRY_PAUSE)
            tree = self._read(tree.files)
            outcomes = _outcomes(tree, known, None)
        return inventory(dict(sorted(outcomes.items())), self.path)

    def owns(self, origin: str) -> bool:
        """Whether an origin lies in this directory."""
        return origin.startswith(f"{self.path}/")

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read everything again."""
        pairs = (outcome.pair for outcome in _outcomes(self._read(()), {}, None).values() if outcome.pair is not None)
        return next((pair for pair in pairs if _is_same(pair.certificate, certificate)), None)

    def change_token(self) -> bytes:
        """A digest of which file each one is. None of them is opened."""
        try:
            listing = self._list()
        except HostError as error:
            return error.message.encode("utf-8", "surrogateescape")
        listed = repr((listing.files, listing.strange, listing.astray))
        return hashlib.blake2b(listed.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """The directory, also where it is a link."""
        directories = dict.fromkeys((self.path, Path(os.path.realpath(self.path))))
        return tuple(WatchPath(directory, pattern) for directory in directories for pattern in NAMED)

    def files(self) -> StoreFiles:
        """Every file with a private key, and the directories down to them."""
        keys = sorted(os.path.realpath(file.path) for file in self._read(()).files if file.keys or file.useless_key)
        tops = {str(self.path.parent), *map(str, self.path.parents)}
        above = dict.fromkeys(parent for key in keys for parent in reversed(PurePath(key).parents))
        own = [path for path in above if str(path) not in tops]
        return StoreFiles(tuple(map(Path, keys)), (self.path.parent, self.path, *map(Path, own)))

    def _read(self, earlier: Iterable[_File]) -> _Tree:
        """Read the files, but not those that were read earlier and are the same.

        Raises:
            PermissionMissingError: this user may not list a directory.
            HostError: one cannot be listed, or there are too many files.
        """
        listing = self._list()
        same = {file.identity: file.contents for file in earlier}
        boundary = StoreBoundary((os.path.realpath(self.path),), marker=BEGIN)
        paths: dict[tuple[int, int], str] = {}
        for path, identity in listing.files.items():
            inode = identity.device, identity.inode
            paths[inode] = min((paths.get(inode, path), path), key=lambda each: ("/." in each, each.count("/"), each))
        files: list[_File] = []
        refusals: dict[str, ReadRefusedError] = {}
        for path in sorted(paths.values()):
            identity = listing.files[path]
            if identity in same:
                files.append(_File(path, identity, same[identity]))
                continue
            try:
                file = boundary.read(path, missing=Reason.KEY_MISSING)
            except ReadRefusedError as error:
                refusals[path] = error
            else:
                files.append(_File(path, file.identity, contents(file.content) if file.content else None))
        return _Tree(self.location, listing, tuple(files), refusals)

    def _list(self) -> _Listing:
        """List the tree; arguments and errors of :meth:`_read`. Links to directories are not followed."""
        with listing_errors(self.path):
            return _listing(str(self.path))


def _listing(top: str) -> _Listing:
    files: dict[str, FileIdentity] = {}
    strange, astray, too_deep = [], [], []
    root = os.path.realpath(top)
    left = [top]
    while left:
        directory = left.pop()
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            if directory == top:
                raise
            continue  # it went in this moment
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            too_deep.append(directory)
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
                continue
            status = _status(entry)
            if status is None:
                strange.append(entry.path)
            elif entry.is_symlink() and not f"{os.path.realpath(entry.path)}/".startswith(f"{root}/"):
                astray.append(entry.path)
            elif not stat.S_ISREG(status.st_mode):
                strange += () if stat.S_ISDIR(status.st_mode) else (entry.path,)
            elif not _PINNED.match(entry.name):
                files[entry.path] = file_identity.of_status(status)
        if len(files) + len(strange) + len(astray) + len(left) > FILE_LIMIT:
            raise OSError(errno.E2BIG, f"more than {FILE_LIMIT} files: name a smaller directory", top)
    return _Listing(dict(sorted(files.items())), tuple(sorted(strange)), tuple(sorted(astray)), tuple(too_deep))


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of what an entry leads to; None when to nothing."""
    try:
        return entry.stat()
    except OSError:
        return None


def _outcomes(tree: _Tree, known: Mapping[str, CachedLineage], progress: Progress | None) -> dict[str, Outcome]:
    """What each certificate comes to, and what may have been one, by origin."""
    outcomes: dict[str, Outcome] = {}
    for done, leaf in enumerate(tree.leaves, 1):
        key = tree.key_of(leaf)
        outcomes[leaf.origin] = _without_key(tree, leaf) if key is None else _pair(tree, leaf, *key, known)
        if progress is not None:
            progress("reading certificates", done, len(tree.leaves))
    for file in tree.files:
        if file.damage:
            outcomes |= _numbered(file.path)
            outcomes[file.origin(1)] = _damaged(file)
        elif file.contents is None and os.path.splitext(file.path)[1].lower() in _SUFFIXES:
            outcomes |= _numbered(file.path)
            outcomes[file.origin(1)] = Outcome(torn=file.age < RECENT and file.origin(1) in known)
    for path in (*tree.refusals, *tree.listing.strange, *tree.listing.astray):
        outcomes |= _numbered(path)
    if tree.left_out and not any(tree.key_of(leaf) is None for leaf in tree.leaves):
        (reason, _), *_ = tree.left_out
        note = SkippedLineage(tree.top, reason, _left_out(tree), information=bool(tree.leaves))
        outcomes[tree.top] = Outcome(skipped=(note,))
    return outcomes


def _numbered(path: str) -> dict[str, Outcome]:
    """A file that held certificates once, for all that is known, and cannot be read now: nothing of it is gone."""
    origin = escaped_origin(path)
    return {origin: Outcome()} | {f"{origin}#{number}": Outcome() for number in range(2, NUMBERED + 1)}


def _pair(tree: _Tree, leaf: _Leaf, key_file: _File, key: LooseKey, known: Mapping[str, CachedLineage]) -> Outcome:
    lineage = known.get(leaf.origin)
    outcome = Outcome()
    for chain, others in tree.chains_of(leaf):
        files = (key_file.identity, leaf.file.identity, *(file.identity for file in others))
        if lineage is not None and lineage.files == files:
            return accepted(lineage)
        outcome = paired(leaf.origin, chain, key.pem, files)
        if outcome.lineage is not None:
            is_cut = leaf.file.age < STILL_WRITING and outcome.lineage.certificate.issuer_missing
            return replace(outcome, torn=is_cut)
        if outcome.skipped[0].reason is not Reason.BAD_PEM:
            return outcome
    return outcome


def _without_key(tree: _Tree, leaf: _Leaf) -> Outcome:
    """Say why a certificate has no key, as far as the files beside it tell.

    In a tree of anything that is a problem only where a key lies there that was meant for it.
    """
    beside = tree.by_directory[leaf.file.directory]
    namesakes = [file for file in beside if file.stem == leaf.file.stem]
    near = beside if tree.leaves_of[leaf.file.directory] == 1 else namesakes
    useless = next((file for file in near if file.useless_key is not None), None)
    orphan = next((file for file in near if any(key.spki not in tree.used_keys for key in file.keys)), None)
    detail, information = "no key in the tree belongs to it", True
    reason = Reason.KEY_MISSING
    if useless is not None and useless.useless_key is not None:
        reason, information = useless.useless_key.reason, False
        detail += f"; {printable_name(os.path.basename(useless.path))}: {useless.useless_key.detail}"
    elif orphan is not None:
        reason, information = Reason.KEY_MISMATCH, orphan not in namesakes
        detail += f"; {printable_name(os.path.basename(orphan.path))} is the key of another certificate"
    if tree.left_out:
        detail += f"; {_left_out(tree)}"
    skipped = SkippedLineage(leaf.origin, reason, detail, leaf.certificate.names, information=information)
    ages = (file.age for file in beside if file is leaf.file or file.keys or file.useless_key)
    return Outcome(skipped=(skipped,), torn=min(ages) < RECENT)


def _damaged(file: _File) -> Outcome:
    """A file with certificates that cannot be read to its end. Where no name is known, nobody need look at it."""
    names = tuple(dict.fromkeys(name for certificate in file.certificates for name in certificate.names))
    skipped = SkippedLineage(file.origin(1), Reason.BAD_PEM, file.damage, names, information=not names)
    return Outcome(skipped=(skipped,), torn=file.age < RECENT)


def _left_out(tree: _Tree) -> str:
    return f"left out: {', '.join(what for _, what in tree.left_out)}"


def _is_same(certificate: Certificate, wanted: Certificate) -> bool:
    return (certificate.source, certificate.ident) == (wanted.source, wanted.ident)
