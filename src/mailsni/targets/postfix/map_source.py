"""The tables of ``tls_server_sni_maps``: their sources line by line, and what is stored in the compiled ones."""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailsni.core.x509 import ChainDescription, describe
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files, text_files
from mailsni.host.commands import require_tool, run
from mailsni.targets.postfix import lines as lines_module
from mailsni.targets.postfix.map_types import SUFFIX_OF

SUFFIXES: Mapping[str, str] = {"dbm": ".pag", "sdbm": ".pag"} | {
    str(kind): suffix for kind, suffix in SUFFIX_OF.items()
}
"""What the file of a table is called beside its name (DATABASE_README); other types are no files of keys."""
_LARGEST_PEM = 1 << 20
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_TIMEOUT = 60.0
_FILES = 32
"""Files of a line that are looked at: a key and a chain for each of two algorithms are four."""


class Mistake(enum.Enum):
    """What is wrong with an entry: Postfix aborts the handshake of each client that asks for its name."""

    NO_CONTENT = "holds something else than keys and certificates"
    CERTIFICATE_FIRST = "has the certificate before the key"
    KEY_MISSING = "has no private key"
    EMPTY = "is empty"
    EXPIRED = "has an expired certificate"


@dataclass(frozen=True, slots=True)
class Table:
    """One table as it is named in a parameter."""

    written: str
    """``proxy:hash:/etc/postfix/sni``."""
    kind: str
    """``hash``; empty when none is written."""
    path: Path | None
    """Its name without a suffix; None when it is no file."""
    proxied: bool

    @property
    def compiled(self) -> Path | None:
        """The file that Postfix reads; None when it is no file of a known type."""
        suffix = SUFFIXES.get(self.kind)
        return None if self.path is None or suffix is None else self.path.with_name(self.path.name + suffix)

    @property
    def name(self) -> str:
        """As postmap(1) takes it."""
        return f"{self.kind}:{self.path}"


def table(written: str) -> Table:
    """A table from how it is written."""
    inner = written.removeprefix("proxy:")
    kind, colon, path = inner.partition(":")
    if not colon:
        return Table(written, "", Path(inner) if inner.startswith("/") else None, proxied=False)
    return Table(written, kind, Path(path) if path.startswith("/") else None, proxied=inner != written)


@dataclass(frozen=True, slots=True)
class SourceLine:
    """An entry in the source of a table."""

    number: int
    key: str
    """In lower case: postmap(1) folds it."""
    files: tuple[Path, ...]


def source_lines(text: str) -> Iterator[SourceLine]:
    """The entries of a source (postmap(1), -F): a key, then files with commas or blanks between them."""
    for entry in lines_module.entries(text):
        key, *rest = entry.text.split(maxsplit=1)
        words = re.split(r"[,\s]+", rest[0], maxsplit=_FILES)[:_FILES] if rest else []
        # What cannot be a path is not opened: a text of somebody's, or garbage.
        named = tuple(Path(word) for word in words if word and "\0" not in word)
        yield SourceLine(entry.number, key.lower(), named)


@dataclass(frozen=True, slots=True)
class Files:
    """What the files of source lines hold, each read once; no content is kept."""

    known: dict[Path, tuple[bytes, ...] | str]

    def mistake(self, line: SourceLine) -> Mistake | None:
        """What is wrong with what a line would store; None when all is well, or a file cannot be read."""
        labels: list[bytes] = []
        for path in line.files:
            found = self._labels(path)
            if isinstance(found, str):
                return None
            labels += found
        return _mistake_of(labels)

    def problem(self, line: SourceLine) -> str | None:
        """Why postmap(1) would leave out a line, exit status 0; None when it would not."""
        if not line.files:
            return "no file is named"
        found = ((path, self._labels(path)) for path in line.files)
        return next((f"{path}: {why}" for path, why in found if isinstance(why, str)), None)

    def _labels(self, path: Path) -> tuple[bytes, ...] | str:
        if path not in self.known:
            self.known[path] = _labels_in(path)
        return self.known[path]


