"""A directory of anything: what is paired with what, what is left out, and how it is told."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from mailsni.core.model import CachedLineage, Inventory, KeyAndChain, Reason, SkippedLineage
from mailsni.core.names import NamePatterns
from mailsni.core.selection import select
from mailsni.errors import HostError, PermissionMissingError
from mailsni.sandbox.authority import Issued
from mailsni.sources import directory, pem_tree
from mailsni.sources.base import Source
from mailsni.sources.pem_tree import PemTree
from tests.support.authority import Authority
from tests.support.builders import authority
from tests.support.layout_stores import write
from tests.support.pem_stores import decoys
from tests.unit.test_pem_forms import rekeyed

NAME = "mail.a.test"


def issue(*names: str, **options: object) -> Issued:
    return authority().issue(names or [NAME], **options)  # type: ignore[arg-type]


def fill(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        write(root / name, content)
    return root


def tree(root: Path, pause: Callable[[float], None] = lambda _: None) -> PemTree:
    return PemTree(root, pause)


def scan(root: Path) -> Inventory:
    return tree(root).scan({})


def pairs(root: Path) -> dict[str, bytes]:
    """What each certificate is served with, by the path of its origin below the root."""
    return {
        pair.certificate.source.removeprefix(f"{root}/"): pair.pem
        for pair in sorted(scan(root).read, key=lambda pair: pair.certificate.source)
    }


def told(root: Path) -> list[tuple[str, Reason, bool]]:
    return [(each.source.removeprefix(f"{root}/"), each.reason, each.information) for each in scan(root).skipped]


def whole(issued: Issued) -> bytes:
    return issued.key_pem + issued.fullchain_pem


# ── what belongs together ────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_and_chains_are_paired_wherever_they_lie_and_whatever_they_are_called(tmp_path: Path) -> None:
    first, second, third = issue(), issue("mail.b.test", algorithm="rsa"), issue("mail.c.test")
    root = fill(
        tmp_path / "tree",
        {
            "Schlüssel/für Äpfel": first.key_pem,
            "a b/mail (neu).txt": first.fullchain_pem,
            "deep/er/and/deeper/0": second.key_pem,
            "#=x": second.fullchain_pem,
            ".hidden/key": third.key_pem,
            "c.pem": third.fullchain_pem,
            **decoys(),
        },
    )
    assert pairs(root) == {
        "=23=3Dx": whole(second),
        "a=20b/mail=20=28neu=29.txt": whole(first),
        "c.pem": whole(third),
    }
    assert scan(root).skipped == ()


def test_a_combined_file_may_have_any_order(tmp_path: Path) -> None:
    issued = issue()
    for at, parts in enumerate(itertools.permutations((issued.key_pem, issued.leaf_pem, issued.chain_pem))):
        root = fill(tmp_path / f"tree-{at}", {"combined.pem": b"".join(parts)})
        assert pairs(root) == {"combined.pem": whole(issued)}


def test_several_pairs_in_one_file_have_an_origin_each(tmp_path: Path) -> None:
    issued = [issue(f"mail.{letter}.test") for letter in "abc"]
    parts = [each.key_pem + each.leaf_pem for each in issued]
    root = fill(tmp_path / "tree", {"all.pem": b"".join(parts) + issued[0].chain_pem})
    expected = {"all.pem": whole(issued[0]), "all.pem#2": whole(issued[1]), "all.pem#3": whole(issued[2])}
    assert pairs(root) == expected
    (root / "all.pem").write_bytes(b"".join(parts)[:-50])
    lineages = scan(root).lineages
    assert {f"{root}/{origin}" for origin in expected} <= lineages, "nothing of a file that is cut is gone"


def test_a_split_chain_is_put_together(tmp_path: Path) -> None:
    issued = issue()
    files = {"keys/a": issued.key_pem, "certs/a": issued.leaf_pem, "ca/bundle": issued.chain_pem}
    assert pairs(fill(tmp_path / "tree", files)) == {"certs/a": whole(issued)}


def test_the_certificate_of_a_chain_is_told_once(tmp_path: Path) -> None:
    """As certbot lays it out, and with copies."""
    issued = issue()
    lineage = {
        "cert.pem": issued.leaf_pem,
        "chain.pem": issued.chain_pem,
        "fullchain.pem": issued.fullchain_pem,
        "privkey.pem": issued.key_pem,
    }
    copies = {f"{place}/{name}": content for place in ("x", "x/y/.backup") for name, content in lineage.items()}
    assert pairs(fill(tmp_path / "tree", copies)) == {"x/fullchain.pem": whole(issued)}


@pytest.mark.parametrize("identified", [True, False], ids=["key-identifiers", "signatures"])
@pytest.mark.parametrize("wrong", ["beside", "behind", "elsewhere"])
def test_of_two_authorities_of_one_name_the_one_that_signed_is_found(
    tmp_path: Path,
    wrong: str,
    identified: bool,  # noqa: FBT001
) -> None:
    case = rekeyed(identified=identified)
    right, other = case.issuers
    files = {
        "beside": {"leaf/cert": case.leaf, "leaf/wrong": other, "z/right": right},
        "behind": {"leaf/cert": case.leaf + other, "z/right": right} if identified else {"cert": case.leaf + right},
        "elsewhere": {"cert": case.leaf, "0/wrong": other, "1/right": right},
    }[wrong]
    (served,) = pairs(fill(tmp_path / "tree", {**files, "key": case.key})).values()
    assert served == case.key + case.leaf + right


def test_a_bundle_of_authorities_adds_no_link_to_a_chain_that_is_whole(tmp_path: Path) -> None:
    issued, others = issue(), [Authority() for _ in range(20)]
    bundle = b"".join(each.root_pem + each.intermediate.pem for each in others) + authority().root_pem
    root = fill(tmp_path / "tree", {"a.pem": issued.fullchain_pem, "a.key": issued.key_pem, "ca-bundle.crt": bundle})
    assert pairs(root) == {"a.pem": whole(issued)}
    (root / "a.pem").write_bytes(issued.leaf_pem)
    assert not scan(root).certificates[0].issuer_missing or pairs(root) == {"a.pem": issued.key_pem + issued.leaf_pem}


def test_one_key_may_have_several_certificates(tmp_path: Path) -> None:
    """mail-in-a-box keeps its key, and a file for each certificate."""
    old = issue(NAME, not_before=datetime.now(UTC) - timedelta(days=80))
    new = issue(NAME, "imap.a.test", key=old.key_pem)
    site = issue("www.a.test", key=old.key_pem)
    root = fill(
        tmp_path / "ssl",
        {
            "ssl_private_key.pem": old.key_pem,
            "mail.a.test-20260901-aaaa.pem": old.fullchain_pem,
            "mail.a.test-20261101-bbbb.pem": new.fullchain_pem,
            "www.a.test-20261101-cccc.pem": site.fullchain_pem,
        },
    )
    (root / "ssl_certificate.pem").symlink_to("mail.a.test-20261101-bbbb.pem")
    assert set(pairs(root).values()) == {whole(old), whole(new), whole(site)}
    selection = select(scan(root), NamePatterns(["mail.*", "imap.*"]), datetime.now(UTC))
    assert {each.fingerprint for each in selection.certificates} == {new.fingerprint}
    assert selection.problems == ()


def test_rsa_and_ecdsa_of_one_name_are_both_found(tmp_path: Path) -> None:
    both = [issue(), issue(algorithm="rsa")]
    files = {
        f"{at}.{part}": getattr(each, f"{part}_pem") for at, each in enumerate(both) for part in ("key", "fullchain")
    }
    root = fill(tmp_path / "tree", files)
    selection = select(scan(root), NamePatterns([NAME]), datetime.now(UTC))
    assert [each.algorithm for winner in selection.winners for each in winner.certificates] == ["ecdsa", "rsa"]


def test_a_secret_mount_is_read_through_its_links(tmp_path: Path) -> None:
    issued = issue()
    files = {"..2026/tls.crt": issued.fullchain_pem, "..2026/tls.key": issued.key_pem}
    root = fill(tmp_path / "mount", files)
    (root / "..data").symlink_to("..2026")
    for name in ("tls.crt", "tls.key"):
        (root / name).symlink_to(f"..data/{name}")
    assert pairs(root) == {"tls.crt": whole(issued)}
    token = tree(root).change_token()
    fill(root, {"..2027/tls.crt": (new := issue()).fullchain_pem, "..2027/tls.key": new.key_pem})
    (root / "..data_tmp").symlink_to("..2027")
    (root / "..data_tmp").rename(root / "..data")
    assert pairs(root)["tls.crt"] == whole(new)
    assert tree(root).change_token() != token


def test_what_this_program_pinned_is_no_store(tmp_path: Path) -> None:
    issued = issue()
    (pair,) = scan(fill(tmp_path / "live", {"a.pem": whole(issued)})).read
    root = fill(tmp_path / "tree", {f"dovecot/{pair.certificate.ident}.pem": pair.pem})
    assert scan(root) == Inventory((), (), frozenset())


# ── what has no key ──────────────────────────────────────────────────────────────────────────────────────────────────


def encrypted(issued: Issued) -> bytes:
    key = serialization.load_pem_private_key(issued.key_pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))


def test_a_certificate_without_a_key_is_information(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"peers/theirs.crt": issue().fullchain_pem, "own/mine.key": issue().key_pem})
    assert told(root) == [("peers/theirs.crt", Reason.KEY_MISSING, True)]


def test_a_key_without_a_certificate_is_nothing_to_tell(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"account.key": issue().key_pem, "old.key": encrypted(issue())})
    assert scan(root) == Inventory((), (), frozenset())


def test_an_encrypted_key_is_told_where_nothing_else_has_that_key(tmp_path: Path) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.crt": issued.fullchain_pem, "a.key": encrypted(issued)})
    assert told(root) == [("a.crt", Reason.ENCRYPTED_KEY, False)]
    write(root / "plain/a", issued.key_pem)
    assert pairs(root) == {"a.crt": whole(issued)}
    assert told(root) == []


@pytest.mark.parametrize(
    ("key", "reason", "information"),
    [
        ("a.key", Reason.KEY_MISMATCH, False),
        ("privkey.pem", Reason.KEY_MISMATCH, True),
        ("b/a.key", Reason.KEY_MISSING, True),
    ],
)
def test_the_key_of_another_certificate_beside_it_is_told(
    tmp_path: Path,
    key: str,
    reason: Reason,
    information: bool,  # noqa: FBT001
) -> None:
    root = fill(tmp_path / "tree", {"a.crt": issue().fullchain_pem, key: issue().key_pem})
    assert told(root) == [("a.crt", reason, information)]


def test_an_edwards_key_is_told(tmp_path: Path) -> None:
    issued = issue(algorithm="ed25519")
    root = fill(tmp_path / "tree", {"a.pem": issued.fullchain_pem, "a.key": issued.key_pem})
    assert told(root) == [("a.pem", Reason.UNSUPPORTED_KEY, False)]


# ── while it is being written ────────────────────────────────────────────────────────────────────────────────────────


def test_a_chain_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.pem": issued.leaf_pem, "a.key": issued.key_pem})
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        (root / "a.pem").write_bytes(issued.fullchain_pem[: -100 if len(waited) == 1 else None])

    (certificate,) = tree(root, finish).scan({}).certificates
    assert (len(waited), certificate.issuer_missing) == (2, False)


def test_what_stays_torn_costs_a_bounded_time_and_later_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "tree", {"a.pem": issue().fullchain_pem[:-100], "b.pem": issue("mail.b.test").leaf_pem})
    waited: list[float] = []
    source = tree(root, waited.append)
    first = source.scan({})
    assert waited == [directory.RETRY_PAUSE] * directory.RETRIES
    later = time.time() + 2 * directory.RECENT
    monkeypatch.setattr("mailsni.sources.pem_tree.time.time", lambda: later)
    assert source.scan({}) == first
    assert len(waited) == directory.RETRIES
    assert told(root) == [("a.pem", Reason.BAD_PEM, False), ("b.pem", Reason.KEY_MISSING, True)]


@pytest.mark.parametrize("content", [b"", bytes(700), b"lost"])
def test_a_file_that_lost_its_content_was_a_certificate_for_all_that_is_known(tmp_path: Path, content: bytes) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.pem": issued.fullchain_pem, "a.key": issued.key_pem})
    (origin,) = scan(root).lineages
    (root / "a.pem").write_bytes(content)
    inventory = scan(root)
    assert (inventory.certificates, inventory.skipped) == ((), ())
    assert origin in inventory.lineages


def test_a_damaged_file_is_not_replaced_by_a_copy_of_its_leaf_alone(tmp_path: Path) -> None:
    issued = issue()
    files = {"cert.pem": issued.leaf_pem, "fullchain.pem": issued.fullchain_pem[:-100], "privkey.pem": issued.key_pem}
    root = fill(tmp_path / "tree", files)
    assert told(root) == [("fullchain.pem", Reason.BAD_PEM, False)]
    assert scan(root).certificates == ()


# ── what is known ────────────────────────────────────────────────────────────────────────────────────────────────────


def known(source: Source) -> dict[str, CachedLineage]:
    return {lineage.certificate.source: lineage for lineage in source.scan({}).cached}


def test_an_issuer_that_comes_later_is_found_for_what_is_known(tmp_path: Path) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.pem": issued.leaf_pem, "a.key": issued.key_pem})
    before = known(tree(root))
    assert tree(root).scan(before).read == ()
    write(root / "chain", issued.chain_pem)
    (pair,) = tree(root).scan(before).read
    assert isinstance(pair, KeyAndChain)
    assert pair.pem == whole(issued)
    assert tree(root).scan(known(tree(root))).read == ()
    assert tree(root).reload(pair.certificate) == pair


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def lonely(root: Path) -> SkippedLineage:
    (skipped,) = scan(root).skipped
    return skipped


def test_what_is_left_out_is_told_in_a_line(tmp_path: Path) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.pem": issued.fullchain_pem, "a.key": issued.key_pem})
    for name in ("huge", "huger"):
        with (root / name).open("wb") as file:
            file.write(issued.key_pem)
            file.truncate(100 << 20)
    write(tmp_path / "outside/b.key", issue().key_pem)
    for name, target in (("b.key", "../outside/b.key"), ("out", "../outside"), ("round", "."), ("loop", "loop")):
        (root / name).symlink_to(target)
    (root / "nothing").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    skipped = lonely(root)
    assert (skipped.source, skipped.reason, skipped.information) == (str(root), Reason.TOO_LARGE, True)
    assert skipped.detail.startswith("left out: 2 oversized files (such as ")
    assert ", 2 outward links (such as " in skipped.detail
    assert pairs(root) == {"a.pem": whole(issued)}
    (root / "a.key").unlink()
    assert lonely(root).detail.startswith("no key in the tree belongs to it; left out: 2 oversized files")


def test_a_tree_whose_links_all_leave_it_is_a_problem(tmp_path: Path) -> None:
    issued = issue()
    fill(tmp_path / "archive", {"fullchain1.pem": issued.fullchain_pem, "privkey1.pem": issued.key_pem})
    root = fill(tmp_path / "live", {})
    for kind in ("fullchain", "privkey"):
        (root / f"{kind}.pem").symlink_to(f"../archive/{kind}1.pem")
    skipped = lonely(root)
    assert (skipped.reason, skipped.information) == (Reason.SYMLINK_OUTSIDE_STORE, False)


def test_a_deep_tree_is_read_as_far_as_paths_go(tmp_path: Path) -> None:
    issued = issue()
    root = fill(tmp_path / "tree", {"a.pem": whole(issued)})
    here = os.open(root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert pairs(root) == {"a.pem": whole(issued)}
    assert [each.reason for each in scan(root).skipped] == [Reason.UNREADABLE]


def test_a_tree_of_too_many_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pem_tree, "FILE_LIMIT", 3)
    root = fill(tmp_path / "tree", {"1": b"", "2": b"", "3": b""})
    assert scan(root).certificates == ()
    write(root / "4", b"")
    with pytest.raises(HostError, match="more than 3 files: name a smaller directory") as caught:
        scan(root)
    assert caught.value.path == root
    assert tree(root).change_token()


def test_a_path_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(whole(issue()))
    with pytest.raises(HostError, match="Not a directory") as caught:
        scan(path)
    assert caught.value.path == path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_cannot_be_listed_may_hold_what_is_deployed(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"a/a.pem": whole(issue())})
    (root / "a").chmod(0)
    with pytest.raises(PermissionMissingError):
        scan(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_left_out_and_not_gone(tmp_path: Path) -> None:
    root = fill(tmp_path / "tree", {"a.pem": whole(issue()), "b.pem": whole(issue("mail.b.test"))})
    (root / "a.pem").chmod(0)
    inventory = scan(root)
    assert f"{root}/a.pem" in inventory.lineages
    assert [each.reason for each in inventory.skipped] == [Reason.UNREADABLE]


def test_many_files_take_little_time(tmp_path: Path) -> None:
    """Most are put aside by their first look, whatever their length."""
    root = fill(tmp_path / "tree", {"a.pem": whole(issued := issue())})
    for number in range(40):
        (root / f"{number}").mkdir()
        for name in range(50):
            (root / f"{number}/{name}").write_bytes(b"x" * 100)
    for number in range(100):
        with (root / f"long-{number}").open("wb") as file:
            file.truncate(1 << 20)
    begin = time.process_time()
    assert pairs(root) == {"a.pem": whole(issued)}
    assert time.process_time() - begin < 2
