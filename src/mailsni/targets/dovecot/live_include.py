"""The include that this program writes: what a live one says, which file includes it, and a trial with a new one.

Setup adds a line that includes it where no ``!include`` that is there already does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailsni.errors import HostError, MailsniError
from mailsni.host import files
from mailsni.host.commands import LOCAL, Executor
from mailsni.targets.dovecot.parser import (
    FILE_LIMIT,
    Assignment,
    BlockEnd,
    BlockStart,
    Comment,
    Configuration,
    Include,
    IncludedFiles,
    logical_lines,
    parse,
    read,
    statements,
)

_MARK = "# mailsni: `mailsni setup --remove` takes this line and the next one out again\n"
_CERTIFICATE_KEY = re.compile(r"ssl_\w*(?:cert|key)(?:_file)?")
_VALID_UNTIL = re.compile(r"# \S+: [A-Z]+, valid until (\d{4}-\d\d-\d\d \d\d:\d\d) UTC")
_FINGERPRINT = re.compile(r"# SHA-256 ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class CertificateComment:
    """What comments of the include say of a certificate."""

    fingerprint: str
    """SHA-256 of the leaf in DER, hexadecimal."""
    not_after: datetime
    """To the minute."""


@dataclass(frozen=True, slots=True)
class LiveBlock:
    """A ``local_name`` block of a live include."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    """The files that it names, certificates and keys."""
    certificates: tuple[CertificateComment, ...]
    """Empty when a template of the administrator's writes no such comments."""


def blocks_of(text: str) -> tuple[LiveBlock, ...]:
    """The blocks of an include, whoever wrote it, as far as they are written as the templates write them."""
    blocks: list[LiveBlock] = []
    names: tuple[str, ...] = ()
    paths: list[Path] = []
    certificates: list[CertificateComment] = []
    until: datetime | None = None
    for statement in statements(text):
        match statement:
            case Comment(text=comment):
                if (match := _VALID_UNTIL.match(comment)) is not None:
                    until = _moment(match[1])
                elif (match := _FINGERPRINT.fullmatch(comment.rstrip())) is not None and until is not None:
                    certificates.append(CertificateComment(match[1], until))
                    until = None
            case BlockStart(kind="local_name", name=name):
                names, paths = tuple(name.split()), []
            case Assignment(key=key, value=value) if _CERTIFICATE_KEY.fullmatch(key) and value.startswith("/"):
                paths.append(Path(value))
            case BlockEnd() if names:
                blocks.append(LiveBlock(names, tuple(paths), tuple(certificates)))
                names, certificates = (), []
            case _:
                pass
    return tuple(blocks)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    except ValueError:
        return None


def include_line(live: Path) -> str:
    """What stands in dovecot.conf: ``!include_try``, so that without the file Dovecot still starts.

    ``live`` is the path by which Dovecot knows the include.
    """
    return f"!include_try {live}"


def with_include(content: bytes, live: Path) -> bytes:
    """dovecot.conf with our line at its end, after everything that the blocks override."""
    separator = b"" if content.endswith(b"\n") or not content else b"\n"
    return content + separator + _marked_line(live)


def without_include(content: bytes, live: Path) -> bytes:
    """dovecot.conf without what :func:`with_include` added; one without it is given back as it is."""
    return content.replace(_marked_line(live), b"")


def _marked_line(live: Path) -> bytes:
    return f"{_MARK}{include_line(live)}\n".encode()


def is_included(configuration: Configuration, live: Path) -> bool:
    """Whether Dovecot reads the include, or would if it existed."""
    return any(included.covers(live) for included in configuration.includes)


def required_by(configuration: Configuration, live: Path) -> IncludedFiles | None:
    """The ``!include`` that matches nothing but this file, which may be missing: without it Dovecot does not start."""
    covering = (one for one in configuration.includes if not one.optional and one.covers(live))
    return next((one for one in covering if set(one.matches) <= {live}), None)


def trial(main: Path, live: Path, staged: Path, executor: Executor = LOCAL) -> str:
    """A configuration with a staged include in the place of the live one, which can be read from any directory.

    Files are named as the Dovecot of the executor sees them.

    Relative names become absolute. A pattern that takes the live include in is written out file by file, and so is a
    file that includes it in turn. Where nothing includes it, the last line does. The live include need not exist.

    Raises:
        HostError: the main file cannot be read.
    """
    configuration = read(main, without=live, executor=executor)
    if main not in configuration.files:
        raise HostError(configuration.unreadable[0].why, path=main)
    includes = {(one.file, one.line): one for one in configuration.includes}
    trial = _Trial(live, staged, includes, _carriers(configuration, live), executor.inside)
    lines = list(trial.lines(main, ()))
    if not trial.carriers:
        lines.append(f"!include {executor.inside(staged)}")
    return "\n".join(lines) + "\n"


def _carriers(configuration: Configuration, live: Path) -> frozenset[Path]:
    """The files that include the live include, themselves or by others."""
    carriers: set[Path] = set()
    more = {one.file for one in configuration.includes if one.covers(live)}
    while more:
        carriers |= more
        more = {one.file for one in configuration.includes if carriers.intersection(one.matches)} - carriers
    return frozenset(carriers)


@dataclass(frozen=True, slots=True)
class _Trial:
    live: Path
    staged: Path
    includes: Mapping[tuple[Path, int], IncludedFiles]
    carriers: frozenset[Path]
    naming: Callable[[Path], Path]

    def lines(self, file: Path, outer: tuple[Path, ...]) -> Iterator[str]:
        """The lines of a file, those that depend on where it lies rewritten."""
        try:
            content = files.read_untrusted(file, FILE_LIMIT) or b""
        except MailsniError:  # Dovecot itself complains about it
            content = b""
        text = content.decode("utf-8", "surrogateescape")
        raw = text.removesuffix("\n").split("\n")
        at = 0
        for line in logical_lines(text):
            match parse(line):
                case Assignment(key=key, value=value, from_file=True) if value and not value.startswith("/"):
                    rewritten = [f"{key} = <{self.naming(file.parent / value)}"]
                case Include() as include if (file, include.line) in self.includes:
                    rewritten = list(self._included(self.includes[file, include.line], (*outer, file)))
                case _:
                    continue
            yield from raw[at : line.first - 1]
            yield from rewritten
            at = line.last
        yield from raw[at:]

    def _included(self, included: IncludedFiles, outer: tuple[Path, ...]) -> Iterator[str]:
        verb = "!include_try" if included.optional else "!include"
        covered = included.covers(self.live)
        if not covered and not self.carriers.intersection(included.matches):
            pattern = included.file.parent / included.pattern
            yield f"{verb} {pattern if included.elsewhere else self.naming(pattern)}"
            return
        matches = included.matches
        if covered and self.live not in matches:
            matches = tuple(sorted((*matches, self.live), key=str))
        for path in matches:
            if path == self.live:
                yield f"!include {self.naming(self.staged)}"
            elif path in self.carriers and path not in outer:
                yield from self.lines(path, outer)
            else:
                yield f"{verb} {self.naming(path)}"