def _labels_in(path: Path) -> tuple[bytes, ...] | str:
    """The kinds of PEM blocks in a file, or why it cannot be read."""
    try:
        content = files.read_untrusted(path, _LARGEST_PEM)
    except (HostError, PermissionMissingError):
        return "cannot be read"
    except OSError as error:
        return str(error.strerror)
    return "no such file" if content is None else tuple(_LABEL.findall(content))


def _mistake_of(labels: Iterable[bytes]) -> Mistake | None:
    known = [label for label in labels if label.endswith((b"PRIVATE KEY", b"CERTIFICATE"))]
    if not known:
        return Mistake.NO_CONTENT
    if not any(label.endswith(b"PRIVATE KEY") for label in known):
        return Mistake.KEY_MISSING
    return None if known[0].endswith(b"PRIVATE KEY") else Mistake.CERTIFICATE_FIRST


def stored_mistake(value: bytes, now: datetime) -> Mistake | None:
    """What is wrong with a stored value; None when Postfix can use it."""
    if not value:
        return Mistake.EMPTY
    try:
        content = base64.b64decode(value, validate=True)
    except binascii.Error:
        return Mistake.NO_CONTENT
    mistake = _mistake_of(_LABEL.findall(content))
    if mistake is not None:
        return mistake
    described = describe(content)
    return Mistake.EXPIRED if isinstance(described, ChainDescription) and described.leaf.not_after <= now else None


def stored(
    found: Table, keys: Iterable[str], config_directory: Path, now: datetime
) -> tuple[dict[str, Mistake | None], str | None]:
    """The keys of a compiled table, and what is wrong with the values: only that is kept of them.

    Args:
        found: the table.
        keys: those of its source, for types that cannot be listed (cdb before Postfix 3.10, measured).
        config_directory: of Postfix.
        now: the moment at which certificates must be valid.

    Returns:
        The keys; and Postfix's own words when the table cannot be opened.
    """
    command: list[str | Path] = [require_tool("postmap"), "-c", config_directory]
    asked = b"".join(key.encode("utf-8", "surrogateescape") + b"\n" for key in keys)
    if found.kind == "cdb" and asked:
        done = run([*command, "-q", "-", found.name], stdin=asked, timeout=_TIMEOUT)
    else:
        done = run([*command, "-s", found.name], timeout=_TIMEOUT)
    if done.returncode != 0 and "not supported" in done.stderr:
        return {}, None  # nobody can tell what is in it
    # Status 1 without a word means that nothing was found. (Of a long story about garbage the end may be missing.)
    if done.returncode not in (0, 1) or "fatal:" in done.stderr or (done.returncode == 1 and done.stderr):
        fatal = re.search(r"fatal: (.*)", done.stderr)
        return {}, fatal[1] if fatal is not None else done.stderr.splitlines()[0] if done.stderr else "cannot be read"
    pairs = (line.partition(b"\t") for line in done.stdout.split(b"\n") if line)
    return {key.decode("ascii", "replace").lower(): stored_mistake(value.strip(), now) for key, _, value in pairs}, None


def read_source(path: Path) -> tuple[SourceLine, ...] | None:
    """The entries of a source; None when there is none.

    Raises:
        MailsniError: it cannot be read.
    """
    text = text_files.text_of(path)
    return None if text is None else tuple(source_lines(text))


def newest(lines: Iterable[SourceLine]) -> dict[SourceLine, float]:
    """When the files of each line last changed, seconds since the epoch; not of lines with a file that is not there."""
    known: dict[Path, float | None] = {}
    found: dict[SourceLine, float] = {}
    for line in lines:
        for path in line.files:
            if path not in known:
                known[path] = _changed(path)
        times = [known[path] for path in line.files]
        if times and all(time is not None for time in times):
            found[line] = max(time for time in times if time is not None)
    return found


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None
