"""A host without servers for the command line: the program runs in the test's own process, which is quicker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.builders import authority
from tests.support.command_line import Result, invoke
from tests.support.lineages import CertbotDirectory

SCHEMA = Draft202012Validator(json.loads(resources.files("mailsni.output").joinpath("schema.json").read_text("utf-8")))


@dataclass(frozen=True, slots=True)
class CliHost:
    """A store, a configuration that names it, and no servers."""

    config: Path
    store: CertbotDirectory

    def run(self, *words: str, config: bool = True, **environment: str) -> Result:
        """Run the program, in this process: starting it takes longer than what it does."""
        return invoke(*(["--config", str(self.config)] if config else []), *words, **environment)

    def json(self, *words: str) -> dict[str, Any]:
        """Run the program, and read the one document that it prints."""
        document: dict[str, Any] = json.loads(self.run(*words).stdout)
        assert list(SCHEMA.iter_errors(document)) == []
        return document


def configuration(store: Path, root: Path) -> str:
    return f"""\
[[sources]]
path = "{store}"
[postfix]
enabled = false
[dovecot]
enabled = true
version = "2.4"
action = "none"
config_file = "{root}/dovecot.conf"
include_file = "{root}/include.conf"
pin_directory = "{root}/pins"
[state]
directory = "{root}/state"
lock = "{root}/lock"
"""


def new_host(root: Path) -> CliHost:
    """A host with three good lineages and one whose private key is a directory."""
    store = CertbotDirectory(root / "letsencrypt")
    (root / "dovecot.conf").write_text(f"!include_try {root}/include.conf\n")
    for name in "abc":
        store.add(f"{name}.test", authority().issue([f"mail.{name}.test", f"www.{name}.test"]))
    store.add("torn.test", authority().issue(["mail.torn.test"]))
    store.path("torn.test", "privkey").unlink()
    store.path("torn.test", "privkey").mkdir()
    (root / "config.toml").write_text(configuration(store.live, root))
    return CliHost(root / "config.toml", store)
