"""The ends of a monitoring plugin: whatever happens, one line on standard output, and an exit code from 0 to 3.

The exit codes of the other commands would mean WARNING or CRITICAL where only the command line is wrong.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import NoReturn

import typer

TIME_LIMIT = 50.0
"""Seconds. Nagios ends a plugin that runs longer than 60, and takes that for CRITICAL."""
PROBING_SHARE = 0.9
"""Of the time limit: the rest is for adding up what the probes showed."""
NAME = "check"
UNKNOWN = 3


@contextmanager
def unknown_on_failure() -> Iterator[None]:
    """End with UNKNOWN (``typer.Exit``) when the block raises anything, or its output cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        reason = f"{error.filename or 'standard output'}: {error.strerror or error}"
    except (SystemExit, KeyboardInterrupt):
        reason = "ended by a signal"
    except Exception as error:  # noqa: BLE001  # its name only: the message of a library may hold anything
        reason = f"internal error: {type(error).__name__}"
    else:
        return
    raise typer.Exit(end(reason))


def end(reason: str, *, as_json: bool = False) -> int:
    """Print why the result is unknown, if standard output is still open, and give the exit code."""
    try:
        if as_json:
            _print_document(reason)
        else:
            sys.stdout.write(_line(reason) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return UNKNOWN


@contextmanager
def unknown_after(seconds: float) -> Iterator[None]:
    """End the whole program when the block takes too long, because a file system does not answer, for example."""
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


def _line(reason: str) -> str:
    from mailsni.output import nagios

    return nagios.unknown(reason)


def _print_document(reason: str) -> None:
    from mailsni.check import model
    from mailsni.cli.options import print_json
    from mailsni.output import documents

    print_json(documents.check(model.unknown(datetime.now(UTC), reason)))
