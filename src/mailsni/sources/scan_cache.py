"""A cache of scans in the state directory, so that ten thousand certificates are not parsed on every run.

It holds no keys. A store takes a certificate from it only while the files are the same (inode, size, times) that were
read. A file that changed just before it was read is not cached: a second change within the same tick of the clock
would go unnoticed. Deleting the cache costs one full scan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from mailsni import __version__
from mailsni.core.model import CachedLineage, Certificate, FileIdentity
from mailsni.host import files

MIN_FILE_AGE = 2.0
"""Seconds for which a file must have been unchanged when it was read."""
_SCHEMA = f"mailsni.readings/{__version__}"


def load(path: Path) -> dict[str, CachedLineage]:
    """The cached lineages by origin; none when there is no cache, or one of another version, or a damaged one."""
    try:
        document = json.loads(files.read_private(path) or b"{}")
        if document.get("schema") != _SCHEMA:
            return {}
        lineages = [
            CachedLineage(
                files=tuple(FileIdentity(*identity) for identity in item["files"]),
                certificate=Certificate.decode(item["certificate"]),
            )
            for item in document["readings"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}
    return {lineage.certificate.source: lineage for lineage in lineages}


def save(path: Path, lineages: Iterable[CachedLineage], now: datetime) -> None:
    """Write the cache: the lineages whose files were old enough when they were read.

    Raises:
        HostError: it cannot be written.
    """
    latest = (now.timestamp() - MIN_FILE_AGE) * 1e9
    items = [
        {
            "files": lineage.files,
            "certificate": lineage.certificate.encode(),
        }
        for lineage in lineages
        if lineage.files and max(identity.ctime_ns for identity in lineage.files) < latest
    ]
    document = {"schema": _SCHEMA, "readings": items}
    files.replace(path, json.dumps(document, separators=(",", ":")).encode())
