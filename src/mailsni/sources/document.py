"""A store with many certificates in one document: a file, a value of a key-value server, what a command prints.

A document comes whole or not at all: one that cannot be parsed is an error of the store, never an empty store. An
entry of it that is wrong is skipped with a reason, and the others are used.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mailsni.core.model import CachedLineage, Certificate, FileIdentity, Inventory, KeyAndChain, Progress, Reason
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import file_identity
from mailsni.sources.base import StoreFiles, WatchPath
from mailsni.sources.outcome import Outcome, accepted, inventory, paired, refused
from mailsni.sources.safe_read import SIZE_LIMIT, STORE_HINT, ReadRefusedError, StoreBoundary

DOCUMENT_LIMIT = 48 << 20
"""Bytes in one document. Two thousand certificates have 7.2 MB in Traefik's form (measured), ten thousand 36 MB."""
VALUES_LIMIT = 2_000_000
"""Values in one document of JSON: those of 48 MB of brackets would fill gigabytes of memory."""
RETRIES = 5
RETRY_PAUSE = 0.4
"""Seconds between two reads of a file that cannot be parsed."""
RECENT = 60.0
"""Seconds. A file that has not changed for longer than this is not being written: it is read once."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._/@+:*=-]")
_NAME_LIMIT = 200


def origin_of(text: str) -> str:
    """What an origin may begin with, for a place that is none of this grammar's."""
    return _UNSAFE.sub("_", text)


class DamagedDocumentError(Exception):
    """A document is not what it should be. The message says what it is instead, without any of its content."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate of a document, as it stands there."""

    name: str
    """What the document calls it; several may have the same. Empty: it is called by its first name."""
    chain: bytes = b""
    """Leaf and intermediates, as PEM."""
    key: bytes = field(default=b"", repr=False)
    """The private key, as PEM."""
    staging: bool = False
    """A staging authority issued it, as the document tells."""
    refusal: tuple[Reason, str] | None = None
    """Why it cannot be used, and a sentence for a person: the document lacks its chain or its key."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a document held at one moment."""

    data: bytes = field(repr=False)
    origin: str
    """What the origins of its certificates begin with, before ``#``; a safe one."""
    files: tuple[FileIdentity, ...] = ()
    """Which file it was; empty where it is no file."""


class Document(Protocol):
    """Where a document comes from."""

    @property
    def location(self) -> str:
        """See :class:`mailsni.sources.base.Source`."""

    @property
    def path(self) -> Path | None:
        """The file or directory that the configuration names, for errors; None where it names none."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Everything that :attr:`Content.origin` may be."""

    def fetch(self) -> Content:
        """Get it.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be had.
        """

    def change_token(self) -> bytes:
        """See :class:`mailsni.sources.base.Source`."""

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """See :class:`mailsni.sources.base.Source`."""

    def files(self) -> StoreFiles:
        """See :class:`mailsni.sources.base.Source`."""


