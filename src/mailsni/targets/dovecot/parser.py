"""Dovecot's configuration files as its own parser reads them, with the file and the line of everything.

``doveconf`` tells the values in force, but not where they stand. The rules are those of Dovecot's ``config-parser.c``
(2.3 and 2.4 agree on them): lines end with a line feed only; blanks are space and tab; ``#`` begins a comment outside
of quotes; a backslash at the end continues a line; ``key = value``, ``key = <file``, ``kind name {`` and ``}`` stand
on lines of their own; ``!include`` takes a glob(7) pattern, relative to the file it stands in. The output of
``doveconf`` has the same grammar.

Reading always ends, whatever the files hold: sizes, depth and number are bounded, a loop is left, and only regular
files are opened.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mailsni.errors import MailsniError
from mailsni.host import files
from mailsni.host.commands import LOCAL, Executor

FILE_LIMIT = 32 << 20
"""Bytes of one file. The include for 10,000 names has 4 MB."""
TOTAL_LIMIT = 128 << 20
"""Bytes of all files together."""
FILES_LIMIT = 20_000
DEPTH_LIMIT = 20
"""Files within files."""
NESTING_LIMIT = 64
"""Blocks within blocks; Dovecot uses four."""
_BLANKS = " \t"
_CODE = re.compile(r"""(?:[^'"#]++|"(?:[^"\\]++|\\.?)*+(?:"|\Z)|'(?:[^'\\]++|\\.?)*+(?:'|\Z))*+""", re.DOTALL)
"""A line up to its comment."""
_WORD = re.compile(r"([^ \t=]*)[ \t]*(.*)", re.DOTALL)
_BLOCK_START = re.compile(r'(?:"((?:[^"\\]++|\\.)*+)"?|([^ \t{][^ \t]*))?[ \t]*(.*)', re.DOTALL)
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
class BlockStart:
    """``kind name {``."""

    line: int
    kind: str
    """``local_name``, ``protocol``, ``service``, …"""
    name: str
    """``"a b"`` without the quotes; empty when there is none."""


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """``}``."""

    line: int


@dataclass(frozen=True, slots=True)
class Include:
    """``!include pattern``."""

    line: int
    pattern: str
    optional: bool
    """``!include_try``: Dovecot starts although nothing matches. (``!include`` is fatal then, measured on 2.3.19.)"""


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that is nothing but a comment."""

    line: int
    text: str
    """With the ``#``."""


Statement = Assignment | BlockStart | BlockEnd | Include | Comment


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """A line with those that continue it."""

    first: int
    """Number of the line on which it begins, from 1."""
    last: int
    text: str
    """Without blanks around it, and without a comment after it."""


def logical_lines(text: str) -> Iterator[LogicalLine]:
    """The lines of a file; empty ones, and comments between the parts of a continued line, are left out."""
    pending: list[str] = []
    first = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("\0")[0].removesuffix("\r").lstrip(_BLANKS)
        if line.startswith("#"):
            if not pending:
                yield LogicalLine(number, number, line)
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
        yield LogicalLine(first, number, " ".join([*pending, line]).strip(_BLANKS) if pending else line)
        pending = []


def parse(line: LogicalLine) -> Statement | None:
    """What a line says; None when Dovecot does not understand it (it refuses the file then)."""
    number, text = line.first, line.text
    if text.startswith("#"):
        return Comment(number, text)
    if text == "}":
        return BlockEnd(number)
    word = _WORD.match(text)
    key, rest = (word[1], word[2]) if word is not None else (text, "")
    if key in _INCLUDES:
        return Include(number, rest, optional=key != "!include")
    if rest.startswith("="):
        value = rest[1:].lstrip(_BLANKS)
        if value.startswith("<"):
            return Assignment(number, key, value[1:].lstrip(_BLANKS), from_file=True)
        if len(value) > 1 and value[0] in "'\"" and value.endswith(value[0]):
            value = _ESCAPED.sub(r"\1", value[1:-1])
        return Assignment(number, key, value, from_file=False)
    start = _BLOCK_START.match(rest)
    if start is None or start[3] != "{":
        return None
    return BlockStart(number, key, start[2] or _ESCAPED.sub(r"\1", start[1] or ""))


def statements(text: str) -> Iterator[Statement]:
    """What a file, or the output of ``doveconf``, says, in its order, as far as Dovecot understands it."""
    for line in logical_lines(text):
        statement = parse(line)
        if statement is not None:
            yield statement


Scope = tuple[tuple[str, str], ...]
"""Kind and name of blocks, the outermost first."""


def settings_in(text: str) -> Iterator[tuple[Scope, Assignment]]:
    """Every setting in the output of ``doveconf``, after the blocks around it."""
    scope: Scope = ()
    for statement in statements(text):
        match statement:
            case BlockStart(kind=kind, name=name):
                scope = (*scope, (kind, name))
            case BlockEnd():
                scope = scope[:-1]
            case Assignment():
                yield scope, statement
            case Include() | Comment():
                pass


@dataclass(frozen=True, slots=True)
class Block(BlockStart):
    """A block where it begins. The same name in two places is two of them."""

    file: Path
    blocks: tuple[Block, ...] = field(default=(), compare=False, repr=False)
    """The blocks around it, the outermost first."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a ``local_name`` is for, in lower case, as it is written; 2.4 takes only one."""
        return tuple(self.name.lower().split())


@dataclass(frozen=True, slots=True)
class Setting(Assignment):
    """A setting where it stands."""

    blocks: tuple[Block, ...]
    """The blocks around it, the outermost first."""
    file: Path


@dataclass(frozen=True, slots=True)
class IncludedFiles(Include):
    """An ``!include`` where it stands, and the files that it takes in."""

    file: Path
    matches: tuple[Path, ...]
    """In the order in which Dovecot reads them."""
    elsewhere: bool = False
    """They lie in a container, and not on this host."""

    def covers(self, path: Path) -> bool:
        """Whether it takes a file in, or would if the file existed."""
        return path in self.matches or any(
            not self.elsewhere and _would_match(path, Path(self.file.parent / pattern))
            for pattern in _without_braces(self.pattern)
        )


@dataclass(frozen=True, slots=True)
class UnreadableInclude:
    """A part of the configuration that was not read."""

    file: Path
    """Where the ``!include`` stands; the file itself when that is the main one."""
    line: int
    path: Path
    """The file that was not read."""
    why: str
    """With the path in it; not yet printable."""
    irregular: bool = False
    """No regular file: Dovecot and its tools would wait for ever to read a FIFO."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files of a configuration, in the order in which Dovecot reads them."""

    settings: tuple[Setting, ...]
    blocks: tuple[Block, ...]
    ends: Mapping[Block, int]
    """The line of a block's ``}``, when it stands in the same file."""
    files: tuple[Path, ...]
    """The files that were read; one that is included twice is there twice."""
    includes: tuple[IncludedFiles, ...]
    unreadable: tuple[UnreadableInclude, ...]


def read(main: Path, *, without: Path | None = None, executor: Executor = LOCAL) -> Configuration:
    """Read a configuration with all that it includes.

    Args:
        main: ``dovecot.conf``, an absolute path.
        without: an included file that need not be opened, because nobody asks for what it says.
        executor: of the Dovecot that reads it: an absolute ``!include`` names what that one sees. What this host does
            not have is not read.

    Returns:
        As much as can be read; the rest is in ``unreadable``. Text that is not UTF-8 has surrogates in it.
    """
    reading = _Reading(without, executor)
    reading.include(main, (), (main, 1))
    return Configuration(
        tuple(reading.settings),
        tuple(reading.blocks),
        reading.ends,
        tuple(reading.files),
        tuple(reading.includes),
        tuple(reading.unreadable),
    )


class _NotReadError(Exception):
    """A file is not read; the message says why."""

    def __init__(self, why: str, *, irregular: bool = False) -> None:
        super().__init__(why)
        self.irregular = irregular


@dataclass
class _Reading:
    without: Path | None
    executor: Executor
    settings: list[Setting] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    ends: dict[Block, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    includes: list[IncludedFiles] = field(default_factory=list)
    unreadable: list[UnreadableInclude] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    total: int = 0

    def include(self, file: Path, outer: tuple[Block, ...], at: tuple[Path, int]) -> None:
        """Read a file in the place of a line of another one."""
        try:
            real = os.path.realpath(file)
            if real in self.open:
                raise _NotReadError(f"{file}: includes itself")
            if len(self.open) >= DEPTH_LIMIT:
                raise _NotReadError(f"{file}: more than {DEPTH_LIMIT} files within files")
            if len(self.files) >= FILES_LIMIT:
                raise _NotReadError(f"{file}: more than {FILES_LIMIT} files")
            content = _content(file, min(FILE_LIMIT, TOTAL_LIMIT - self.total))
        except _NotReadError as error:
            self.unreadable.append(UnreadableInclude(*at, file, str(error), error.irregular))
            return
        self.total += len(content)
        self.files.append(file)
        self.open.append(real)
        self._take(file, outer, statements(content.decode("utf-8", "surrogateescape")))
        self.open.pop()

    def _take(self, file: Path, outer: tuple[Block, ...], found: Iterator[Statement]) -> None:
        path = outer
        for statement in found:
            match statement:
                case Assignment(line, key, value, from_file):
                    self.settings.append(Setting(line, key, value, from_file, path, file))
                case BlockStart(line, kind, name):
                    if len(path) >= NESTING_LIMIT:
                        why = f"{file}: more than {NESTING_LIMIT} blocks within blocks from line {line} on"
                        self.unreadable.append(UnreadableInclude(file, line, file, why))
                        return
                    path = (*path, Block(line, kind, name, file, path))
                    self.blocks.append(path[-1])
                case BlockEnd(line):
                    if len(path) > len(outer):  # Dovecot refuses a superfluous one
                        self.ends[path[-1]] = line
                        path = path[:-1]
                case Include(line):
                    included = self._included(file, statement)
                    self.includes.append(included)
                    for match in included.matches:
                        if match != self.without:
                            self.include(match, path, (file, line))
                case Comment():
                    pass

    def _included(self, file: Path, include: Include) -> IncludedFiles:
        pattern = include.pattern
        if pattern.startswith("/"):
            known = self.executor.outside(Path(pattern))
            if known is None:
                return IncludedFiles(include.line, pattern, include.optional, file, (), elsewhere=True)
            pattern = str(known) if self.executor.container else pattern
        return IncludedFiles(include.line, pattern, include.optional, file, _matches(file.parent, pattern))


def _matches(directory: Path, pattern: str) -> tuple[Path, ...]:
    """The files of a pattern in the order of glob(7), which sorts the files of each pattern in braces separately."""
    found: dict[Path, None] = {}
    for plain in _without_braces(pattern):
        try:
            matches = list(islice(glob.iglob(str(directory / plain)), FILES_LIMIT))  # noqa: PTH207  # as Dovecot does it
        except (ValueError, OSError, re.error):
            continue
        found |= dict.fromkeys(map(Path, sorted(matches)))
    return tuple(found)


def _without_braces(pattern: str) -> Sequence[str]:
    """The patterns that one with braces stands for (GLOB_BRACE of glob(3)); none for an empty one."""
    done: list[str] = []
    todo = [pattern] if pattern else []
    while todo and len(done) + len(todo) <= _BRACES_LIMIT:
        first = todo.pop(0)
        braces = _BRACES.search(first)
        if braces is None:
            done.append(first)
        else:
            todo = [first[: braces.start()] + part + first[braces.end() :] for part in braces[1].split(",")] + todo
    return done


def _would_match(path: Path, pattern: Path) -> bool:
    """Whether glob(7) would find a file by a pattern if the file existed."""
    return len(path.parts) == len(pattern.parts) and all(
        fnmatch.fnmatchcase(step, wanted) and (not step.startswith(".") or wanted.startswith("."))
        for step, wanted in zip(path.parts, pattern.parts, strict=True)
    )


def _content(path: Path, limit: int) -> bytes:
    try:
        content = files.read_untrusted(path, limit)
    except (MailsniError, ValueError) as error:
        raise _NotReadError(error.message if isinstance(error, MailsniError) else f"{path}: no path") from None
    if content is not None:
        return content
    if os.path.exists(path):  # noqa: PTH110  # whatever the path, this raises nothing
        raise _NotReadError(f"{path}: is not a regular file", irregular=True)
    raise _NotReadError(f"{path}: does not exist")
