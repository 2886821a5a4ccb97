"""The configuration file: its defaults are the documented ones, and each error says where and what."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path

import pytest
from scripts.docs import default_configuration

from mailsni.config import parser
from mailsni.config import settings as settings_module
from mailsni.config.parser import load, parse
from mailsni.config.settings import Settings
from mailsni.errors import ConfigurationError, Exit, PermissionMissingError
from mailsni.probes.endpoint import Endpoint
from mailsni.sources.base import DEFAULT_SOURCES, SourceSettings


def plain(settings: Settings) -> dict[str, object]:
    """Settings that can be compared: patterns have no equality."""
    values = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}
    return {**values, "names": (settings.names.include, settings.names.exclude)}


def test_the_documented_defaults_are_the_defaults() -> None:
    documented = parse(default_configuration(), Path("config.toml"))
    assert plain(documented) == plain(parse("", Path("config.toml"))) == plain(Settings())


def test_every_key_is_documented() -> None:
    documented = tomllib.loads(default_configuration())
    assert set(documented) == set(plain(Settings())) - {"templates"}
    for table, settings in parser.TABLES.items():
        assert set(documented[table]) == {key.name for key in dataclasses.fields(settings)}
    assert set(documented["sources"][0]) == {"type", *DEFAULT_SOURCES[0].values}


def test_every_key_is_read() -> None:
    settings = parse(
        """
        [names]
        include = ["*"]
        exclude = ["web.*"]
        [[sources]]
        path = "/one"
        [[sources]]
        type = "certbot"
        path = "/two/"
        [postfix]
        enabled = true
        config_directory = "/p"
        map = "/p/map"
        map_type = "lmdb"
        action = ["/usr/bin/true", "-x"]
        [dovecot]
        enabled = false
        config_file = "/d/d.conf"
        include_file = "/d/i.conf"
        version = "2.4"
        certificates = "live"
        pin_directory = "/d/pins"
        action = "none"
        [state]
        directory = "/s"
        lock = "/s/lock"
        [verify]
        after_apply = false
        endpoints = ["imaps://127.0.0.1:993"]
        timeout = 2.5
        [alerts]
        on_failure = ["/usr/bin/logger", "-t", "mail"]
        [watch]
        quiet = 2
        max_wait = 10.5
        scan = 300
        """,
        Path("config.toml"),
        Path("/etc/mailsni/templates"),
    )
    assert plain(settings) == {
        "names": (("*",), ("web.*",)),
        "sources": (
            SourceSettings.of("certbot", path=Path("/one")),
            SourceSettings.of("certbot", path=Path("/two")),
        ),
        "postfix": settings_module.PostfixSettings(
            enabled=True,
            config_directory=Path("/p"),
            map=Path("/p/map"),
            map_type="lmdb",
            action=("/usr/bin/true", "-x"),
        ),
        "dovecot": settings_module.DovecotSettings(
            enabled=False,
            config_file=Path("/d/d.conf"),
            include_file=Path("/d/i.conf"),
            version="2.4",
            certificates="live",
            pin_directory=Path("/d/pins"),
            action="none",
        ),
        "state": settings_module.StateSettings(Path("/s"), Path("/s/lock")),
        "verify": settings_module.VerifySettings(
            after_apply=False, endpoints=(Endpoint.parse("imaps://127.0.0.1:993"),), timeout=2.5
        ),
        "alerts": settings_module.AlertSettings(("/usr/bin/logger", "-t", "mail")),
        "watch": settings_module.WatchSettings(2.0, 10.5, 300.0),
        "templates": Path("/etc/mailsni/templates"),
    }


def refused(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Path("config.toml"))
    assert caught.value.exit_code is Exit.CONFIGURATION
    return caught.value


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("[postfx]\n", "line 1: postfx", "did you mean postfix?"),
        ("\n\n[dovecot]\nenabeld = true\n", "line 4: [dovecot] enabeld", "did you mean enabled?"),
        ("[names]\nincludes = []\n", "line 2: [names] includes", "did you mean include?"),
        ("[state]\nlock = '/l'\n\n[verify]\ntimeuot = 1\n", "line 5: [verify] timeuot", "did you mean timeout?"),
        ('[[sources]]\npath = "/a"\n[[sources]]\npaht = "/b"\n', "line 4: [[sources]] paht", "did you mean path?"),
        ("[state]\nzzz = 1\n", "line 2: [state] zzz", "known here: directory, lock"),
        ("verfy = 1\n", "line 1: verfy", "did you mean verify?"),
        ("# x\npostfix = { mapp = 1 }\n", "line 2: [postfix] mapp", "did you mean map?"),
        ("# x\nsources = [{ paht = 1 }]\n", "line 2: [[sources]] paht", "did you mean path?"),
        ("# x\nstate.lokc = '/l'\n", "line 2: [state] lokc", "did you mean lock?"),
        ("[names]\n[names.more]\n", "line 2: [names] more", "known here: include, exclude"),
        ("[names]\n'incl ude' = 1\n", "line 1: [names] incl ude", "did you mean include?"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(text: str, where: str, hint: str) -> None:
    error = refused(text)
    assert error.message == f"config.toml: {where}: unknown key"
    assert error.hint == hint


@pytest.mark.parametrize(
    ("table", "line", "what"),
    [
        ("names", "include = 'mail.*'", "must be a list of strings"),
        ("names", "include = [1]", "must be a list of strings"),
        ("names", "include = []", "must name at least one pattern"),
        ("names", "include = ['Mail.*']", "Mail.*: not a pattern"),
        ("names", "exclude = ['a b']", "a b: not a pattern"),
        ("postfix", "enabled = 'yes'", 'must be true, false or "auto"'),
        ("postfix", "enabled = 1", 'must be true, false or "auto"'),
        ("postfix", "config_directory = 'etc/postfix'", "must be an absolute path"),
        ("postfix", "config_directory = '/'", "a path of other characters"),
        ("postfix", "map = '/etc/post fix'", "a path of other characters"),
        ("postfix", "map = '/etc/../x'", "a path of other characters"),
        ("postfix", "map = 7", "must be an absolute path"),
        ("postfix", "map_type = 'hsah'", "did you mean hash?"),
        ("postfix", "map_type = 1", 'must be "auto", "hash", "btree", "lmdb", "cdb" or "texthash"'),
        ("postfix", "action = 'relaod'", "did you mean reload?"),
        ("postfix", "action = []", "first word is an absolute path"),
        ("postfix", "action = ['systemctl', 'reload']", "first word is an absolute path"),
        ("postfix", "action = ['/bin/x', 1]", "must be a list of strings"),
        ("dovecot", "version = 2.4", 'must be "auto", "2.3" or "2.4"'),
        ("dovecot", "certificates = 'pined'", "did you mean pinned?"),
        ("state", "lock = ''", "must be an absolute path"),
        ("verify", "after_apply = 'true'", "must be true or false"),
        ("verify", "endpoints = 'smtp://127.0.0.1:25'", "must be a list of strings"),
        ("verify", "endpoints = ['http://127.0.0.1:80']", "http"),
        ("verify", "timeout = 0", "above 0"),
        ("verify", "timeout = -1", "above 0"),
        ("verify", "timeout = 3601", "at most 3600"),
        ("verify", "timeout = true", "must be a number of seconds"),
        ("verify", "timeout = nan", "must be a number of seconds"),
        ("verify", "timeout = '10'", "must be a number of seconds"),
        ("watch", "scan = 0", "above 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_line(table: str, line: str, what: str) -> None:
    message = refused(f"# a comment\n\n[{table}]\n  {line}\n").message
    assert message.startswith(f"config.toml: line 4: [{table}] {line.partition(' ')[0]}: ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sources]\npath = '/a'\n", "config.toml: line 1: sources: must be an array of tables: [[sources]]"),
        ("x = 1\n", "config.toml: line 1: x: unknown key"),
        ("\nnames = 1\n", "config.toml: line 2: [names]: must be a table"),
        ("[[postfix]]\n", "config.toml: line 1: [postfix]: must be a table"),
        ("\nsources = [1]\n", "config.toml: line 2: [[sources]]: must be a table"),
        ("[[sources]]\n[[sources]]\ntype = 'x'\n", 'config.toml: line 3: [[sources]] type: must be "certbot"'),
    ],
)
def test_a_table_of_another_shape_is_refused(text: str, message: str) -> None:
    error = refused(text)
    assert error.message == message
    assert f"{error.path}: line {error.line}: " in message


@pytest.mark.parametrize(
    "text",
    ["[names]\ninclude =\n", "[names]\n[names]\n", "\na = 1 b = 2\n", "[state]\nlock = 'a\n", "[state]\nlock = [1,\n"],
)
def test_what_is_no_toml_is_named_with_its_line(text: str) -> None:
    error = refused(text)
    assert "line 2" in error.message
    assert (error.path, error.line) == (Path("config.toml"), 2)


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_is_the_defaults_unless_it_was_named(tmp_path: Path) -> None:
    missing = tmp_path / "config.toml"
    assert plain(load(missing, required=False)) == plain(Settings())
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
