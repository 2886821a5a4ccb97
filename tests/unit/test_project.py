"""What pyproject.toml and constraints.txt promise to those who install the program."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((TOP / "pyproject.toml").read_text())


def stated() -> list[Requirement]:
    """Every requirement of the program, its extras, its build and its checks."""
    project = PYPROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = [*PYPROJECT["build-system"]["requires"], *project["dependencies"], *extras]
    return [Requirement(line) for line in [*lines, *PYPROJECT["dependency-groups"]["dev"]]]


def pins() -> dict[str, str]:
    """Package name to version, as constraints.txt has it."""
    lines = (TOP / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("requirement", stated(), ids=lambda requirement: requirement.name)
def test_constraints_pin_every_requirement_to_a_version_it_allows(requirement: Requirement) -> None:
    """`make lock` was run after the last change of pyproject.toml."""
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_no_requirement_brings_in_pydantic() -> None:
    """A root program that reads private keys carries no native parser that it does not use."""
    assert "typer" in pins()
    assert not {name for name in pins() if name.startswith("pydantic")}
