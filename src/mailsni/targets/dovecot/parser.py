"""Dovecot's configuration files as its own parser reads them, with the file and the line of everything.

``doveconf`` tells what is in force and nothing of where it stands. The rules are those of Dovecot's ``config-parser.c``
(2.3 and 2.4 agree on them): lines end with a line feed only; blanks are space and tab; ``#`` begins a comment but
within quotes; a backslash at the end continues a line; ``key = value``, ``key = <file``, ``kind name {`` and ``}``
stand on lines of their own; ``!include`` takes a glob(7) pattern, relative to the file it stands in.

Whatever the files hold, reading them ends: sizes, depth and number are bounded, a loop is left, nothing that is not a
regular file is opened.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

FILE_LIMIT = 32 << 20
"""Bytes of one file that is read. The include for 10,000 names has 4 MB."""
TOTAL_LIMIT = 128 << 20
"""Bytes of all files together."""
FILES_LIMIT = 20_000
DEPTH_LIMIT = 20
"""Files within files."""
NESTING_LIMIT = 64
"""Blocks within blocks; Dovecot has use for four."""
_BLANKS = " \t"
_CODE = re.compile(r"""(?:[^'"#]++|"(?:[^"\\]++|\\.?)*+(?:"|\Z)|'(?:[^'\\]++|\\.?)*+(?:'|\Z))*+""", re.DOTALL)
"""What stands before a comment."""
_WORD = re.compile(r"([^ \t=]*)[ \t]*(.*)", re.DOTALL)
_OPENING = re.compile(r'(?:"((?:[^"\\]++|\\.)*+)"?|([^ \t{][^ \t]*))?[ \t]*(.*)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_BRACES_LIMIT = 64
_INCLUDES = ("!include", "!include_try")


@dataclass(frozen=True, slots=True)
class Assignment:
    """``key = value``."""

    line: int
    key: str
    value: str
    from_file: bool
    """Written as ``key = <value``: on 2.3 the value is the content of that file."""


@dataclass(frozen=True, slots=True)
class Opening:
    """``kind name {``."""

    line: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Closing:
    """``}``."""

    line: int


@dataclass(frozen=True, slots=True)
class Inclusion:
    """``!include pattern``."""

    line: int
    pattern: str


Line = Assignment | Opening | Closing | Inclusion


def lines(text: str) -> Iterator[Line]:
    """What a file says, line by line; what Dovecot does not understand is left out (it refuses the file then).

    Args:
        text: all of the file.

    Yields:
        Everything but comments, with the number of the line on which it begins, from 1.
    """
    pending: list[str] = []
    first = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("\0")[0].removesuffix("\r").lstrip(_BLANKS)
        if line.startswith("#"):
            continue
        if "#" in line and (code := _CODE.match(line)) is not None:
            line = code[0]
        line = line.rstrip(_BLANKS)
        if not line:
            continue
        if not pending:
            first = number
        if line.endswith("\\"):
            pending.append(line[:-1].rstrip(_BLANKS))
            continue
        whole = " ".join([*pending, line]).strip(_BLANKS) if pending else line
        pending = []
        if (found := _understood(first, whole)) is not None:
            yield found


def _understood(number: int, text: str) -> Line | None:
    if text == "}":
        return Closing(number)
    word = _WORD.match(text)
    key, rest = (word[1], word[2]) if word is not None else (text, "")
    if key in _INCLUDES:
        return Inclusion(number, rest)
    if rest.startswith("="):
        value = rest[1:].lstrip(_BLANKS)
        if value.startswith("<"):
            return Assignment(number, key, value[1:].lstrip(_BLANKS), from_file=True)
        if len(value) > 1 and value[0] in "'\"" and value.endswith(value[0]):
            value = _ESCAPED.sub(r"\1", value[1:-1])
        return Assignment(number, key, value, from_file=False)
    opening = _OPENING.match(rest)
    if opening is None or opening[3] != "{":
        return None
    return Opening(number, key, opening[2] or _ESCAPED.sub(r"\1", opening[1] or ""))


@dataclass(frozen=True, slots=True)
class Block:
    """A block where it was opened. The same name in two places is two of them."""

    kind: str
    """``local_name``, ``protocol``, ``service``, …"""
    name: str
    """``"a b"`` without the quotes; empty when there is none."""
    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting where it stands."""

    key: str
    value: str
    from_file: bool
    """See :class:`Assignment`."""
    blocks: tuple[Block, ...]
    """What it stands in, the outermost first."""
    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Unread:
    """A part of the configuration that was not looked at."""

    file: Path
    """Where the ``!include`` stands; the file itself when that is the main one."""
    line: int
    why: str
    """With the path that was not read; not yet printable."""
    irregular: bool = False
    """No regular file: Dovecot and its tools would wait for ever to read a FIFO."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files of a configuration, in the order in which Dovecot reads them."""

    settings: tuple[Setting, ...]
    blocks: tuple[tuple[Block, ...], ...]
    """Every block, last, with those it stands in before it."""
    ends: Mapping[Block, int]
    """The line of a block's ``}``, when it stands in the same file."""
    files: tuple[Path, ...]
    """What was read; one that is included twice is there twice."""
    unread: tuple[Unread, ...]


def read(main: Path) -> Configuration:
    """Read a configuration with all that it includes.

    Args:
        main: ``dovecot.conf``, an absolute path.

    Returns:
        As much as can be read; the rest is in ``unread``. Text that is not UTF-8 has surrogates in it.
    """
    reading = _Reading()
    reading.include(main, (), (main, 1))
    return Configuration(
        tuple(reading.settings), tuple(reading.blocks), reading.ends, tuple(reading.files), tuple(reading.unread)
    )


class _NotReadError(Exception):
    """A file is not read; the message says why."""

    def __init__(self, why: str, *, irregular: bool = False) -> None:
        super().__init__(why)
        self.irregular = irregular


@dataclass
class _Reading:
    settings: list[Setting] = field(default_factory=list)
    blocks: list[tuple[Block, ...]] = field(default_factory=list)
    ends: dict[Block, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    total: int = 0

    def include(self, file: Path, outer: tuple[Block, ...], at: tuple[Path, int]) -> None:
        """Read a file in the place of a line of another one."""
        try:
            real = os.path.realpath(file)
            if real in self.open:
                raise _NotReadError("includes itself")
            if len(self.open) >= DEPTH_LIMIT:
                raise _NotReadError(f"more than {DEPTH_LIMIT} files within files")
            if len(self.files) >= FILES_LIMIT:
                raise _NotReadError(f"more than {FILES_LIMIT} files")
            content = _content(file, min(FILE_LIMIT, TOTAL_LIMIT - self.total))
        except _NotReadError as error:
            self.unread.append(Unread(*at, f"{file}: {error}", error.irregular))
            return
        self.total += len(content)
        self.files.append(file)
        self.open.append(real)
        self._take(file, outer, lines(content.decode("utf-8", "surrogateescape")))
        self.open.pop()

    def _take(self, file: Path, outer: tuple[Block, ...], found: Iterator[Line]) -> None:
        path = outer
        for one in found:
            match one:
                case Assignment(line, key, value, from_file):
                    self.settings.append(Setting(key, value, from_file, path, file, line))
                case Opening(line, kind, name):
                    if len(path) >= NESTING_LIMIT:
                        why = f"{file}: more than {NESTING_LIMIT} blocks within blocks from line {line} on"
                        self.unread.append(Unread(file, line, why))
                        return
                    path = (*path, Block(kind, name, file, line))
                    self.blocks.append(path)
                case Closing(line):
                    if len(path) > len(outer):  # Dovecot refuses one too many
                        self.ends[path[-1]] = line
                        path = path[:-1]
                case Inclusion(line, pattern):
                    for included in _matches(file.parent, pattern):
                        self.include(included, path, (file, line))


def _matches(directory: Path, pattern: str) -> Sequence[Path]:
    """The files of a pattern in the order of glob(7), which sorts those of each pattern in braces by itself."""
    if not pattern:
        return ()
    found: dict[Path, None] = {}
    for one in _expanded(pattern):
        try:
            matches = list(islice(glob.iglob(str(directory / one)), FILES_LIMIT))  # noqa: PTH207  # as Dovecot does it
        except (ValueError, OSError, re.error):
            continue
        found |= dict.fromkeys(map(Path, sorted(matches)))
    return tuple(found)


def _expanded(pattern: str) -> list[str]:
    """A pattern without its braces (GLOB_BRACE of glob(3))."""
    done: list[str] = []
    todo = [pattern]
    while todo and len(done) + len(todo) <= _BRACES_LIMIT:
        one = todo.pop(0)
        braces = _BRACES.search(one)
        if braces is None:
            done.append(one)
        else:
            todo = [one[: braces.start()] + part + one[braces.end() :] for part in braces[1].split(",")] + todo
    return done


def _content(path: Path, limit: int) -> bytes:
    """A regular file; opened without effect first, so that a FIFO or a device is never opened at all."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _NotReadError(getattr(error, "strerror", None) or "cannot be opened") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _NotReadError("is not a regular file", irregular=True)
        if status.st_size > limit:
            raise _NotReadError(f"has {status.st_size} bytes, more than are looked at")
        reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(reader, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise _NotReadError(error.strerror or "cannot be read") from None
    finally:
        os.close(handle)
