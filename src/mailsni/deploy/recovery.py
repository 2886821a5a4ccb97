"""What is deployed where no record says so: the live texts name the pinned files, and those hold the certificates.

A pinned file proves itself: its name is made of what it holds. The comments of the texts state from which lineage each
certificate came, so that the last good one of a broken lineage stays, record or not. Where a template of the
administrator's writes no comments, a broken lineage with one of its names counts as the origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from mailsni.core.deployment import DeploymentRecord
from mailsni.core.model import Certificate, Inventory
from mailsni.core.names import RefusedNameError, host_name
from mailsni.host import files
from mailsni.targets.base import Target
from mailsni.targets.pinned import PinDirectory, is_pinned
from mailsni.targets.rendering import stated_origins


def complete(record: DeploymentRecord, targets: Iterable[Target], found: Inventory) -> DeploymentRecord:
    """A record, with what it lacks from the live texts where it is not trusted.

    Args:
        record: of what is deployed, or was about to be.
        targets: whose live texts are read.
        found: what the stores have. Of what they have not, only the certificates of lineages that exist are read.

    Raises:
        PermissionMissingError: this user may not read a live text or a pinned file.
        HostError: one cannot be read.
    """
    if record.trusted:
        return record
    names: dict[str, tuple[Path, ...]] = {}
    origins: dict[str, str] = {}
    for target in targets:
        text = files.read_private(target.path) or b""
        origins |= stated_origins(text)
        for name, paths in target.named_files(text).items():
            pinned = tuple(dict.fromkeys(path for path in paths if is_pinned(path)))
            if pinned and _is_name(name):
                names.setdefault(name, pinned)
    files_by_ident = {path.stem: path for pinned in names.values() for path in pinned}
    idents = {name: tuple(path.stem for path in pinned) for name, pinned in names.items()}
    known = record.deployment
    return replace(
        record,
        deployment=replace(
            known,
            names=idents | dict(known.names),
            certificates=_certificates(files_by_ident, origins, found) | dict(known.certificates),
            pin_directory=known.pin_directory or next((str(path.parent) for path in files_by_ident.values()), ""),
        ),
    )


def _is_name(text: str) -> bool:
    try:
        return host_name(text) == text
    except RefusedNameError:
        return False


def _certificates(paths: Mapping[str, Path], origins: Mapping[str, str], found: Inventory) -> dict[str, Certificate]:
    """The certificates of these pinned files, by ident: from the stores, else from the files themselves."""
    certificates = {each.ident: each for each in found.certificates if each.ident in paths}
    for ident in sorted(paths.keys() - certificates.keys()):
        stated = origins.get(ident.partition("-")[0])
        if stated is not None and stated not in found.lineages:
            continue
        pair = PinDirectory(paths[ident].parent).last_good(ident, stated or str(paths[ident]))
        origin = stated or (_broken_lineage(pair.certificate, found) if pair is not None else None)
        if pair is not None and origin is not None:
            certificates[ident] = replace(pair.certificate, source=origin, kept=False)
    return certificates


def _broken_lineage(certificate: Certificate, found: Inventory) -> str | None:
    """A lineage that may have been the origin of a certificate of which no text states it.

    It has no usable certificate now, and shares a name with that one, or nobody knows its names.
    """
    whole = {each.source for each in found.certificates}
    broken = (each for each in found.skipped if each.source in found.lineages and each.source not in whole)
    likely = (each.source for each in broken if not each.names or set(each.names).intersection(certificate.names))
    return next(likely, None)
