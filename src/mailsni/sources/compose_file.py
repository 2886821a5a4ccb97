"""What a compose file says of one service, as far as a simple one says it: scalars, lists and tables in block style.

It is no parser for YAML. Anchors, flow style and text of several lines give values that nobody asks for, or none.
``${NAME}`` stands for a line of ``.env`` beside the file, as the Compose specification has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_Keys = tuple[str, ...]
_PAIR = re.compile(r"""(["']?)([\w./-]+)\1:(?:\s+(.*))?$""")
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)(?::?-([^{}]*))?(?::?[?+][^{}]*)?\})")
_ASSIGNMENT = re.compile(r"(?:export\s+)?(\w+)\s*=(.*)$")


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a compose file."""

    name: str
    values: Mapping[_Keys, str]
    """Scalars by the keys that lead to them; an item of a list has a number for a key."""

    def scalar(self, key: str) -> str:
        """A value; empty where there is none."""
        return self.values.get((key,), "")

    def items(self, key: str) -> list[str]:
        """The values of a list of scalars, or the one scalar."""
        return [value for keys, value in self.values.items() if keys[0] == key and len(keys) <= 2]

    def tables(self, key: str) -> list[dict[str, str]]:
        """The tables in a list."""
        tables: dict[str, dict[str, str]] = {}
        for keys, value in self.values.items():
            if keys[0] == key and len(keys) == 3:
                tables.setdefault(keys[1], {})[keys[2]] = value
        return list(tables.values())

    def assignments(self, key: str) -> dict[str, str]:
        """A table of scalars, or a list of ``NAME=VALUE``."""
        found = {}
        for keys, value in self.values.items():
            if keys[0] == key and len(keys) == 2:
                name, _, text = (keys[1], "", value) if not keys[1].isdigit() else value.partition("=")
                found[name] = text
        return found


def services(texts: Iterable[str], variables: Mapping[str, str]) -> Sequence[Service]:
    """The services of compose files, of which a later one adds to an earlier one.

    Args:
        texts: the files' contents.
        variables: what ``${NAME}`` stands for.
    """
    found: dict[str, dict[_Keys, str]] = {}
    for number, text in enumerate(texts):
        for keys, value in _scalars(text, f"{number}0").items():
            if len(keys) > 2 and keys[0] == "services":
                found.setdefault(keys[1], {})[keys[2:]] = _expanded(value, variables)
    return [Service(name, values) for name, values in found.items()]


def assignments(text: str) -> dict[str, str]:
    """The variables of an ``env_file``: ``NAME=VALUE`` in each line, the value with or without quotes."""
    lines = (_ASSIGNMENT.match(line.strip()) for line in text.splitlines())
    return {match[1]: _unquoted(match[2]) for match in lines if match}


def _scalars(text: str, prefix: str) -> dict[_Keys, str]:
    values: dict[_Keys, str] = {}
    stack: list[tuple[float, str]] = []
    for number, line in enumerate(text.splitlines()):
        content = line.lstrip(" ").rstrip()
        if not content or content[0] == "#":
            continue
        indent: float = len(line) - len(line.lstrip(" "))
        if content == "-" or content.startswith("- "):
            # The items of a list may stand as far left as its key.
            _leave(stack, indent + 0.5)
            stack.append((indent + 0.5, f"{prefix}{number}"))
            inner = content[1:].lstrip(" ")
            indent += len(content) - len(inner)
            content = inner
        else:
            _leave(stack, indent)
        pair = _PAIR.match(content)
        if pair is not None:
            stack.append((indent, pair[2]))
        if value := _unquoted(pair[3] or "" if pair is not None else content):
            values[tuple(key for _, key in stack)] = value
    return values


def _leave(stack: list[tuple[float, str]], indent: float) -> None:
    while stack and stack[-1][0] >= indent:
        stack.pop()


def _unquoted(text: str) -> str:
    """A scalar without its quotes, or without the comment behind it."""
    text = text.strip()
    if len(text) > 1 and text[0] in "\"'" and text[0] in text[1:]:
        return text[1 : text.index(text[0], 1)]
    return re.sub(r"(^|\s+)#.*$", "", text)


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1] or match[2]) or (match[3] or "")

    return _VARIABLE.sub(value, text)
