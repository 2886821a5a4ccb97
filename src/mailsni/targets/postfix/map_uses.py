"""Which places name our map: main.cf, services in master.cf, and the same files of other Postfix instances.

A table that is named and missing cuts off each client that sends a name (measured), whoever names it. So every type
that is named anywhere is compiled, and a compiled map goes only when no place names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mailsni.config.settings import MapType
from mailsni.errors import MailsniError
from mailsni.host.commands import Executor
from mailsni.targets.postfix.lines import split_words
from mailsni.targets.postfix.map_types import SUFFIX_OF, PostfixMap
from mailsni.targets.postfix.postconf import SNI_MAPS, Installation, Override, redirects_berkeley_db

_TABLE = re.compile(rf"\b({'|'.join(SUFFIX_OF)}):(/[^\s,{{}}]+)")
"""A table of files, wherever it stands in a value: also behind ``proxy:``, or in the braces of ``pipemap``."""
_MAKEABLE = get_args(MapType)
_DEFAULT_TYPES = ("lmdb", "cdb", "hash", "btree")
_OTHER_DIRECTORIES = ("multi_instance_directories", "alternate_config_directories")
"""Where main.cf names the configuration directories of other instances (postconf(5))."""


@dataclass(frozen=True, slots=True)
class MapUse:
    """A parameter that names our map."""

    table: PostfixMap
    file: Path
    """The main.cf or the master.cf with the parameter."""
    parameter: str
    value: str
    service: str = ""
    """The service that has the parameter for itself: ``submission/inet``; empty in main.cf."""

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}: {self.service}" if self.service else str(self.file)


@dataclass(frozen=True, slots=True)
class MapUses:
    """Every place that names our map."""

    uses: tuple[MapUse, ...] = ()
    """Those of ``tls_server_sni_maps`` in our own main.cf come first."""
    main_cf: Path = Path()
    """Our own."""
    unreadable: tuple[Path, ...] = ()
    """The configuration directories that could not be read: then nobody can say that a map is not named."""

    @property
    def is_in_main_cf(self) -> bool:
        """Whether ``tls_server_sni_maps`` in our own main.cf names the map."""
        return any(use.file == self.main_cf and use.parameter == SNI_MAPS for use in self.uses)

    def tables(self) -> dict[PostfixMap, MapUse]:
        """Each table once, with the first place that names it."""
        tables: dict[PostfixMap, MapUse] = {}
        for use in self.uses:
            tables.setdefault(use.table, use)
        return tables

    @property
    def map_types(self) -> tuple[str, ...]:
        """The types, in the order of the uses."""
        return tuple(dict.fromkeys(use.table.map_type for use in self.uses))


def find_uses(postfix: Installation, own: Path, main: Mapping[str, str]) -> MapUses:
    """Find every parameter that names our map, whichever parameter: others may refer to it (``$name``).

    Args:
        postfix: the instance that we configure.
        own: the source of our map.
        main: all parameters of its main.cf, expanded.
    """
    directory = postfix.config_directory
    found = [_in_main_cf(postfix, main, own)]
    unreadable = []
    for each in (directory, *_other_directories(postfix, main)):
        instance = Installation(each, postfix.executor)
        try:
            if each != directory and (each / "main.cf").exists():
                found.append(_in_main_cf(instance, instance.parameters(), own))
            if postfix.executor.container or (each / "master.cf").exists():
                found.append(_in_master_cf(instance, own))
        except (MailsniError, OSError):
            unreadable.append(each)
    uses = [use for uses in found for use in uses]
    uses.sort(key=lambda use: (use.file != directory / "main.cf", use.parameter != SNI_MAPS))
    return MapUses(tuple(uses), directory / "main.cf", tuple(unreadable))


def _other_directories(postfix: Installation, main: Mapping[str, str]) -> Iterator[Path]:
    """The configuration directories of other instances, each once."""
    words = [word for parameter in _OTHER_DIRECTORIES for word in split_words(main.get(parameter, ""))]
    named = [found for word in words if (found := postfix.executor.outside(Path(word))) is not None]
    family = [instance.config_directory for instance in postfix.instances()]
    return (each for each in dict.fromkeys((*named, *family)) if each != postfix.config_directory)


def _in_main_cf(postfix: Installation, parameters: Mapping[str, str], own: Path) -> tuple[MapUse, ...]:
    file = postfix.config_directory / "main.cf"
    named = ((name, value, _our_tables(value, own, postfix.executor)) for name, value in parameters.items())
    return tuple(MapUse(table, file, name, value) for name, value, tables in named for table in tables)


def _in_master_cf(postfix: Installation, own: Path) -> tuple[MapUse, ...]:
    """What services have for themselves, and what ``tls_server_sni_maps`` of main.cf becomes with it."""
    file = postfix.config_directory / "master.cf"
    overrides = postfix.overrides()
    changed = _changed_by_services(postfix, overrides)
    return tuple(
        MapUse(table, file, override.parameter, override.value, override.service)
        for override in (*overrides, *changed)
        for table in _our_tables(override.value, own, postfix.executor)
    )


def _changed_by_services(postfix: Installation, overrides: Iterable[Override]) -> Iterator[Override]:
    """What services make of ``tls_server_sni_maps`` of main.cf, because it refers to parameters that they set."""
    written = postfix.parameters(SNI_MAPS, expanded=False).get(SNI_MAPS, "")
    if "$" not in written:
        return
    services: dict[str, list[Override]] = {}
    for override in overrides:
        services.setdefault(override.service, []).append(override)
    for service, settings in services.items():
        if all(override.parameter != SNI_MAPS for override in settings):
            yield Override(service, SNI_MAPS, postfix.parameters(SNI_MAPS, own=settings).get(SNI_MAPS, ""))


def _our_tables(value: str, own: Path, executor: Executor) -> Iterable[PostfixMap]:
    """The tables in a value whose file is that of our map, by that name or through a link."""
    if "/" not in value:
        return ()
    named = ((map_type, executor.outside(Path(source))) for map_type, source in _TABLE.findall(value))
    tables = (PostfixMap(map_type, source) for map_type, source in named if source is not None)
    return dict.fromkeys(table for table in tables if _same_file(table, PostfixMap(table.map_type, own)))


def _same_file(table: PostfixMap, ours: PostfixMap) -> bool:
    return table == ours or os.path.realpath(table.file) == os.path.realpath(ours.file)


# ── which types to make ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """Which types our map is compiled to."""

    maps: tuple[tuple[str, ...], ...]
    """For each compiled map, the types to try in order: more than one only where nothing decides."""
    refused: Mapping[str, str]
    """Why a map of a type that is named cannot be made, by the type."""


def choose_types(
    asked: str, named: Collection[str], main: Mapping[str, str], supported: Callable[[], Collection[str]]
) -> TypeChoice:
    """Choose the types: those that are named, and the one of the configuration; else what this Postfix prefers.

    Args:
        asked: a type, or ``auto``.
        named: the types that places name, the most important one first.
        main: the parameters of main.cf.
        supported: gives the types that this Postfix knows; called only where several are wanted.
    """
    wanted = list(dict.fromkeys((*named, *([asked] if asked != "auto" else []))))
    known = (*supported(), "texthash") if len(wanted) > 1 else wanted
    redirected = redirects_berkeley_db(main)
    chosen: dict[str, str] = {}
    refused: dict[str, str] = {}
    for map_type in wanted:
        file = map_type if redirected else SUFFIX_OF[map_type]
        if map_type not in _MAKEABLE:
            refused[map_type] = "it cannot hold keys and chains"
        elif map_type not in known:
            refused[map_type] = "this Postfix has no such tables"
        elif file in chosen:
            refused[map_type] = f"its file would be that of the {chosen[file]} table"
        else:
            chosen[file] = map_type
    if chosen:
        return TypeChoice(tuple((map_type,) for map_type in chosen.values()), refused)
    default = main.get("default_database_type", "")
    first = (default,) if default in _DEFAULT_TYPES else ()
    return TypeChoice((tuple(dict.fromkeys((*first, *_DEFAULT_TYPES))),), refused)
