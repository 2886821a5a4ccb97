"""``mailsni sources``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mailsni.cli.options import GlobalOptions, flag, print_json
from mailsni.core.log import Level
from mailsni.core.text import counted
from mailsni.errors import ConfigurationError, Exit, PermissionMissingError
from mailsni.output import console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mailsni.config.settings import Settings
    from mailsni.output.sources import KindEntry
    from mailsni.sources.detection import Survey
    from mailsni.sources.kinds import SourceSettings

_UNSEEN_SHOWN = 20


def sources(
    context: typer.Context,
    *,
    detect: Annotated[
        bool, flag("--detect", "Find the stores of this host, and print their tables for the configuration file.")
    ] = False,
) -> int:
    """List the kinds of certificate store, or find the stores of this host.

    Prints each type that a [[sources]] table takes, the keys of its table with their defaults, and what it reads. Other
    packages can add kinds.

    With --detect: looks for stores at the usual places of each kind and in the directories of container stacks, and
    prints TOML to paste into the configuration file. Comments say how many certificates and mail names each store
    holds, and what is configured already. Writes nothing, and reports what it cannot see. Run it as root to see
    everything.
    """
    from mailsni.output import sources as output
    from mailsni.sources import detection

    options: GlobalOptions = context.obj
    settings = _settings(options) if detect else None
    survey = None
    if settings is not None:
        survey = detection.survey(_in_effect(settings), settings.names, datetime.now(UTC))
    if options.as_json:
        print_json(output.document(list(_kinds()), survey))
    elif settings is None or survey is None:
        output.show_kinds(list(_kinds()))
    else:
        output.show_stores(survey, has_own_sources=settings.has_own_sources)
        if not options.quiet:
            _log_rest(survey, settings.file)
    return Exit.DONE


def _kinds() -> Iterator[KindEntry]:
    from mailsni.output.sources import KindEntry
    from mailsni.sources import kinds

    for name, kind in sorted(kinds.KINDS.items()):
        yield KindEntry(name, kind)
    for name, package in kinds.added_kinds().items():
        try:
            yield KindEntry(name, kinds.kind_of(name), package)
        except ConfigurationError as error:
            yield KindEntry(name, None, package, error.message)


def _log_rest(survey: Survey, config_file: Path) -> None:
    """Say what could not be seen, and what to do with the lines."""
    unseen = [f"not seen: {why}" for why in survey.unseen.values()]
    if len(unseen) > _UNSEEN_SHOWN:
        unseen[_UNSEEN_SHOWN:] = [f"not seen: {counted(len(unseen) - _UNSEEN_SHOWN, 'more place')}"]
    for line in unseen:
        console.log(Level.INFO, line)
    new = [store for store in survey.stores if not store.configured]
    if new:
        console.log(Level.INFO, f"{counted(len(new), 'store')} to configure: paste the lines into {config_file}")
    else:
        console.log(Level.INFO, "found no store that is not configured")


def _settings(options: GlobalOptions) -> Settings:
    """Those of the configuration, or the defaults where this user may not read it."""
    from mailsni.config.settings import Settings

    try:
        return options.settings()
    except PermissionMissingError as error:
        console.log(Level.WARNING, f"{error.message}: what is configured already is not known")
        return Settings(sources=())


def _in_effect(settings: Settings) -> Sequence[SourceSettings]:
    """The configured stores; the default one only where it is there."""
    if settings.has_own_sources:
        return settings.sources
    return [each for each in settings.sources if each.values["path"].exists()]
