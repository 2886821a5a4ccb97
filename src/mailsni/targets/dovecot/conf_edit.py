"""The line of dovecot.conf that includes our file, where no ``!include`` that is there already does."""

from __future__ import annotations

from pathlib import Path

_MARK = "# mailsni: `mailsni setup --remove` takes this line and the next one out again\n"


def line(include_file: Path) -> str:
    """What stands in dovecot.conf: ``!include_try``, so that without the file Dovecot still starts."""
    return f"!include_try {include_file}"


def with_include(content: bytes, include_file: Path) -> bytes:
    """dovecot.conf with our line at its end, after everything that the blocks override."""
    separator = b"" if content.endswith(b"\n") or not content else b"\n"
    return content + separator + _lines(include_file)


def without_include(content: bytes, include_file: Path) -> bytes:
    """dovecot.conf without what :func:`with_include` added; one without it is given back as it is."""
    return content.replace(_lines(include_file), b"")


def _lines(include_file: Path) -> bytes:
    return f"{_MARK}{line(include_file)}\n".encode()
