"""A certbot directory without certbot: the same files, links, modes and order of steps.

Source of the facts: certbot 5.6, ``certbot/_internal/storage.py`` (``new_lineage``, ``save_successor``,
``update_all_links_to``, ``truncate``, ``delete_files``). The order is the point: while certbot works, links dangle, are
absent, or point at the files of different versions, and a program that looks at that moment has to cope.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mailsni.sandbox.authority import Issued

KINDS = ("cert", "privkey", "chain", "fullchain")
KEPT_VERSIONS = 5
"""Old versions that certbot leaves in archive/ beside the current one."""

_README = b"What the files in this directory are.\n"


class CertbotDirectory:
    """What certbot calls its configuration directory (``/etc/letsencrypt``), in a place of the caller's.

    Args:
        root: the directory; made if absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live = root / "live"
        self.archive = root / "archive"
        self.renewal = root / "renewal"
        for directory, mode in ((self.live, 0o700), (self.archive, 0o700), (self.renewal, 0o755)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        _write(self.live / "README", _README)

    def path(self, lineage: str, kind: str) -> Path:
        """The link in live/ for one of :data:`KINDS`."""
        return self.live / lineage / f"{kind}.pem"

    def version(self, lineage: str) -> int:
        """The highest version number in archive/."""
        found = (re.fullmatch(r"cert(\d+)\.pem", entry.name) for entry in (self.archive / lineage).iterdir())
        return max(int(match[1]) for match in found if match)

    def add(self, lineage: str, issued: Issued) -> Path:
        """First issuance, to its end. Returns the lineage's directory in live/."""
        list(self.issuance_steps(lineage, issued))
        return self.live / lineage

    def renew(self, lineage: str, issued: Issued) -> Path:
        """A renewal, to its end. Returns the lineage's directory in live/."""
        list(self.renewal_steps(lineage, issued))
        return self.live / lineage

    def put(self, lineage: str, issued: Issued) -> Path:
        """A renewal, or the first issuance where there is no such lineage."""
        return (self.renew if (self.live / lineage).exists() else self.add)(lineage, issued)

    def issuance_steps(self, lineage: str, issued: Issued) -> Iterator[str]:
        """First issuance, one change of the file system at a time.

        The links come first and dangle; the files are then written through them.

        Yields:
            After every change, what it was; a caller that stops asking leaves the directory as certbot would if it
            were killed there.

        Raises:
            FileExistsError: there is such a lineage.
        """
        for directory in (self.archive / lineage, self.live / lineage):
            directory.mkdir()
            directory.chmod(0o755)
            yield f"mkdir {directory.relative_to(self.root)}"
        for kind in KINDS:
            self.path(lineage, kind).symlink_to(f"../../archive/{lineage}/{kind}1.pem")
            yield f"symlink {kind}.pem"
        for kind, content in _contents(issued).items():
            _write(self.archive / lineage / f"{kind}1.pem", content, 0o600 if kind == "privkey" else 0o644)
            yield f"write {kind}1.pem"
        _write(self.live / lineage / "README", _README)
        yield "write README"
        self._write_renewal(lineage)
        yield f"write renewal/{lineage}.conf"

    def renewal_steps(self, lineage: str, issued: Issued) -> Iterator[str]:
        """A renewal, one change of the file system at a time: see :meth:`issuance_steps`.

        The new files come first; then ``previous_*`` links are made, each of the four links is removed and made anew
        (between the two it is absent, and between the first and the last the set is mixed), the ``previous_*`` links
        are removed, and versions before the last five are deleted from archive/.

        Raises:
            FileNotFoundError: there is no such lineage.
        """
        archive = self.archive / lineage
        version = self.version(lineage) + 1
        contents = _contents(issued)
        for kind in ("privkey", "cert", "chain", "fullchain"):
            _write(archive / f"{kind}{version}.pem", contents[kind], 0o600 if kind == "privkey" else 0o644)
            yield f"write {kind}{version}.pem"
        self._write_renewal(lineage)
        yield f"write renewal/{lineage}.conf"
        for kind in KINDS:
            link = self.path(lineage, kind)
            target = Path(os.path.normpath(link.parent / link.readlink()))
            link.with_name(f"previous_{kind}.pem").symlink_to(target)
            yield f"symlink previous_{kind}.pem"
        for kind in KINDS:
            link = self.path(lineage, kind)
            directory = link.readlink().parent
            link.unlink()
            yield f"unlink {kind}.pem"
            link.symlink_to(directory / f"{kind}{version}.pem")
            yield f"symlink {kind}.pem"
        for kind in KINDS:
            (self.live / lineage / f"previous_{kind}.pem").unlink()
            yield f"unlink previous_{kind}.pem"
        for old in range(1, version - KEPT_VERSIONS):
            for kind in KINDS:
                stale = archive / f"{kind}{old}.pem"
                if stale.exists():
                    stale.unlink()
                    yield f"unlink {kind}{old}.pem"

    def delete(self, lineage: str) -> None:
        """What ``certbot delete`` does; it runs no hook.

        Raises:
            FileNotFoundError: there is no such lineage.
        """
        (self.renewal / f"{lineage}.conf").unlink()
        for kind in KINDS:
            self.path(lineage, kind).unlink(missing_ok=True)
        directory = self.live / lineage
        (directory / "README").unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()
        shutil.rmtree(self.archive / lineage)

    def _write_renewal(self, lineage: str) -> None:
        lines = ["# renew_before_expiry = 30 days", "version = 5.6.0", f"archive_dir = {self.archive / lineage}"]
        lines += [f"{kind} = {self.path(lineage, kind)}" for kind in KINDS]
        lines += ["", "# Options used in the renewal process", "[renewalparams]", "authenticator = standalone"]
        _write(self.renewal / f"{lineage}.conf", os.fsencode("\n".join([*lines, ""])))


def der_blocks(pem: bytes) -> tuple[bytes, ...]:
    """The DER of each PEM block: what a file holds, however it is laid out."""
    return tuple(base64.b64decode(one) for one in re.findall(rb"-----BEGIN [A-Z ]+-----(.+?)-----END", pem, re.DOTALL))


def _contents(issued: Issued) -> dict[str, bytes]:
    values = (issued.leaf_pem, issued.key_pem, issued.chain_pem, issued.fullchain_pem)
    return dict(zip(KINDS, values, strict=True))


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)  # whatever the umask is
        stream.write(content)
