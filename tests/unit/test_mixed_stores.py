"""Five kinds of store in one configuration, with one selection over all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config.settings import Settings
from mailsni.core.model import Reason
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit
from mailsni.sandbox.authority import Issued
from mailsni.sources.pem_tree import PemTree
from mailsni.sources.scan_cache import save
from mailsni.targets.dovecot import target as dovecot_target
from tests.support.authority import Algorithm
from tests.support.builders import authority, without_servers
from tests.support.store_builder import StoreBuilder
from tests.support.stores import BUILDERS

KINDS = ("certbot", "traefik", "lego", "pem-tree", "files")
SHARED = "mail.shared.test"
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)


def own(kind: str) -> str:
    """The name that only this store has."""
    return f"mail.{kind}.test"


@dataclass(frozen=True)
class Host:
    """Five stores, and a Dovecot that only its settings tell of."""

    settings: Settings
    stores: dict[str, StoreBuilder]

    def issue(self, kind: str, day: int, algorithm: Algorithm = "ecdsa") -> Issued:
        """Put a certificate of a day into a store, for its own name and for the shared one."""
        begin = START + timedelta(days=day)
        issued = authority().issue([own(kind), SHARED], algorithm=algorithm, not_before=begin)
        self.stores[kind].put("a", issued)
        return issued

    def apply(self) -> ApplyResult:
        """What ``mailsni apply --no-reload`` does, without waiting for a writer."""
        sources = [store.source() for store in self.stores.values()]
        snapshot = take_snapshot(self.settings, datetime.now(UTC), sources=sources)
        return transaction.apply(snapshot, Options(reload=False))


def served(result: ApplyResult) -> dict[str, list[str]]:
    """The fingerprints of each name."""
    winners = result.snapshot.selection.winners
    return {winner.name: [each.fingerprint for each in winner.certificates] for winner in winners}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(dovecot_target, "_is_installed", lambda _: False)
    stores = {kind: BUILDERS[kind](tmp_path / kind) for kind in KINDS}
    plain = without_servers(tmp_path, tmp_path)
    dovecot = replace(plain.dovecot, enabled=True, version="2.4", include_file=tmp_path / "include.conf")
    settings = replace(plain, sources=tuple(store.settings for store in stores.values()), dovecot=dovecot)
    return Host(settings, stores)


@pytest.mark.parametrize("newest", KINDS)
def test_the_certificate_that_was_issued_last_wins_whatever_store_it_is_in(host: Host, newest: str) -> None:
    issued = {kind: host.issue(kind, 10 if kind == newest else day) for day, kind in enumerate(KINDS)}
    result = host.apply()
    assert served(result) == {SHARED: [issued[newest].fingerprint]} | {
        own(kind): [each.fingerprint] for kind, each in issued.items()
    }
    assert {each.reason for each in result.snapshot.selection.skipped} == {Reason.LOST_TO_OTHER}
    assert result.exit_code is Exit.DONE


@pytest.mark.parametrize("kind", KINDS)
def test_rsa_of_one_store_and_ecdsa_of_another_are_served_together(host: Host, kind: str) -> None:
    issued = {each: host.issue(each, day, "rsa" if each == kind else "ecdsa") for day, each in enumerate(KINDS)}
    newest = [each for each in KINDS if each != kind][-1]
    assert served(host.apply())[SHARED] == [issued[newest].fingerprint, issued[kind].fingerprint]


@dataclass
class Model:
    """What should be served: each store has one certificate at most."""

    days: dict[str, int] = field(default_factory=dict)
    """Of the certificate that lies in each store, whole or not."""
    issued: dict[tuple[str, int], Issued] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    unmounted: set[str] = field(default_factory=set)
    deployed: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The store and the day of each name's certificate."""

    def settle(self) -> None:
        """Apply."""
        live = set(self.deployed.values())
        whole = {(kind, day) for kind, day in self.days.items() if kind not in self.broken | self.unmounted}
        stays = {each for each in live if each[0] in self.unmounted}
        kept = {each for each in live if each[0] in self.broken - self.unmounted}
        deployed = {}
        for name in (SHARED, *map(own, KINDS)):
            for certificates in (whole | stays, kept):
                able = [each for each in certificates if name in (SHARED, own(each[0]))]
                if able:
                    deployed[name] = max(able, key=lambda each: each[1])
                    break
        self.deployed = deployed

    @property
    def served(self) -> dict[str, list[str]]:
        """The fingerprints of each name."""
        return {name: [self.issued[each].fingerprint] for name, each in self.deployed.items()}


