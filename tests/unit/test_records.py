"""Records that a failing disk, a restore or a person damaged: named, and counted as missing. No name is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config.settings import DovecotSettings, Settings
from mailsni.core.deployment import Deployment
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit
from mailsni.host.files import PRIVATE
from mailsni.runs import history as runs
from mailsni.runs.history import EMPTY_HISTORY, Run
from mailsni.sandbox.authority import Issued
from mailsni.setup import record as setup_record
from mailsni.setup.record import Edit, Record
from mailsni.sources import directory, scan_cache
from tests.support import records
from tests.support.builders import MAIL, authority, without_servers
from tests.support.layout_stores import CertbotBuilder


def issue(name: str) -> Issued:
    """A certificate for a name."""
    return authority().issue([name])


FLIPS = 60
"""Bits that are flipped in each file, one at a time."""


@dataclass(frozen=True)
class Host:
    """A certbot store and a Dovecot that only its settings tell of."""

    settings: Settings
    store: CertbotBuilder

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.settings.state.directory

    def snapshot(self, now: datetime | None = None) -> Snapshot:
        """What a run would start from."""
        return take_snapshot(self.settings, now or datetime.now(UTC))

    def apply(self, now: datetime | None = None, *, force: bool = False) -> ApplyResult:
        """What ``mailsni apply --no-reload`` does."""
        snapshot = take_snapshot(self.settings, now or datetime.now(UTC), trust_caches=not force)
        return transaction.apply(snapshot, Options(force=force, reload=False))

    def served(self) -> dict[str, str]:
        """Each name in the published file, and the pinned file that its block names."""
        from mailsni.targets.dovecot.live_include import blocks_of

        blocks = blocks_of(self.settings.dovecot.include_file.read_text())
        served = {name: block.paths[0] for block in blocks for name in block.names}
        assert all(path.exists() for path in served.values())
        return {name: path.stem for name, path in served.items()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Three lineages; the last one breaks after it was deployed."""
    monkeypatch.setattr(directory, "RETRIES", 0)
    store = CertbotBuilder(tmp_path / "store")
    for lineage in ("a", "b", "broken"):
        store.put(lineage, issue(f"mail.{lineage}.test"))
    (tmp_path / "conf.d").mkdir()
    dovecot = DovecotSettings(
        enabled=True,
        version="2.4",
        config_file=tmp_path / "dovecot.conf",
        include_file=tmp_path / "conf.d" / "99-mailsni.conf",
        pin_directory=tmp_path / "pins",
    )
    settings = replace(without_servers(tmp_path, tmp_path / "store"), sources=(store.settings,), dovecot=dovecot)
    host = Host(replace(settings, names=MAIL), store)
    host.apply()
    store.damage("broken", key=b"no key")
    host.apply()
    return host


def flipped(content: bytes, number: int) -> bytes:
    """The same with one bit changed; the numbers spread over the whole file and over the bits of a byte."""
    damaged = bytearray(content)
    bit = (len(content) * 8 - 1) * number // (FLIPS - 1)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def warned(result: ApplyResult, path: Path) -> bool:
    """Whether exactly one line names a file."""
    return [str(path) in warning for warning in result.warnings].count(True) == 1


@pytest.mark.parametrize("name", ["deployment.json", "readings.json"])
def test_a_flipped_bit_costs_a_line_and_no_name(host: Host, name: str) -> None:
    served, path = host.served(), host.state / name
    if name == "readings.json":
        scan_cache.save(path, host.snapshot().inventory.cached, datetime(2099, 1, 1, tzinfo=UTC))
    content = path.read_bytes()
    for number in range(FLIPS):
        path.write_bytes(flipped(content, number))
        result = host.apply()
        assert warned(result, path)
        assert result.exit_code is Exit.SKIPPED, "the broken lineage is a problem, as before"
        assert host.served() == served
        path.write_bytes(content)
    assert not warned(host.apply(), path)


def test_a_flipped_bit_in_what_waits_to_be_removed_costs_no_file(host: Host) -> None:
    host.store.put("a", issue("mail.a.test"))
    host.apply()
    path, pins = host.state / "retired.json", set(host.settings.dovecot.pin_directory.iterdir())
    content = path.read_bytes()
    for number in range(FLIPS):
        path.write_bytes(flipped(content, number))
        assert warned(host.apply(), path)
        assert set(host.settings.dovecot.pin_directory.iterdir()) == pins
    assert not warned(host.apply(), path)


def test_a_flipped_bit_in_a_journal_costs_no_name(host: Host) -> None:
    served, path = host.served(), host.state / "journal.json"
    State(host.state).begin_journal(host.snapshot().record.deployment)
    content = path.read_bytes()
    for number in range(FLIPS):
        path.write_bytes(flipped(content, number))
        assert warned(host.apply(), path)
        assert host.served() == served
        assert not path.exists()


NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
RUN = Run(NOW, NOW + timedelta(seconds=2), 4, "3 names served", "certbot-post", 3, {"expired": 2})


