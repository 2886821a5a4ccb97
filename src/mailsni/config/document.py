"""Settings written as a configuration file: the reference, and the example that setup leaves."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields

from mailsni.config.parser import TABLE_NAMES, TABLES
from mailsni.core.mounts import Mounts
from mailsni.sources.kinds import DEFAULT_SOURCES, KINDS

COMMENT_COLUMN = 40
"""Where comments begin."""
_EXAMPLE_HEAD = """\
# Every setting of mailsni with its default. Copy what you change to {name}, and take the # away;
# `mailsni config --check` tests the result, and `mailsni config` shows what is in effect.
# Written by `mailsni setup`, removed by `mailsni setup --remove` unless it was edited.

"""
_ABOUT_STORES = (
    "# `mailsni sources` lists their keys, `mailsni sources --detect` prints tables for the stores of this host\n"
)
_KEY = re.compile(r"^(?=[a-z_]+ = )", re.MULTILINE)


def defaults() -> str:
    """The configuration file that sets every key to its default, with a comment for each."""
    tables = {name: "".join(_settings_table(name)) for name in TABLES}
    stores = "".join(source_table(source.table()) for source in DEFAULT_SOURCES)
    stores += "".join(f"# {line}\n" for line in textwrap.wrap(f"Types: {', '.join(sorted(KINDS))}.", 110))
    stores += _ABOUT_STORES
    return "\n".join((tables | {"sources": stores})[name] for name in TABLE_NAMES)


def example(name: str) -> bytes:
    """The configuration file of this name with every key in a comment, so that it sets nothing."""
    return (_EXAMPLE_HEAD.format(name=name) + _KEY.sub("#", defaults())).encode()


def _settings_table(name: str) -> Iterator[str]:
    """A table of this name, line by line."""
    yield f"[{name}]\n"
    for field in fields(TABLES[name]):
        yield commented(f"{field.name} = {toml(field.default)}", field.metadata["comment"])


def source_table(values: Mapping[str, object]) -> str:
    """The table of a store."""
    return "[[sources]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


def commented(line: str, comment: str) -> str:
    """A line with a comment after it, where there is one."""
    return f"{line:<{COMMENT_COLUMN}} # {comment}\n" if comment else f"{line}\n"


def toml(value: object) -> str:
    """A value as TOML has it."""
    match value:
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mounts(pairs=()):
            return "{}"
        case Mounts():
            return f"{{ {', '.join(f'{toml(outside)} = {toml(inside)}' for outside, inside in value.pairs)} }}"
        case bool() | int():
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case _:
            return json.dumps(str(value))
