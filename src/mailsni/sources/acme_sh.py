"""acme.sh's home: ``NAME/`` with an RSA key and ``NAME_ecc/`` with an ECDSA one, or with either of them.

acme.sh 3.1 writes in place: first the key, which is new only with ``Le_ForceNewDomainKey`` or another key length, then,
after the order, ``NAME.cer``, ``fullchain.cer`` and ``ca.cer``. If the order fails, the new key stays beside the old
chain. ``--install-cert`` copies key and chain where ``NAME.conf`` says, after that. ``*.key.next`` is a key for a later
renewal. The name of a directory is what the user typed: a wildcard, or Unicode.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailsni.core.model import Reason
from mailsni.core.names import escaped_origin
from mailsni.sources.directory import DirectoryStore
from mailsni.sources.layout import Files, Place
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary

_HOME = ".acme.sh"
_ECC = "_ecc"
_AT_HOME = Files("{}.key", ("fullchain.cer",))
_INSTALLED = Files("", ())
_SETTING = re.compile(r"^(Le_RealKeyPath|Le_RealFullChainPath|Le_CertCreateTime)=(.*)$", re.MULTILINE)


def acme_sh_store(path: Path) -> DirectoryStore:
    """The store in acme.sh's home, or in the directory with ``.acme.sh``."""
    return DirectoryStore(path, AcmeShLayout())


@dataclass(frozen=True, slots=True)
class AcmeShLayout:
    """See :class:`mailsni.sources.layout.Layout`."""

    beyond: tuple[str, ...] = ()
    contents: tuple[str, ...] = ("*.key", "*.cer", "*.conf")

    def places(self, root: Path) -> Iterator[Place]:
        """The installed files of each certificate where ``NAME.conf`` names some, else those in its directory.

        What was never issued has no place: acme.sh leaves a key and a request.
        """
        home = f"{root}/{_HOME}" if os.path.isdir(f"{root}/{_HOME}") else str(root)
        for name in sorted(os.listdir(home)):
            if name.startswith(".") or not os.path.isdir(f"{home}/{name}"):
                continue
            directory, domain = f"{home}/{name}", name.removesuffix(_ECC)
            origin = f"{home}/{escaped_origin(name)}"
            settings = _settings(directory, domain)
            key, chain = settings.get("Le_RealKeyPath", ""), settings.get("Le_RealFullChainPath", "")
            if _is_file(key) and _is_file(chain):
                yield Place(origin, key, (chain,), _INSTALLED, domain, roots=(key, chain))
            elif os.path.lexists(f"{directory}/fullchain.cer") or settings.get("Le_CertCreateTime"):
                at_home = f"{directory}/{domain}.key", (f"{directory}/fullchain.cer",)
                yield Place(origin, *at_home, _AT_HOME, domain)

    def elsewhere(self, root: Path) -> tuple[Path, ...]:
        """The installed files."""
        try:
            return tuple(Path(path) for place in self.places(root) for path in place.roots)
        except OSError:
            return ()


def _settings(directory: str, domain: str) -> Mapping[str, str]:
    """What ``NAME.conf`` says; nothing where it cannot be read.

    acme.sh writes assignments for a shell, each value in single quotes. Nothing is executed or expanded here.
    """
    try:
        file = StoreBoundary((os.path.realpath(directory),)).read(
            f"{directory}/{domain}.conf", missing=Reason.UNREADABLE
        )
    except ReadRefusedError:
        return {}
    settings = {}
    for name, quoted in _SETTING.findall(os.fsdecode(file.content)):
        try:
            words = shlex.split(quoted, comments=True)
        except ValueError:
            continue
        settings[name] = words[0] if len(words) == 1 else ""
    return settings


def _is_file(path: str) -> bool:
    """Whether an absolute path leads to a regular file."""
    return path.startswith("/") and "\0" not in path and os.path.isfile(path)
