"""The configuration file that sets every key to its default, with a comment for each: the reference of the keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields

from mailsni.config.parser import TABLE_NAMES, TABLES
from mailsni.sources.base import DEFAULT_SOURCES

_COMMENT_COLUMN = 40


def default_configuration() -> str:
    """The text of that file: TOML that means the defaults."""
    tables = {name: "".join(_table(name)) for name in TABLES}
    sources = "".join(_source({"type": source.type, **source.values}) for source in DEFAULT_SOURCES)
    return "\n".join((tables | {"sources": sources})[name] for name in TABLE_NAMES)


def _source(values: Mapping[str, object]) -> str:
    return "[[sources]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _table(name: str) -> Iterator[str]:
    yield f"[{name}]\n"
    for field in fields(TABLES[name]):
        line = f"{field.name} = {_toml(field.default)}"
        comment = field.metadata["comment"]
        yield f"{line:<{_COMMENT_COLUMN}} # {comment}\n" if comment else f"{line}\n"


def _toml(value: object) -> str:
    match value:
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case float():
            return f"{value:g}"
        case bool():
            return json.dumps(value)
        case _:
            return json.dumps(str(value))
