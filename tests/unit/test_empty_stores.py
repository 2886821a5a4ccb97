"""A directory that is empty because nothing is mounted there, beside one of which the last certificate was deleted.

And one that nobody may read, or root alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailsni.config.settings import Settings
from mailsni.core.model import Reason
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit, HostError, PermissionMissingError, RefusedError
from mailsni.sources.directory import DirectoryStore
from mailsni.sources.pem_tree import PemTree
from mailsni.targets.dovecot import target as dovecot_target
from tests.support.builders import authority, without_servers
from tests.support.layout_stores import CertbotBuilder
from tests.support.pem_stores import FilesBuilder, PemTreeBuilder
from tests.support.store_builder import StoreBuilder

LOST, GOOD, NEW = "mail.lost.test", "mail.good.test", "mail.new.test"


@dataclass(frozen=True)
class Host:
    """Two stores with a name each, and a Dovecot that only its settings tell of."""

    settings: Settings
    lost: StoreBuilder
    good: StoreBuilder

    def apply(self, *, allow_empty: bool = False) -> ApplyResult:
        """What ``mailsni apply --no-reload`` does."""
        options = Options(reload=False, allow_empty=allow_empty)
        snapshot = take_snapshot(self.settings, datetime.now(UTC), allow_empty=allow_empty)
        return transaction.apply(snapshot, options)

    @property
    def served(self) -> set[str]:
        """The names in the published file."""
        return {name for name in (LOST, GOOD, NEW) if name in self.settings.dovecot.include_file.read_text()}

    def empty(self) -> None:
        """Leave the place of the lost store's file system."""
        shutil.rmtree(self.lost.path)
        self.lost.path.mkdir()


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: Callable[[Path], StoreBuilder]) -> Host:
    monkeypatch.setattr(dovecot_target, "_is_installed", lambda _: False)
    lost, good = builder(tmp_path / "lost"), CertbotBuilder(tmp_path / "good")
    lost.put("a", authority().issue([LOST]))
    good.put("a", authority().issue([GOOD]))
    plain = without_servers(tmp_path, tmp_path)
    dovecot = replace(plain.dovecot, enabled=True, version="2.4", include_file=tmp_path / "include.conf")
    host = Host(replace(plain, sources=(lost.settings, good.settings), dovecot=dovecot), lost, good)
    assert host.apply().exit_code is Exit.DONE
    return host


@pytest.fixture(params=[PemTreeBuilder, CertbotBuilder])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return make(tmp_path, monkeypatch, request.param)


def test_an_empty_directory_counts_as_not_mounted_and_the_other_store_goes_on(host: Host) -> None:
    host.empty()
    host.good.put("new", authority().issue([NEW]))
    result = host.apply()
    assert result.exit_code is Exit.FAILED
    (problem,) = result.snapshot.selection.problems
    assert (problem.source, problem.reason) == (str(host.lost.path), Reason.UNREADABLE)
    assert problem.detail.startswith(f"{host.lost.path}: is an empty directory, and 1 name is served now from it")
    assert "--allow-empty" in problem.detail, "the way out is told where the other stores go on"
    assert host.served == {LOST, GOOD, NEW}
    host.lost.put("again", authority().issue([LOST]))
    assert host.apply().exit_code is Exit.DONE


def test_its_names_go_when_that_is_asked_for(host: Host) -> None:
    host.empty()
    assert host.apply(allow_empty=True).exit_code is Exit.DONE
    assert host.served == {GOOD}
    assert host.apply().exit_code is Exit.DONE, "nothing is served from it any more"


def test_its_names_go_with_its_table(host: Host) -> None:
    host.empty()
    without = replace(host, settings=replace(host.settings, sources=(host.good.settings,)))
    assert without.apply().exit_code is Exit.DONE
    assert without.served == {GOOD}


def test_the_whole_run_fails_when_nobody_knows_what_was_from_there(host: Host) -> None:
    (host.settings.state.directory / "deployment.json").unlink()
    host.empty()
    with pytest.raises(HostError, match="some names are served now from it") as caught:
        host.apply()
    assert caught.value.path == host.lost.path
    assert host.served == {LOST, GOOD}
    assert host.apply(allow_empty=True).exit_code is Exit.DONE
    assert host.served == {GOOD}


def test_the_whole_run_fails_when_there_is_no_other_store(host: Host) -> None:
    host.empty()
    alone = replace(host, settings=replace(host.settings, sources=(host.lost.settings,)))
    with pytest.raises(HostError, match="it counts as not mounted"):
        alone.apply()
    assert alone.served == {LOST, GOOD}


def test_a_store_that_was_empty_to_begin_with_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dovecot_target, "_is_installed", lambda _: False)
    good = CertbotBuilder(tmp_path / "good")
    good.put("a", authority().issue([GOOD]))
    (tmp_path / "new").mkdir()
    plain = without_servers(tmp_path, tmp_path)
    dovecot = replace(plain.dovecot, enabled=True, version="2.4", include_file=tmp_path / "include.conf")
    new = replace(PemTreeBuilder(tmp_path / "x").settings, values={"path": tmp_path / "new"})
    settings = replace(plain, sources=(new, good.settings), dovecot=dovecot)
    assert Host(settings, good, good).apply().exit_code is Exit.DONE


@pytest.mark.parametrize("readme", [True, False], ids=["as-certbot-leaves-it", "without-README"])
def test_certbot_delete_of_the_last_lineage_takes_its_name_away(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readme: bool,  # noqa: FBT001
) -> None:
    host = make(tmp_path, monkeypatch, CertbotBuilder)
    host.lost.remove("a")
    assert [path.name for path in host.lost.path.iterdir()] == ["README"]
    if not readme:
        (host.lost.path / "README").unlink()
    assert host.apply().exit_code is Exit.DONE
    assert host.served == {GOOD}


def test_certbot_delete_of_the_only_name_is_refused_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make(tmp_path, monkeypatch, CertbotBuilder)
    for store in (host.lost, host.good):
        store.remove("a")
    with pytest.raises(RefusedError, match="2 names are served now"):
        host.apply()
    host.apply(allow_empty=True)
    assert host.served == set()


@pytest.mark.parametrize("user", [0, 1000])
def test_a_store_that_not_even_root_may_read_does_not_hold_up_the_other(
    host: Host, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionMissingError("R: cannot be read: Permission denied", hint="run it as root", path=host.lost.path)

    monkeypatch.setattr(DirectoryStore if host.lost.kind == "certbot" else PemTree, "scan", refuse)
    good = FilesBuilder(host.good.root.with_name("pair"))
    good.put("new", authority().issue([NEW]))
    readable = replace(host, settings=replace(host.settings, sources=(host.lost.settings, good.settings)))
    monkeypatch.setattr("mailsni.deploy.snapshot.os.geteuid", lambda: user)
    if host.lost.kind == "certbot" or user:
        with pytest.raises(PermissionMissingError if user else HostError, match="Permission denied"):
            readable.apply()
        return
    result = readable.apply()
    assert result.exit_code is Exit.FAILED
    assert "not even root" in (result.snapshot.unreadable[0].hint or "")
    assert readable.served == {LOST, NEW}