def renew(host: Host, model: Model, kind: str, day: int) -> None:
    model.issued[kind, day] = host.issue(kind, day)
    model.days[kind] = day
    model.broken.discard(kind)


def damage(host: Host, model: Model, kind: str, _day: int) -> None:
    if kind in model.days:
        host.stores[kind].damage("a", key=authority().issue([own(kind)]).key_pem)
        model.broken.add(kind)


def cut(host: Host, model: Model, kind: str, _day: int) -> None:
    if kind in model.days:
        whole = model.issued[kind, model.days[kind]].fullchain_pem
        host.stores[kind].damage("a", chain=whole[:-100])
        model.broken.add(kind)


def remove(host: Host, model: Model, kind: str, _day: int) -> None:
    if len(model.days) > 2 and kind in model.days and not host.stores[kind].holds_one:
        host.stores[kind].remove("a")
        model.broken.discard(kind)
        del model.days[kind]


def unmount(host: Host, model: Model, kind: str, _day: int) -> None:
    if not model.unmounted:
        host.stores[kind].unmount()
        model.unmounted.add(kind)


def mount(host: Host, model: Model, _kind: str, _day: int) -> None:
    for kind in model.unmounted:
        host.stores[kind].mount()
    model.unmounted.clear()


STEPS: tuple[Callable[[Host, Model, str, int], None], ...] = (renew, renew, renew, damage, cut, remove, unmount, mount)


def steps(seed: int) -> Iterator[tuple[Callable[[Host, Model, str, int], None], str, int]]:
    """What happens to which store, a day after the other, until yesterday."""
    chance = random.Random(seed)  # noqa: S311
    for day in range(len(KINDS), 20):
        yield chance.choice(STEPS), chance.choice(KINDS), day


@pytest.mark.parametrize("seed", range(6))
def test_renewals_and_damage_in_any_store_leave_each_name_its_best_certificate(host: Host, seed: int) -> None:
    model = Model()
    for day, kind in enumerate(KINDS):
        renew(host, model, kind, day)
    host.apply()
    model.settle()
    for step, kind, day in steps(seed):
        if kind in model.unmounted and step is not mount:
            continue
        step(host, model, kind, day)
        result = host.apply()
        model.settle()
        assert served(result) == model.served, (step.__name__, kind, day)
        published = host.settings.dovecot.include_file.read_text()
        assert all(name in published for name in model.served)
        if model.unmounted:
            assert result.exit_code is Exit.FAILED


def test_many_certificates_are_read_again_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the pinned files are lost: a tree is looked through once, not once for each."""
    monkeypatch.setattr("mailsni.deploy.snapshot._REREAD", 2)
    issued = {kind: host.issue(kind, day) for day, kind in enumerate(KINDS)}
    host.apply()
    cached = take_snapshot(host.settings, datetime.now(UTC)).inventory.cached
    save(State(host.settings.state.directory).readings, cached, datetime(2099, 1, 1, tzinfo=UTC))
    for path in host.settings.dovecot.pin_directory.glob("*.pem"):
        path.unlink()
    monkeypatch.setattr(PemTree, "reload", lambda *_: pytest.fail("one by one"))
    assert len(host.apply().snapshot.plan.pins) == len(issued)
