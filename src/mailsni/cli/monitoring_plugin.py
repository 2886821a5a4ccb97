"""The ends of a monitoring plugin: whatever happens, one line on standard output, and an exit code from 0 to 3.

The exit codes of the other commands would say WARNING or CRITICAL where only the command line is wrong.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer
import typer.core

from mailsni.errors import MailsniError

TIME_LIMIT = 50.0
"""Seconds: Nagios ends a plugin that runs longer than 60, and takes that for CRITICAL."""
NAME = "check"
UNKNOWN = 3
_STATUSES = (0, 1, 2, UNKNOWN)


class PluginCommand(typer.core.TyperCommand):
    """A command that ends as a monitoring plugin does."""

    def make_context(self, *words: Any, **more: Any) -> Any:  # noqa: ANN401  # typer's own types moved with its versions
        """Read the command line; a wrong one is UNKNOWN."""
        try:
            return super().make_context(*words, **more)
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001
            _end(_usage(error))

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Do the work; everything that is no result is UNKNOWN."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except typer.Exit as ending:
            _end_of(ending)
        except MailsniError as problem:
            _end(problem.message)
        except OSError as error:
            _end(f"{error.filename or 'standard output'}: {error.strerror or error}")
        except (SystemExit, KeyboardInterrupt):
            _end("ended by a signal")
        except Exception as error:  # noqa: BLE001  # its name only: what a library says may hold anything
            _end(f"an error of its own: {type(error).__name__}")
        return result


class Program(typer.core.TyperGroup):
    """The program: what is wrong before the name of the plugin on its command line is UNKNOWN, too."""

    def make_context(self, info_name: Any, args: list[str], *words: Any, **more: Any) -> Any:  # noqa: ANN401
        """Read the command line as far as the name of the command."""
        given = list(args)
        try:
            return super().make_context(info_name, args, *words, **more)
        except typer.Exit:
            raise
        except Exception as error:
            if NAME not in given:
                raise
            _end(_usage(error))


@contextmanager
def unknown_after(seconds: float | None) -> Iterator[None]:
    """End the whole program when something takes too long, such as a file system that does not answer.

    Args:
        seconds: after which it is ended; None: never.
    """
    if seconds is None:
        yield
        return
    watchdog = threading.Timer(seconds, _give_up, (seconds,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _give_up(seconds: float) -> NoReturn:
    with suppress(OSError):
        os.write(1, f"{_line(f'did not end within {seconds:g} seconds')}\n".encode())
    os._exit(UNKNOWN)


def _usage(error: Exception) -> str:
    told = getattr(error, "format_message", None)
    return f"usage: {told()}" if told is not None else f"an error of its own: {type(error).__name__}"


def _end_of(ending: typer.Exit) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError as error:
        _end(f"standard output: {error.strerror}")
    raise ending if ending.exit_code in _STATUSES else typer.Exit(UNKNOWN)


def _line(why: str) -> str:
    from mailsni.output import nagios

    return nagios.unknown(why)


def _end(why: str) -> NoReturn:
    """Say why, as far as somebody listens, and end."""
    try:
        sys.stdout.write(_line(why) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise typer.Exit(UNKNOWN)
