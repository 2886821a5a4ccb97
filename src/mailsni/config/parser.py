"""Reads a configuration file. Every key is optional; an error names the file, the line and the key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from mailsni.config.settings import (
    MOUNTED,
    NameSettings,
    Settings,
    field_of,
    in_docker_mailserver,
    in_mailcow,
    table_of,
)
from mailsni.errors import ConfigurationError, PermissionMissingError
from mailsni.host import trust
from mailsni.sources import kinds
from mailsni.sources.kinds import SourceSettings

TABLES: Mapping[str, type] = {"names": NameSettings} | {
    table_of(field.name): type(field.default) for field in fields(Settings) if is_dataclass(field.default)
}
"""The class of each table but ``[[sources]]``; the fields of a class are the keys of its table."""
TABLE_NAMES = tuple(table_of(field.name) for field in fields(Settings) if table_of(field.name) in {"sources", *TABLES})

_HEADER = re.compile(r"\s*\[(?P<array>\[)?\s*[\"']?(?P<name>[\w-]+)[\"']?(?:\s*\.\s*[\"']?(?P<key>[\w-]+))?")
_ASSIGNMENT = re.compile(r"\s*[\"']?(?P<key>[\w-]+)[\"']?\s*[=.]")


def load(path: Path, *, required: bool) -> Settings:
    """Read a configuration file; a missing one means the defaults, unless it is required.

    Raises:
        ConfigurationError: it is missing, others can change it, it is not TOML, or has an unknown key or a wrong value.
        PermissionMissingError: this user may not read it.
    """
    return parse_file(read(path, required=required), path)


def read(path: Path, *, required: bool) -> bytes:
    """The content of a configuration file: arguments and errors of :func:`load`; empty for a missing one."""
    try:
        return trust.read(path)
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
    """The settings from the content of a configuration file, with the templates beside it.

    Raises:
        ConfigurationError: as from :func:`parse`; or others can change the templates.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text", path=path) from None
    templates: Path | None = path.parent / "templates"
    if templates is not None and templates.is_dir():
        trust.require(templates)
    else:
        templates = None
    return replace(parse(text, path, templates), file=path.absolute())


def parse(text: str, path: Path, templates: Path | None = None) -> Settings:
    """The settings from the TOML of a configuration file, whose path is for error messages.

    Raises:
        ConfigurationError: the text is not TOML, or has an unknown key or a wrong value.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = len(text.splitlines())
        reason = str(error).replace("at end of document", f"at the end, line {last}")
        place = re.search(r"\(at line (\d+), column \d+\)$", reason)  # Python 3.14 has attributes for it
        line = int(place[1]) if place else last
        raise ConfigurationError(f"{path}: {reason}", path=path, line=line) from None
    read = _Document(text, path)
    return read.on_host(Settings(**read.settings(document), templates=templates))


def parse_partial(path: Path) -> Settings | None:
    """The settings of ``[state]`` and ``[alerts]`` alone: where to record a failure, and whom to alert.

    None when the file cannot be read, others can change it, it is not TOML, or it is wrong in these tables. Other
    errors do not matter.
    """
    try:
        document = tomllib.loads(trust.read(path).decode("utf-8"))
        known = {name: table for name, table in document.items() if name in ("state", "alerts")}
        return Settings(**_Document("", path).settings(known))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigurationError):
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a table, or a table; ``index`` counts the tables of an array."""

    table: str
    key: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        """As error messages name it: ``[postfix] map``."""
        brackets = f"[{self.table}]" if self.index is None else f"[[{self.table}]]"
        return " ".join(part for part in (brackets if self.table else "", self.key or "") if part)


