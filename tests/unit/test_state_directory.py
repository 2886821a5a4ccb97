"""The record: it comes back as it was written, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.deploy.state_directory import State
from mailsni.errors import PermissionMissingError
from mailsni.host import file_identity
from tests.support import records
from tests.support.builders import EVERYTHING, certificate, deployment, mixture
from tests.support.strategies import each

A, B = certificate("a", "mail.a.test"), certificate("b", "mail.b.test", algorithm="rsa")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "var" / "mailsni")


def full(tmp_path: Path) -> Deployment:
    published = tmp_path / "published"
    published.write_bytes(b"x")
    file = file_identity.published(published)
    assert file is not None
    found = deployment(*mixture(), patterns=EVERYTHING)
    return replace(found, files={str(published): file}, memories={"postfix": {"map_type": "lmdb"}})


def test_what_was_committed_comes_back(state: State, tmp_path: Path) -> None:
    written = full(tmp_path)
    state.commit(written)
    assert state.load() == DeploymentRecord(written, trusted=True)
    assert written.certificates_for("mail.a.test")[1].algorithm == "rsa"
    assert written.certificates_for("nobody.test") == ()


def test_no_record_is_an_empty_one_that_nobody_trusts(state: State) -> None:
    assert state.load() == DeploymentRecord(Deployment(), trusted=False)


def test_the_record_is_nobody_elses_business(state: State) -> None:
    state.commit(Deployment())
    state.begin_journal(Deployment())
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in state.directory.iterdir()}
    assert modes == {"deployment.json": 0o600, "journal.json": 0o600}
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700


def test_the_same_deployment_is_the_same_bytes(state: State) -> None:
    contents = []
    for found in (mixture(), mixture()[::-1]):
        state.commit(deployment(*found, patterns=EVERYTHING))
        contents.append((state.directory / "deployment.json").read_bytes())
    assert contents[0] == contents[1]


def is_lost(state: State) -> bool:
    """Whether the record counts as missing, and a sentence names its file."""
    record = state.load()
    (problem,) = record.problems
    assert str(state.directory / "deployment.json") in problem
    return record == DeploymentRecord(Deployment(), trusted=False, problems=(problem,))


def test_a_record_that_was_cut_off_is_none(state: State, tmp_path: Path) -> None:
    written = replace(full(tmp_path), certificates=deployment(A).certificates)
    state.commit(written)
    path = state.directory / "deployment.json"
    content = path.read_bytes()
    for length in each(len(content)):
        path.write_bytes(content[:length])
        assert is_lost(state)
    path.write_bytes(content)
    assert state.load() == DeploymentRecord(written, trusted=True)


def test_a_record_with_any_bit_flipped_is_none(state: State) -> None:
    state.commit(deployment(A))
    path = state.directory / "deployment.json"
    content = path.read_bytes()
    for bit in each(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert is_lost(state)


def change(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, key: value}


def change_certificate(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, "certificates": [{**document["certificates"][0], key: value}]}


@pytest.mark.parametrize(
    "damage",
    [
        change("names", []),
        change("names", {"mail.a.test": 1}),
        change("names", {"mail.a.test": "a"}),
        change("names", {"mail.a.test": ["../../etc/shadow"]}),
        change("names", {"MAIL.a.test": [A.ident]}),
        change("names", {'mail.a.test" {': [A.ident]}),
        change("certificates", {"x": 1}),
        change("certificates", [{}]),
        change("certificates", [7]),
        change_certificate("not_before", 1e300),
        change_certificate("not_after", float("nan")),
        change_certificate("not_after", "2026-01-01"),
        change_certificate("more", 1),
        change_certificate("names", ["mail.a.test\n"]),
        change_certificate("source", "/x\ny"),
        change_certificate("algorithm", "ed25519"),
        change_certificate("digest", "0" * 63),
        change_certificate("self_signed", 0),
        change_certificate("chain_path", "fullchain.pem"),
        change("files", {"/x": {"inode": 1}}),
        change("files", {"/x": [1, 2, 3, 4, 5, 6]}),
        change("files", {"/x": [1, 2, 3, 4, 5, 6, 7.5]}),
        change("files", {"x": [1, 2, 3, 4, 5, 6, 7]}),
        change("files", None),
        change("pins", {"x": [1, 2, 3, 4, 5, 6, 7]}),
        change("pin_directory", "pins"),
        lambda document: {key: document[key] for key in document if key != "memories"},
        change("memories", {"postfix": 1}),
        change("memories", {"postfix": {"map_type": 1}}),
        lambda document: [document],
        lambda _: None,
        lambda _: 7,
    ],
)
def test_a_record_of_another_kind_is_none(state: State, damage: Callable[[dict[str, Any]], object]) -> None:
    state.commit(deployment(A))
    records.rewrite(state.directory / "deployment.json", damage)
    assert is_lost(state)


@pytest.mark.parametrize("schema", ["mailsni.deployment/1", "mailsni.deployment/3", "other"])
def test_so_is_one_of_another_version(state: State, schema: str) -> None:
    state.commit(deployment(A))
    path = state.directory / "deployment.json"
    path.write_bytes(records.signed(schema, records.content(path)))
    assert is_lost(state)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff\xfe", b"[" * 100_000])
def test_so_is_one_that_is_no_document(state: State, content: bytes) -> None:
    state.commit(deployment(A))
    (state.directory / "deployment.json").write_bytes(content)
    assert is_lost(state)


def test_a_record_that_is_a_link_is_none(state: State, tmp_path: Path) -> None:
    state.commit(deployment(A))
    path = state.directory / "deployment.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert is_lost(state)


def test_a_journal_means_that_a_run_was_cut_off(state: State) -> None:
    state.commit(deployment(A))
    state.begin_journal(deployment(B))
    record = state.load()
    assert (record.trusted, record.interrupted, record.problems) == (False, True, ())
    assert set(record.deployment.names) == {"mail.a.test", "mail.b.test"}
    assert set(record.deployment.certificates) == {A.ident, B.ident}
    assert record.deployment.files == {}
    assert record.distrust_reason == "the last run was cut off"


@pytest.mark.parametrize("content", [b"", b"{", b"{}"])
def test_a_journal_that_cannot_be_read_means_the_same(state: State, content: bytes) -> None:
    state.commit(deployment(A))
    (state.directory / "journal.json").write_bytes(content)
    record = state.load()
    assert (record.trusted, record.interrupted) == (False, True)
    assert [str(state.directory / "journal.json") in problem for problem in record.problems] == [True]
    assert set(record.deployment.names) == {"mail.a.test"}


def test_a_journal_ends_by_commit_or_by_itself(state: State) -> None:
    state.commit(deployment(A))
    state.begin_journal(deployment(B))
    state.clear_journal()
    assert state.load() == DeploymentRecord(deployment(A), trusted=True)
    state.begin_journal(deployment(B))
    state.commit(deployment(B))
    assert state.load() == DeploymentRecord(deployment(B), trusted=True)
    assert [one.name for one in state.directory.iterdir()] == ["deployment.json"]
    state.clear_journal()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_of_somebody_else_is_not_taken_for_none(state: State) -> None:
    state.commit(Deployment())
    (state.directory / "deployment.json").chmod(0)
    with pytest.raises(PermissionMissingError):
        state.load()
