"""``mailsni sources``: the kinds of store, and the stores of a host as tables to paste; as text, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailsni.config.document import source_table, toml
from mailsni.core.text import counted, summarize
from mailsni.output import console
from mailsni.output.configuration import plain
from mailsni.sources.detection import HostStore, Survey
from mailsni.sources.kinds import Key, SourceKind


@dataclass(frozen=True, slots=True)
class KindEntry:
    """A kind of the list."""

    name: str
    kind: SourceKind | None
    """None: it cannot be used."""
    package: str | None = None
    """The package that adds it; None for this one."""
    problem: str | None = None
    """Why it cannot be used."""


def show_kinds(entries: Sequence[KindEntry]) -> None:
    """Print one row for each kind."""
    console.table(("TYPE", "KEYS", "WHAT"), [(entry.name, _keys(entry.kind), _what(entry)) for entry in entries])


def _keys(kind: SourceKind | None) -> str:
    return ", ".join(described_keys(kind.keys)) if kind is not None else ""


def described_keys(keys: Mapping[str, Key]) -> Iterator[str]:
    """Each key, with its default where it has one."""
    for name, key in keys.items():
        yield name if key.default is None else f"{name} = {toml(key.default)}"


def _what(entry: KindEntry) -> str:
    what = entry.problem or (entry.kind.what if entry.kind is not None else "")
    return f"{what} (added by {entry.package})".strip() if entry.package and not entry.problem else what


def document(entries: Sequence[KindEntry], survey: Survey | None) -> dict[str, Any]:
    """The kinds, and the stores of the host if they were looked for, as a JSON document."""
    return {
        "schema": "mailsni.sources/1",
        "kinds": [_kind(entry) for entry in entries],
        "stores": None if survey is None else [_store(store) for store in survey.stores],
        "unseen": [] if survey is None else [{"place": place, "why": why} for place, why in survey.unseen.items()],
    }


def _kind(entry: KindEntry) -> dict[str, Any]:
    keys = entry.kind.keys if entry.kind is not None else {}
    return {
        "type": entry.name,
        "what": entry.kind.what if entry.kind is not None else "",
        "keys": [
            {
                "key": name,
                "required": key.default is None,
                "default": None if key.default is None else plain(key.default),
            }
            for name, key in keys.items()
        ],
        "package": entry.package,
        "problem": entry.problem,
    }


def show_stores(survey: Survey, *, has_own_sources: bool) -> None:
    """Print each store as a table of the configuration, after a comment on what it holds.

    Args:
        survey: what the search gave.
        has_own_sources: the configuration names its stores. Their tables are comments then: they stand there already.
            A default store is not in effect any more once another one is named, so it is printed like the others.
    """
    for number, store in enumerate(survey.stores):
        if number:
            console.print_line()
        for line in table_lines(store, commented=store.configured and has_own_sources):
            console.print_line(line)


def table_lines(store: HostStore, *, commented: bool = False) -> Iterator[str]:
    """A store as a table of the configuration."""
    yield f"# {'configured already: ' if store.configured else ''}{content(store)}"
    table = source_table(store.settings.table())
    yield from (f"#{line}" if commented else line for line in table.splitlines())


def content(store: HostStore) -> str:
    """What a store holds."""
    names = f"{counted(len(store.names), 'mail name')}: {summarize(store.names)}" if store.names else "no mail name"
    return f"{counted(store.certificates, 'certificate')}, {names}"


def _store(store: HostStore) -> dict[str, Any]:
    return {
        "type": store.settings.type,
        "settings": [{"key": name, "value": plain(value)} for name, value in store.settings.values.items()],
        "configured": store.configured,
        "certificates": store.certificates,
        "names": list(store.names),
        "new_names": list(store.new_names),
    }
