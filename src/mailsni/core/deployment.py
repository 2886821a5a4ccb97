"""What is deployed: names, certificates and published files, and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailsni.core import json_values
from mailsni.core.model import Certificate, FileIdentity, PublishedFile
from mailsni.core.selection import Selection


@dataclass(frozen=True, slots=True)
class Deployment:
    """The set of artifacts that is live."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each name, and the idents of its certificates in the order in which they are rendered."""
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    """By ident."""
    pins: Mapping[str, FileIdentity] = field(default_factory=dict)
    """The pinned files, by ident, as they were when they were known to be whole."""
    files: Mapping[str, PublishedFile] = field(default_factory=dict)
    """The published artifacts by path, but for the pinned files."""
    pin_directory: str = ""
    memories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each target remembers of what it published, by the server's name; only the target understands it."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """Certificates of the stores that are not deployed because a server cut off their clients: why, by ident."""

    @classmethod
    def of(
        cls,
        selection: Selection,
        pin_directory: Path,
        *,
        pins: Mapping[str, FileIdentity] | None = None,
        files: Mapping[str, PublishedFile] | None = None,
        memories: Mapping[str, Mapping[str, str]] | None = None,
        set_aside: Mapping[str, str] | None = None,
    ) -> Deployment:
        """What a selection is once it is deployed. A journal of what is intended knows no published files."""
        return cls(
            names={winner.name: tuple(each.ident for each in winner.certificates) for winner in selection.winners},
            certificates={each.ident: each for each in selection.certificates},
            pins=pins or {},
            files=files or {},
            pin_directory=str(pin_directory),
            memories=memories or {},
            set_aside=set_aside or {},
        )

    def certificates_for(self, name: str) -> tuple[Certificate, ...]:
        """The certificates that a name is served with; none when it is not deployed."""
        return tuple(self.certificates[ident] for ident in self.names.get(name, ()) if ident in self.certificates)


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """What the state directory says is deployed."""

    deployment: Deployment
    trusted: bool
    """False when there is no record, or a run was cut off while it published: the files must be published anew."""
    interrupted: bool = False
    unproven: frozenset[str] = frozenset()
    """The idents that the run which was cut off began to deploy: nobody knows how the servers take them."""
    problems: tuple[str, ...] = ()
    """What is wrong with the records, each a sentence that names the file: they count as missing."""

    @property
    def distrust_reason(self) -> str:
        """Why the record is not trusted."""
        if self.interrupted:
            return "the last run was cut off"
        if self.problems:
            return "the record of what was published is damaged"
        return "there is no record of what was published"


def to_json(deployment: Deployment) -> dict[str, Any]:
    """The JSON form: no keys, no certificates, only what they are."""
    return {
        "names": deployment.names,
        "certificates": [certificate.encode() for certificate in deployment.certificates.values()],
        "files": dict(deployment.files),
        "pin_directory": deployment.pin_directory,
        "pins": dict(deployment.pins),
        "memories": {name: dict(memory) for name, memory in deployment.memories.items()},
        "set_aside": dict(deployment.set_aside),
    }


def from_json(document: object) -> Deployment:
    """A deployment from its JSON form.

    Raises:
        ValueError, TypeError, KeyError: it is damaged, or of another version.
    """
    members = json_values.members(document)
    certificates = json_values.items(members["certificates"], Certificate.decode)
    return Deployment(
        names=json_values.mapping(members["names"], json_values.name, _idents),
        certificates={certificate.ident: certificate for certificate in certificates},
        files=json_values.mapping(members["files"], json_values.path, PublishedFile.decode),
        pin_directory=json_values.optional_path(members["pin_directory"]),
        pins=json_values.mapping(members["pins"], json_values.ident, FileIdentity.decode),
        memories=json_values.mapping(members["memories"], json_values.text, _memory),
        set_aside=json_values.mapping(members["set_aside"], json_values.ident, json_values.text),
    )


def _idents(value: object) -> tuple[str, ...]:
    return json_values.items(value, json_values.ident)


def _memory(value: object) -> Mapping[str, str]:
    return json_values.mapping(value, json_values.text, json_values.text)
