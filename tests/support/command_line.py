"""Runs the program in this process: starting another one takes longer than what it does."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import resources
from unittest import mock

from jsonschema import Draft202012Validator

from mailsni.cli import main

SCHEMA = Draft202012Validator(json.loads(resources.files("mailsni.output").joinpath("schema.json").read_text("utf-8")))
"""Of every JSON document."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str


HIDDEN = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TERMINAL_WIDTH", "MAILSNI_CONFIG", "PYTHONUNBUFFERED")
"""Of the environment that the tests run in: what says where to look, how to draw and when to write."""


def invoke(*words: str, **environment: str) -> Result:
    """Run one command line, with further variables."""
    variables = {key: value for key, value in os.environ.items() if key not in HIDDEN} | environment
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), mock.patch.dict(os.environ, variables, clear=True):
        try:
            code = main.run(words)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
    return Result(int(code), stdout.getvalue(), stderr.getvalue())
