"""Finds the certificate stores of a host: at the usual places of each kind, and in the directories of container stacks.

A place counts when the kind's own scan finds a certificate there. Certificates that lie in two such places, or can be
read as two kinds, count once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from mailsni.core.model import Inventory, Reason
from mailsni.core.names import NamePatterns
from mailsni.core.selection import select
from mailsni.core.text import printable_name
from mailsni.errors import ConfigurationError, MailsniError, PermissionMissingError
from mailsni.sources import kinds
from mailsni.sources.kinds import SourceSettings

STACKS = (
    *("/opt/*", "/opt/stacks/*", "/srv/*", "/docker/*"),
    *("/var/lib/docker/volumes/*/_data", "/var/lib/containers/storage/volumes/*/_data"),
    *("/root/*", "/home/*/*", "/home/*/docker/*"),
)
"""Where the directories of container stacks and their volumes usually are: shell patterns."""
TIME_LIMIT = 30.0
"""Seconds for the whole search."""
ENTRY_LIMIT = 50_000
"""Names in the directories that are searched, all together."""
DIRECTORY_LIMIT = 1000
"""Names in one of them: more are no container stacks."""
_Scan = tuple[SourceSettings, Inventory]
_GENERAL = ("certbot", "dehydrated", "lego")
"""Kinds whose layout other tools use too: of the same certificates any other kind is the better name."""


@dataclass(frozen=True, slots=True)
class HostStore:
    """A store of this host that has a certificate."""

    settings: SourceSettings
    certificates: int
    names: tuple[str, ...]
    """The mail names that a valid certificate of an authority has in it, sorted."""
    new_names: tuple[str, ...]
    """Those of them that no configured store has."""
    configured: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What a search gave."""

    stores: tuple[HostStore, ...]
    """The configured ones first."""
    unseen: Mapping[str, str]
    """What could not be looked into: a sentence on each place."""


def survey(
    configured: Sequence[SourceSettings],
    patterns: NamePatterns,
    now: datetime,
    *,
    inventory: Inventory | None = None,
    root: Path = Path("/"),
) -> Survey:
    """Look for stores. Nothing is written, and the search is bounded in time and in what it lists.

    Args:
        configured: the stores of the configuration.
        patterns: which names are mail names.
        now: the moment at which certificates must be valid, with a time zone.
        inventory: what the configured stores hold, if that is known: they are not read then, and not in the result.
        root: of the system.
    """
    search = _Search(root, time.monotonic() + TIME_LIMIT)
    own: list[_Scan] = []
    others: list[_Scan] = []
    places = {_place(settings) for settings in configured}
    try:
        for settings in configured if inventory is None else ():
            if found := search.scan(settings, guessed=False):
                own.append((settings, found))
        for settings in search.candidates():
            if _place(settings) not in places:
                places.add(_place(settings))
                if found := search.scan(settings, guessed=True):
                    others.append((settings, found))
    except _LimitError as error:
        search.unseen[str(root)] = str(error)
    of_configured = [found for _, found in own] if inventory is None else [inventory]
    own_names = {name for each in of_configured for name in _mail_names(each, patterns, now)}

    def store(settings: SourceSettings, found: Inventory, *, configured: bool) -> HostStore:
        names = _mail_names(found, patterns, now)
        new = tuple(name for name in names if name not in own_names)
        return HostStore(settings, len(found.certificates), names, new, configured)

    return Survey(
        (
            *(store(*each, configured=True) for each in own),
            *(store(*each, configured=False) for each in _distinct(of_configured, others)),
        ),
        search.unseen,
    )


def _place(settings: SourceSettings) -> tuple[str, str]:
    """Equal for settings that name the same store."""
    path = settings.values.get("path")
    return settings.type, repr(settings.values) if path is None else os.path.realpath(path)


def _mail_names(inventory: Inventory, patterns: NamePatterns, now: datetime) -> tuple[str, ...]:
    winners = select(inventory, patterns, now).winners
    return tuple(each.name for each in winners if not all(one.self_signed for one in each.certificates))


def _distinct(configured: Sequence[Inventory], others: Sequence[_Scan]) -> list[_Scan]:
    """Those of the others that hold something which neither a configured store nor a better one of them holds."""
    kept = [_idents(inventory) for inventory in configured]
    distinct = []
    for scan in sorted(others, key=lambda scan: (-len(_idents(scan[1])), scan[0].type in _GENERAL)):
        idents = _idents(scan[1])
        if not any(idents <= each for each in kept):
            kept.append(idents)
            distinct.append(scan)
    return [scan for scan in others if scan in distinct]


def _idents(inventory: Inventory) -> frozenset[str]:
    return frozenset(certificate.ident for certificate in inventory.certificates)


