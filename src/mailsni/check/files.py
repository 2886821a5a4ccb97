"""Checks files: who else may read or replace them, and are the pinned ones there and unchanged."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result
from mailsni.core.text import summarize_names
from mailsni.errors import PermissionMissingError
from mailsni.host import file_identity, files, permissions

_DIRECTORY = 0o755
_HARMS = {
    files.PRIVATE: "others may read its keys",
    files.PUBLIC: "others may change it",
    _DIRECTORY: "others may replace the files in it",
}
"""What it does when a file or a directory has more than the mode allows."""


def check_pinned_files(context: CheckContext) -> Iterator[Result]:
    """The directory, and the pinned file of each certificate that is deployed."""
    directory = context.pin_directory
    yield from _check_mode(directory, _DIRECTORY, context.owner)
    listable = permissions.excess_permissions(directory, 0o700, context.owner) if directory.is_dir() else None
    if listable is not None and permissions.excess_permissions(directory, _DIRECTORY, context.owner) is None:
        yield Finding(Level.WARNING, Code.INSECURE_DIRECTORY, f"{listable}: others may list it")
    if context.record is None or (directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK)):
        raise PermissionMissingError(str(directory))
    if context.deployment.names:
        yield from _check_contents(context, directory)


def _check_contents(context: CheckContext, directory: Path) -> Iterator[Result]:
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, idents in (context.names or {}).items():
        for ident in idents:
            names_of[ident].append(name)
    missing: list[str] = []
    changed: list[str] = []
    for ident, names in names_of.items():
        path = directory / f"{ident}.pem"
        identity = file_identity.of_file(path)
        if identity is None:
            missing += names
            continue
        yield from _check_mode(path, files.PRIVATE, context.owner)
        if identity != context.deployment.pins.get(ident):
            digest = hashlib.sha256(files.read_private(path) or b"").hexdigest()
            if not digest.startswith(ident.partition("-")[2]):
                changed += names
    if missing:
        dovecot_reads_it = context.host.dovecot is not None and context.host.settings.dovecot.certificates == "pinned"
        harm = ": Dovecot does not start again" if dovecot_reads_it else ""
        text = f"the pinned file of {summarize_names(missing)} is gone from {directory}{harm}"
        yield Finding(Level.CRITICAL, Code.PINNED_FILE_MISSING, text, tuple(missing))
    if changed:
        text = f"the pinned file of {summarize_names(changed)} in {directory} was changed"
        yield Finding(Level.CRITICAL, Code.PINNED_FILE_CHANGED, text, tuple(changed))


def check_published(paths: Sequence[Path], mode: int, owner: int) -> Iterator[Finding]:
    """Findings for files of a server's and their directory: another owner, or bits that the mode does not have."""
    for path in paths:
        yield from _check_mode(path, mode, owner)
    yield from _check_mode(paths[0].parent, _DIRECTORY, owner)


def _check_mode(path: Path, mode: int, owner: int) -> Iterator[Finding]:
    excess = permissions.excess_permissions(path, mode, owner)
    if excess is not None:
        code = Code.INSECURE_DIRECTORY if mode == _DIRECTORY else Code.INSECURE_FILE
        yield Finding(Level.CRITICAL, code, f"{excess}: {_HARMS[mode]}")


def is_absent(path: Path) -> bool:
    """Whether nothing is there; no, where this user cannot tell."""
    return not os.path.lexists(path) and os.access(path.parent, os.X_OK)
