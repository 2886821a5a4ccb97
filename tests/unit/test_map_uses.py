"""Every place that names our map is found, and what is named is made: what a Postfix reads is never taken away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailsni.errors import MailsniError
from mailsni.host.commands import Completed
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.map_uses import TypeChoice, choose_types, find_uses
from mailsni.targets.postfix.postconf import Installation
from tests.support.fake_executor import FakeExecutor

CDB, HASH, LMDB = (("cdb",), ("hash",), ("lmdb",))


@dataclass
class FakePostfix(FakeExecutor):
    """Answers as postconf(1) of several configuration directories does, and as postmulti(1)."""

    main: dict[Path, str] = field(default_factory=dict)
    master: dict[Path, str] = field(default_factory=dict)
    broken: frozenset[Path] = frozenset()

    def find_tool(self, name: str) -> Path | None:
        """See :class:`mailsni.host.commands.Executor`."""
        return Path("/usr/sbin", name) if name != "postmulti" else None

    def run(self, argv: Sequence[str | Path], **_options: object) -> Completed:
        """See :class:`mailsni.host.commands.Executor`."""
        words = tuple(map(str, argv))
        directory = Path(words[2])
        texts = self.master if "-Px" in words else self.main
        failed = directory in self.broken
        return Completed(words, int(failed), texts.get(directory, "").encode(), "broken" if failed else "")


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name in ("postfix", "postfix-out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.cf").touch()
        (tmp_path / name / "master.cf").touch()
    return tmp_path


def types_of(etc: Path, main: str, master: str = "", out: str = "") -> list[tuple[str, str]]:
    """The types that places name, and the last parts of the places."""
    own = etc / "postfix"
    said = {own: main.format(own=own / "mailsni", etc=etc), etc / "postfix-out": out.format(own=own / "mailsni")}
    installation = Installation(own, FakePostfix(main=said, master={own: master.format(own=own / "mailsni")}))
    uses = find_uses(installation, own / "mailsni", installation.parameters())
    assert uses.unreadable == ()
    return [(use.table.map_type, str(Path(use.place).relative_to(etc))) for use in uses.uses]


@pytest.mark.parametrize(
    ("main", "master", "expected"),
    [
        ("tls_server_sni_maps = hash:{own}, cdb:{own}", "", ["hash", "cdb"]),
        ("tls_server_sni_maps = proxy:cdb:{own}", "", ["cdb"]),
        ("tls_server_sni_maps = pipemap:{{hash:/x,cdb:{own}}}", "", ["cdb"]),
        ("tls_server_sni_maps = cdb:{own}2, cdb:/x{own}", "", []),
        ("my_maps = lmdb:{own}\ntls_server_sni_maps = hash:{own}", "", ["hash", "lmdb"]),
        ("tls_server_sni_maps = hash:{own}", "25/inet/tls_server_sni_maps = cdb:{own}", ["hash", "cdb"]),
        ("tls_server_sni_maps =", "tlsproxy/unix/my_maps = cdb:{own}", ["cdb"]),
        ("tls_server_sni_maps =", "", []),
    ],
)
def test_every_table_of_main_cf_and_of_services_is_found(
    etc: Path, main: str, master: str, expected: list[str]
) -> None:
    assert [map_type for map_type, _ in types_of(etc, main, master)] == expected


@pytest.mark.parametrize("parameter", ["multi_instance_directories", "alternate_config_directories"])
def test_other_instances_that_name_the_map_are_found(etc: Path, parameter: str) -> None:
    main = f"{parameter} = {{etc}}/postfix-out, {{etc}}/not-there\ntls_server_sni_maps = hash:{{own}}"
    found = types_of(etc, main, out="tls_server_sni_maps = cdb:{own}")
    assert found == [("hash", "postfix/main.cf"), ("cdb", "postfix-out/main.cf")]


def test_a_map_that_is_named_through_a_link_is_ours(etc: Path) -> None:
    (etc / "maps").symlink_to(etc / "postfix")
    assert types_of(etc, "tls_server_sni_maps = hash:{etc}/maps/mailsni") == [("hash", "postfix/main.cf")]


@pytest.mark.parametrize("broken", ["postfix-out", "postfix"])
def test_what_cannot_be_read_may_name_anything(etc: Path, broken: str) -> None:
    own = etc / "postfix"
    main = {"multi_instance_directories": str(etc / "postfix-out"), "tls_server_sni_maps": f"hash:{own}/mailsni"}
    installation = Installation(own, FakePostfix({}, broken=frozenset({etc / broken})))
    uses = find_uses(installation, own / "mailsni", main)
    assert uses.unreadable == (etc / broken,)
    assert uses.is_in_main_cf
    assert list(uses.tables()) == [PostfixMap("hash", own / "mailsni")]


def no_types() -> frozenset[str]:
    raise AssertionError("nobody has to ask for the types of this Postfix")


@pytest.mark.parametrize(
    ("asked", "named", "expected"),
    [
        ("auto", ["cdb"], (CDB,)),
        ("cdb", [], (CDB,)),
        ("cdb", ["cdb"], (CDB,)),
        ("auto", [], (("hash", "lmdb", "cdb", "btree"),)),
        ("auto", ["sdbm"], (("hash", "lmdb", "cdb", "btree"),)),
    ],
)
def test_one_type_is_made_where_one_is_wanted(asked: str, named: list[str], expected: tuple[object, ...]) -> None:
    assert choose_types(asked, named, {"default_database_type": "hash"}, no_types).maps == expected


def choose(asked: str, *named: str, migration: str = "disable") -> TypeChoice:
    main = {"default_database_type": "hash", "non_bdb_migration_level": migration}
    return choose_types(asked, named, main, lambda: {"hash", "btree", "cdb"})


def test_every_type_that_is_named_is_made_and_the_one_of_the_configuration() -> None:
    assert choose("auto", "hash", "cdb", "texthash").maps == (HASH, CDB, ("texthash",))
    assert choose("hash", "cdb").maps == (CDB, HASH)


def test_what_cannot_be_made_is_refused_and_the_rest_is_made() -> None:
    for named, why in {
        ("cdb", "lmdb"): "no such tables",
        ("cdb", "sdbm"): "cannot hold",
        ("hash", "btree"): "its file would be that of the hash table",
    }.items():
        choice = choose("auto", *named)
        assert choice.maps == ((named[0],),)
        assert re.search(why, choice.refused[named[1]])


def test_a_redirected_hash_and_btree_have_files_of_their_own() -> None:
    choice = choose("auto", "hash", "btree", migration="enable-redirect")
    assert (choice.maps, choice.refused) == ((HASH, ("btree",)), {})


def test_a_configuration_that_does_not_parse_is_no_answer(etc: Path) -> None:
    with pytest.raises(MailsniError):
        Installation(etc / "postfix", FakePostfix({}, broken=frozenset({etc / "postfix"}))).parameters()