@dataclass(frozen=True, slots=True)
class _Document:
    """The text of a configuration file, which tells the line of an error."""

    text: str
    path: Path

    def settings(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of each table that the document has."""
        settings: dict[str, Any] = {}
        for name, content in document.items():
            self._require_known(Place("", name), TABLE_NAMES)
            if name == "sources":
                settings[name] = self._sources(content)
            else:
                keys = {field.name: field.metadata["parse"] for field in fields(TABLES[name])}
                settings[field_of(name)] = TABLES[name](**self._table(content, keys, Place(name)))
        if "names" in settings:
            settings["names"] = settings["names"].patterns()
        return settings

    def on_host(self, settings: Settings) -> Settings:
        """Settings whose paths are those on this host; of a server in a container a file may give the paths inside."""
        moved: dict[str, Any] = {}
        for name, keys in MOUNTED.items():
            server = getattr(settings, name)
            if not server.container:
                continue
            if server.action == "restart":
                raise self._error(
                    Place(name, "action"),
                    f"container {server.container} is not restarted: a reload is enough",
                    hint="a command as a list runs on this host, and may restart it",
                )
            paths = {key: settings.container.paths.on_host(getattr(server, key)) for key in keys}
            for key, path in paths.items():
                if path is None:
                    raise self._error(
                        Place(name, key),
                        f"{getattr(server, key)} lies in no directory that container {server.container} shares with "
                        "this host",
                        hint='paths = { "/directory/on/the/host" = "/the/same/inside" } in [container] names them',
                    )
            moved[name] = replace(server, **paths)
        stacks = {"mailcow": in_mailcow, "docker-mailserver": in_docker_mailserver}
        enabled = [name for name in stacks if getattr(settings, field_of(name)).enabled]
        if not enabled:
            return replace(settings, **moved)
        if moved or len(enabled) > 1:
            place = Place(next(iter(moved)), "container") if moved else Place(enabled[1], "enabled")
            raise self._error(
                place,
                f"[{enabled[0]}] is enabled, whose containers have both servers",
                hint="another mail server needs a configuration file of its own",
            )
        return stacks[enabled[0]](settings)

    def _sources(self, content: object) -> tuple[SourceSettings, ...]:
        if not isinstance(content, list):
            raise self._error(Place("", "sources"), "must be an array of tables: [[sources]]")
        return tuple(self._source(table, Place("sources", index=index)) for index, table in enumerate(content))

    def _source(self, content: object, place: Place) -> SourceSettings:
        named = {name: value for name, value in content.items() if name == "type"} if isinstance(content, dict) else {}
        word = {"type": kinds.kind_name}
        kind = self._table(named, word, place).get("type", kinds.DEFAULT_KIND)
        keys = kinds.kind_of(kind).keys
        given = self._table(content, word | {name: key.parse for name, key in keys.items()}, place)
        settings = SourceSettings.of(kind, **{name: value for name, value in given.items() if name != "type"})
        missing = [name for name in keys if name not in settings.values]
        if missing:
            raise self._error(place, f'type = "{kind}" needs the key {missing[0]}')
        return settings

    def _table(self, content: object, keys: Mapping[str, Callable[[object], Any]], place: Place) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise self._error(place, "must be a table")
        settings = {}
        for key, value in content.items():
            at = Place(place.table, key, place.index)
            self._require_known(at, keys)
            try:
                settings[key] = keys[key](value)
            except ValueError as error:
                raise self._error(at, str(error)) from None
        return settings

    def _require_known(self, place: Place, known: Collection[str]) -> None:
        key = place.key or ""
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise self._error(place, "unknown key", hint=hint)

    def _error(self, place: Place, what: str, *, hint: str | None = None) -> ConfigurationError:
        line = line_of(self.text, place)
        return ConfigurationError(f"{self.path}: line {line}: {place}: {what}", hint=hint, path=self.path, line=line)


def line_of(text: str, place: Place) -> int:
    """The line of a key, or else of its table. tomllib does not tell it; the text is known to be TOML."""
    lines = _lines(text)
    table, key = place.table, place.key or ""
    nearest = (place, Place(key, index=0), Place(key), Place(table, index=place.index), Place("", table))
    return next((lines[at] for at in nearest if at in lines), 1)


def _lines(text: str) -> dict[Place, int]:
    """The lines where tables begin and keys stand."""
    lines: dict[Place, int] = {}
    table, index = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header["name"]
            earlier = sum(Place(table, index=before) in lines for before in range(number))
            index = earlier if header["array"] else None
            lines.setdefault(Place(table, index=index), number)
            lines.setdefault(Place(table, header["key"], index), number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(Place(table, assignment["key"], index), number)
    return lines
