"""Host names, patterns and paths: the only place where a string becomes safe to write into a server's file.

Nothing is escaped. A string that does not match the grammar is refused, because neither server can quote everything:
a newline in a Dovecot ``local_name`` ends the name and the rest is read as configuration (measured: a subject
alternative name with ``}`` and ``ssl = no`` in it turned TLS off for the whole server), and a file name with a space
or a comma cannot be written in a Postfix map source at all.

* A *host name* is lower-case A-labels by RFC 1034, 3.5 and RFC 5890: letters, digits and inner hyphens, labels of at
  most 63 octets, 253 octets in all, at least two labels, the last one not all digits (Postfix takes such a name for an
  address and ignores the SNI).
* A *wildcard* is ``*.`` before a host name, and stands for exactly one label (RFC 6125, 6.4.3).
* A *path* is absolute, of ``A-Z a-z 0-9 . _ / @ + -`` only, without empty, ``.`` or ``..`` steps.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from mailsni.core.text import printable_name

NAME_LIMIT = 253
"""Octets in a host name, without the root's dot (RFC 1035, 2.3.4)."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)+(?!\d+\Z){_LABEL}\Z", re.ASCII)
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._@+-]+)+\Z", re.ASCII)
_ORIGIN = re.compile(r"(?:[a-z][a-z0-9+.-]*:/)?/[A-Za-z0-9._/@+:*#=-]+\Z", re.ASCII)
_NOT_OF_AN_ORIGIN = re.compile(rb"[^A-Za-z0-9._/@+:*-]")
_PATTERN = re.compile(r"[a-z0-9.*?\[\]!-]+\Z", re.ASCII)


class RefusedNameError(ValueError):
    """A string outside the grammar. The message shows it in printable ASCII, bounded."""


def is_wildcard(name: str) -> bool:
    """Whether a name of the grammar is a wildcard."""
    return name.startswith("*.")


def host_name(text: str) -> str:
    """The name in lower case, wildcard or not.

    Raises:
        RefusedNameError: it is not of the grammar.
    """
    name = text.lower() if text.isascii() else text
    base = name[2:] if is_wildcard(name) else name
    if len(name) > NAME_LIMIT or not _HOST_NAME.match(base):
        raise RefusedNameError(f"{printable_name(text)}: not a host name")
    return name


def safe_path(path: str | Path) -> str:
    """The path as the text that may be written into a server's file.

    Raises:
        RefusedNameError: it is not of the grammar.
    """
    text = str(path)
    if not _PATH.match(text):
        raise RefusedNameError(
            f"{printable_name(text)}: a path of other characters than A-Z a-z 0-9 . _ / @ + - cannot be used"
        )
    return text


def safe_origin(text: str) -> str:
    """The origin of a certificate (a path, ``path#name``, a URL) as text for a comment in a server's file.

    Raises:
        RefusedNameError: it is none of these, or has a character that could end the comment or the word.
    """
    if not _ORIGIN.match(text):
        raise RefusedNameError(
            f"{printable_name(text)}: an origin of other characters than A-Z a-z 0-9 . _ / @ + : * # = -"
        )
    return text


def escaped_origin(path: str) -> str:
    """The origin of a certificate at a path of any characters: each byte outside the grammar is ``=XX``, hexadecimal.

    So are ``=`` and ``#``: different paths have different origins, and ``#`` is free to set something apart.
    """
    return _NOT_OF_AN_ORIGIN.sub(lambda byte: b"=%02X" % byte[0][0], path.encode("utf-8", "surrogateescape")).decode(
        "ascii"
    )


def wildcard_matches(wildcard: str, name: str) -> bool:
    """Whether a wildcard stands for a host name: exactly one label more (RFC 6125, 6.4.3)."""
    return is_wildcard(wildcard) and name.partition(".")[2] == wildcard[2:] and not is_wildcard(name)


def covered_by(asked: str, names: Iterable[str]) -> bool:
    """Whether the host name that a client asks for is one of a certificate's names, or matches a wildcard of them."""
    return any(asked == name or wildcard_matches(name, asked) for name in names)


class NamePatterns:
    """Which names are mail names: ``names.include`` and ``names.exclude`` of the configuration.

    Patterns are the shell's (``*``, ``?``, ``[…]``) on the whole host name; ``*`` goes across dots. The pattern ``*``
    alone also asks for real wildcard entries; every other pattern turns a wildcard certificate into concrete names.

    Args:
        include: a name must match one of these.
        exclude: and none of these.

    Raises:
        RefusedNameError: a pattern has a character that no host name has.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str] = ()) -> None:
        for pattern in (*include, *exclude):
            if not _PATTERN.match(pattern):
                raise RefusedNameError(
                    f"{printable_name(pattern)}: not a pattern for host names (lower case, shell style)"
                )
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.real_wildcards = "*" in self.include
        self._included = _compiled(self.include)
        self._excluded = _compiled(self.exclude)

    def match(self, name: str) -> bool:
        """Whether a concrete name, or a wildcard taken as a string, is asked for."""
        return bool(self._included.match(name)) and not self._excluded.match(name)

    @cached_property
    def _first_labels(self) -> tuple[str, ...]:
        labels = (pattern.partition(".")[0] for pattern in self.include)
        return tuple(dict.fromkeys(label for label in labels if re.fullmatch(_LABEL, label)))

    def served_names(self, names: Iterable[str]) -> Iterator[str]:
        """The names that a certificate with these (host names and wildcards of the grammar) is asked to serve."""
        for name in names:
            if not is_wildcard(name):
                if self.match(name):
                    yield name
                continue
            if self.real_wildcards and self.match(name):
                yield name
            for label in self._first_labels:
                concrete = f"{label}.{name[2:]}"
                if len(concrete) <= NAME_LIMIT and self.match(concrete):
                    yield concrete


def _compiled(patterns: Sequence[str]) -> re.Pattern[str]:
    translated = [fnmatch.translate(pattern) for pattern in patterns]
    return re.compile("|".join(translated) if translated else r"(?!)")
