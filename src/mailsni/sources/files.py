"""One pair that the configuration names file by file. Its links may lead anywhere: the administrator named them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailsni.sources.directory import DirectoryStore
from mailsni.sources.layout import Place


def files_store(certificate: Path, key: Path, chain: str) -> DirectoryStore:
    """The store of a pair; its origin is the path of the certificate.

    Args:
        certificate: the file with the leaf, and any of its issuers.
        key: the file with the private key; it may be the same one.
        chain: a file with issuers; empty: there is none.
    """
    return DirectoryStore(certificate, NamedFiles(str(key), chain))


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """See :class:`mailsni.sources.layout.Layout`. The root is the file with the certificate."""

    key: str
    chain: str
    beyond: tuple[str, ...] = ()
    contents: tuple[str, ...] = ("*",)

    def places(self, root: Path) -> Iterator[Place]:
        """The pair. A store of which neither file is there is not there itself: it may not be mounted."""
        certificate = str(root)
        try:
            os.lstat(certificate)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.lexists(self.key):
                raise
        chain = (certificate, self.chain) if self.chain else (certificate,)
        yield Place(certificate, self.key, chain, roots=(*chain, self.key))

    def elsewhere(self, root: Path) -> tuple[Path, ...]:
        """The files, and those to which their links lead."""
        paths = (str(root), self.key, *filter(None, [self.chain]))
        return tuple(dict.fromkeys(Path(path) for name in paths for path in (name, os.path.realpath(name))))
