"""The configuration file as typed settings. Every key is optional; every error names the key and its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mailsni.config.settings import (
    MAIL_NAMES,
    Action,
    AlertSettings,
    DovecotSettings,
    PostfixSettings,
    Settings,
    StateSettings,
    Switch,
    VerifySettings,
    WatchSettings,
)
from mailsni.core.names import NamePatterns, RefusedNameError, safe_path
from mailsni.errors import ConfigurationError, PermissionMissingError
from mailsni.probes.endpoint import Endpoint
from mailsni.sources import base as sources
from mailsni.sources.base import SourceSettings

_LONGEST = 3600


class _WrongValueError(Exception):
    """A value is not of the kind that its key takes."""


def load(path: Path, *, required: bool) -> Settings:
    """Read a configuration file.

    Args:
        path: the file.
        required: False when the caller did not name it: a missing file means the defaults.

    Raises:
        ConfigurationError: it is missing, no TOML, or has an unknown key or a wrong value.
        PermissionMissingError: this user may not read it.
    """
    return parse_file(read(path, required=required), path)


def read(path: Path, *, required: bool) -> bytes:
    """The content of a configuration file: arguments and errors of :func:`load`; empty for a missing one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"{path}: cannot be read: no such file", path=path) from None
        return b""
    except PermissionError as error:
        raise PermissionMissingError(
            f"{path}: cannot be read: {error.strerror}", hint="run it as root", path=path
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", path=path) from None


def parse_file(content: bytes, path: Path) -> Settings:
    """Settings from what a configuration file holds, with the administrator's templates that lie beside it.

    Raises:
        ConfigurationError: it is no TOML, or has an unknown key or a wrong value.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text", path=path) from None
    templates = path.parent / "templates"
    return parse(text, str(path), templates if templates.is_dir() else None)


def parse(text: str, origin: str, templates: Path | None = None) -> Settings:
    """Settings from the text of a configuration file.

    Args:
        text: TOML.
        origin: what error messages call it.
        templates: the administrator's own templates.

    Raises:
        ConfigurationError: it is no TOML, or has an unknown key or a wrong value.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = len(text.splitlines())
        what = str(error).replace("at end of document", f"at the end, line {last}")
        place = re.search(r"\(at line (\d+), column \d+\)$", what)  # Python 3.14 tells it in attributes
        raise ConfigurationError(
            f"{origin}: {what}", path=Path(origin), line=int(place[1]) if place else last
        ) from None
    reader = _Reader(text, origin)
    tables = reader.table(document, _TABLES, table="", index=None)
    names = tables.get("names", {})
    return Settings(
        names=NamePatterns(names.get("include", MAIL_NAMES), names.get("exclude", ())),
        sources=tuple(reader.source(values, at) for at, values in enumerate(tables.get("sources", [{}]))),
        postfix=PostfixSettings(**tables.get("postfix", {})),
        dovecot=DovecotSettings(**tables.get("dovecot", {})),
        state=StateSettings(**tables.get("state", {})),
        verify=VerifySettings(**tables.get("verify", {})),
        alerts=AlertSettings(**tables.get("alerts", {})),
        watch=WatchSettings(**tables.get("watch", {})),
        templates=templates,
    )


def parse_partial(path: Path) -> Settings | None:
    """What a configuration that is wrong elsewhere still says of whom to tell and where to write it down.

    Returns:
        Settings with only ``[state]`` and ``[alerts]`` as the file says; None when it cannot be read, is no TOML, or is
        wrong in these tables.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
        wanted = {"state": _STATE, "alerts": _ALERTS}
        found = {key: value for key, value in document.items() if key in wanted}
        tables = _Reader("", str(path)).table(found, wanted, table="", index=None)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigurationError):
        return None
    return Settings(state=StateSettings(**tables.get("state", {})), alerts=AlertSettings(**tables.get("alerts", {})))


def _choice(*allowed: str) -> Callable[[object], str]:
    def convert(value: object) -> str:
        if value in allowed:
            return str(value)
        near = difflib.get_close_matches(str(value), allowed, n=1)
        raise _WrongValueError("must be " + _listed(allowed) + (f"; did you mean {near[0]}?" if near else ""))

    return convert


def _listed(words: tuple[str, ...]) -> str:
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]


def _switch(value: object) -> Switch:
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    raise _WrongValueError('must be true, false or "auto"')


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _WrongValueError("must be true or false")


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST:
        return float(value)
    raise _WrongValueError(f"must be a number of seconds, above 0 and at most {_LONGEST}")


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _WrongValueError("must be an absolute path")
    try:
        return Path(safe_path(value.rstrip("/") or "/"))
    except RefusedNameError as error:
        raise _WrongValueError(str(error)) from None


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise _WrongValueError("must be a list of strings")


def _patterns(value: object) -> tuple[str, ...]:
    patterns = _strings(value)
    try:
        NamePatterns(patterns)
    except RefusedNameError as error:
        raise _WrongValueError(str(error)) from None
    return patterns


def _some_patterns(value: object) -> tuple[str, ...]:
    patterns = _patterns(value)
    if not patterns:
        raise _WrongValueError("must name at least one pattern")
    return patterns


def _command(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if not words or not words[0].startswith("/") or any("\0" in word for word in words):
        raise _WrongValueError("a command is a list whose first word is an absolute path")
    return words


def _optional_command(value: object) -> tuple[str, ...]:
    return () if value == [] else _command(value)


def _action(value: object) -> Action:
    if isinstance(value, list):
        return _command(value)
    return cast("Action", _choice("auto", "reload", "restart", "none")(value))


def _endpoints(value: object) -> Literal["auto"] | tuple[Endpoint, ...]:
    if value == "auto":
        return "auto"
    try:
        return tuple(Endpoint.parse(one) for one in _strings(value))
    except ValueError as error:
        raise _WrongValueError(str(error)) from None


_HEADER = re.compile(r"\s*\[(?P<array>\[)?\s*[\"']?(?P<name>[\w-]+)[\"']?(?:\s*\.\s*[\"']?(?P<key>[\w-]+))?")
_ASSIGNMENT = re.compile(r"\s*[\"']?(?P<key>[\w-]+)[\"']?\s*[=.]")

_Keys = Mapping[str, Callable[[object], Any]]
_NAMES: _Keys = {"include": _some_patterns, "exclude": _patterns}
_SOURCE_VALUES: _Keys = {"path": _path, "command": _command}
_POSTFIX: _Keys = {
    "enabled": _switch,
    "config_directory": _path,
    "map": _path,
    "map_type": _choice("auto", "hash", "btree", "lmdb", "cdb", "texthash"),
    "action": _action,
}
_DOVECOT: _Keys = {
    "enabled": _switch,
    "config_file": _path,
    "include_file": _path,
    "version": _choice("auto", "2.3", "2.4"),
    "certificates": _choice("pinned", "live"),
    "pin_directory": _path,
    "action": _action,
}
_STATE: _Keys = {"directory": _path, "lock": _path}
_ALERTS: _Keys = {"on_failure": _optional_command}
_VERIFY: _Keys = {"after_apply": _boolean, "endpoints": _endpoints, "timeout": _seconds}
_WATCH: _Keys = {"quiet": _seconds, "max_wait": _seconds, "scan": _seconds}


def _source_keys(table: object) -> _Keys:
    """The keys of a ``[[sources]]`` table of its type; where the type is wrong, those of every type."""
    named = table.get("type", sources.DEFAULT_KIND) if isinstance(table, dict) else None
    kinds = [kind for name, kind in sources.KINDS.items() if name == named] or sources.KINDS.values()
    keys = {name: _SOURCE_VALUES[key.value] for kind in kinds for name, key in kind.keys.items()}
    return {"type": _choice(*sources.KINDS), **keys}


_TABLES: Mapping[str, _Keys | list[Callable[[object], _Keys]]] = {
    "names": _NAMES,
    "sources": [_source_keys],
    "postfix": _POSTFIX,
    "dovecot": _DOVECOT,
    "state": _STATE,
    "verify": _VERIFY,
    "alerts": _ALERTS,
    "watch": _WATCH,
}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks tables against their keys, and knows where in the text a key stands."""

    text: str
    origin: str

    def table(self, found: object, known: Mapping[str, Any], *, table: str, index: int | None) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self._error(table, None, index, "must be a table")
        values: dict[str, Any] = {}
        for key, value in found.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                raise self._error(table, key, index, "unknown key", hint=hint)
            takes = known[key]
            if isinstance(takes, Mapping):
                values[key] = self.table(value, takes, table=key, index=None)
            elif isinstance(takes, list):
                if not isinstance(value, list):
                    raise self._error(table, key, index, f"must be an array of tables: [[{key}]]")
                values[key] = [self.table(one, takes[0](one), table=key, index=at) for at, one in enumerate(value)]
            else:
                try:
                    values[key] = takes(value)
                except _WrongValueError as error:
                    raise self._error(table, key, index, str(error)) from None
        return values

    def source(self, values: Mapping[str, Any], index: int) -> SourceSettings:
        """One store, from the converted values of its table."""
        given = dict(values)
        kind = given.pop("type", sources.DEFAULT_KIND)
        settings = SourceSettings.of(kind, **given)
        missing = [name for name in sources.KINDS[kind].keys if name not in settings.values]
        if missing:
            raise self._error("sources", None, index, f'type = "{kind}" needs the key {missing[0]}')
        return settings

    def _error(
        self, table: str, key: str | None, index: int | None, what: str, *, hint: str | None = None
    ) -> ConfigurationError:
        line = self._line(table, key, index)
        brackets = f"[[{table}]]" if index is not None else f"[{table}]"
        where = " ".join(part for part in (brackets if table else "", key or "") if part)
        return ConfigurationError(
            f"{self.origin}: line {line}: {where}: {what}", hint=hint, path=Path(self.origin), line=line
        )

    def _line(self, table: str, key: str | None, index: int | None) -> int:
        """The line of a key, else of its table: TOML parsers do not tell, and the text is known to be TOML."""
        marks = self._marks()
        sought = [(table, index, key), (key, 0, None), (key, None, None), (table, index, None), ("", None, table)]
        return next((marks[mark] for mark in sought if mark in marks), 1)

    def _marks(self) -> dict[tuple[str | None, int | None, str | None], int]:
        """Where each table begins, and each key stands: (table, number of an array's table, key) to line."""
        marks: dict[tuple[str | None, int | None, str | None], int] = {}
        table, index = "", None
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = header["name"]
                earlier = sum((table, at, None) in marks for at in range(number))
                index = earlier if header["array"] else None
                marks.setdefault((table, index, None), number)
                marks.setdefault((table, index, header["key"]), number)
            elif assignment := _ASSIGNMENT.match(line):
                marks.setdefault((table, index, assignment["key"]), number)
        return marks
