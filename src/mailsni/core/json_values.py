"""What the values of our JSON records may be. Each function takes a value of a document and gives what it means.

Raises:
    ValueError: from every function, when the value is of another kind or violates the grammar. It quotes no value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from mailsni.core.names import host_name, safe_origin

_Value = TypeVar("_Value")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_IDENT = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\Z")


def text(value: object) -> str:
    """A text."""
    if isinstance(value, str):
        return value
    raise ValueError("no text")


def boolean(value: object) -> bool:
    """``true`` or ``false``."""
    if isinstance(value, bool):
        return value
    raise ValueError("neither true nor false")


def whole_numbers(value: object) -> tuple[int, ...]:
    """A list of numbers without a fraction."""
    if isinstance(value, list) and set(map(type, value)) <= {int}:
        return tuple(value)
    raise ValueError("no list of whole numbers")


def whole_number(value: object) -> int:
    """A number without a fraction."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("no whole number")


def moment(value: object) -> datetime:
    """A time in seconds since 1970, which a datetime can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("no time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError):
        raise ValueError("no time of a calendar") from None


def sha256(value: object) -> str:
    """A SHA-256, hexadecimal."""
    return _matching(_SHA256, value)


def ident(value: object) -> str:
    """The name of a pinned file: see :attr:`mailsni.core.model.Certificate.ident`."""
    return _matching(_IDENT, value)


def name(value: object) -> str:
    """A host name or a wildcard of the grammar, in lower case."""
    found = text(value)
    if host_name(found) != found:
        raise ValueError("a name in upper case")
    return found


def path(value: object) -> str:
    """An absolute path."""
    found = text(value)
    if not found.startswith("/") or "\0" in found:
        raise ValueError("no absolute path")
    return found


def optional_path(value: object) -> str:
    """An absolute path, or the empty text for none."""
    return value if value == "" else path(value)


def origin(value: object) -> str:
    """The origin of a certificate."""
    return safe_origin(text(value))


def items(value: object, each: Callable[[object], _Value]) -> tuple[_Value, ...]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError("no list")
    return tuple(each(item) for item in value)


def mapping(value: object, key: Callable[[object], str], each: Callable[[object], _Value]) -> dict[str, _Value]:
    """An object with keys of a kind and values of a kind."""
    return {key(name): each(item) for name, item in members(value).items()}


def members(value: object) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def optional(value: object, each: Callable[[object], _Value]) -> _Value | None:
    """A value of a kind, or ``null``."""
    return None if value is None else each(value)


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if isinstance(value, str) and pattern.match(value):
        return value
    raise ValueError("of another form")
