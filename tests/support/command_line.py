"""Runs the program in this process: starting another one takes longer than what it does."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from mailsni.cli import main


@dataclass(frozen=True, slots=True)
class Result:
    """What a run printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(*words: str, environment: Mapping[str, str | None] | None = None) -> Result:
    """Run one command line.

    Args:
        words: the arguments.
        environment: variables to set, or with None to unset.
    """
    variables = dict(os.environ)
    for key, value in (environment or {}).items():
        variables.pop(key, None)
        variables |= {} if value is None else {key: value}
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), mock.patch.dict(os.environ, variables, clear=True):
        try:
            code = main.run(words)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
    return Result(int(code), stdout.getvalue(), stderr.getvalue())
