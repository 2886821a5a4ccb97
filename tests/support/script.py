"""Runs a script: commands, what must come out of them, and at its end the files that they need.

The form is that of Go's testscript and txtar. Words are quoted as in a shell, ``#`` begins a comment, and ``$WORK`` is
the script's own directory, in lines and in files.

* ``mailsni WORD…``, ``exec PROGRAM WORD…``: it ends with exit code 0; ``exit N mailsni WORD…``: with another one
* ``stdout REGEX``, ``stderr REGEX``: the last command printed it; ``! stdout REGEX``: it did not
* ``document NAME``: the last command printed one JSON document, ``mailsni.NAME/1``, as the schema describes it
* ``cmp FILE FILE``: the same text; ``stdout`` and ``stderr`` are what the last command printed
* ``env NAME=VALUE``: for all commands that follow; ``REPOSITORY`` is set
* ``lineage NAME SAN…``: certbot adds a lineage to ``$WORK/letsencrypt``, or renews it
* ``without PROGRAM``: the script is skipped where the host has it
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from mailsni.host.commands import find_tool
from tests.support.builders import authority
from tests.support.command_line import HIDDEN, SCHEMA
from tests.support.host_guard import REPOSITORY
from tests.support.lineages import CertbotDirectory


@dataclass
class _Run:
    work: Path
    variables: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)  # by the last command, by stream

    def execute(self, words: list[str]) -> None:
        match words:
            case ["mailsni", *_]:
                self.start(words, 0)
            case ["exec", *program]:
                self.start(program, 0)
            case ["exit", code, *program]:
                self.start(program[program[0] == "exec" :], int(code))
            case ["stdout" | "stderr" as stream, pattern]:
                assert re.search(pattern, self.printed[stream], re.MULTILINE), f"not in {stream}"
            case ["!", "stdout" | "stderr" as stream, pattern]:
                assert not re.search(pattern, self.printed[stream], re.MULTILINE), f"in {stream}"
            case ["document", name]:
                document = json.loads(self.printed["stdout"])
                assert [error.message for error in SCHEMA.iter_errors(document)] == []
                assert document["schema"] == f"mailsni.{name}/1"
            case ["cmp", first, second]:
                assert self.read(first) == self.read(second), f"{first} and {second} differ"
            case ["env", variable]:
                name, _, self.variables[name] = variable.partition("=")
            case ["lineage", name, *names]:
                CertbotDirectory(self.work / "letsencrypt").put(name, authority().issue(names))
            case ["without", program]:
                if find_tool(program) is not None:
                    pytest.skip(f"this host has {program}")
            case _:
                raise AssertionError("no command of a script")

    def start(self, words: list[str], expected: int) -> None:
        piped = partial(subprocess.run, input="", capture_output=True, text=True, check=False)
        done = piped(words, cwd=self.work, env=self.variables)
        self.printed = {"stdout": done.stdout, "stderr": done.stderr}
        assert done.returncode == expected, f"exit code {done.returncode}"

    def read(self, name: str) -> str:
        return self.printed[name] if name in self.printed else (self.work / name).read_text()


def run_script(path: Path, work: Path) -> None:
    """Run a script in an empty directory; an AssertionError has the line, the reason and what was printed last."""
    lines, *files = re.split(r"^-- (\S+) --\n", path.read_text(), flags=re.MULTILINE)
    CertbotDirectory(work / "letsencrypt")
    for name, content in zip(files[::2], files[1::2], strict=True):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content.replace("$WORK", str(work)))
    inherited = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # finds mailsni and its python
    own = {"PATH": search, "MAILSNI_CONFIG": str(work / "config.toml"), "REPOSITORY": str(REPOSITORY)}
    run = _Run(work, inherited | own)
    for number, line in enumerate(lines.splitlines(), 1):
        words = shlex.split(line.replace("$WORK", str(work)), comments=True)
        try:
            if words:
                run.execute(words)
        except (AssertionError, ValueError) as error:
            printed = [f"── {stream}\n{text}" for stream, text in run.printed.items()]
            raise AssertionError("\n".join([f"{path.name}:{number}: {line}", str(error), *printed])) from None
