"""The kinds of store that ``[[sources]] type`` takes, and the settings of one.

A new kind whose store is only a layout is an entry in :mod:`mailsni.sources.layouts`. One that needs code is a module
here, which is imported when a store of the kind is opened, and an entry in :data:`KINDS`. Another package adds one as
an entry point of the group ``mailsni.sources``: its name is the kind, its value a :class:`SourceKind`.
``tests/unit/test_source_contract.py`` holds what every kind must pass.
"""

from __future__ import annotations

import difflib
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailsni.core import values
from mailsni.core.text import printable_name
from mailsni.errors import ConfigurationError
from mailsni.sources.base import AcmeClient, CommandLine, Source
from mailsni.sources.layouts import LAYOUT_KINDS

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

DEFAULT_KIND = "certbot"
ENTRY_POINTS = "mailsni.sources"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a ``[[sources]]`` table."""

    parse: Callable[[object], Any]
    """Gives the value for a TOML value, or raises a ValueError with the reason: a function of
    :mod:`mailsni.core.values`, or one of the kind's own."""
    default: Any = None
    """None: the table must have the key."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A ``type`` that ``[[sources]]`` takes."""

    factory: str
    """``module:callable``. It is called with the values of :attr:`keys` and :attr:`fixed`, and returns a
    :class:`Source`."""
    keys: Mapping[str, Key]
    """The keys of its table, but for ``type``."""
    what: str = ""
    """The tool, and which of its directories or files ``path`` names, in a line for people."""
    usual_places: tuple[str, ...] = ()
    """Where ``path`` usually is, the most usual first: shell patterns. One without a leading slash is looked for in the
    directories of container stacks (:data:`mailsni.sources.detection.STACKS`); ``.`` is such a directory itself."""
    fixed: Mapping[str, Any] = field(default_factory=dict)


KINDS: dict[str, SourceKind] = {
    "acme.sh": SourceKind(
        "mailsni.sources.acme_sh:acme_sh_store",
        {"path": Key(values.path, Path("/root/.acme.sh"))},
        "acme.sh: its home",
        ("/root/.acme.sh", "/home/*/.acme.sh", "/acme.sh", ".acme.sh", "acmesh"),
    ),
    "certbot": SourceKind(
        "mailsni.sources.certbot:certbot_store",
        {"path": Key(values.path, Path("/etc/letsencrypt/live"))},
        "certbot: its directory live",
        (
            "/etc/letsencrypt/live",
            *(
                "live",
                "conf/live",
                "letsencrypt/live",
                "etc/letsencrypt/live",
                "certbot/conf/live",
                "*/letsencrypt/live",
            ),
        ),
    ),
    "command": SourceKind(
        "mailsni.sources.command:command_store",
        {"command": Key(values.command), "every": Key(values.interval, 3600.0)},
        "a command that prints PEM or JSON: Vault, 1Password, any key-value store",
    ),
    "docker-mailserver": SourceKind(
        "mailsni.sources.docker_mailserver:docker_mailserver_store",
        {"path": Key(values.path), "hostname": Key(values.optional_host_name, "")},
        "docker-mailserver: the directory with its compose file and mailserver.env",
        (".", "*"),
    ),
    "files": SourceKind(
        "mailsni.sources.files:files_store",
        {"certificate": Key(values.path), "key": Key(values.path), "chain": Key(values.optional_path, "")},
        "one pair: its certificate, its key and, where the issuers are in a file of their own, its chain",
    ),
    "pem-tree": SourceKind(
        "mailsni.sources.pem_tree:PemTree",
        {"path": Key(values.path)},
        "any directory: keys and certificates are paired, wherever they lie and whatever they are called",
    ),
    "traefik": SourceKind(
        "mailsni.sources.traefik:traefik_store",
        {"path": Key(values.path)},
        "Traefik (v1, v2 and v3): its acme.json, or the directory with it",
        (
            *("/etc/traefik/acme.json", "/etc/traefik/acme/acme.json", "/var/lib/traefik/acme.json"),
            *("/letsencrypt/acme.json", "acme.json", "*/acme.json", "*/*/acme.json"),
        ),
    ),
    "traefik-kv": SourceKind(
        "mailsni.sources.traefik_kv:traefik_kv_store",
        {
            "url": Key(values.server_url),
            "prefix": Key(values.key_prefix, "traefik"),
            "ca_file": Key(values.optional_path, ""),
            "token_file": Key(values.optional_path, ""),
        },
        "Traefik v1 as a cluster: its certificates in Consul or etcd",
    ),
} | {
    name: SourceKind(
        "mailsni.sources.directory:DirectoryStore",
        {"path": Key(values.path, Path(kind.path) if kind.path else None)},
        kind.what,
        kind.usual_places,
        {"layout": kind.layout},
    )
    for name, kind in LAYOUT_KINDS.items()
}