class _LimitError(Exception):
    """The search takes too long, or lists too much."""


@dataclass(slots=True)
class _Search:
    """What a search looks at, and what it could not see."""

    root: Path
    deadline: float
    unseen: dict[str, str] = field(default_factory=dict)
    listings: dict[str, list[str]] = field(default_factory=dict)
    entries: int = 0

    def scan(self, settings: SourceSettings, *, guessed: bool) -> Inventory | None:
        """What a store holds; None when no certificate.

        Args:
            settings: of the store.
            guessed: whether something else may lie there. Then only what this user may not read is told.

        Raises:
            _LimitError: the time is up.
        """
        self._check_limits()
        place = str(settings.values.get("path", settings.type))

        def progress(_what: str, _done: int, _total: int) -> None:
            self._check_limits()

        try:
            source = settings.open()
            place = source.location
            inventory = source.scan({}, progress)
        except (MailsniError, OSError, ValueError) as error:
            if guessed and not isinstance(error, PermissionMissingError):
                return None
            self.unseen[place] = error.message if isinstance(error, MailsniError) else f"{place}: {error}"
            return None
        unreadable = [skipped for skipped in inventory.skipped if skipped.reason is Reason.UNREADABLE]
        if unreadable:
            self.unseen[place] = f"{unreadable[0].source}: {unreadable[0].detail}"
        return inventory if inventory.certificates else None

    def candidates(self) -> Iterator[SourceSettings]:
        """Every place at which a store of a kind may be: the usual ones of the host, then those of container stacks.

        Raises:
            _LimitError: it takes too long.
        """
        known = _detectable_kinds()
        for name, patterns in known.items():
            for pattern in patterns:
                if pattern.startswith("/"):
                    yield from self._at(name, self._places(str(self.root), pattern))
        stacks = [stack for pattern in STACKS for stack in self._places(str(self.root), pattern)]
        for stack in stacks:
            for name, patterns in known.items():
                for pattern in patterns:
                    if not pattern.startswith("/"):
                        yield from self._at(name, self._places(stack, pattern))

    def _at(self, kind: str, places: Iterable[str]) -> Iterator[SourceSettings]:
        for place in places:
            try:
                yield SourceSettings.of(kind, path=kinds.kind_of(kind).keys["path"].parse(place))
            except ValueError as error:
                self.unseen[place] = str(error)

    def _places(self, base: str, pattern: str) -> Iterator[str]:
        """The paths that a pattern leads to, below a directory; ``.`` is the directory itself."""
        if pattern == ".":
            yield base
            return
        first, _, rest = pattern.strip("/").partition("/")
        names = [first]
        if any(character in first for character in "*?["):
            names = [name for name in self._names(base) if fnmatchcase(name, first) and not name.startswith(".")]
        for name in names:
            inner = f"{base.rstrip('/')}/{name}"
            if rest:
                yield from self._places(inner, rest)
            elif self._exists(inner):
                yield inner

    def _names(self, directory: str) -> list[str]:
        if directory not in self.listings:
            self._check_limits()
            self.listings[directory] = []
            try:
                with os.scandir(directory) as entries:
                    self.listings[directory] = sorted(entry.name for entry in islice(entries, DIRECTORY_LIMIT + 1))
            except OSError as error:
                self._tell(directory, error)
            self.entries += len(self.listings[directory])
            if len(self.listings[directory]) > DIRECTORY_LIMIT:
                self.unseen[directory] = f"{printable_name(directory)}: not searched: over {DIRECTORY_LIMIT} entries"
                self.listings[directory] = []
        return self.listings[directory]

    def _exists(self, path: str) -> bool:
        self._check_limits()
        try:
            return Path(path).stat() is not None
        except OSError as error:
            self._tell(path.rpartition("/")[0], error)
            return False

    def _tell(self, directory: str, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.unseen[directory] = f"{printable_name(directory)}: this user may not look into it"

    def _check_limits(self) -> None:
        if time.monotonic() > self.deadline:
            raise _LimitError(f"not searched to the end within {TIME_LIMIT:.0f} s")
        if self.entries > ENTRY_LIMIT:
            raise _LimitError(f"not searched to the end: more than {ENTRY_LIMIT} names")


def _detectable_kinds() -> dict[str, tuple[str, ...]]:
    """The usual places of each kind that a path alone configures."""
    places = {}
    for name in (*kinds.KINDS, *kinds.added_kinds()):
        try:
            kind = kinds.kind_of(name)
        except ConfigurationError:  # a package that nobody uses
            continue
        if "path" in kind.keys and all(key.default is not None for word, key in kind.keys.items() if word != "path"):
            places[name] = kind.usual_places
    return places
