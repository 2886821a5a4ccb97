"""The records of the state directory: JSON documents that come back as they were written, or not at all.

::

    {"schema":"mailsni.NAME/VERSION","sha256":"…","content":{…}}

The checksum is over the bytes of the content, and the bytes around it are always the same: no bit of the file changes
unnoticed. It protects from a failing disk and from half a restore, not from somebody who may write the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mailsni.core.text import printable_name
from mailsni.host import files

Content = TypeVar("Content")
_END = b"}\n"
_BEGIN = re.compile(rb'\{"schema":"(mailsni\.[a-z-]+/[0-9]+)"')


class NotARecordError(ValueError):
    """A file is no sound record. The message says why, as the end of a sentence about the file."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[Content]):
    """What a record holds, or what is wrong with it; neither when there is no record."""

    content: Content | None = None
    problem: str | None = None
    """A sentence without a full stop that names the file."""


@dataclass(frozen=True, slots=True)
class RecordFormat(Generic[Content]):
    """One kind of record."""

    schema: str
    """``mailsni.NAME/VERSION``. A record of another version counts as none."""
    to_json: Callable[[Content], Any]
    from_json: Callable[[Any], Content]
    """Raises ValueError, TypeError or KeyError for what violates the schema: it checks types and grammar."""

    def encode(self, content: Content) -> bytes:
        """The bytes of a record. The same content gives the same bytes."""
        body = json.dumps(self.to_json(content), separators=(",", ":"), sort_keys=True).encode()
        return self._head(body) + body + _END

    def decode(self, data: bytes) -> Content:
        """What a record holds.

        Raises:
            NotARecordError: it is damaged, of another version, or no record.
        """
        body = data[len(self._head(b"")) : -len(_END)]
        if data != self._head(body) + body + _END:
            raise NotARecordError(self._why_not(data))
        try:
            return self.from_json(json.loads(body))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise NotARecordError(f"does not hold what belongs to {self.schema}") from None

    def read(self, path: Path) -> Reading[Content]:
        """Read the record at a path.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be read.
        """
        data = files.read_private(path)
        if data is None:
            return Reading(problem=f"{path} is no regular file" if os.path.lexists(path) else None)
        try:
            return Reading(self.decode(data))
        except NotARecordError as error:
            return Reading(problem=f"{path} {error}")

    def write(self, path: Path, content: Content, *, durable: bool = True) -> None:
        """Replace the record at a path; see :func:`mailsni.host.files.replace`.

        Raises:
            HostError: it cannot be written.
        """
        files.replace(path, self.encode(content), durable=durable)

    def _head(self, body: bytes) -> bytes:
        checksum = hashlib.sha256(body).hexdigest()
        return f'{{"schema":"{self.schema}","sha256":"{checksum}","content":'.encode()

    def _why_not(self, data: bytes) -> str:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return "is cut off or damaged: no JSON"
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema == self.schema:
            return "is damaged: its checksum is of another content"
        if isinstance(schema, str) and schema.startswith("mailsni."):
            return f"is of another version of mailsni ({printable_name(schema)} instead of {self.schema})"
        return "is not a record of mailsni"


def damage(path: Path) -> str | None:
    """Why a record, of any kind and version, is not as it was written; None when it is, or there is none.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read.
    """
    begin = _BEGIN.match(files.read_private(path) or b"")
    schema = begin[1].decode() if begin is not None else "mailsni.record/1"
    kind: RecordFormat[Any] = RecordFormat(schema, lambda content: content, lambda document: document)
    return kind.read(path).problem
