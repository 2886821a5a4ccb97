"""What an administrator put into a table: the lines of its source, and the mistakes in what they would store."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files
from mailsni.targets.postfix import lines
from mailsni.targets.postfix.map_read import decoded

_LARGEST_PEM = 1 << 20
NO_SUCH_FILE = "no such file"
"""What :func:`read_labels` gives for a file that does not exist."""
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_KEY = re.compile(rb"(?=-----BEGIN [A-Z0-9 ]{0,64}PRIVATE KEY-----)")
_FILES = 32
"""Files of a line that are read: a key and a chain for each of two algorithms are four."""


class Mistake(enum.Enum):
    """What is wrong with an entry: Postfix aborts the handshake of each client that asks for its name."""

    NO_CONTENT = "holds something else than keys and certificates"
    CERTIFICATE_FIRST = "has the certificate before the key"
    KEY_MISSING = "has no private key"
    EMPTY = "is empty"


@dataclass(frozen=True, slots=True)
class SourceLine:
    """An entry in the source of a table."""

    number: int
    """0 in a table that has no source."""
    key: str
    """In lower case: postmap(1) folds it."""
    files: tuple[Path, ...]


def source_lines(text: str) -> Iterator[SourceLine]:
    """The entries of a source (postmap(1), -F): a key, then files with commas or blanks between them."""
    for entry in lines.entries(text):
        key, *rest = entry.text.split(maxsplit=1)
        yield SourceLine(entry.number, key.lower(), _paths(rest[0] if rest else ""))


def inline_lines(written: str) -> Iterator[SourceLine]:
    """The entries of ``inline:{ {a = /x, /y}, b=/z }`` (DATABASE_README; dict_inline.c)."""
    inside = written.partition("{")[2].rpartition("}")[0]
    for entry in lines.split_tables(inside):
        key, _, value = entry.removeprefix("{").removesuffix("}").partition("=")
        yield SourceLine(0, key.strip().lower(), _paths(value))


def _paths(value: str) -> tuple[Path, ...]:
    """The files of an entry. What cannot be a path is not opened: a text of somebody's, or garbage."""
    return tuple(Path(word) for word in lines.split_words(value)[:_FILES] if "\0" not in word)


PemLabels = tuple[bytes, ...]
"""The kinds of PEM blocks in a file, in order: ``PRIVATE KEY``, ``CERTIFICATE``."""


def read_labels(paths: Iterable[Path]) -> dict[Path, PemLabels | str]:
    """The PEM labels of each file, or why it cannot be read. No content is kept."""
    return {path: _labels_in(path) for path in dict.fromkeys(paths)}


def _labels_in(path: Path) -> PemLabels | str:
    try:
        content = files.read_untrusted(path, _LARGEST_PEM)
    except (HostError, PermissionMissingError):
        return "cannot be read"
    except OSError as error:
        return str(error.strerror)
    return NO_SUCH_FILE if content is None else tuple(_LABEL.findall(content))


def file_mistake(paths: Iterable[Path], labels: Mapping[Path, PemLabels | str]) -> Mistake | None:
    """What is wrong with what some files would store; None when all is well, or one cannot be read."""
    content: list[bytes] = []
    for path in paths:
        in_file = labels[path]
        if isinstance(in_file, str):
            return None
        content += in_file
    return _mistake_of(content)


def file_problem(line: SourceLine, labels: Mapping[Path, PemLabels | str]) -> str | None:
    """Why postmap(1) would leave out a line, exit status 0; None when it would not."""
    if not line.files:
        return "no file is named"
    reasons = ((path, labels[path]) for path in line.files)
    return next((f"{path}: {why}" for path, why in reasons if isinstance(why, str)), None)


def stored_mistake(value: bytes) -> Mistake | None:
    """What is wrong with a stored value; None when it holds keys and certificates in the order that Postfix needs."""
    return _mistake_of(_LABEL.findall(decoded(value))) if value else Mistake.EMPTY


def stored_pairs(content: bytes) -> list[bytes]:
    """The keys of an entry, each with the certificates behind it (postconf(5), smtpd_tls_chain_files)."""
    return _KEY.split(content)[1:]


def _mistake_of(labels: Iterable[bytes]) -> Mistake | None:
    known = [label for label in labels if label.endswith((b"PRIVATE KEY", b"CERTIFICATE"))]
    if not known:
        return Mistake.NO_CONTENT
    if not any(label.endswith(b"PRIVATE KEY") for label in known):
        return Mistake.KEY_MISSING
    return None if known[0].endswith(b"PRIVATE KEY") else Mistake.CERTIFICATE_FIRST


def newest_changes(source: Sequence[SourceLine]) -> dict[SourceLine, float]:
    """When the files of each line last changed, seconds since the epoch; not of lines with a file that is not there."""
    changed = {path: _changed(path) for path in dict.fromkeys(path for line in source for path in line.files)}
    newest = {}
    for line in source:
        times = [time for path in line.files if (time := changed[path]) is not None]
        if times and len(times) == len(line.files):
            newest[line] = max(times)
    return newest


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None
