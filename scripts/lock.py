#!/usr/bin/env python3
"""Write constraints.txt: the newest release of every package that the program, its checks and the lab install.

    scripts/lock.py

`make lock` runs it with the oldest supported Python, whose dependencies include those of newer ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEADER = """\
# The versions that scripts/bootstrap and tests/lab/lab.py install: `make lock` refreshes them.
"""
BUILD_TOOLS = ("pip", "editables", "setuptools")
"""What an installation from source needs beside the build requirements that pyproject.toml names."""
NEEDS_A_LIBRARY = "berkeleydb"
"""pip cannot read its metadata without libdb's headers. It has no dependencies."""


def pip(*words: str) -> str:
    """Run pip and return its standard output.

    Raises:
        subprocess.CalledProcessError: it failed; its own message is on standard error.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def requirements() -> list[str]:
    """All direct requirements that pyproject.toml states, except the one that pip cannot resolve everywhere."""
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = pyproject["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = [*pyproject["build-system"]["requires"], *project["dependencies"], *extras]
    lines += pyproject["dependency-groups"]["dev"]
    return [*(line for line in lines if not line.startswith(NEEDS_A_LIBRARY)), *BUILD_TOOLS]


def main() -> None:
    """Resolve, and write the file."""
    report = json.loads(pip("install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *requirements()))
    versions = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    versions[NEEDS_A_LIBRARY] = json.loads(pip("index", "versions", "--json", NEEDS_A_LIBRARY))["latest"]
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items(), key=lambda item: item[0].lower())]
    (REPOSITORY / "constraints.txt").write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
