"""Removes what no deployment needs any more: private directories at once; keys and maps of another type later."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.deploy import retirement
from mailsni.deploy.retirement import Moment
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.state_directory import State
from mailsni.errors import MailsniError
from mailsni.host import files
from mailsni.targets import registry
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.reload import ReloadResult

_IDENT = re.compile(rb"/([0-9a-f]{64}-[0-9a-f]{16})\.pem\b")


_CURRENT = (
    *(ReloadResult.RELOADED, ReloadResult.RESTARTED, ReloadResult.COMMANDED),
    *(ReloadResult.NOT_RUNNING, ReloadResult.CONTAINER_DOWN),
)
"""After these a server runs with its configuration as it is, or will."""


def clean_up(snapshot: Snapshot, reloads: Mapping[str, ReloadResult]) -> None:
    """Remove private directories of runs that were cut off, and what nothing has named for some time.

    Args:
        snapshot: of the run.
        reloads: what the run did to the servers. One that was not reloaded may go on with a configuration (master.cf)
            that names more than the files do.

    Raises:
        HostError: something cannot be removed.
        RefusedError: something lies at the name of a private directory that no run made.
    """
    for directory in dict.fromkeys((snapshot.pins.path, *(target.path.parent for target in snapshot.targets))):
        files.clear_staging(directory)
    record, now = State(snapshot.settings.state.directory).retired, Moment.now()
    known = retirement.FORMAT.read(record).content or {}
    current = {server for server, result in reloads.items() if result in _CURRENT}
    unused = (*_unused_pins(snapshot), *_unused_artifacts(snapshot, known, current))
    waiting = dict(retirement.retire(unused, known, now))
    for path in [path for path, since in waiting.items() if retirement.may_go(since, now)]:
        files.remove(path)
        del waiting[path]
    _write(record, known, waiting)


def _unused_pins(snapshot: Snapshot) -> Iterator[Path]:
    """The pinned files that neither the deployment nor a live text names."""
    served = {certificate.ident for certificate in snapshot.selection.certificates}
    for name in dict.fromkeys((str(snapshot.pins.path), snapshot.record.deployment.pin_directory)):
        pins = PinDirectory(Path(name))
        if name and pins.list_unused(served):
            yield from pins.list_unused(served | _idents_in_live_files(snapshot.settings))


def _unused_artifacts(snapshot: Snapshot, known: Collection[Path], current: Collection[str]) -> Iterator[Path]:
    """What earlier deployments published and nothing may read now: maps of a type that no place names any more.

    They were retired already, or their server runs with its current configuration.
    """
    published = set(map(Path, snapshot.record.deployment.files))
    for target in snapshot.targets:
        candidates = published.union(known) if target.name in current else known
        unused = set(target.artifacts).intersection(candidates).difference(target.artifacts_in_use)
        yield from sorted(path for path in unused if path.is_file())


def reinstate(snapshot: Snapshot) -> None:
    """Before a publish: forget that files were retired which are named from now on.

    If the run is cut off or rolled back, they are retired anew, and the whole wait begins again.

    Raises:
        HostError: the record cannot be written.
    """
    record = State(snapshot.settings.state.directory).retired
    known = retirement.FORMAT.read(record).content or {}
    named = {snapshot.pins.path_of(certificate) for certificate in snapshot.selection.certificates}
    named.update(path for target in snapshot.targets for path in target.artifacts_in_use)
    _write(record, known, {path: since for path, since in known.items() if path not in named})


def _write(record: Path, known: Mapping[Path, Moment], retired: Mapping[Path, Moment]) -> None:
    if not retired:
        files.remove(record)
    elif retired != known:
        files.ensure_directory(record.parent, 0o700)
        retirement.FORMAT.write(record, retired)


def try_clean_up(snapshot: Snapshot) -> tuple[str, ...]:
    """:func:`clean_up` of a run that reloads nothing; gives a warning instead of an error."""
    try:
        clean_up(snapshot, {})
    except MailsniError as error:
        return (f"not everything could be cleaned up: {error.message}",)
    return ()


@contextmanager
def discarding_new_pins(snapshot: Snapshot) -> Iterator[None]:
    """Remove the pinned files that the block writes, when it fails: nothing has named them yet.

    Those of a run that was cut off may be named already: they stay.
    """
    certificates = [] if snapshot.record.interrupted else [pin.certificate for pin in snapshot.plan.pins]
    paths = [snapshot.pins.path_of(certificate) for certificate in certificates]
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            files.remove(path)
        raise


def _idents_in_live_files(settings: Settings) -> set[str]:
    """The pinned files that live texts name, also those of a server that is switched off now."""
    texts = (files.read_private(path) or b"" for path in registry.texts(settings))
    return {match.decode() for text in texts for match in _IDENT.findall(text)}
