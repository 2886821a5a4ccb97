"""acme.sh's home: the files it installed elsewhere, a key that is newer than its chain, names that users type."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.core.model import Reason
from mailsni.core.names import safe_origin
from mailsni.deploy.host_facts import HostFacts
from mailsni.deploy.snapshot import take_snapshot
from mailsni.doctor.checks.stores import acme_sh_home
from mailsni.doctor.finding import Facts
from mailsni.sources.directory import RECENT
from mailsni.sources.kinds import SourceSettings
from mailsni.watch.events import to_watch
from tests.support.builders import authority, without_servers
from tests.support.layout_stores import ACCOUNT_KEY, write
from tests.support.tool_stores import AcmeShBuilder

NAME = "mail.a.test"


@pytest.fixture
def home(tmp_path: Path) -> AcmeShBuilder:
    return AcmeShBuilder(tmp_path / ".acme.sh")


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    """Where the key and the chain are installed."""
    return tmp_path / "ssl" / "mail.key", tmp_path / "ssl" / "mail.pem"


def fingerprints(home: AcmeShBuilder) -> dict[str, str]:
    return {each.source: each.fingerprint for each in home.source().scan({}).certificates}


def test_what_is_installed_is_read_where_it_is_installed(home: AcmeShBuilder, installed: tuple[Path, Path]) -> None:
    key, chain = installed
    home.put(NAME, old := authority().issue([NAME]))
    home.install(NAME, key, chain)
    home.put(NAME, new := authority().issue([NAME]))
    home.install(NAME, key, chain)
    home.damage(NAME, key=authority().issue([NAME]).key_pem)
    (certificate,) = home.source().scan({}).certificates
    assert (certificate.fingerprint, certificate.source) == (new.fingerprint, home.origin(NAME))
    assert (certificate.key_path, certificate.chain_path) == (str(key), str(chain))
    assert old.fingerprint != new.fingerprint
    assert key in home.source().files().keys
    assert key.parent in home.source().files().directories


def test_what_is_installed_is_watched_and_changes_the_token(home: AcmeShBuilder, installed: tuple[Path, Path]) -> None:
    home.put(NAME, authority().issue([NAME]))
    home.install(NAME, *installed)
    token = home.source().change_token()
    watched = {each.path: each.names for each in to_watch(home.source().watch_paths()) if not each.is_tree}
    assert watched[str(installed[0].parent)] == {"mail.key", "mail.pem"}
    installed[1].write_bytes(authority().issue([NAME]).fullchain_pem)
    assert home.source().change_token() != token


@pytest.mark.parametrize("make", [Path.exists, os.mkfifo, Path.mkdir])
def test_the_home_serves_while_nothing_regular_is_installed(
    home: AcmeShBuilder, installed: tuple[Path, Path], make: Callable[[Path], object]
) -> None:
    issued = authority().issue([NAME])
    home.put(NAME, issued)
    home.install(NAME, *installed)
    installed[1].unlink()
    make(installed[1])
    assert fingerprints(home) == {home.origin(NAME): issued.fingerprint}


@pytest.mark.parametrize(
    "value",
    [
        "$(touch {marker})",
        "`touch {marker}`",
        "'{key}' ; touch {marker}",
        "'unclosed",
        '"{key}"; touch {marker}',
        "relative/key.pem",
        "'/dev/null'",
        "'/nul\0byte'",
        "",
    ],
)
def test_no_value_of_a_conf_is_executed_or_misread(home: AcmeShBuilder, tmp_path: Path, value: str) -> None:
    issued = authority().issue([NAME])
    home.put(NAME, issued)
    text = value.format(marker=tmp_path / "marker", key=tmp_path / "key")
    write(home.conf(NAME), f"Le_RealKeyPath={text}\nLe_RealFullChainPath={text}\n".encode())
    assert fingerprints(home) == {home.origin(NAME): issued.fingerprint}
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("quoted", ["'{}'", '"{}"', "{}", "'{}' # by hand"])
def test_each_way_of_quoting_a_path_is_understood(
    home: AcmeShBuilder, installed: tuple[Path, Path], quoted: str
) -> None:
    home.put(NAME, authority().issue([NAME]))
    home.install(NAME, *installed)
    names = ("Le_RealKeyPath", "Le_RealFullChainPath")
    lines = (f"{name}={quoted.format(path)}" for name, path in zip(names, installed, strict=True))
    write(home.conf(NAME), "\n".join(lines).encode())
    (certificate,) = home.source().scan({}).certificates
    assert certificate.key_path == str(installed[0])


def test_rsa_and_ecdsa_homes_of_one_name(home: AcmeShBuilder) -> None:
    home.put(NAME, ecdsa := authority().issue([NAME]))
    rsa = authority().issue([NAME], algorithm="rsa")
    write(home.root / NAME / f"{NAME}.key", rsa.key_pem)
    write(home.root / NAME / "fullchain.cer", rsa.fullchain_pem)
    assert fingerprints(home) == {
        home.origin(NAME): ecdsa.fingerprint,
        f"{home.root}/{NAME}": rsa.fingerprint,
    }


@pytest.mark.parametrize(
    ("name", "origin"), [("bücher.test", "b=C3=BCcher.test_ecc"), ("*.a.test", "*.a.test_ecc"), ("a=b", "a=3Db_ecc")]
)
def test_a_directory_may_have_any_name_when_its_names_are_good(home: AcmeShBuilder, name: str, origin: str) -> None:
    issued = authority().issue([NAME])
    home.put(name, issued)
    (certificate,) = home.source().scan({}).certificates
    assert certificate.source == safe_origin(f"{home.root}/{origin}")
    assert certificate.fingerprint == issued.fingerprint
    assert home.source().reload(certificate) is not None


def test_a_new_key_may_wait_for_its_chain_for_long(home: AcmeShBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Le_ForceNewDomainKey``: for ever, when the order fails."""
    home.put(NAME, authority().issue([NAME]))
    home.damage(NAME, key=authority().issue([NAME]).key_pem)
    moment = datetime.now(UTC) + timedelta(seconds=2 * RECENT)
    monkeypatch.setattr("mailsni.sources.directory.time.time", moment.timestamp)
    inventory = home.source().scan({})
    assert [(each.reason, each.names) for each in inventory.skipped] == [(Reason.KEY_MISMATCH, (NAME,))]
    assert inventory.lineages == {home.origin(NAME)}