def test_a_flipped_bit_in_the_record_of_runs_is_no_other_history(tmp_path: Path) -> None:
    runs.save(tmp_path, replace(EMPTY_HISTORY.after(RUN, {"mail.a.test": "gone"}), alerted={"key": NOW}))
    content = (tmp_path / "runs.json").read_bytes()
    for number in range(FLIPS):
        (tmp_path / "runs.json").write_bytes(flipped(content, number))
        assert runs.load(tmp_path) == EMPTY_HISTORY
        assert str(tmp_path / "runs.json") in (runs.problem(tmp_path) or "")


def test_a_flipped_bit_in_the_record_of_setup_is_no_other_content(tmp_path: Path) -> None:
    setup_record.save(tmp_path, Record({"/m": Edit.of(b"old", b"new")}, {"/f": setup_record.digest(b"f")}, ("/d",)))
    content = (tmp_path / "setup.json").read_bytes()
    for number in range(FLIPS):
        (tmp_path / "setup.json").write_bytes(flipped(content, number))
        reading = setup_record.load(tmp_path)
        assert reading.content is None
        assert str(tmp_path / "setup.json") in (reading.problem or "")


# ── without a record ─────────────────────────────────────────────────────────────────────────────────────────────────


def lose_the_state_directory(host: Host) -> None:
    for path in host.state.iterdir():
        path.unlink()


def lose_the_deployment(host: Host) -> None:
    (host.state / "deployment.json").unlink()


def lose_the_deployment_and_the_comments(host: Host) -> None:
    """As where a template of the administrator's writes none."""
    lose_the_deployment(host)
    include = host.settings.dovecot.include_file
    include.write_text(re.sub(r"^#.*\n", "", include.read_text(), flags=re.MULTILINE))


def have_one_of_an_earlier_version(host: Host) -> None:
    path = host.state / "deployment.json"
    path.write_bytes(records.signed("mailsni.deployment/1", records.content(path)))


LOSSES = [
    lose_the_state_directory,
    lose_the_deployment,
    lose_the_deployment_and_the_comments,
    have_one_of_an_earlier_version,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_the_last_good_certificate_is_known_from_the_live_text(host: Host, lose: Callable[[Host], None]) -> None:
    served = host.served()
    lose(host)
    result = host.apply()
    assert host.served() == served
    assert [(change.name, change.kind) for change in result.snapshot.plan.changes] == [("mail.broken.test", "keep")]
    assert host.apply().reloads is None, "the record is whole again"


def test_so_is_what_the_clock_calls_expired(host: Host) -> None:
    served = host.served()
    lose_the_state_directory(host)
    host.apply(datetime.now(UTC) + timedelta(days=4000))
    assert host.served() == served


def test_a_lineage_that_was_deleted_meanwhile_is_named(host: Host) -> None:
    host.store.remove("a")
    lose_the_deployment(host)
    changes = host.snapshot().plan.changes
    kinds = {change.name: change.kind for change in changes}
    assert kinds == {"mail.a.test": "remove", "mail.broken.test": "keep"}


def test_a_text_that_names_other_files_proves_nothing(host: Host) -> None:
    """A pinned file must hold what its name says; only then is it served again."""
    (pinned,) = (host.settings.dovecot.pin_directory / f"{host.served()['mail.broken.test']}.pem",)
    pinned.write_bytes(issue("mail.broken.test").key_pem)
    lose_the_deployment(host)
    host.apply()
    assert "mail.broken.test" not in host.served()


# ── caches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def lie(host: Host, member: str, value: object) -> None:
    """Let the cache say another thing of the first lineage, with a checksum that fits."""
    path = host.state / "readings.json"
    scan_cache.save(path, host.snapshot().inventory.cached, datetime(2099, 1, 1, tzinfo=UTC))

    def change(content: dict[str, list[dict[str, dict[str, object]]]]) -> object:
        content["lineages"][0]["certificate"][member] = value
        return content

    records.rewrite(path, change)


def test_force_reads_every_certificate_and_every_pinned_file(host: Host) -> None:
    served = host.served()
    lie(host, "names", ["mail.other.test"])
    assert {winner.name for winner in host.snapshot().selection.winners} != set(served)
    host.apply(force=True)
    assert host.served() == served
    pinned = host.settings.dovecot.pin_directory / f"{served['mail.a.test']}.pem"
    content, status = pinned.read_bytes(), pinned.stat()
    pinned.write_bytes(content.swapcase())
    path = host.state / "deployment.json"

    def believe(document: dict[str, dict[str, object]]) -> object:
        now = pinned.stat()
        document["pins"][pinned.stem] = [
            now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, PRIVATE, status.st_uid
        ]  # fmt: skip
        return document

    records.rewrite(path, believe)
    host.apply()
    assert pinned.read_bytes() != content, "its identity is the recorded one"
    host.apply(force=True)
    assert pinned.read_bytes() == content


def test_a_cache_that_no_store_confirms_costs_one_more_scan(host: Host) -> None:
    """It says of a lineage that it has another key: the store has no such pair to publish."""
    served = host.served()
    lie(host, "digest", "0" * 64)
    host.apply()
    assert host.served() == served


def test_nothing_recorded_and_nothing_live_is_a_first_run(tmp_path: Path) -> None:
    settings = without_servers(tmp_path, tmp_path)
    assert take_snapshot(settings, datetime.now(UTC)).record.deployment == Deployment()
