"""What is deployed, as the program recorded it: a cache and a memory, in ``state.directory``.

``deployment.json`` says which names are served with which certificates and which files were published. ``journal.json``
exists only while files are being published: a run that finds one knows that the run before it was cut off, believes
nothing about the files, and publishes and reloads again. Without the record the next run does the same; what is lost
then is the last good certificate of a lineage that is broken at that very moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailsni.core import file_identity
from mailsni.core.model import Algorithm, Certificate
from mailsni.core.selection import Selection
from mailsni.host import files

_SCHEMA = "mailsni.deployment/1"


@dataclass(frozen=True, slots=True)
class DeployedCertificate:
    """A certificate that is deployed, without its key."""

    ident: str
    source: str
    fingerprint: str
    spki: str
    algorithm: Algorithm
    not_before: datetime
    not_after: datetime
    kept: bool = False

    @classmethod
    def of(cls, certificate: Certificate) -> DeployedCertificate:
        """The part of a certificate that may be written down."""
        return cls(
            certificate.ident,
            certificate.source,
            certificate.fingerprint,
            certificate.spki,
            certificate.algorithm,
            certificate.not_before,
            certificate.not_after,
            certificate.kept,
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """The set of artifacts that is live."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each name, and the idents of its certificates in the order in which they are rendered."""
    certificates: Mapping[str, DeployedCertificate] = field(default_factory=dict)
    """By ident."""
    pins: Mapping[str, file_identity.Identity] = field(default_factory=dict)
    """The pinned files, by ident, as they were when they were known to be whole."""
    files: Mapping[str, file_identity.Identity] = field(default_factory=dict)
    """The published artifacts by path, but for the pinned files."""
    pin_directory: str = ""
    map_type: str = ""
    """Of the compiled Postfix map; hash and btree share a suffix, so the file does not tell."""

    @classmethod
    def of(cls, selection: Selection, pin_directory: Path, map_type: str = "") -> Deployment:
        """What a selection is once it is deployed, still without the published files."""
        return cls(
            names={winner.name: tuple(one.ident for one in winner.certificates) for winner in selection.winners},
            certificates={one.ident: DeployedCertificate.of(one) for one in selection.certificates},
            pin_directory=str(pin_directory),
            map_type=map_type,
        )

    def of_name(self, name: str) -> tuple[DeployedCertificate, ...]:
        """What a name is served with; nothing when it is not deployed."""
        return tuple(self.certificates[ident] for ident in self.names.get(name, ()) if ident in self.certificates)


@dataclass(frozen=True, slots=True)
class Record:
    """What the state directory says."""

    deployment: Deployment
    trusted: bool
    """False when there is no record, or a run was cut off while it published: the files must be published anew."""
    interrupted: bool = False

    @property
    def why_untrusted(self) -> str:
        """In words."""
        return "the last run was cut off" if self.interrupted else "there is no record of what was published"


@dataclass(frozen=True, slots=True)
class State:
    """The state directory."""

    directory: Path

    @property
    def readings(self) -> Path:
        """Where :mod:`mailsni.sources.scan_cache` remembers."""
        return self.directory / "readings.json"

    @property
    def _deployment(self) -> Path:
        return self.directory / "deployment.json"

    @property
    def _journal(self) -> Path:
        return self.directory / "journal.json"

    def load(self) -> Record:
        """Read the record; one that is missing, cut off or of another version counts as none.

        Raises:
            PermissionMissingError: this user may not read it.
        """
        recorded = _decode(files.read_own(self._deployment))
        journal = files.read_own(self._journal)
        if journal is None:
            return Record(recorded or Deployment(), trusted=recorded is not None)
        begun = _decode(journal) or Deployment()
        before = recorded or Deployment()
        return Record(
            Deployment(
                names={**before.names, **begun.names},
                certificates={**before.certificates, **begun.certificates},
                pin_directory=begun.pin_directory or before.pin_directory,
            ),
            trusted=False,
            interrupted=True,
        )

    def complaints(self) -> tuple[str, ...]:
        """Why what lies in the place of a record is none. A journal that was cut off is no complaint: its run was.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be read.
        """
        found = [files.why_no_record(self._deployment, _SCHEMA, _decode)]
        if files.read_own(self._journal) is None:
            found.append(files.why_no_record(self._journal, _SCHEMA, _decode))
        return tuple(one for one in found if one is not None)

    def trace(self) -> tuple[file_identity.Identity | None, file_identity.Identity | None]:
        """What tells that a run began, or ended with another deployment, between two looks.

        Raises:
            PermissionError: this user may not look.
        """
        return file_identity.Identity.of(self._deployment), file_identity.Identity.of(self._journal)

    def begin(self, intended: Deployment) -> None:
        """Write the journal, durably, before the first file is published."""
        files.ensure_directory(self.directory, 0o700)
        files.replace(self._journal, _encode(intended))

    def commit(self, deployment: Deployment) -> None:
        """Record what is live now, and end the journal."""
        files.ensure_directory(self.directory, 0o700)
        files.replace(self._deployment, _encode(deployment))
        self.end()

    def end(self) -> None:
        """End the journal: what was begun has been taken back."""
        files.remove(self._journal)


def _encode(deployment: Deployment) -> bytes:
    document = {
        "schema": _SCHEMA,
        "names": deployment.names,
        "certificates": [
            {
                **{name: getattr(one, name) for name in DeployedCertificate.__slots__},
                "not_before": one.not_before.timestamp(),
                "not_after": one.not_after.timestamp(),
            }
            for one in deployment.certificates.values()
        ],
        "files": {path: astuple(identity) for path, identity in deployment.files.items()},
        "pin_directory": deployment.pin_directory,
        "pins": {ident: astuple(identity) for ident, identity in deployment.pins.items()},
        "map_type": deployment.map_type,
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _decode(content: bytes | None) -> Deployment | None:
    if content is None:
        return None
    try:
        document = json.loads(content)
        if document["schema"] != _SCHEMA:
            return None
        return Deployment(
            names={str(name): tuple(map(str, idents)) for name, idents in document["names"].items()},
            certificates={one.ident: one for one in _certificates(document["certificates"])},
            files={path: file_identity.Identity(*identity) for path, identity in document["files"].items()},
            pin_directory=str(document["pin_directory"]),
            pins={ident: file_identity.Identity(*identity) for ident, identity in document["pins"].items()},
            map_type=str(document["map_type"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _certificates(items: Iterable[Mapping[str, Any]]) -> Iterable[DeployedCertificate]:
    for item in items:
        dates = {key: datetime.fromtimestamp(item[key], UTC) for key in ("not_before", "not_after")}
        yield DeployedCertificate(**{**item, **dates})
