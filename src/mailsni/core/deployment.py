"""What is deployed: names, certificates and published files, and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mailsni.core.model import Certificate, FileIdentity
from mailsni.core.selection import Selection

SCHEMA = "mailsni.deployment/1"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The set of artifacts that is live."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Each name, and the idents of its certificates in the order in which they are rendered."""
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    """By ident."""
    pins: Mapping[str, FileIdentity] = field(default_factory=dict)
    """The pinned files, by ident, as they were when they were known to be whole."""
    files: Mapping[str, FileIdentity] = field(default_factory=dict)
    """The published artifacts by path, but for the pinned files."""
    pin_directory: str = ""
    memories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each target remembers of what it published, by the server's name; only the target understands it."""

    @classmethod
    def of(
        cls,
        selection: Selection,
        pin_directory: Path,
        *,
        pins: Mapping[str, FileIdentity] | None = None,
        files: Mapping[str, FileIdentity] | None = None,
        memories: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Deployment:
        """What a selection is once it is deployed. A journal of what is intended knows no published files."""
        return cls(
            names={winner.name: tuple(each.ident for each in winner.certificates) for winner in selection.winners},
            certificates={each.ident: each for each in selection.certificates},
            pins=pins or {},
            files=files or {},
            pin_directory=str(pin_directory),
            memories=memories or {},
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

    @property
    def distrust_reason(self) -> str:
        """Why the record is not trusted."""
        return "the last run was cut off" if self.interrupted else "there is no record of what was published"


def encode(deployment: Deployment) -> bytes:
    """The JSON form: no keys, no certificates, only what they are."""
    document = {
        "schema": SCHEMA,
        "names": deployment.names,
        "certificates": [certificate.encode() for certificate in deployment.certificates.values()],
        "files": dict(deployment.files),
        "pin_directory": deployment.pin_directory,
        "pins": dict(deployment.pins),
        "memories": {name: dict(memory) for name, memory in deployment.memories.items()},
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def decode(content: bytes | None) -> Deployment | None:
    """A deployment from its JSON form; None when there is none, or it is of another version or damaged."""
    if content is None:
        return None
    try:
        document = json.loads(content)
        if document["schema"] != SCHEMA:
            return None
        certificates = [Certificate.decode(item) for item in document["certificates"]]
        return Deployment(
            names={str(name): tuple(map(str, idents)) for name, idents in document["names"].items()},
            certificates={certificate.ident: certificate for certificate in certificates},
            files={path: FileIdentity(*identity) for path, identity in document["files"].items()},
            pin_directory=str(document["pin_directory"]),
            pins={ident: FileIdentity(*identity) for ident, identity in document["pins"].items()},
            memories={
                str(name): {str(key): str(value) for key, value in memory.items()}
                for name, memory in document["memories"].items()
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
