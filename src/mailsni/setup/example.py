"""Setup's part for the configuration: an example beside it, with every key in a comment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mailsni.config import document
from mailsni.config.settings import DEFAULT_PATH
from mailsni.host import files
from mailsni.setup.model import Item, Note
from mailsni.setup.record import Record, digest
from mailsni.setup.steps import Step, change_file, make_directories

_SUFFIX = ".example"
_OF_DEFAULT = DEFAULT_PATH.with_name(DEFAULT_PATH.name + _SUFFIX)


def plan(config_file: Path, known: Record) -> Iterator[Step]:
    """Write the example, or the one of this version; make the directory of the configuration file for it.

    One that was edited stays as it is. Nothing depends on it, so it is left out where it cannot be written.
    """
    path = config_file.with_name(config_file.name + _SUFFIX)
    text, present = document.example(config_file.name), files.read_private(path)
    nearest = next(above for above in path.parents if above.exists())
    if present == text or not os.access(nearest, os.W_OK):
        return
    if known.written.get(str(path)) == digest(present) if present is not None else not os.path.lexists(path):
        yield from make_directories(path.parent)
        yield change_file(f"write the example {path}", path, present, text)


def plan_removal(known: Record) -> Iterator[Item]:
    """Remove the examples that setup wrote and nobody edited."""
    for path in dict.fromkeys((_OF_DEFAULT, *(Path(name) for name in known.written if name.endswith(_SUFFIX)))):
        content = files.read_private(path)
        if content is None:
            continue
        if known.written.get(str(path)) == digest(content) or content == document.example(path.stem):
            yield change_file(f"remove {path}", path, content, None)
        else:
            yield Note(f"{path} was edited and stays")


def directories_without_record() -> tuple[Path, ...]:
    """The directory that setup makes for the example, where it has nothing else in it: the record of it may be lost."""
    directory = _OF_DEFAULT.parent
    return (directory,) if files.list_names(directory) == [_OF_DEFAULT.name] else ()
