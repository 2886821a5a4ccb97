"""The pages say what the program does: generated blocks are current, commands and paths in them exist."""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import docs

TOP = Path(__file__).resolve().parents[2]
PAGES = (
    *(
        TOP / name
        for name in (
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "README.md",
            "SECURITY.md",
            "monitoring/README.md",
            "tests/README.md",
        )
    ),
    *sorted((TOP / "docs").glob("*.md")),
)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<path>[^)#:]*)(?:#(?P<heading>[^)]*))?\)")
OPTIONS_OF_EVERY_COMMAND = {"--help", "-h", "--version"}


def page_id(page: Path) -> str:
    """Its path in the repository."""
    return str(page.relative_to(TOP))


@pytest.mark.parametrize("page", docs.PAGES, ids=page_id)
def test_generated_blocks_are_current(page: Path) -> None:
    assert docs.renewed(page.read_text(), None) == page.read_text(), "run: make docs"


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words after `mailsni` of each command line in fences and in inline code."""
    for fence in FENCE.findall(text):
        for line in fence.splitlines():
            if found := re.match(r"\s*[#$] (?:.*; )?mailsni (?P<words>[^#]*)", line):
                yield shlex.split(found["words"])
    for code in re.findall(r"`mailsni ([^`]+)`", FENCE.sub("", text)):
        yield code.split()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_and_option_exists(page: Path) -> None:
    commands = docs.commands()
    for name, *words in shown_commands(page.read_text()):
        if name.startswith("-"):
            assert name in OPTIONS_OF_EVERY_COMMAND
            continue
        assert name in commands
        known = {option for parameter in commands[name].params for option in getattr(parameter, "opts", [])}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known | OPTIONS_OF_EVERY_COMMAND, name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+)(?= *[a-z-]*:)", (TOP / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_path_of_the_repository_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:src|tests|docs|scripts|hooks|templates|monitoring|benchmarks)/[^`\s:]*)`", page.read_text()
    )
    assert [path for path in named if not (TOP / path).exists()] == []


def test_every_dotted_name_of_the_architecture_exists() -> None:
    text = (TOP / "ARCHITECTURE.md").read_text()
    packages = "|".join(path.name for path in (TOP / "src/mailsni").iterdir() if (path / "__init__.py").exists())
    for name in re.findall(rf"`((?:{packages})\.[\w.]+)`", text):
        pkgutil.resolve_name(f"mailsni.{name}")


def headings(page: Path) -> set[str]:
    """The anchors that a forge makes of the page's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        if not target.is_relative_to(TOP):  # the forge's own pages
            continue
        assert target.exists(), link[0]
        assert not link["heading"] or link["heading"] in headings(target), link[0]


def test_the_readme_is_short() -> None:
    assert len((TOP / "README.md").read_text().splitlines()) <= 150
