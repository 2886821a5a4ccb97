"""The throw-away authority and the certbot directory, without any server."""

from __future__ import annotations

import stat
from itertools import islice
from pathlib import Path

import pytest

from mailsni.sandbox import authority as sandbox_authority
from mailsni.sandbox import lineages
from mailsni.sandbox.servers import workspace
from mailsni.sources.certbot import certbot_store
from tests.support.builders import authority
from tests.support.lineages import KINDS, CertbotDirectory

NAME = "mail.example.test"


def test_a_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(authority().issue([NAME]))


def versions(store: CertbotDirectory, lineage: str) -> list[str]:
    """What each of the four links points at, "" for one that is absent or dangles."""
    links = [store.path(lineage, kind) for kind in KINDS]
    return [link.readlink().name if link.exists() else "" for link in links]


def test_a_first_issuance_begins_with_dangling_links(store: CertbotDirectory) -> None:
    steps = store.issuance_steps("one", authority().issue([NAME]))
    assert len(list(islice(steps, 6))) == 6  # two directories, four links
    assert all(store.path("one", kind).is_symlink() for kind in KINDS)
    assert versions(store, "one") == ["", "", "", ""]
    assert list(steps) == [*(f"write {kind}1.pem" for kind in KINDS), "write README", "write renewal/one.conf"]
    assert versions(store, "one") == [f"{kind}1.pem" for kind in KINDS]


def test_a_renewal_goes_through_absent_and_mixed_links(store: CertbotDirectory) -> None:
    store.add("one", authority().issue([NAME]))
    renewed = authority().issue([NAME])
    seen = [(step, versions(store, "one")) for step in store.renewal_steps("one", renewed)]
    assert len(seen) == 4 + 1 + 4 + 8 + 4
    states = dict(seen)
    old, new = ([f"{kind}{number}.pem" for kind in KINDS] for number in (1, 2))
    assert states["symlink previous_fullchain.pem"] == old
    assert states["unlink privkey.pem"] == [new[0], "", *old[2:]]
    assert states["symlink privkey.pem"] == [*new[:2], *old[2:]]
    assert states["unlink previous_fullchain.pem"] == new
    assert store.path("one", "privkey").read_bytes() == renewed.key_pem
    assert sorted(path.name for path in (store.live / "one").iterdir()) == sorted(
        ["README", *(f"{kind}.pem" for kind in KINDS)]
    )


def test_five_old_versions_are_kept(store: CertbotDirectory) -> None:
    issued = authority().issue([NAME])
    store.add("one", issued)
    for _ in range(7):
        store.renew("one", issued)
    kept = sorted(path.name for path in (store.archive / "one").glob("cert*.pem"))
    assert kept == [f"cert{number}.pem" for number in range(3, 9)]
    assert store.version("one") == 8


def test_a_deleted_lineage_is_gone(store: CertbotDirectory) -> None:
    store.add("one", authority().issue([NAME]))
    store.add("two", authority().issue([NAME]))
    store.delete("one")
    left = sorted(str(path.relative_to(store.root)) for path in store.root.glob("*/*"))
    assert left == ["archive/two", "live/README", "live/two", "renewal/two.conf"]
    with pytest.raises(FileNotFoundError):
        store.delete("one")


def test_the_demos_directory_and_authority_make_lineages_that_a_scan_accepts(tmp_path: Path) -> None:
    store, demo = lineages.CertbotDirectory(tmp_path), sandbox_authority.Authority()
    for version in (1, 2):
        issued = demo.issue([NAME], algorithm="rsa" if version == 1 else "ecdsa")
        store.save("one", issued, version=version)
        (certificate,) = certbot_store(store.live).scan({}).certificates
        assert (certificate.fingerprint, certificate.names) == (issued.fingerprint, (NAME,))
        assert store.path("one", "privkey").stat().st_mode & 0o077 == 0


def test_a_workspace_can_be_passed_through_and_is_removed() -> None:
    with workspace() as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711
        (directory / "left").mkdir()
    assert not directory.exists()
