"""Setup's part for the stores of a host that no configuration names: which to take, and the tables that name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mailsni.config.document import source_table
from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.text import counted, summarize
from mailsni.errors import HostError
from mailsni.host import files, trust
from mailsni.setup.model import Item, Note
from mailsni.setup.record import Record
from mailsni.setup.steps import Step, change_file
from mailsni.sources import detection
from mailsni.sources.detection import HostStore
from mailsni.sources.kinds import SourceSettings

_HEAD = """\
# Written by `mailsni setup`, which found these stores on this host;
# `mailsni setup --remove` takes the lines away again unless the file was edited.
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """Stores with mail names that no configured store has."""

    taken: tuple[HostStore, ...] = ()
    left: tuple[HostStore, ...] = ()


NO_OFFER = Offer()


def offer(
    settings: Settings, now: datetime, ask: Callable[[str], bool] | None = None, *, root: Path = Path("/")
) -> Offer:
    """Look for stores, where the configuration names none.

    Taken without a question is the only one of the host, where certbot's default directory is not there, and only if
    nobody but root can change it.

    Args:
        settings: of the configuration.
        now: the moment at which certificates must be valid, with a time zone.
        ask: asks a person; None: there is none to ask.
        root: of the system.
    """
    if settings.has_own_sources:
        return NO_OFFER
    stores = detection.survey(_present(settings), settings.names, now, root=root).stores
    new = tuple(store for store in stores if not store.configured and store.new_names)
    if len(new) == 1 and not _present(settings) and not _weakness(new[0]):
        return Offer(taken=new)
    taken = tuple(store for store in new if ask is not None and ask(f"Read certificates from {_about(store)}?"))
    return Offer(taken, tuple(store for store in new if store not in taken))


def plan(settings: Settings, offered: Offer) -> tuple[Settings, bytes | None, list[Item]]:
    """Name the stores that are taken in the configuration file.

    Returns:
        The settings with them; what the configuration file holds then, if there was none; and what to do and say.

    Raises:
        HostError: there is no default store, and a person has to choose among those that were found.
    """
    if offered.left and not offered.taken and not _present(settings):
        default = settings.sources[0].values["path"]
        raise HostError(
            f"{default}: does not exist, and the configuration names no store",
            hint=f"this host has {summarize(list(map(_about, offered.left)))}: `mailsni sources --detect` prints the "
            f"lines for {settings.file}; without --yes setup asks",
            path=default,
        )
    items: list[Item] = [
        Note(f"not configured: {_about(store)}: `mailsni sources --detect` prints the lines") for store in offered.left
    ]
    if not offered.taken:
        return settings, None, items
    sources = (*_present(settings), *(store.settings for store in offered.taken))
    tables = "\n".join(source_table(each.table()) for each in sources)
    present = files.read_private(settings.file)
    content = (f"\n{_HEAD}{tables}" if present else f"{_HEAD}{tables}").encode()
    title = f"read certificates from {summarize([_path(store) for store in offered.taken])}: write {settings.file}"
    mode = files.PUBLIC if present is None else None
    items.append(change_file(title, settings.file, present, (present or b"") + content, mode))
    return replace(settings, sources=sources), None if present is not None else content, items


def plan_removal(settings: Settings, known: Record) -> Iterator[Item]:
    """Put a configuration file back to which setup added stores, and which nobody has edited since."""
    for path in dict.fromkeys((DEFAULT_PATH, settings.file)):
        content = files.read_private(path) if str(path) in known.edits else None
        if content is None:
            continue
        before = known.before(path, content)
        if before is not None:
            yield _back(path, content, before)
        elif _HEAD.encode() in content:
            yield Note(f"{path} was edited: the [[sources]] tables that setup added stay")


def _back(path: Path, content: bytes, before: bytes) -> Step:
    return change_file(f"take the stores out of {path}", path, content, before, None)


def _present(settings: Settings) -> tuple[SourceSettings, ...]:
    """The default stores that are there."""
    return tuple(each for each in settings.sources if each.values["path"].exists())


def _path(store: HostStore) -> str:
    return str(store.settings.values["path"])


def _about(store: HostStore) -> str:
    names = f"{counted(len(store.new_names), 'new mail name')}: {summarize(store.new_names)}"
    weakness = _weakness(store)
    return f"{_path(store)} ({store.settings.type}, {names}{weakness and f'; others can change it: {weakness}'})"


def _weakness(store: HostStore) -> str:
    """What lets others than root change a store."""
    return "; ".join(map(str, trust.weaknesses(store.settings.values["path"])))
