"""A certbot directory: ``live/LINEAGE/{privkey,fullchain}.pem``, links into ``archive/LINEAGE``.

certbot is not atomic. A renewal writes four new files into ``archive``, then makes four ``previous_*.pem`` links,
then replaces the four links in ``live`` one by one by unlink and symlink (cert, privkey, chain, fullchain), then
removes the ``previous_*`` links (certbot 5.6, ``storage.py``, ``update_all_links_to``). In between a link is missing,
or the new key stands beside the old chain. A first issuance makes the links first and writes the files through them.
So both files are read once and proven to belong together; a pair that does not, in a lineage that changed a moment
ago, is looked at again; and one that stays broken is reported, not used.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Certificate, FileIdentity, Inventory, Progress, Reading, Reason, Skipped
from mailsni.core.names import RefusedNameError, safe_path, shown
from mailsni.core.x509 import Proven, prove
from mailsni.errors import HostError, PermissionMissingError
from mailsni.sources.safe_read import Containment, ReadRefusedError, StoreFile, identity

RETRIES = 5
RETRY_PAUSE = 0.2
"""Seconds between two looks at the lineages that look torn, all of them together."""
RECENT = 60.0
"""Seconds. A lineage that has not changed for longer than this is not being renewed: it is looked at once."""

_KEY = "privkey.pem"
_CHAIN = "fullchain.pem"
_PEM_NAMES = frozenset({"cert.pem", _KEY, "chain.pem", _CHAIN})
_PREVIOUS = frozenset(f"previous_{name}" for name in _PEM_NAMES)
_WORTH_A_RETRY = frozenset({Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM})


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at one lineage."""

    reading: Reading | None = None
    skipped: tuple[Skipped, ...] = ()
    foreign: bool = False
    torn: bool = False


def scan(
    live: Path,
    *,
    known: Mapping[str, Reading] | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Inventory:
    """Read every lineage below a ``live`` directory.

    Args:
        live: the directory that holds one directory per lineage.
        known: what earlier scans read, by lineage: not read again as long as the files are the same.
        progress: told about every lineage.
        pause: how to wait between two looks at a torn lineage.

    Raises:
        PermissionMissingError: this user may not list the directory.
        HostError: the directory is missing or cannot be listed.
    """
    try:
        with os.scandir(live) as entries:
            # A link first: to follow one that leads to itself is an error, and not one of the whole directory.
            names = sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir())
    except PermissionError as error:
        raise PermissionMissingError(f"{live}: cannot be read: {error.strerror}", hint="run it as root") from None
    except OSError as error:
        raise HostError(
            f"{live}: cannot be read: {error.strerror}",
            hint="[[sources]] path in the configuration names the directory with one directory per certificate",
        ) from None
    containment = _containment(live)
    looks: dict[str, _Look] = {}
    for done, name in enumerate(names, 1):
        looks[name] = _unchanged((known or {}).get(f"{live}/{name}")) or _look(live, name, containment)
        if progress is not None:
            progress("reading certificates", done, len(names))
    torn = [name for name in names if looks[name].torn]
    for _ in range(RETRIES):
        if not torn:
            break
        pause(RETRY_PAUSE)
        looks |= {name: _look(live, name, containment) for name in torn}
        torn = [name for name in torn if looks[name].torn]
    return _inventory(live, looks)


def fingerprint(live: Path) -> bytes:
    """What tells a change of a store: a digest of which file each key and chain is. Nothing is opened, no key is read.

    Args:
        live: as for :func:`scan`. It need not be there.

    Returns:
        The same bytes as long as every link leads to the very files that it led to, unchanged.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with os.scandir(live) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        return b"errno %d" % (error.errno or 0)
    for name in names:
        found = [_identity_of(f"{live}/{name}/{file}") for file in (_KEY, _CHAIN)]
        if any(found):
            digest.update(repr((name, found)).encode("utf-8", "surrogateescape"))
    return digest.digest()


def _identity_of(path: str) -> FileIdentity | int | None:
    """Which file a path leads to; None when to none; an error's number where that cannot be told."""
    try:
        return identity(os.stat(path))  # noqa: PTH116  # twice for every lineage
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) or -1


def _containment(live: Path) -> Containment:
    real = live.resolve()
    roots = {real, (real.parent / "archive").resolve(), (live.parent / "archive").resolve()}
    return Containment(tuple(sorted(str(root) for root in roots)))


def _inventory(live: Path, looks: dict[str, _Look]) -> Inventory:
    known = [(name, look) for name, look in looks.items() if not look.foreign]
    return Inventory(
        certificates=tuple(look.reading.certificate for _, look in known if look.reading),
        skipped=tuple(skipped for _, look in known for skipped in look.skipped),
        lineages=frozenset(f"{live}/{name}" for name, _ in known),
        readings=tuple(look.reading for _, look in known if look.reading),
    )


