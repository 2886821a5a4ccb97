"""What is deployed, as the program recorded it: a cache and a memory, in ``state.directory``.

``deployment.json`` says which names are served with which certificates and which files were published. ``journal.json``
exists only while files are being published: a run that finds one knows that the run before it was cut off, believes
nothing about the files, and publishes and reloads again. Without the record the next run does the same; what is lost
then is the last good certificate of a lineage that is broken at that very moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailsni.core.deployment import SCHEMA, Deployment, DeploymentRecord, decode, encode
from mailsni.core.model import FileIdentity
from mailsni.host import file_identity, files, permissions


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

    def load(self) -> DeploymentRecord:
        """Read the record; one that is missing, cut off or of another version counts as none.

        Raises:
            PermissionMissingError: this user may not read it.
        """
        recorded = decode(files.read_private(self._deployment))
        journal = files.read_private(self._journal)
        if journal is None:
            return DeploymentRecord(recorded or Deployment(), trusted=recorded is not None)
        intended = decode(journal) or Deployment()
        before = recorded or Deployment()
        return DeploymentRecord(
            Deployment(
                names={**before.names, **intended.names},
                certificates={**before.certificates, **intended.certificates},
                pin_directory=intended.pin_directory or before.pin_directory,
            ),
            trusted=False,
            interrupted=True,
        )

    def problems(self) -> tuple[str, ...]:
        """Why what lies in the place of a record is none. A journal that was cut off is no complaint: its run was.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be read.
        """
        found = [permissions.record_problem(self._deployment, SCHEMA, decode)]
        if files.read_private(self._journal) is None:
            found.append(permissions.record_problem(self._journal, SCHEMA, decode))
        return tuple(one for one in found if one is not None)

    def change_token(self) -> tuple[FileIdentity | None, FileIdentity | None]:
        """What tells that a run began, or ended with another deployment, between two looks.

        Raises:
            PermissionError: this user may not look.
        """
        return file_identity.of_file(self._deployment), file_identity.of_file(self._journal)

    def begin_journal(self, intended: Deployment) -> None:
        """Write the journal, durably, before the first file is published."""
        files.ensure_directory(self.directory, 0o700)
        files.replace(self._journal, encode(intended))

    def commit(self, deployment: Deployment) -> None:
        """Record what is live now, and end the journal."""
        files.ensure_directory(self.directory, 0o700)
        files.replace(self._deployment, encode(deployment))
        self.clear_journal()

    def clear_journal(self) -> None:
        """End the journal: what was intended has been taken back."""
        files.remove(self._journal)
