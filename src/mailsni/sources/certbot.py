"""A certbot directory: ``live/LINEAGE/{privkey,fullchain}.pem``, links into ``archive/LINEAGE``.

certbot is not atomic. A renewal writes four new files into ``archive``, then makes four ``previous_*.pem`` links,
then replaces the four links in ``live`` one by one by unlink and symlink (cert, privkey, chain, fullchain), then
removes the ``previous_*`` links (certbot 5.6, ``storage.py``, ``update_all_links_to``). In between a link is missing,
or the new key stands beside the old chain. A first issuance makes the links first and writes the files through them.
Which authority issued a lineage stands in ``renewal/LINEAGE.conf``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Reason
from mailsni.sources.base import CommandLine
from mailsni.sources.directory import DirectoryStore
from mailsni.sources.layout import FileLayout, Files
from mailsni.sources.layouts import CERTBOT_IN_PROGRESS

_DIRECTORY = Path("/etc/letsencrypt")
"""Certbot's own default."""
_RENEWED = (
    *(Reason.KEY_MISMATCH, Reason.BAD_PEM, Reason.ENCRYPTED_KEY, Reason.UNSUPPORTED_KEY, Reason.REFUSED_BY_OPENSSL),
    *(Reason.EXPIRED, Reason.NOT_YET_VALID),
)
"""What a renewal repairs."""
_MISSING = {Reason.KEY_MISSING: "privkey", Reason.CHAIN_MISSING: "fullchain"}
"""The file without which certbot refuses to renew a lineage (measured with 2.1 and 4.0)."""
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

    def renew(self, origin: str) -> CommandLine:
        """``certbot renew``, though it may not be due."""
        return self._command("renew", origin, "--force-renewal")

    def repair(self, origin: str, reason: Reason) -> tuple[str, str | None] | None:
        """A renewal."""
        if reason is Reason.RENEWAL_IN_PROGRESS:
            return shlex.join(("certbot", "certificates", *self._options())), "it completes the interrupted renewal"
        renewal = self.renew(origin)
        if reason is Reason.UNSUPPORTED_KEY:
            renewal += ("--key-type", "ecdsa")
        if reason in _MISSING and (link := self._link(origin, _MISSING[reason])) is not None:
            file, target = link
            link_it = shlex.join(("ln", "-sfT", str(target), str(file)))
            fill_it = f"(umask 077; touch {shlex.quote(str(file))})"
            return f"{link_it} && {fill_it} && {shlex.join(renewal)}", "without the file certbot refuses to renew it"
        return (shlex.join(renewal), None) if reason in (*_RENEWED, *_MISSING) else None

    def issue(self, origin: str, names: Iterable[str]) -> CommandLine:
        """``certbot certonly``."""
        return self._command("certonly", origin, *(word for name in names for word in ("-d", name)))

    def delete(self, origin: str) -> CommandLine:
        """``certbot delete``."""
        return self._command("delete", origin)

    def _command(self, verb: str, origin: str, *words: str) -> CommandLine:
        return ("certbot", verb, *self._options(), "--cert-name", _name(origin), *words)

    def _options(self) -> CommandLine:
        return () if self.directory == _DIRECTORY else ("--config-dir", str(self.directory))

    def _link(self, origin: str, kind: str) -> tuple[Path, Path] | None:
        """A link in ``live`` and what it must lead to, going by the link beside it; None where that is no link."""
        beside = Path(origin, "cert.pem")
        if not beside.is_symlink():
            return None
        target = beside.readlink()
        return beside.with_name(f"{kind}.pem"), target.with_name(target.name.replace("cert", kind, 1))


def _name(origin: str) -> str:
    """What certbot calls a lineage."""
    return origin.rpartition("/")[2]