def read_again(certificate: Certificate) -> Certificate | None:
    """The same certificate with its key and chain; None when the lineage is not what it was."""
    live, _, name = certificate.source.rpartition("/")
    reading = _look(Path(live), name, _containment(Path(live))).reading
    return reading.certificate if reading and reading.certificate.ident == certificate.ident else None


def _unchanged(reading: Reading | None) -> _Look | None:
    """What is known of a lineage, if its links lead to the very files that were read and proven then."""
    if reading is None:
        return None
    source = reading.certificate.source
    try:
        found = tuple(identity(os.stat(f"{source}/{name}")) for name in (_CHAIN, _KEY))  # noqa: PTH116  # hot
    except OSError:
        return None
    return _good(reading) if found == reading.files else None


def _good(reading: Reading) -> _Look:
    source = reading.certificate.source
    refused = (f"the name {name} in the certificate is refused" for name in reading.refused_names)
    return _Look(reading, tuple(Skipped(source, Reason.BAD_NAME, detail) for detail in refused))


def _look(live: Path, name: str, containment: Containment) -> _Look:
    path = f"{live}/{name}"
    try:
        source = safe_path(path)
    except RefusedNameError as error:
        if _holds_no_certificate(Path(path)):
            return _Look(foreign=True)
        return _Look(skipped=(Skipped(shown(path), Reason.BAD_NAME, str(error)),))
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if Path(path).is_symlink() and not Path(path).exists():
            return _Look(skipped=(Skipped(source, Reason.CHAIN_MISSING, "the lineage is a link to nothing"),))
        return _Look(foreign=True)
    except OSError as error:
        return _Look(skipped=(Skipped(source, Reason.UNREADABLE, str(error.strerror)),))
    try:
        return _look_inside(source, directory, containment)
    finally:
        os.close(directory)


def _holds_no_certificate(path: Path) -> bool:
    """Whether somebody's own directory or link lies there, and no lineage."""
    try:
        return _PEM_NAMES.isdisjoint(entry.name for entry in path.iterdir())
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _look_inside(source: str, directory: int, containment: Containment) -> _Look:
    try:
        if not containment.holds(directory):
            detail = "the lineage is a link that leaves the store"
            return _Look(skipped=(Skipped(source, Reason.SYMLINK_OUTSIDE_STORE, detail),))
        entries = frozenset(os.listdir(directory))
        changed = os.fstat(directory).st_ctime
    except OSError as error:
        return _Look(skipped=(Skipped(source, Reason.UNREADABLE, str(error.strerror)),))
    in_renewal = bool(entries & _PREVIOUS)
    if not in_renewal and not entries & _PEM_NAMES:
        return _Look(foreign=True)
    chain = _read(_CHAIN, Reason.CHAIN_MISSING, directory, containment)
    key = _read(_KEY, Reason.KEY_MISSING, directory, containment)
    outcome = _pair(source, chain, key)
    if isinstance(outcome, Reading):
        return _good(outcome)
    touched = max(changed, *(part.changed for part in (chain, key) if isinstance(part, StoreFile)), 0.0)
    recent = abs(time.time() - touched) < RECENT
    torn = outcome.reason in _WORTH_A_RETRY and (in_renewal or recent)
    if in_renewal and outcome.reason in _WORTH_A_RETRY:
        detail = f"certbot's previous_*.pem links are there and {outcome.detail}; the next certbot run mends it"
        outcome = Skipped(source, Reason.RENEWAL_IN_PROGRESS, detail, outcome.names)
    return _Look(skipped=(outcome,), torn=torn)


def _read(name: str, missing: Reason, directory: int, containment: Containment) -> StoreFile | ReadRefusedError:
    try:
        return containment.read(name, directory, missing=missing)
    except ReadRefusedError as error:
        return error


def _pair(source: str, chain: StoreFile | ReadRefusedError, key: StoreFile | ReadRefusedError) -> Reading | Skipped:
    if isinstance(chain, ReadRefusedError):
        return Skipped(source, chain.reason, chain.detail)
    if isinstance(key, ReadRefusedError):
        # The leaf is read all the same: a lineage without a mail name is nobody's concern, whatever its key is like.
        return Skipped(source, key.reason, key.detail, _names_of(source, chain.content))
    outcome = prove(source, chain.content, key.content)
    if isinstance(outcome, Proven):
        return Reading((chain.identity, key.identity), outcome.certificate, outcome.refused_names)
    return Skipped(source, outcome.reason, outcome.detail, outcome.names)


def _names_of(source: str, chain_pem: bytes) -> tuple[str, ...]:
    outcome = prove(source, chain_pem, None)
    return outcome.certificate.names if isinstance(outcome, Proven) else outcome.names