@dataclass(frozen=True, slots=True)
class DocumentStore:
    """See :class:`mailsni.sources.base.Source`. The origin of a certificate is that of its document, and its name.

    Args:
        document: where it comes from.
        parse: gives the entries of a document's content. It raises a DamagedDocumentError when that is none.
        pause: waits between two reads of a file that is half written.
    """

    document: Document
    parse: Callable[[bytes], Iterable[Entry]]
    pause: Callable[[float], None] = time.sleep
    _last: dict[tuple[FileIdentity, ...], dict[str, Entry]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The entries of the file that was parsed last: one by one they may all be asked for."""

    @property
    def location(self) -> str:
        """Where the document is."""
        return self.document.location

    @property
    def acme_client(self) -> None:
        """None: what fills such a store needs no hook to be told of, and has no command for one certificate."""

    def scan(self, known: Mapping[str, CachedLineage], progress: Progress | None = None) -> Inventory:
        """Read every certificate."""
        files, entries = self._read()
        outcomes: dict[str, Outcome] = {}
        for done, (origin, entry) in enumerate(sorted(entries.items()), 1):
            lineage = known.get(origin)
            is_same = lineage is not None and files != () and lineage.files == files
            outcomes[origin] = accepted(lineage) if lineage and is_same else _outcome(origin, entry, files)
            if progress is not None:
                progress("reading certificates", done, len(entries))
        return inventory(outcomes)

    def owns(self, origin: str) -> bool:
        """Whether an origin is one of this document's."""
        return any(origin.startswith(f"{each}#") for each in self.document.origins)

    def reload(self, certificate: Certificate) -> KeyAndChain | None:
        """Read the document again."""
        files, entries = self._read(again=True)
        entry = entries.get(certificate.source)
        pair = _outcome(certificate.source, entry, files).pair if entry is not None else None
        return pair if pair and pair.certificate.ident == certificate.ident else None

    def change_token(self) -> bytes:
        """That of the document."""
        return self.document.change_token()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """Those of the document."""
        return self.document.watch_paths()

    def files(self) -> StoreFiles:
        """Those of the document."""
        return self.document.files()

    def _read(self, *, again: bool = False) -> tuple[tuple[FileIdentity, ...], dict[str, Entry]]:
        """The entries by origin, and the file that they were read from. It may be in the middle of being written.

        Args:
            again: the file that was read last need not be parsed again.

        Raises:
            PermissionMissingError, HostError: as :meth:`scan`.
        """
        turn = 0
        while True:
            content = self.document.fetch()
            if again and content.files in self._last:
                return content.files, self._last[content.files]
            try:
                entries = _by_origin(content.origin, self.parse(content.data))
            except DamagedDocumentError as error:
                age = min((abs(time.time() - file.ctime_ns / 1e9) for file in content.files), default=RECENT)
                if turn == RETRIES or age >= RECENT:
                    what = "is half written or damaged" if content.files else "gives no certificates"
                    raise HostError(f"{self.location}: {what}: {error}", path=self.document.path) from None
                self.pause(RETRY_PAUSE)
                turn += 1
                continue
            self._last.clear()
            if content.files:
                self._last[content.files] = entries
            return content.files, entries


def _by_origin(base: str, entries: Iterable[Entry]) -> dict[str, Entry]:
    """The origin of each entry; of several with the same name, the second has ``#2`` behind it, as they stand."""
    named: dict[str, Entry] = {}
    counts: dict[str, int] = {}
    for position, entry in enumerate(entries, 1):
        name = _UNSAFE.sub("_", entry.name or _own_name(entry.chain) or str(position))[:_NAME_LIMIT]
        counts[name] = counts.get(name, 0) + 1
        named[f"{base}#{name}" if counts[name] == 1 else f"{base}#{name}#{counts[name]}"] = entry
    return named


def _own_name(chain: bytes) -> str:
    from mailsni.core.x509 import leaf_names  # only a document without names needs cryptography here

    return next(iter(leaf_names(chain)), "")


def _outcome(origin: str, entry: Entry, files: tuple[FileIdentity, ...]) -> Outcome:
    if entry.refusal is not None:
        from mailsni.core.x509 import leaf_names  # only a changed certificate needs cryptography

        return refused(origin, *entry.refusal, leaf_names(entry.chain))
    for part, content in (("chain", entry.chain), ("key", entry.key)):
        if len(content) > SIZE_LIMIT:
            return refused(origin, Reason.TOO_LARGE, f"its {part} has {len(content)} bytes, more than {SIZE_LIMIT}")
    return paired(origin, entry.chain, entry.key, files, staging=entry.staging)


def load_json(data: bytes) -> Any:  # noqa: ANN401  # it may be anything
    """The value of a document of JSON, whatever it is.

    Raises:
        DamagedDocumentError: it is none, or not the whole of one, or has too many values.
    """
    if not data.strip(b"\0 \t\r\n"):
        raise DamagedDocumentError("it is empty")
    if sum(map(data.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise DamagedDocumentError(f"more than {VALUES_LIMIT} values")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DamagedDocumentError("no JSON, or not the whole of it") from None


@dataclass(frozen=True, slots=True)
class FileDocument:
    """A document that is a file.

    Args:
        path: the file, or the directory that it lies in.
        name: of the file, for a directory.
    """

    path: Path
    name: str

    @property
    def location(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def origins(self) -> tuple[str, ...]:
        """The path, and the file in it: which of them it is cannot be told when neither is there."""
        return str(self.path), str(self.path / self.name)

    def fetch(self) -> Content:
        """Read the file."""
        file = self._file()
        boundary = StoreBoundary((os.path.realpath(file),), DOCUMENT_LIMIT)
        try:
            read = boundary.read(str(file), missing=Reason.UNREADABLE)
        except ReadRefusedError as error:
            what = f"{self.path}: cannot be read: {error.detail}"
            if _is_forbidden(file):
                raise PermissionMissingError(what, hint="run it as root", path=self.path) from None
            raise HostError(what, hint=STORE_HINT, path=self.path) from None
        return Content(read.content, str(file), (read.identity,))

    def change_token(self) -> bytes:
        """Which file it is. It is not opened."""
        file = self._file()
        try:
            return repr((str(file), file_identity.of_status(file.stat()))).encode()
        except OSError as error:
            return repr((str(file), error.errno)).encode()

    def watch_paths(self) -> tuple[WatchPath, ...]:
        """The file, and where a link to it leads."""
        file = self._file()
        return tuple(WatchPath(path, path.name) for path in dict.fromkeys((file, Path(os.path.realpath(file)))))

    def files(self) -> StoreFiles:
        """The file, and where it lies."""
        self.fetch()
        file = self._file()
        real = Path(os.path.realpath(file))
        return StoreFiles((real,), tuple(dict.fromkeys((file.parent, real.parent))))

    def _file(self) -> Path:
        return self.path / self.name if os.path.isdir(self.path) else self.path  # noqa: PTH112  # it never raises


def _is_forbidden(file: Path) -> bool:
    try:
        file.stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(file, os.R_OK)