def test_what_was_issued_and_lost_is_reported_and_what_was_never_issued_is_not(home: AcmeShBuilder) -> None:
    home.put(NAME, authority().issue([NAME]))
    home.chain(NAME).unlink()
    write(home.root / "mail.new.test_ecc/mail.new.test.key", ACCOUNT_KEY)
    inventory = home.source().scan({})
    assert [(each.source, each.reason) for each in inventory.skipped] == [(home.origin(NAME), Reason.CHAIN_MISSING)]


def test_the_directory_above_the_home_may_be_named(home: AcmeShBuilder) -> None:
    home.put(NAME, authority().issue([NAME]))
    above = SourceSettings.of("acme.sh", path=home.root.parent).open()
    assert above.scan({}).lineages == {home.origin(NAME)}


def test_doctor_notes_what_is_read_from_the_home(
    home: AcmeShBuilder, installed: tuple[Path, Path], tmp_path: Path
) -> None:
    home.put(NAME, authority().issue([NAME]))
    settings = replace(without_servers(tmp_path, tmp_path), sources=(home.settings,))

    def found() -> list[str]:
        snapshot = take_snapshot(settings, datetime.now(UTC))
        return [each.where for each in acme_sh_home(Facts(HostFacts(settings, datetime.now(UTC), snapshot=snapshot)))]

    assert found() == [str(home.key(NAME))]
    home.install(NAME, *installed)
    assert found() == []
