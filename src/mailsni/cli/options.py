"""The four options that every command takes, before its name and after it, and what they lead to."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperOption

from mailsni.config import settings as settings_module
from mailsni.core.log import Level
from mailsni.output import console

if TYPE_CHECKING:
    from mailsni.config.settings import Settings
    from mailsni.deploy.snapshot import Snapshot

CONFIG_VARIABLE = "MAILSNI_CONFIG"
_SHORTEST_TIME = 0.1


@dataclass(slots=True)
class GlobalOptions:
    """The options that every command takes. The command line fills them in; the one that stands last wins."""

    config_file: str | None = None
    as_json: bool = False
    verbose: bool = False
    quiet: bool = False

    def configuration(self) -> tuple[Path, bool]:
        """The path of the configuration file, and whether the user named it."""
        named = self.config_file or os.environ.get(CONFIG_VARIABLE)
        return (Path(named), True) if named else (settings_module.DEFAULT_PATH, False)

    @property
    def chosen_by(self) -> str:
        """What chose the configuration file: the option, the variable of the environment, or ``default``."""
        return "--config" if self.config_file else CONFIG_VARIABLE if os.environ.get(CONFIG_VARIABLE) else "default"

    def settings(self) -> Settings:
        """The settings of the configuration file, or of standard input in a run that ``watch`` starts.

        Raises:
            ConfigurationError: the configuration is wrong, or a named file is missing.
            PermissionMissingError: this user may not read it.
        """
        from mailsni.config import parser

        path, named = self.configuration()
        if os.environ.get(settings_module.FROM_STDIN):
            return parser.parse_file(sys.stdin.buffer.read(), path)
        return parser.load(path, required=named)

    def snapshot(self, *, allow_empty: bool = False) -> Snapshot:
        """The stores, what is deployed, and the plan that follows from both."""
        from mailsni.deploy.snapshot import take_snapshot

        with console.progress(quiet=self.quiet) as progress:
            snapshot = take_snapshot(self.settings(), datetime.now(UTC), progress=progress, allow_empty=allow_empty)
        for warning in snapshot.warnings:
            console.log(Level.WARNING, warning)
        return snapshot


def global_options() -> list[TyperOption]:
    """The declaration of the options, for the parser of one command."""

    def option(names: str, help_text: str, *, metavar: str | None = None) -> TyperOption:
        return TyperOption(
            param_decls=names.split(),
            metavar=metavar,
            is_flag=metavar is None,
            default=None if metavar else False,
            expose_value=False,
            callback=_remember,
            help=help_text,
        )

    return [
        option(
            "--config config_file",
            f"Configuration file. Default: ${CONFIG_VARIABLE}, or {settings_module.DEFAULT_PATH} if it exists.",
            metavar="PATH",
        ),
        option("--json as_json", "Print one JSON document instead of text."),
        option("--verbose -v", "Verbose output."),
        option("--quiet -q", "Only print warnings and errors."),
    ]


def _remember(context: typer.Context, parameter: typer.CallbackParam, value: str | bool | None) -> None:  # noqa: FBT001
    if value:
        setattr(context.obj, str(parameter.name), value)


def number(text: str | float) -> float:
    """A finite number that is not negative, for an option that takes seconds or days; else ValueError."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def time_limit(text: str | float) -> float:
    """A number of seconds in which something can be done, for an option; else ValueError."""
    value = number(text)
    if value < _SHORTEST_TIME:
        raise ValueError(text)
    return value


def flag(names: str, help_text: str) -> object:
    """An option without a value."""
    return typer.Option(*names.split(), help=help_text)


def valued(names: str, metavar: str, help_text: str, parser: Callable[[str], object] | None = None) -> object:
    """An option with a value; its help names the default. The parser raises ValueError for a wrong value."""
    return typer.Option(*names.split(), metavar=metavar, parser=parser, show_default=False, help=help_text)


WaitOption = Annotated[
    float, valued("--wait", "SECONDS", "Wait so long for another run to end. Default: do not wait.", number)
]


def print_json(document: Mapping[str, Any]) -> None:
    """Print the document that is the whole result of a command with ``--json``."""
    console.print_line(json.dumps(document, indent=2, ensure_ascii=True))
