"""Removes what no deployment needs any more: private directories, keys, maps of another type."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.core.model import Certificate
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import MailsniError
from mailsni.host import files
from mailsni.targets import registry
from mailsni.targets.base import Target
from mailsni.targets.pinned import PinDirectory

_IDENT = re.compile(rb"/([0-9a-f]{64}-[0-9a-f]{16})\.pem\b")


def clean_up(snapshot: Snapshot) -> None:
    """Remove private directories of runs that were cut off, and the keys of what is not served any more.

    Raises:
        HostError: something cannot be removed.
        RefusedError: something lies at the name of a private directory that no run made.
    """
    for directory in dict.fromkeys((snapshot.pins.path, *(target.path.parent for target in snapshot.targets))):
        files.clear_staging(directory)
    served = {certificate.ident for certificate in snapshot.selection.certificates}
    for name in dict.fromkeys((str(snapshot.pins.path), snapshot.record.deployment.pin_directory)):
        pins = PinDirectory(Path(name))
        if name and pins.list_unused(served):
            pins.remove_unused(served | _idents_in_live_files(snapshot.settings))


def try_clean_up(snapshot: Snapshot) -> tuple[str, ...]:
    """:func:`clean_up`; gives a warning instead of an error."""
    try:
        clean_up(snapshot)
    except MailsniError as error:
        return (f"not everything could be cleaned up: {error.message}",)
    return ()


def discard_new_pins(snapshot: Snapshot, new: Iterable[Certificate]) -> None:
    """After a failure: remove the pinned files that the failed deployment wrote, unless a live file names them.

    Raises:
        HostError: one cannot be removed.
    """
    used = set(snapshot.record.deployment.certificates)
    if not snapshot.record.trusted:
        used |= _idents_in_live_files(snapshot.settings)
    for certificate in new:
        if certificate.ident not in used:
            files.remove(snapshot.pins.path_of(certificate))


def remove_stale_artifacts(targets: Iterable[Target], recorded: Collection[str], published: Collection[Path]) -> None:
    """Remove what an earlier deployment published and this one did not: maps of a type that no server names any more.

    ``recorded`` are the paths of the earlier deployment, as its record has them.

    Raises:
        HostError: one cannot be removed.
    """
    for target in targets:
        stale = [path for path in target.artifacts if str(path) in recorded and path not in published]
        if stale and target.is_configured:
            for path in stale:
                files.remove(path)


def _idents_in_live_files(settings: Settings) -> set[str]:
    """The pinned files that live texts name, also those of a server that is switched off now."""
    texts = (files.read_private(path) or b"" for path in registry.texts(settings))
    return {match.decode() for text in texts for match in _IDENT.findall(text)}
