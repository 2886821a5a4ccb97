"""Checks files: who else may read or replace them, and are the pinned ones there and unchanged."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result
from mailsni.core.text import summarize_names
from mailsni.errors import PermissionMissingError
from mailsni.host import file_identity, files, permissions


def check_pinned_files(context: CheckContext) -> Iterator[Result]:
    """The directory, and the pinned file of each certificate that is deployed."""
    directory = context.pin_directory
    yield from check_directory(directory, context.owner)
    listable = permissions.excess_permissions(directory, 0o700, context.owner) if directory.is_dir() else None
    if listable is not None and permissions.excess_permissions(directory, 0o755, context.owner) is None:
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
        yield from check_files((path,), files.PRIVATE, context.owner)
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


def check_files(paths: Iterable[Path], mode: int, owner: int) -> Iterator[Finding]:
    """A finding for each file with another owner, or with bits that the mode does not have."""
    harm = "others may read its keys" if mode == files.PRIVATE else "others may change it"
    for path in paths:
        excess = permissions.excess_permissions(path, mode, owner)
        if excess is not None:
            yield Finding(Level.CRITICAL, Code.INSECURE_FILE, f"{excess}: {harm}")


def check_directory(directory: Path, owner: int) -> Iterator[Finding]:
    """A finding for a directory that others may write in, or own."""
    excess = permissions.excess_permissions(directory, 0o755, owner)
    if excess is not None:
        text = f"{excess}: others may replace the files in it"
        yield Finding(Level.CRITICAL, Code.INSECURE_DIRECTORY, text)


def is_absent(path: Path) -> bool:
    """Whether nothing is there; no, where this user cannot tell."""
    return not os.path.lexists(path) and os.access(path.parent, os.X_OK)
