"""A certbot directory: ``live/LINEAGE/{privkey,fullchain}.pem``, links into ``archive/LINEAGE``.

certbot is not atomic. A renewal writes four new files into ``archive``, then makes four ``previous_*.pem`` links,
then replaces the four links in ``live`` one by one by unlink and symlink (cert, privkey, chain, fullchain), then
removes the ``previous_*`` links (certbot 5.6, ``storage.py``, ``update_all_links_to``). In between a link is missing,
or the new key stands beside the old chain. A first issuance makes the links first and writes the files through them.
Which authority issued a lineage stands in ``renewal/LINEAGE.conf``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Reason
from mailsni.sources.base import CommandLine
from mailsni.sources.directory import DirectoryStore
from mailsni.sources.layout import FileLayout, Files
from mailsni.sources.layouts import CERTBOT_IN_PROGRESS

_DAMAGED = (Reason.KEY_MISMATCH, Reason.KEY_MISSING, Reason.CHAIN_MISSING, Reason.BAD_PEM, Reason.ENCRYPTED_KEY)
_RENEWALS = {
    **dict.fromkeys(_DAMAGED, ("--force-renewal",)),
    Reason.UNSUPPORTED_KEY: ("--force-renewal", "--key-type", "ecdsa"),
    Reason.REFUSED_BY_OPENSSL: ("--force-renewal",),
    Reason.EXPIRED: ("--dry-run",),
}
"""The options with which certbot repairs a lineage."""
_LIVE = FileLayout(
    (
        Files(
            key="privkey.pem",
            chain=("fullchain.pem",),
            others=("cert.pem", "chain.pem"),
            in_progress=CERTBOT_IN_PROGRESS,
            authority="../../renewal/{}.conf",
        ),
    ),
    beyond=("../archive",),
    contents=("*.pem",),
)


def certbot_store(path: Path, pause: Callable[[float], None] = time.sleep) -> DirectoryStore:
    """The store in a ``live`` directory. The origin of a certificate is its lineage's directory there."""
    return DirectoryStore(path, _LIVE, Certbot(path.parent), pause)


@dataclass(frozen=True, slots=True)
class Certbot:
    """See :class:`mailsni.sources.base.AcmeClient`."""

    directory: Path
    name: str = "certbot"

    @property
    def hook(self) -> Path:
        """A post hook: it runs once, after all renewals."""
        return self.directory / "renewal-hooks/post/mailsni"

    def renewal_file(self, origin: str) -> Path:
        """``renewal/LINEAGE.conf``."""
        return self.directory / "renewal" / f"{_name(origin)}.conf"

    def paths(self, origin: str) -> tuple[Path, ...]:
        """The directories in ``live`` and ``archive``."""
        return (Path(origin), self.directory / "archive" / _name(origin))

    def repair(self, origin: str, reason: Reason) -> tuple[CommandLine, str | None] | None:
        """A renewal, with options."""
        if reason is Reason.RENEWAL_IN_PROGRESS:
            return ("certbot", "certificates"), "it completes the interrupted renewal"
        if (options := _RENEWALS.get(reason)) is None:
            return None
        note = "it shows why the certificate is not renewed" if reason is Reason.EXPIRED else None
        return ("certbot", "renew", "--cert-name", _name(origin), *options), note

    def issue(self, origin: str, names: Iterable[str]) -> CommandLine:
        """``certbot certonly``."""
        return ("certbot", "certonly", "--cert-name", _name(origin), *(word for name in names for word in ("-d", name)))

    def delete(self, origin: str) -> CommandLine:
        """``certbot delete``."""
        return ("certbot", "delete", "--cert-name", _name(origin))


def _name(origin: str) -> str:
    """What certbot calls a lineage."""
    return origin.rpartition("/")[2]
