"""The deployment record, in ``state.directory``.

``deployment.json`` has the deployed names, their certificates and the published files. ``journal.json`` exists only
while a run publishes: a run that finds one knows that the run before it was cut off, trusts none of the files, and
publishes and reloads again. Without a record a run does the same: what is deployed is then read from the live texts and
the pinned files (:mod:`mailsni.deploy.recovery`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailsni.core.deployment import Deployment, DeploymentRecord, from_json, to_json
from mailsni.core.model import FileIdentity
from mailsni.host import file_identity, files
from mailsni.host.records import RecordFormat

_FORMAT = RecordFormat("mailsni.deployment/2", to_json, from_json)


@dataclass(frozen=True, slots=True)
class State:
    """The state directory."""

    directory: Path

    @property
    def readings(self) -> Path:
        """The file of :mod:`mailsni.sources.scan_cache`."""
        return self.directory / "readings.json"

    @property
    def retired(self) -> Path:
        """The file of :mod:`mailsni.deploy.retirement`."""
        return self.directory / "retired.json"

    @property
    def setup(self) -> Path:
        """The file of :mod:`mailsni.setup.record`."""
        return self.directory / "setup.json"

    @property
    def _deployment(self) -> Path:
        return self.directory / "deployment.json"

    @property
    def _journal(self) -> Path:
        return self.directory / "journal.json"

    def load(self) -> DeploymentRecord:
        """Read the record. One that is missing, damaged or of another version counts as none.

        Raises:
            PermissionMissingError: this user may not read it.
            HostError: it cannot be read.
        """
        recorded, journal = _FORMAT.read(self._deployment), _FORMAT.read(self._journal)
        problems = tuple(reading.problem for reading in (recorded, journal) if reading.problem is not None)
        before = recorded.content or Deployment()
        if file_identity.of_file(self._journal) is None:
            return DeploymentRecord(before, trusted=recorded.content is not None, problems=problems)
        intended = journal.content or Deployment()
        return DeploymentRecord(
            Deployment(
                names={**before.names, **intended.names},
                certificates={**before.certificates, **intended.certificates},
                pin_directory=intended.pin_directory or before.pin_directory,
                set_aside=before.set_aside,
            ),
            trusted=False,
            interrupted=True,
            unproven=frozenset(intended.certificates) - frozenset(before.certificates),
            problems=problems,
        )

    def change_token(self) -> tuple[FileIdentity | None, FileIdentity | None]:
        """Changes when a run starts to publish, and when it commits.

        Raises:
            PermissionError: this user may not see the records.
        """
        return file_identity.of_file(self._deployment), file_identity.of_file(self._journal)

    def begin_journal(self, intended: Deployment) -> None:
        """Write the journal, durably, before the first file is published."""
        files.ensure_directory(self.directory, 0o700)
        _FORMAT.write(self._journal, intended)

    def commit(self, deployment: Deployment, *, keep_journal: bool = False) -> None:
        """Record the live deployment, and remove the journal, unless the next run must publish again all the same."""
        files.ensure_directory(self.directory, 0o700)
        _FORMAT.write(self._deployment, deployment)
        if not keep_journal:
            self.clear_journal()

    def clear_journal(self) -> None:
        """Remove the journal: what it announced is committed or undone."""
        files.remove(self._journal)
