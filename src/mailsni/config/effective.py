"""Every setting with the place that it comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from mailsni.config.parser import TABLE_NAMES, TABLES, Place, line_of
from mailsni.config.settings import Settings, field_of


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """A setting that is in effect, and where it comes from."""

    place: Place
    value: object
    line: int | None
    """Of the configuration file; None for a default."""


def effective_values(settings: Settings, content: bytes) -> Iterator[EffectiveValue]:
    """Every setting in the order of the reference.

    Args:
        settings: what the parser gave for the content.
        content: of the configuration file; empty when there is none.
    """
    text = content.decode("utf-8")
    document = tomllib.loads(text)
    for table in TABLE_NAMES:
        if table != "sources":
            given = document.get(table, {})
            values = {
                field.name: getattr(getattr(settings, field_of(table)), field.name) for field in fields(TABLES[table])
            }
            yield from _of_table(Place(table), values, given, text)
            continue
        for index, source in enumerate(settings.sources):
            given = document["sources"][index] if table in document else {}
            yield from _of_table(Place(table, index=index), {"type": source.type, **source.values}, given, text)


def _of_table(place: Place, values: dict[str, object], given: dict[str, object], text: str) -> Iterator[EffectiveValue]:
    for key, value in values.items():
        at = Place(place.table, key, place.index)
        yield EffectiveValue(at, value, line_of(text, at) if key in given else None)


def templates_in(directory: Path | None) -> list[str]:
    """The names of the administrator's own templates, sorted."""
    return sorted(path.name for path in directory.glob("*.j2")) if directory is not None else []
