"""A live map is held against what it should hold, entry by entry: the verdicts, on constant databases made by hand."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.errors import HostError
from mailsni.targets.postfix.map_read import Difference, MapEntry, discrepancies, type_of, verify_map
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.postconf import Installation
from tests.support.builders import authority

SOURCE = Path("/etc/postfix/mailsni")


def cdb(records: Mapping[bytes, bytes]) -> bytes:
    """A constant database without its indices, which nobody asks here."""
    body = b"".join(struct.pack("<2I", len(key), len(value)) + key + value for key, value in records.items())
    return struct.pack("<2I", 2048 + len(body), 0) * 256 + body


def pinned(name: str) -> bytes:
    issued = authority().issue([name])
    return issued.key_pem + issued.fullchain_pem


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def found(tmp_path: Path, records: Mapping[bytes, bytes], *entries: MapEntry) -> dict[str, Difference]:
    file = tmp_path / "mailsni.cdb"
    file.write_bytes(cdb(records))
    table = PostfixMap("cdb", tmp_path / "mailsni")
    return {one.key: one.difference for one in discrepancies(Installation(tmp_path), table, file, entries)}


def test_each_difference_is_told(tmp_path: Path) -> None:
    one, other = pinned("mail.a.test"), pinned("mail.b.test")
    both = base64.b64encode(one + b"\n" + other)
    entries = {
        key: MapEntry(key, (), digests)
        for key, digests in {
            "right.test": (digest(one),),
            "both.test": (digest(one), digest(other)),
            "turned.test": (digest(other), digest(one)),
            "half.test": (digest(one), digest(other)),
            "stale.test": (digest(other),),
            "path.test": (digest(one),),
            "empty.test": (digest(one),),
            "missing.test": (digest(one),),
        }.items()
    }
    records = {
        b"right.test": base64.b64encode(one),
        b"both.test\0": both + b"\0",
        b"turned.test": both,
        b"half.test": base64.b64encode(one),
        b"stale.test": base64.b64encode(one),
        b"path.test": b"/etc/dovecot/mailsni/x.pem",
        b"empty.test": b"",
        b"more.test": base64.b64encode(one),
    }
    assert found(tmp_path, records, *entries.values()) == {
        "turned.test": Difference.OTHER,
        "half.test": Difference.OTHER,
        "stale.test": Difference.OTHER,
        "path.test": Difference.UNUSABLE,
        "empty.test": Difference.UNUSABLE,
        "more.test": Difference.ADDITIONAL,
        "missing.test": Difference.MISSING,
    }


def test_what_a_stale_entry_holds_is_told(tmp_path: Path) -> None:
    old = authority().issue(["mail.a.test"])
    content = old.key_pem + old.fullchain_pem
    file = tmp_path / "mailsni.cdb"
    file.write_bytes(cdb({b"a.test": base64.b64encode(content)}))
    entry = MapEntry("a.test", (), ("0" * 16,))
    (one,) = discrepancies(Installation(tmp_path), PostfixMap("cdb", tmp_path / "mailsni"), file, [entry])
    assert one.leaf is not None
    assert hashlib.sha256(one.leaf).hexdigest() == old.fingerprint
    assert hashlib.sha256(content).hexdigest() in one.digests


WHOLE = cdb({b"a.test": b"x" * 50, b"b.test": b"y" * 50})


@given(st.integers(0, len(WHOLE) - 1))
def test_a_database_that_was_cut_off_is_an_error(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.cdb"
    file.write_bytes(WHOLE[:size])
    with pytest.raises(HostError, match="cannot be read back"):
        list(discrepancies(Installation(file.parent), PostfixMap("cdb", file.with_suffix("")), file, ()))


@given(st.binary(max_size=4000))
def test_so_is_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "odd.cdb"
    file.write_bytes(content)
    try:
        told = list(discrepancies(Installation(file.parent), PostfixMap("cdb", file.with_suffix("")), file, ()))
    except HostError:
        return
    assert {one.difference for one in told} <= {Difference.ADDITIONAL}


def test_a_map_says_its_type(tmp_path: Path) -> None:
    heads = {"hash": (12, 0x061561), "btree": (12, 0x053162), "lmdb": (16, 0xBEEFC0DE)}
    file = tmp_path / "map"
    for kind, (offset, magic) in heads.items():
        file.write_bytes(bytes(offset) + struct.pack("=I", magic) + bytes(100))
        assert type_of(file) == kind
    for other in (b"", bytes(30), WHOLE):
        file.write_bytes(other)
        assert type_of(file) is None
    assert PostfixMap("hash", SOURCE).file == Path("/etc/postfix/mailsni.db")
    assert PostfixMap("texthash", SOURCE).file == SOURCE


def test_a_map_that_is_not_as_intended_says_what_is_wrong_first(tmp_path: Path) -> None:
    good = pinned("mail.a.test")
    file = tmp_path / "mailsni.cdb"
    table = PostfixMap("cdb", tmp_path / "mailsni")
    entries = [MapEntry(key, (), (digest(good),)) for key in ("a.test", "b.test")]
    for records, message in (
        ({b"a.test": base64.b64encode(good)}, "lacks 1 of the entries, the first of them b.test"),
        ({b"a.test": b"", b"b.test": base64.b64encode(good)}, "a.test: does not hold the intended key and chain"),
        ({b"a.test": base64.b64encode(good), b"c.test": b""}, "holds an entry that was not asked for"),
    ):
        file.write_bytes(cdb(records))
        with pytest.raises(HostError, match=message) as raised:
            verify_map(Installation(tmp_path), table, file, entries)
        assert raised.value.path == file
    file.write_bytes(cdb({entry.key.encode(): base64.b64encode(good) for entry in entries}))
    verify_map(Installation(tmp_path), table, file, entries)


def test_another_type_is_opened_only_in_place_of_berkeley_db_and_only_where_it_is_redirected(tmp_path: Path) -> None:
    source = tmp_path / "mailsni"
    other = tmp_path / "mailsni.lmdb"
    other.touch()
    for map_type, redirected, expected in (
        ("hash", False, None),
        ("hash", True, other),
        ("btree", True, other),
        ("cdb", True, None),
        ("lmdb", False, other),
    ):
        assert PostfixMap(map_type, source).existing_file(redirected=redirected) == expected
    own = tmp_path / "mailsni.db"
    own.touch()
    assert PostfixMap("hash", source).existing_file(redirected=True) == own
    assert PostfixMap("hash", source).other_files == (other,)
