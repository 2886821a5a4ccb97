"""What earlier scans read: a cache in the state directory, for ten thousand lineages need not be parsed every time.

It holds no keys. A lineage is taken from it only while its links lead to the very files (inode, size, times) that were
read and proven; a file that changed in the moments before it was read is not remembered, since a second change within
the same tick of the clock could not be seen. Deleting it costs one full scan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailsni import __version__
from mailsni.core.model import Certificate, KeyAndChain, Reading
from mailsni.host import files

SETTLED = 2.0
"""Seconds for which a file must have been unchanged when it was read."""
_SCHEMA = f"mailsni.readings/{__version__}"
_PLAIN = tuple(
    one.name for one in fields(Certificate) if one.name not in ("names", "not_before", "not_after", "material")
)


def load(path: Path) -> dict[str, Reading]:
    """What is remembered, by lineage; nothing when there is no cache, or one of another version, or a damaged one."""
    try:
        document = json.loads(files.read_private(path) or b"{}")
        if document.get("schema") != _SCHEMA:
            return {}
        return {item["source"]: _reading(item) for item in document["readings"]}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}


def save(path: Path, readings: Iterable[Reading], now: datetime) -> None:
    """Remember what was read, as far as it had settled.

    Raises:
        HostError: it cannot be written.
    """
    latest = (now.timestamp() - SETTLED) * 1e9
    items = [_item(one) for one in readings if max(identity[-1] for identity in one.files) < latest]
    document = {"schema": _SCHEMA, "readings": items}
    files.replace(path, json.dumps(document, separators=(",", ":")).encode())


def _item(reading: Reading) -> dict[str, Any]:
    one = reading.certificate
    return {name: getattr(one, name) for name in _PLAIN} | {
        "names": one.names,
        "not_before": one.not_before.timestamp(),
        "not_after": one.not_after.timestamp(),
        "digest": one.material.digest,
        "files": reading.files,
        "refused_names": reading.refused_names,
    }


def _reading(item: dict[str, Any]) -> Reading:
    chain, key = (tuple(identity) for identity in item["files"])
    certificate = Certificate(
        names=tuple(item["names"]),
        not_before=datetime.fromtimestamp(item["not_before"], UTC),
        not_after=datetime.fromtimestamp(item["not_after"], UTC),
        material=KeyAndChain(None, item["digest"]),
        **{name: item[name] for name in _PLAIN},
    )
    return Reading((chain, key), certificate, tuple(item["refused_names"]))