def kind_of(name: str) -> SourceKind:
    """The kind of a name.

    Raises:
        KeyError: there is none.
        ConfigurationError: another package adds it, and it cannot be used.
    """
    return KINDS[name] if name in KINDS else _added_kind(name)


def added_kinds() -> Mapping[str, str]:
    """The kinds that other packages add: the package of each, by name. None of them is imported."""
    entries = {entry.name: entry for entry in _entry_points() if entry.name not in KINDS}
    return {
        name: printable_name(entry.dist.name if entry.dist is not None else entry.value)
        for name, entry in sorted(entries.items())
    }


def _entry_points() -> Iterable[EntryPoint]:
    from importlib import metadata  # takes a third of the shortest run, and hardly anybody adds a kind

    return metadata.entry_points(group=ENTRY_POINTS)


@cache
def _added_kind(name: str) -> SourceKind:
    entry = next((entry for entry in _entry_points() if entry.name == name), None)
    if entry is None:
        raise KeyError(name)
    kind = _load(name, entry.value)
    if not isinstance(kind, SourceKind):
        raise _unusable(name, f"{printable_name(entry.value)} is no SourceKind")
    return kind


def _load(kind: str, place: str) -> Any:  # noqa: ANN401  # whatever lies there
    """What lies at ``module:name``.

    Raises:
        ConfigurationError: it cannot be imported: another package's module may raise anything.
    """
    try:
        return pkgutil.resolve_name(place)
    except Exception as error:
        if kind in KINDS:
            raise
        why = f"{printable_name(place)}: {type(error).__name__}: {printable_name(str(error))}"
        raise _unusable(kind, why) from error


def _unusable(kind: str, why: str) -> ConfigurationError:
    package = added_kinds().get(kind, "?")
    name = printable_name(kind)
    return ConfigurationError(f"the package {package}, which adds the kind {name}, cannot be used: {why}")


def kind_name(value: object) -> str:
    """A value of ``type``; parses like the functions of :mod:`mailsni.core.values`."""
    try:
        if isinstance(value, str):
            kind_of(value)
            return value
    except ConfigurationError as error:
        raise ValueError(error.message) from error
    except KeyError:
        pass
    near = difflib.get_close_matches(str(value), (*KINDS, *added_kinds()), n=1)
    raise ValueError(
        "must be one of those that `mailsni sources` lists" + (f"; did you mean {near[0]}?" if near else "")
    )


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """``[[sources]]``: one store."""

    type: str
    values: Mapping[str, Any]
    """By key, all keys that the kind takes."""

    @classmethod
    def of(cls, kind: str, **given: object) -> SourceSettings:
        """The settings of a kind, with the defaults of the keys that are not given."""
        keys = kind_of(kind).keys
        every = {name: given.get(name, key.default) for name, key in keys.items()}
        return cls(kind, {name: value for name, value in every.items() if value is not None})

    def table(self) -> Mapping[str, Any]:
        """What its table has to say: the type, the path, and whatever is not the default."""
        keys = kind_of(self.type).keys
        told = {name: value for name, value in self.values.items() if name == "path" or value != keys[name].default}
        return {"type": self.type, **told}

    def open(self) -> Source:
        """The store. Nothing of it is read yet.

        Raises:
            ConfigurationError: another package adds the kind, and it cannot be imported.
        """
        kind = kind_of(self.type)
        source: Source = _load(self.type, kind.factory)(**self.values, **kind.fixed)
        return source


DEFAULT_SOURCES = (SourceSettings.of(DEFAULT_KIND),)


def acme_clients(settings: Iterable[SourceSettings]) -> tuple[AcmeClient, ...]:
    """What fills the stores, as far as they tell; each once."""
    clients = (each.open().acme_client for each in settings)
    return tuple(dict.fromkeys(client for client in clients if client is not None))


def renewal_of(settings: Iterable[SourceSettings], path: Path) -> CommandLine | None:
    """What renews the certificate in a file of a store; None where no ACME client does, or the file is in no store."""
    origin = str(path.parent)
    for source in (each.open() for each in settings):
        client = source.acme_client
        if client is not None and source.owns(origin) and client.renewal_file(origin).is_file():
            return client.renew(origin)
    return None


def is_deleted(settings: Iterable[SourceSettings], origin: str) -> bool:
    """Whether somebody told its ACME client to delete a certificate: nothing of it is left, nor what would renew it."""
    for source in (each.open() for each in settings):
        client = source.acme_client
        if source.owns(origin) and client is not None:
            return was_deleted(client, origin)
    return False


def was_deleted(client: AcmeClient, origin: str) -> bool:
    """Whether nothing of a certificate is left, nor what would renew it; the client's own directory is there."""
    renewal = client.renewal_file(origin)
    return renewal.parent.is_dir() and not any(map(os.path.lexists, (renewal, *client.paths(origin))))
