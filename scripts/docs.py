#!/usr/bin/env python3
"""Write the generated blocks of README.md and docs/: commands, settings, exit codes, finding codes, transcripts.

    scripts/docs.py [--transcripts DIRECTORY]

A block stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Its text comes from the one place that knows
it: the command tree, the settings, ``errors.Exit``, the enumerations of codes, the doctor's codes. Transcripts are
replaced only when a directory with those of scripts/transcripts.py is given. tests/golden/test_docs.py holds the blocks
current.
"""

from __future__ import annotations

import argparse
import configparser
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mailsni.check.model import Code
from mailsni.cli import main as program
from mailsni.config import document
from mailsni.core.model import Reason
from mailsni.core.text import ContractWord
from mailsni.doctor.finding import kinds
from mailsni.errors import Exit
from mailsni.output.sources import described_keys
from mailsni.probes.model import Problem
from mailsni.sources.kinds import KINDS

TOP = Path(__file__).resolve().parents[1]
PAGES = (TOP / "ARCHITECTURE.md", TOP / "README.md", *sorted((TOP / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- begin (?P<name>[a-z :-]+) -->\n(?P<text>.*?)<!-- end (?P=name) -->\n", re.DOTALL)
COMMON = ("config_file", "as_json", "verbose", "quiet")
"""Parameters that every command has."""


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> Mapping[str, Any]:
    """Each command of the program by its name, in the order of `mailsni --help`."""
    return {name: program.load(name) for name in program.MODULES}


def summary(command: Any) -> str:  # noqa: ANN401  # typer's command classes moved between its versions
    """The first sentence of a command's help."""
    first = paragraphs(command.help)[0]
    return first.partition(". ")[0].rstrip(".:")


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a docstring, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in text.replace("\b", "").split("\n\n")]


def wrapped(paragraph: str) -> str:
    """A paragraph in lines as long as those of the source."""
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def command_table() -> Iterator[str]:
    """Every command with its summary, linked to its section in docs/commands.md."""
    yield "| command | what it does |\n| --- | --- |\n"
    for name, command in commands().items():
        yield f"| [`mailsni {name}`](docs/commands.md#mailsni-{name}) | {summary(command)} |\n"


def command_reference() -> Iterator[str]:
    """Every command with its help and its own options; then the options that all of them have."""
    for name, command in commands().items():
        own = [parameter for parameter in command.params if parameter.name not in COMMON and not hidden(parameter)]
        arguments = "".join(f" {argument_name(one)}" for one in own if one.param_type_name == "argument")
        yield f"## mailsni {name}\n\n"
        yield f"`mailsni {name} [OPTION…]{arguments}`\n\n"
        yield "\n\n".join(wrapped(paragraph) for paragraph in paragraphs(command.help)) + "\n\n"
        if own:
            yield from parameter_table(own)
            yield "\n"
    yield "## Options of every command\n\nThey may stand before or after the command.\n\n"
    yield from parameter_table([one for one in commands()["apply"].params if one.name in COMMON])


def hidden(parameter: Any) -> bool:  # noqa: ANN401
    """Whether help leaves it out."""
    return bool(getattr(parameter, "hidden", False))


def argument_name(parameter: Any) -> str:  # noqa: ANN401
    """As the usage line has it."""
    return str(parameter.metavar or parameter.name.upper())


def parameter_table(parameters: list[Any]) -> Iterator[str]:
    """One row for each argument or option: how to write it, and what it does."""
    rows = []
    for one in parameters:
        if one.param_type_name == "argument":
            written = f"`{argument_name(one)}`"
        else:
            value = "" if one.is_flag else f" {one.metavar or one.type.name.upper()}"
            written = ", ".join(f"`{word}{value}`" for word in one.opts)
        rows.append((written, " ".join((one.help or "").split())))
    yield from table("option", rows)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Two columns, the second one with meanings."""
    yield f"| {title} | meaning |\n| --- | --- |\n"
    for first, meaning in rows:
        yield f"| {cell(first)} | {cell(meaning)} |\n"


def cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", r"\|").replace("\n", " ")


def exit_codes() -> Iterator[str]:
    """Every exit code with its meaning."""
    yield from table("code", ((str(int(code)), code.meaning) for code in Exit))


def configuration() -> Iterator[str]:
    """The configuration file of the defaults."""
    yield f"```toml\n{document.defaults()}```\n"


def store_kinds() -> Iterator[str]:
    """Every kind of store with the keys of its table."""
    yield "| type | keys | what |\n| --- | --- | --- |\n"
    for name, kind in sorted(KINDS.items()):
        keys = ", ".join(f"`{key}`" for key in described_keys(kind.keys))
        yield f"| `{name}` | {cell(keys)} | {cell(kind.what)} |\n"


def word_table(words: type[ContractWord]) -> Iterator[str]:
    """Every word of a contract with its meaning."""
    yield from table("code", ((f"`{word}`", word.meaning) for word in words))


def doctor_codes() -> Iterator[str]:
    """Every code of the doctor's findings: how bad it is, what it means, what it does to clients."""
    yield "| code | severity | meaning | effect |\n| --- | --- | --- | --- |\n"
    for code, kind in kinds().items():
        yield f"| `{code}` | {kind.severity} | {cell(kind.meaning)} | {cell(kind.why or '')} |\n"


# ── architecture ─────────────────────────────────────────────────────────────────────────────────────────────────────


def layers() -> Iterator[str]:
    """The layers of the import contract, the highest first."""
    contracts = configparser.ConfigParser()
    contracts.read(TOP / ".importlinter")
    lines = contracts["importlinter:contract:layers"]["layers"].split("\n")
    yield "```\n" + "\n".join(line.strip().replace("mailsni.", "") for line in lines if line.strip()) + "\n```\n"


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

BLOCKS: Mapping[str, Callable[[], Iterator[str]]] = {
    "command table": command_table,
    "command reference": command_reference,
    "exit codes": exit_codes,
    "configuration": configuration,
    "kinds of store": store_kinds,
    "layers": layers,
    "reason codes": lambda: word_table(Reason),
    "check codes": lambda: word_table(Code),
    "problems": lambda: word_table(Problem),
    "doctor codes": doctor_codes,
}


def renewed(text: str, transcripts: Path | None) -> str:
    """A page with its blocks as they should be.

    Args:
        text: of the page.
        transcripts: the directory with new ones; None leaves those of the page.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name.startswith("transcript: "):
            if transcripts is None:
                return match[0]
            content = "```\n" + (transcripts / f"{name.removeprefix('transcript: ')}.txt").read_text() + "```\n"
        else:
            content = "".join(BLOCKS[name]())
        return f"<!-- begin {name} -->\n{content}<!-- end {name} -->\n"

    return BLOCK.sub(block, text)


def main() -> None:
    """Rewrite the pages."""
    options = argparse.ArgumentParser(description="Write the generated blocks of README.md and docs/.")
    options.add_argument("--transcripts", type=Path, metavar="DIRECTORY", help="also replace the transcripts")
    given = options.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = renewed(text, given.transcripts)
        if new != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
