"""Records of the state directory, changed by hand and signed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailsni.host.records import RecordFormat


def content(path: Path) -> object:
    """What a record holds, as JSON."""
    return json.loads(path.read_bytes())["content"]


def signed(schema: str, document: object) -> bytes:
    """A record with a checksum that fits, whatever it holds."""
    same: RecordFormat[object] = RecordFormat(schema, lambda value: value, lambda value: value)
    return same.encode(document)


def rewrite(path: Path, change: Callable[[Any], object], to: Path | None = None) -> None:
    """Change what a record holds; write it to another place on demand."""
    document = json.loads(path.read_bytes())
    (to or path).write_bytes(signed(document["schema"], change(document["content"])))
