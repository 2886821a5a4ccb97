"""A cache of scans in the state directory, so that ten thousand certificates are not parsed on every run.

It holds no keys. A store takes a certificate from it only while the files are the same (inode, size, times) that were
read. A file that changed just before it was read is not cached: a second change within the same tick of the clock
would go unnoticed. Deleting the cache costs one full scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mailsni import __version__
from mailsni.core import json_values
from mailsni.core.model import CachedLineage, Certificate, FileIdentity
from mailsni.host.records import Reading, RecordFormat

MIN_FILE_AGE = 2.0
"""Seconds for which a file must have been unchanged when it was read."""


def load(path: Path) -> Reading[Mapping[str, CachedLineage]]:
    """The cached lineages by origin; nothing when there is no cache, or one of another version, or a damaged one.

    Raises:
        PermissionMissingError: this user may not read it.
        HostError: it cannot be read.
    """
    return _FORMAT.read(path)


def save(path: Path, lineages: Iterable[CachedLineage], now: datetime) -> None:
    """Write the cache: the lineages whose files were old enough when they were read.

    Raises:
        HostError: it cannot be written.
    """
    latest = (now.timestamp() - MIN_FILE_AGE) * 1e9
    old_enough = (
        lineage
        for lineage in lineages
        if lineage.files and max(identity.ctime_ns for identity in lineage.files) < latest
    )
    _FORMAT.write(path, {lineage.certificate.source: lineage for lineage in old_enough})


def _to_json(lineages: Mapping[str, CachedLineage]) -> dict[str, Any]:
    items = [{"files": each.files, "certificate": each.certificate.encode()} for each in lineages.values()]
    return {"version": __version__, "lineages": items}


def _from_json(document: object) -> dict[str, CachedLineage]:
    members = json_values.members(document)
    if members["version"] != __version__:
        return {}
    return {lineage.certificate.source: lineage for lineage in json_values.items(members["lineages"], _lineage)}


def _lineage(document: object) -> CachedLineage:
    members = json_values.members(document)
    certificate = Certificate.decode(members["certificate"])
    return CachedLineage(json_values.items(members["files"], FileIdentity.decode), certificate)


_FORMAT: RecordFormat[Mapping[str, CachedLineage]] = RecordFormat("mailsni.readings/2", _to_json, _from_json)
