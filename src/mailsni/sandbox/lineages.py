"""A certbot directory without certbot: links in live/ that lead to numbered files in archive/."""

from __future__ import annotations

from pathlib import Path

from mailsni.sandbox.authority import Issued


class CertbotDirectory:
    """What certbot calls its configuration directory (``/etc/letsencrypt``), in a place of the caller's."""

    def __init__(self, root: Path) -> None:
        self.live = root / "live"
        self._archive = root / "archive"

    def path(self, lineage: str, kind: str) -> Path:
        """The link in live/ for ``cert``, ``privkey``, ``chain`` or ``fullchain``."""
        return self.live / lineage / f"{kind}.pem"

    def save(self, lineage: str, issued: Issued, *, version: int = 1) -> None:
        """Write a version of a lineage to archive/, and point the links to it."""
        contents = {
            "cert": issued.leaf_pem,
            "privkey": issued.key_pem,
            "chain": issued.chain_pem,
            "fullchain": issued.fullchain_pem,
        }
        for directory in (self._archive / lineage, self.live / lineage):
            directory.mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            file = self._archive / lineage / f"{kind}{version}.pem"
            file.touch(mode=0o600)
            file.write_bytes(content)
            link = self.path(lineage, kind)
            link.unlink(missing_ok=True)
            link.symlink_to(f"../../archive/{lineage}/{file.name}")
