"""What setup changed, as ``setup.json`` in the state directory says it: written before the first change.

It is there for what marks cannot tell: the very bytes that a file of the administrator's had, and which directories
were made. A file that was edited since is not put back; only our lines are taken out of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailsni.core import json_values
from mailsni.deploy.state_directory import State
from mailsni.host import files
from mailsni.host.records import Reading, RecordFormat


@dataclass(frozen=True, slots=True)
class Edit:
    """A file of the administrator's, as it was before setup changed it, and as it was left."""

    before: bytes
    after: str
    """SHA-256, hexadecimal."""

    @classmethod
    def of(cls, before: bytes, after: bytes) -> Edit:
        """An edit from one content to another."""
        return cls(before, digest(after))


@dataclass(frozen=True, slots=True)
class Record:
    """What setup changed."""

    edits: Mapping[str, Edit] = field(default_factory=dict)
    """By path."""
    written: Mapping[str, str] = field(default_factory=dict)
    """The files that setup made: SHA-256 by path."""
    directories: tuple[str, ...] = ()
    """The directories that setup made, the outermost first."""

    def before(self, path: Path, now: bytes) -> bytes | None:
        """What a file was before setup, if it is still as setup left it; else None."""
        edit = self.edits.get(str(path))
        return edit.before if edit is not None and edit.after == digest(now) else None

    def and_also(self, later: Record) -> Record:
        """This one and a later one's, for a second setup that does what the first one did not."""
        edits = dict(self.edits)
        for path, edit in later.edits.items():
            known = edits.get(path)
            unedited = known is not None and known.after == digest(edit.before)
            edits[path] = Edit(known.before, edit.after) if known is not None and unedited else edit
        made = tuple(dict.fromkeys((*self.directories, *later.directories)))
        return Record(edits, {**self.written, **later.written}, made)


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def load(state_directory: Path) -> Reading[Record]:
    """The record.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read.
    """
    return _FORMAT.read(State(state_directory).setup)


def lost(problem: str) -> str:
    """What a person should know when the record is damaged."""
    return f"{problem}: what setup changed before is not known: `mailsni setup --remove` takes out its own lines only"


def save(state_directory: Path, record: Record) -> None:
    """Write the record, durably.

    Raises:
        HostError: it cannot be written.
    """
    files.ensure_directory(state_directory, 0o700)
    _FORMAT.write(State(state_directory).setup, record)


def _to_json(record: Record) -> dict[str, Any]:
    return {
        "edits": {
            path: {"before": base64.b64encode(edit.before).decode(), "after": edit.after}
            for path, edit in record.edits.items()
        },
        "written": dict(record.written),
        "directories": list(record.directories),
    }


def _from_json(document: object) -> Record:
    members = json_values.members(document)
    return Record(
        json_values.mapping(members["edits"], json_values.path, _edit),
        json_values.mapping(members["written"], json_values.path, json_values.sha256),
        json_values.items(members["directories"], json_values.path),
    )


def _edit(document: object) -> Edit:
    members = json_values.members(document)
    before = base64.b64decode(json_values.text(members["before"]), validate=True)
    return Edit(before, json_values.sha256(members["after"]))


_FORMAT = RecordFormat("mailsni.setup-record/2", _to_json, _from_json)
