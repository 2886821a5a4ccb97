"""One pair that the configuration names file by file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailsni.core.model import Inventory, Reason
from mailsni.errors import HostError
from mailsni.sandbox.authority import Issued
from mailsni.sources.kinds import SourceSettings
from tests.support.builders import authority
from tests.support.layout_stores import write

pytestmark = pytest.mark.usefixtures("short_pauses")


def issue() -> Issued:
    return authority().issue(["mail.a.test"])


def named(root: Path, **names: str) -> SourceSettings:
    paths = {key: root / name for key, name in names.items()}
    return SourceSettings.of("files", **paths | ({"chain": str(paths["chain"])} if "chain" in paths else {}))


def scan(settings: SourceSettings) -> Inventory:
    return settings.open().scan({})


def reasons(settings: SourceSettings) -> list[Reason]:
    return [skipped.reason for skipped in scan(settings).skipped]


def test_the_issuers_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    issued = issue()
    for name, content in (("c", issued.leaf_pem), ("k", issued.key_pem), ("i", issued.chain_pem)):
        write(tmp_path / name, content)
    (pair,) = scan(named(tmp_path, certificate="c", key="k", chain="i")).read
    assert pair.pem == issued.key_pem + issued.fullchain_pem
    assert (pair.certificate.source, pair.certificate.chain_path) == (f"{tmp_path}/c", "")
    (alone,) = scan(named(tmp_path, certificate="c", key="k")).certificates
    assert alone.issuer_missing


@pytest.mark.parametrize("key_first", [True, False])
def test_one_file_may_have_all_of_it(tmp_path: Path, key_first: bool) -> None:  # noqa: FBT001
    issued = issue()
    parts = (issued.key_pem, issued.fullchain_pem)
    write(tmp_path / "all", b"".join(parts if key_first else reversed(parts)))
    (pair,) = scan(settings := named(tmp_path, certificate="all", key="all")).read
    assert pair.pem == issued.key_pem + issued.fullchain_pem
    assert (pair.certificate.chain_path, pair.certificate.key_path) == ("", ""), "a server wants the key first"
    assert scan(settings).skipped == ()


def test_its_links_may_lead_anywhere_and_a_change_behind_them_is_seen(tmp_path: Path) -> None:
    issued, new = issue(), issue()
    write(tmp_path / "far/away/c", issued.fullchain_pem)
    write(tmp_path / "elsewhere/k", issued.key_pem)
    (tmp_path / "named").mkdir()
    (tmp_path / "named/c").symlink_to(tmp_path / "far/away/c")
    (tmp_path / "named/k").symlink_to("../elsewhere/k")
    source = named(tmp_path / "named", certificate="c", key="k").open()
    (certificate,) = source.scan({}).certificates
    assert certificate.fingerprint == issued.fingerprint
    assert {tmp_path / "elsewhere/k", tmp_path / "far/away/c"} <= {place.path for place in source.watch_paths()}
    assert source.files().keys == (tmp_path / "elsewhere/k",)
    token = source.change_token()
    write(tmp_path / "far/away/c", new.fullchain_pem)
    write(tmp_path / "elsewhere/k", new.key_pem)
    assert source.change_token() != token
    assert [each.fingerprint for each in source.scan({}).certificates] == [new.fingerprint]


def test_one_file_that_is_missing_is_a_reason_and_both_are_an_error(tmp_path: Path) -> None:
    issued = issue()
    settings = named(tmp_path, certificate="c", key="k")
    write(tmp_path / "k", issued.key_pem)
    assert reasons(settings) == [Reason.CHAIN_MISSING]
    write(tmp_path / "c", issued.fullchain_pem)
    assert reasons(settings) == []
    (tmp_path / "k").unlink()
    assert reasons(settings) == [Reason.KEY_MISSING]
    assert scan(settings).lineages == {f"{tmp_path}/c"}
    (tmp_path / "c").unlink()
    with pytest.raises(HostError, match="No such file") as caught:
        scan(settings)
    assert caught.value.path == tmp_path / "c"


def test_a_renewal_of_the_certificate_is_one(tmp_path: Path) -> None:
    settings = named(tmp_path, certificate="c", key="k")
    origins = set()
    for issued in (issue(), issue()):
        write(tmp_path / "c", issued.fullchain_pem)
        write(tmp_path / "k", issued.key_pem)
        (certificate,) = scan(settings).certificates
        assert certificate.fingerprint == issued.fingerprint
        origins.add(certificate.source)
    assert origins == {f"{tmp_path}/c"}


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "c", issue().fullchain_pem)
    os.mkfifo(tmp_path / "k")
    assert reasons(named(tmp_path, certificate="c", key="k")) == [Reason.NOT_A_REGULAR_FILE]
