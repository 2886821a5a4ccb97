"""What the values of a configuration may be. Each function here takes a TOML value and gives the setting.

Raises:
    ValueError: from every function, with the reason, when the value is of another kind.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mailsni.core.mounts import Mounts
from mailsni.core.names import NamePatterns, host_name, safe_path

_LONGEST = 3600
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]+)?")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)*/*")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_WEEK = 7 * 24 * 3600

Switch = Literal["auto"] | bool
Action = Literal["auto", "reload", "restart", "none"] | tuple[str, ...]


def choice(*allowed: str) -> Callable[[object], Any]:
    """A function that takes one of these words."""

    def parse(value: object) -> str:
        if value in allowed:
            return str(value)
        near = difflib.get_close_matches(str(value), allowed, n=1)
        raise ValueError("must be " + _alternatives(allowed) + (f"; did you mean {near[0]}?" if near else ""))

    return parse


def _alternatives(words: Sequence[str]) -> str:
    quoted = [f'"{word}"' for word in words]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def switch(value: object) -> Switch:
    """``true``, ``false`` or ``"auto"``."""
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    raise ValueError('must be true, false or "auto"')


def boolean(value: object) -> bool:
    """``true`` or ``false``."""
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def seconds(value: object) -> float:
    """A number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST:
        return float(value)
    raise ValueError(f"must be a number of seconds, above 0 and at most {_LONGEST}")


def interval(value: object) -> float:
    """A number of seconds between two things that are not done more often than once a minute."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 60 <= value <= _WEEK:
        return float(value)
    raise ValueError(f"must be a number of seconds, at least 60 and at most {_WEEK}")


def path(value: object) -> Path:
    """An absolute path."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return Path(safe_path(value.rstrip("/") or "/"))


def mounts(value: object) -> Mounts:
    """A table of directories: the path on this host = the path inside a container."""
    if not isinstance(value, dict):
        raise ValueError('must be a table: { "/directory/on/the/host" = "/the/same/inside" }')
    return Mounts(tuple((path(outside), path(inside)) for outside, inside in value.items()))


def engine(value: object) -> str:
    """The program of a container engine."""
    if value in ("docker", "podman"):
        return str(value)
    if isinstance(value, str) and value.startswith("/"):
        return str(path(value))
    raise ValueError('must be "docker", "podman" or an absolute path')


def container(value: object) -> str:
    """The name of a container as engines take it, or nothing."""
    if isinstance(value, str) and (value == "" or _CONTAINER.fullmatch(value)):
        return value
    raise ValueError("must be the name of a container: letters, digits, _ . and -, a letter or digit first")


def some_container(value: object) -> str:
    """The name of a container."""
    return container(value or 0)


def optional_path(value: object) -> str:
    """An absolute path, or the empty text for none."""
    return "" if value == "" else str(path(value))


def server_url(value: object) -> str:
    """The address of a key-value server, without a slash at its end. ``consul+`` or ``etcd+`` may stand before it.

    Private keys come from there: without TLS it must be this host.
    """
    if not isinstance(value, str):
        raise ValueError("must be a string")
    word, plus, rest = value.partition("+")
    if plus and word not in ("consul", "etcd"):
        raise ValueError("only consul+ or etcd+ may stand before the address")
    try:
        url = urlsplit(rest if plus else value)
        host = url.hostname or ""
        is_known = bool(_HOST.fullmatch(url.netloc) and _URL_PATH.fullmatch(url.path) and url.port != 0)
        is_known = is_known and value.isprintable()  # urlsplit leaves line ends out
    except ValueError:
        raise ValueError("must be https://HOST:PORT") from None
    if not is_known or url.scheme not in ("http", "https") or url.query or url.fragment:
        raise ValueError("must be https://HOST:PORT, without a name, a password or a query")
    if url.scheme == "http" and not _is_this_host(host):
        raise ValueError("must be https:// unless the host is this one: private keys come from there")
    return value.rstrip("/")


def _is_this_host(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def key_prefix(value: object) -> str:
    """Where in a key-value store the keys begin, without slashes around it."""
    if not isinstance(value, str) or not (prefix := value.strip("/")) or not _KEY_PREFIX.fullmatch(prefix):
        raise ValueError("must be a key of letters, digits and . _ - with slashes between its parts")
    return prefix


def optional_host_name(value: object) -> str:
    """A host name, or nothing."""
    if not isinstance(value, str):
        raise ValueError("must be a host name")
    return host_name(value) if value else ""


def patterns(value: object) -> tuple[str, ...]:
    """Patterns for host names."""
    words = strings(value)
    NamePatterns(words)
    return words


def some_patterns(value: object) -> tuple[str, ...]:
    """At least one pattern."""
    words = patterns(value)
    if not words:
        raise ValueError("must name at least one pattern")
    return words


def command(value: object) -> tuple[str, ...]:
    """A command as a list of words."""
    words = strings(value)
    if not words or not words[0].startswith("/") or any("\0" in word for word in words):
        raise ValueError("a command is a list whose first word is an absolute path")
    return words


def optional_command(value: object) -> tuple[str, ...]:
    """A command, or an empty list."""
    return () if value == [] else command(value)


def action(value: object) -> Action:
    """How a server is reloaded: a word, or a command."""
    if isinstance(value, list):
        return command(value)
    word: Action = choice("auto", "reload", "restart", "none")(value)
    return word


def strings(value: object) -> tuple[str, ...]:
    """A list of strings."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("must be a list of strings")
