"""The program: it finds the command, runs it, and ends with its exit code."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

import typer
import typer.main

# Typer carries its own copy of click, and gives these classes no public name.
from typer._click.core import Command, Context
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer._click.formatting import HelpFormatter
from typer.core import TyperCommand, TyperGroup, TyperOption

from mailsni import __version__
from mailsni.cli import monitoring_plugin
from mailsni.cli.options import GlobalOptions, global_options, print_json
from mailsni.core.log import Level
from mailsni.errors import Exit, HostError, MailsniError, UsageError
from mailsni.output import console

PANELS = {
    "Deploy": {
        "apply": "apply",
        "plan": "queries",
        "status": "queries",
        "explain": "queries",
        "render": "queries",
        "watch": "watch",
    },
    "Monitor": {"verify": "verify", "check": "check", "metrics": "metrics"},
    "Install": {
        "setup": "setup",
        "sources": "sources",
        "config": "config",
        "doctor": "doctor",
        "demo": "demo",
    },
}
"""The commands of each panel of the help, and the module of this package that each is in."""

MODULES = {name: module for panel in PANELS.values() for name, module in panel.items()}

_PR_SET_DUMPABLE = 4
"""<linux/prctl.h>"""


class Program(TyperGroup):
    """The group of all commands. It imports the module of a command when that command is asked for."""

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of a name, ready to parse its command line."""
        del ctx
        return load(cmd_name) if cmd_name in MODULES else None

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands panel by panel, and then the exit codes."""
        width = max(map(len, MODULES))
        for panel, names in PANELS.items():
            with formatter.section(panel):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(f"{name:<{width}}", _summary(command)) for name, command in commands])
        with formatter.section("Exit codes (check has others)"):
            formatter.write_dl([(str(code.value), code.meaning) for code in Exit])


def _summary(command: Command | None) -> str:
    """The first sentence of the help of a command."""
    return ((command and command.help) or "").partition("\n\n")[0].replace("\n", " ")


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """The words after the program in the usage line; Typer writes ``{NAME}`` for a required argument."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def load(name: str) -> Command:
    """Import a command: the function of this name in its module of this package."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=_Command)(getattr(import_module(f"mailsni.cli.{MODULES[name]}"), name))
    command = typer.main.get_command(app)
    command.params.extend(global_options())
    return command


def _print_version(_context: Context, _parameter: object, wanted: bool) -> None:  # noqa: FBT001  # typer calls it
    if wanted:
        console.print_line(f"mailsni {__version__}")
        raise typer.Exit


def program() -> Program:
    """The whole command line."""
    version = TyperOption(
        param_decls=["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version and exit.",
    )
    return Program(
        name="mailsni",
        commands={name: TyperCommand(name) for name in MODULES},
        params=[*global_options(), version, *typer.main.get_install_completion_arguments()],
        help="Make Postfix and Dovecot present, by SNI, the certificate of the name that each client asked for.",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(words: Sequence[str]) -> int:
    """Run one command line, log the error that ends it, and give the exit code."""
    options = GlobalOptions()
    try:
        return int(program().main(list(words), "mailsni", standalone_mode=False, obj=options) or 0)
    except NoArgsIsHelpError as error:
        error.show()
        return Exit.USAGE
    except ClickException as error:
        return _end_of_usage_error(error, words)
    except MailsniError as error:
        return _end_of_error(error, as_json=options.as_json)
    except BrokenPipeError:
        raise
    except OSError as error:  # a system call that fails where nobody expects it
        return _end_of_error(HostError.of(error), as_json=options.as_json)


def _end_of_usage_error(error: ClickException, words: Sequence[str]) -> int:
    message = error.format_message().rstrip(".")
    context: Context | None = getattr(error, "ctx", None)
    command = context.info_name if context is not None and context.parent is not None else None
    if monitoring_plugin.NAME in ((command,) if command else words):
        return monitoring_plugin.end(f"usage: {message}", as_json="--json" in words)
    where = context.command_path if context is not None else "mailsni"
    return _end_of_error(UsageError(message, hint=f"{where} --help"), as_json="--json" in words)


def _end_of_error(error: MailsniError, *, as_json: bool) -> int:
    if as_json:
        from mailsni.output import documents

        print_json(documents.error(error))
    console.log_error(error)
    return error.exit_code


def _exit_by_signal(number: int, _frame: FrameType | None) -> NoReturn:
    """End by an exception, so that what has begun is undone (a shell reads 128 + n as the signal n)."""
    raise SystemExit(128 + number)


def _forbid_core_dumps() -> None:
    """Forbid core dumps: they hold every private key. The limit alone does not keep them from a pipe (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> NoReturn:
    """Prepare the process, run its command line, and exit."""
    console.secure_standard_streams()
    os.umask(0o077)
    _forbid_core_dumps()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_by_signal)
    try:
        try:
            code = run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # a write that fails at exit could not be handled
    except BrokenPipeError:
        console.silence_output()
        code = Exit.FAILED
    except OSError as error:
        console.silence_output()
        console.log(Level.ERROR, f"standard output: {error.strerror}")
        code = Exit.FAILED
    sys.exit(code)
