"""The configuration file: its defaults are the documented ones, and each error says where and what."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.document import defaults, example
from mailsni.config.parser import load, parse
from mailsni.config.settings import DEFAULT_PATH, Settings, table_of
from mailsni.core.mounts import Mounts
from mailsni.core.names import NamePatterns
from mailsni.errors import ConfigurationError, Exit, PermissionMissingError
from mailsni.probes.endpoint import Endpoint
from mailsni.sources.kinds import SourceSettings
from tests.support.data import read


def as_toml(value: object) -> object:
    """A setting as the configuration file has it."""
    match value:
        case SourceSettings():
            return {"type": value.type, **{name: str(part) for name, part in value.values.items()}}
        case NamePatterns():
            return {"include": [*value.include], "exclude": [*value.exclude]}
        case Mounts():
            return {str(outside): str(inside) for outside, inside in value.pairs}
        case Path() | Endpoint():
            return str(value)
        case tuple():
            return [as_toml(part) for part in value]
        case Settings():
            return {table_of(each.name): as_toml(getattr(value, each.name)) for each in dataclasses.fields(value)}
        case _ if dataclasses.is_dataclass(value):
            return {each.name: as_toml(getattr(value, each.name)) for each in dataclasses.fields(value)}
        case _:
            return value


DEFAULTS = {**tomllib.loads(defaults()), "templates": None, "file": str(DEFAULT_PATH)}


def test_every_key_is_documented_with_its_default() -> None:
    documented = defaults()
    assert as_toml(parse(documented, Path("config.toml"))) == as_toml(parse("", Path("config.toml"))) == DEFAULTS
    assert as_toml(Settings()) == DEFAULTS


def test_the_example_names_every_key_and_sets_nothing() -> None:
    text = example("config.toml").decode()
    assert as_toml(parse(text, Path("config.toml"))) == DEFAULTS
    without_marks = "\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# "))
    assert tomllib.loads(without_marks) == tomllib.loads(defaults())


def test_every_key_is_read() -> None:
    """The file has another value than the default for each."""
    text, documented = read("every-key.toml"), tomllib.loads(defaults())
    written = tomllib.loads(text)
    settings = parse(text, Path("config.toml"), Path("/etc/mailsni/templates"))
    assert as_toml(settings) == {**written, "templates": "/etc/mailsni/templates", "file": str(DEFAULT_PATH)}
    for table in parser.TABLES:
        # That one of these is enabled would decide about other tables: test_containers.py, test_mailcow.py.
        same = ["enabled"] if table in ("docker-mailserver", "mailcow") else []
        assert [key for key, value in written[table].items() if value == documented[table][key]] == same


def refused(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Path("config.toml"))
    assert caught.value.exit_code is Exit.CONFIGURATION
    assert caught.value.path == Path("config.toml")
    return caught.value


REFUSED = [case.partition("\n") for case in read("refused-configurations.txt").split("── ")[1:]]


@pytest.mark.parametrize(("problem", "text"), [(problem, text) for problem, _, text in REFUSED])
def test_a_wrong_key_or_value_is_named_with_its_line_and_what_is_right(problem: str, text: str) -> None:
    """Each case of the data file is the message and the hint, and below them the configuration."""
    error = refused(text)
    assert error.message.startswith(f"config.toml: line {error.line}: ")
    assert " | ".join(filter(None, [error.message.removeprefix("config.toml: "), error.hint])) == problem


@pytest.mark.parametrize(
    "text",
    ["[names]\ninclude =\n", "[names]\n[names]\n", "\na = 1 b = 2\n", "[state]\nlock = 'a\n", "[state]\nlock = [1,\n"],
)
def test_what_is_no_toml_is_named_with_its_line(text: str) -> None:
    error = refused(text)
    assert "line 2" in error.message
    assert error.line == 2


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_is_the_defaults_unless_it_was_named(tmp_path: Path) -> None:
    missing = tmp_path / "config.toml"
    assert as_toml(load(missing, required=False)) == {**DEFAULTS, "file": str(missing)}
    with pytest.raises(ConfigurationError, match="no such file"):
        load(missing, required=True)


@pytest.mark.parametrize("required", [True, False])
def test_a_file_that_is_none_is_refused_in_either_case(tmp_path: Path, required: bool) -> None:  # noqa: FBT001
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(path, required=required)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path, required=required)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_a_matter_of_permission(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.touch(mode=0)
    with pytest.raises(PermissionMissingError):
        load(path, required=False)


def test_templates_beside_the_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load(path, required=False).templates is None
    (tmp_path / "templates").mkdir()
    assert load(path, required=False).templates == tmp_path / "templates"
    path.write_text("[names]\n")
    assert load(path, required=True).templates == tmp_path / "templates"
