"""What every kind of store must pass, whatever it looks like (:class:`mailsni.sources.base.Source`).

A new kind needs a builder in ``tests/support/stores.py``, and passes these tests as they are.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.document import toml
from mailsni.config.settings import Settings
from mailsni.core import values
from mailsni.core.model import Certificate, Inventory, Reason
from mailsni.core.names import safe_origin
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import ConfigurationError, Exit, HostError, PermissionMissingError
from mailsni.host import commands, http_client
from mailsni.output import documents
from mailsni.sandbox.authority import Issued
from mailsni.sources import kinds, scan_cache
from mailsni.sources.kinds import Key, SourceKind
from mailsni.sources.safe_read import SIZE_LIMIT
from mailsni.targets.dovecot import target as dovecot_target
from tests.support.authority import subject_alternative_names
from tests.support.builders import authority, without_servers
from tests.support.command_line import SCHEMA
from tests.support.document_stores import JSON_KIND, run_in_process, send_in_process
from tests.support.refused import RECIPES
from tests.support.store_builder import StoreBuilder
from tests.support.stores import BUILDERS, digest_of_tree

PROJECT = Path(__file__).parents[2]
SECRET = "the content of a file that lies elsewhere"
TORN = {Reason.KEY_MISMATCH, Reason.RENEWAL_IN_PROGRESS}


@pytest.fixture(autouse=True)
def _json_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "json", JSON_KIND)


@pytest.fixture(autouse=True)
def _no_process_and_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run_bounded", run_in_process)
    monkeypatch.setattr(http_client, "send", send_in_process)


@pytest.fixture(params=BUILDERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreBuilder:
    return BUILDERS[request.param](tmp_path / "store")


def issue(name: str = "mail.a.test") -> Issued:
    return authority().issue([name])


def scan(store: StoreBuilder) -> Inventory:
    return store.source().scan({})


def only(store: StoreBuilder) -> Certificate:
    (certificate,) = scan(store).certificates
    return certificate


def is_kept(store: StoreBuilder, name: str) -> bool:
    """Whether what was deployed from a certificate stays deployed: it is there, or the whole store is not."""
    try:
        return store.origin(name) in scan(store).lineages
    except HostError:
        return True


# ── the registry ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_is_held_to_this_contract() -> None:
    assert {label.partition("+")[0] for label in BUILDERS} == set(kinds.KINDS)


def test_a_table_of_the_configuration_opens_the_store(store: StoreBuilder) -> None:
    store.put("a", issue())
    keys = "".join(f"{key} = {toml(value)}\n" for key, value in store.settings.values.items())
    text = f'[[sources]]\ntype = "{store.settings.type}"\n{keys}'
    (settings,) = parser.parse(text, Path("config.toml")).sources
    assert settings == store.settings
    assert settings.open().location == store.location
    assert settings.open().scan({}) == scan(store)


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ('type = "json"', '[[sources]]: type = "json" needs the key path', None),
        ('type = "json"\npaht = "/a"', "[[sources]] paht: unknown key", "did you mean path?"),
        ('type = "legoo"', "type: must be one of those that `mailsni sources` lists; did you mean lego?", None),
        ("type = [1]", "type: must be one of those that `mailsni sources` lists", None),
    ],
)
def test_a_wrong_table_is_refused_with_the_keys_of_its_kind(table: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parser.parse(f"[[sources]]\n{table}\n", Path("config.toml"))
    assert message in caught.value.message
    assert caught.value.hint == hint


@dataclass(frozen=True)
class RemoteStore:
    """What a store over HTTP would be opened with."""

    address: str
    fetch: tuple[str, ...]
    compressed: bool
    layout: str


def address(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("https://"):
        raise ValueError("must be an https:// address")
    return value


REMOTE_KIND = SourceKind(
    f"{__name__}:RemoteStore",
    {
        "address": Key(address),
        "fetch": Key(values.command, ("/usr/bin/curl",)),
        "compressed": Key(values.boolean, default=False),
        "layout": Key(values.choice("flat", "tree"), "flat"),
    },
)


def test_the_kind_of_a_store_says_how_each_key_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "remote", REMOTE_KIND)
    first = '[[sources]]\ntype = "remote"\naddress = "https://kv.test"\n'
    second = first + 'compressed = true\nfetch = ["/bin/get", "-x"]\nlayout = "tree"\n'
    opened: list[object] = [settings.open() for settings in parser.parse(first + second, Path("config.toml")).sources]
    assert opened == [
        RemoteStore("https://kv.test", ("/usr/bin/curl",), compressed=False, layout="flat"),
        RemoteStore("https://kv.test", ("/bin/get", "-x"), compressed=True, layout="tree"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('address = "http://kv.test"', "line 3: [[sources]] address: must be an https:// address"),
        ('fetch = "get"', "line 3: [[sources]] fetch: must be a list of strings"),
        ("compressed = 1", "line 3: [[sources]] compressed: must be true or false"),
        ('layout = "trees"', 'line 3: [[sources]] layout: must be "flat" or "tree"; did you mean tree?'),
        ("compressed = true", 'line 1: [[sources]]: type = "remote" needs the key address'),
        ('path = "/a"', "line 3: [[sources]] path: unknown key"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.setitem(kinds.KINDS, "remote", REMOTE_KIND)
    with pytest.raises(ConfigurationError) as caught:
        parser.parse(f'[[sources]]\ntype = "remote"\n{line}\n', Path("config.toml"))
    assert caught.value.message == f"config.toml: {message}"


# ── scan ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_certificate_has_an_origin_of_its_own_that_stays(store: StoreBuilder) -> None:
    names = ("a", "b-1", "c_2")[: store.capacity]
    issued = {name: issue(f"mail.{at}.test") for at, name in enumerate(names)}
    for name, one in issued.items():
        store.put(name, one)
    told: list[tuple[str, int, int]] = []
    inventory = store.source().scan({}, lambda *news: told.append(news))
    assert {one.source: one.fingerprint for one in inventory.certificates} == {
        store.origin(name): issued[name].fingerprint for name in issued
    }
    assert inventory.skipped == ()
    assert inventory.lineages == {store.origin(name) for name in issued}
    assert all(store.source().owns(origin) for origin in inventory.lineages)
    assert len(told) >= len(names), "what turns out to be no certificate may count"
    assert told == [("reading certificates", done, len(told)) for done in range(1, len(told) + 1)]
    assert scan(store) == inventory


def test_another_store_owns_none_of_its_origins(store: StoreBuilder, tmp_path: Path) -> None:
    for kind, builder in BUILDERS.items():
        neighbour = builder(tmp_path / f"store-{kind}").source()
        assert not neighbour.owns(store.origin("a"))
    place = store.location
    assert not store.source().owns(f"{place}-2{store.origin('a').removeprefix(place)}")


def test_an_empty_store_is_an_empty_inventory(store: StoreBuilder) -> None:
    if store.holds_one:
        with pytest.raises(HostError, match="No such file"):
            scan(store)
        return
    assert scan(store) == Inventory((), (), frozenset())


def test_a_scan_changes_nothing_and_shows_no_key(store: StoreBuilder) -> None:
    store.put("a", issue())
    before = digest_of_tree(store.root)
    inventory = scan(store)
    assert digest_of_tree(store.root) == before
    assert "PRIVATE" not in repr(inventory)


def test_a_scan_leaves_no_descriptor_open(store: StoreBuilder) -> None:
    store.put("a", issue())
    store.put("b", issue())
    before = set(Path("/proc/self/fd").iterdir())
    scan(store)
    store.damage("a", key=b"")
    scan(store)
    store.replace_file("b", os.mkfifo)
    with suppress(HostError):
        scan(store)
    assert set(Path("/proc/self/fd").iterdir()) == before


# ── what is wrong with one certificate ───────────────────────────────────────────────────────────────────────────────


def test_a_new_key_beside_the_old_chain_is_not_used(store: StoreBuilder) -> None:
    store.put("a", issue())
    store.put("b", issue("mail.b.test"))
    store.damage("a", key=issue().key_pem)
    inventory = scan(store)
    assert [one.source for one in inventory.certificates] == [store.origin("b")]
    assert [(one.source, one.reason in TORN) for one in inventory.skipped] == [(store.origin("a"), True)]
    assert is_kept(store, "a")


def test_a_writer_is_waited_for(store: StoreBuilder) -> None:
    old, new = issue(), issue()
    store.put("a", old)
    store.damage("a", key=new.key_pem)
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        store.damage("a", chain=new.fullchain_pem)

    fingerprints = {one.fingerprint for one in store.source(finish).scan({}).certificates}
    assert fingerprints == ({new.fingerprint} if waited else set())


def test_a_renewal_that_was_cut_off_drops_nothing(store: StoreBuilder) -> None:
    store.put("a", issue())
    store.interrupt("a", issue())
    assert is_kept(store, "a")


def test_a_chain_that_ends_in_its_second_certificate_is_recognised(store: StoreBuilder) -> None:
    issued = issue()
    store.put("a", issued)
    store.damage("a", chain=issued.fullchain_pem[:-100])
    inventory = scan(store)
    assert inventory.certificates == ()
    assert [one.reason for one in inventory.skipped] in ([Reason.BAD_PEM], [Reason.RENEWAL_IN_PROGRESS])
    assert is_kept(store, "a")


def test_a_certificate_that_is_deleted_is_gone(store: StoreBuilder) -> None:
    store.put("a", issue())
    store.put("b", issue("mail.b.test"))
    certificates = {one.source: one for one in scan(store).certificates}
    store.remove("a")
    assert scan(store).lineages == {store.origin("b")}
    assert store.source().reload(certificates[store.origin("a")]) is None


def loop(path: Path) -> None:
    path.symlink_to(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)


@pytest.mark.parametrize("make", [loop, sparse, Path.mkdir, os.mkfifo], ids=["loop", "huge", "directory", "fifo"])
def test_no_file_that_can_be_read_is_a_reason_or_an_error_and_drops_nothing(
    store: StoreBuilder, make: Callable[[Path], object]
) -> None:
    store.put("a", issue())
    store.replace_file("a", make)
    assert is_kept(store, "a")
    with suppress(HostError):
        inventory = scan(store)
        assert (len(inventory.certificates), len(inventory.skipped)) == (0, 1)


def test_nothing_outside_of_the_store_is_read(store: StoreBuilder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.pem").write_text(f"-----BEGIN {SECRET}-----\n")
    store.put("a", issue())
    store.point_outside("a", tmp_path / "elsewhere.pem")
    inventory = scan(store)
    assert inventory.certificates == ()
    assert len(inventory.skipped) == 1
    assert SECRET not in repr(inventory)


@pytest.mark.parametrize(
    "name", ["a b", "a\nssl = no", "a{b}", "{{x}}", "a#b", "$(id)", "ä", "\udcff", "x" * 200, "-rf"]
)
def test_no_name_leaves_the_store_unsafe(store: StoreBuilder, name: str) -> None:
    store.put(name, issue())
    inventory = scan(store)
    assert len(inventory.certificates) + len(inventory.skipped) == 1
    for one in inventory.certificates:
        assert safe_origin(one.source) == one.source
    for skipped in inventory.skipped:
        assert (skipped.source + skipped.detail).isascii()
        assert (skipped.source + skipped.detail).isprintable()


def test_a_hostile_name_in_a_certificate_is_reported_and_the_others_are_used(store: StoreBuilder) -> None:
    names = subject_alternative_names("mail.a.test", "x\n}")
    store.put("a", authority().issue([], raw_san=names))
    inventory = scan(store)
    assert [one.names for one in inventory.certificates] == [("mail.a.test",)]
    assert "x\n" not in repr(inventory)


# ── a store that is not there ────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_that_is_not_mounted_is_an_error_and_drops_nothing(store: StoreBuilder) -> None:
    store.put("a", issue())
    certificate = only(store)
    token = store.source().change_token()
    store.unmount()
    source = store.source()
    for read in (lambda: source.scan({}), source.files):
        with pytest.raises(HostError) as caught:
            read()
        assert caught.value.path == store.error_path
    assert source.owns(certificate.source)
    gone = source.change_token()
    assert gone != token
    assert gone == source.change_token()
    assert bool(source.watch_paths()) is store.has_files
    store.mount()
    assert only(store) == certificate


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_store_that_this_user_may_not_read_is_a_matter_of_permission(store: StoreBuilder) -> None:
    if store.error_path is None:
        pytest.skip("no file of this host")
    store.root.chmod(0)
    with pytest.raises(PermissionMissingError):
        scan(store)


# ── what is known, and what changed ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_known_is_not_read_again_and_what_changed_is(store: StoreBuilder, tmp_path: Path) -> None:
    store.put("a", issue())
    store.put("b", issue("mail.b.test"))
    first = scan(store)
    scan_cache.save(tmp_path / "cache", first.cached, datetime.now(UTC).replace(year=2099))
    known = scan_cache.load(tmp_path / "cache").content or {}
    assert set(known) == (first.lineages if store.has_files else set())
    again = store.source().scan(known)
    assert again.read == (() if store.has_files else first.read)
    assert [one.ident for one in again.certificates] == [one.ident for one in first.certificates]
    renewed = issue()
    store.put("a", renewed)
    later = {pair.certificate.source: pair for pair in store.source().scan(known).read}
    assert later[store.origin("a")].certificate.fingerprint == renewed.fingerprint
    assert later[store.origin("a")].pem == renewed.key_pem + renewed.fullchain_pem


def test_reload_reads_the_same_certificate_and_no_other(store: StoreBuilder) -> None:
    store.put("a", issue())
    (pair,) = scan(store).read
    assert store.source().reload(pair.certificate) == pair
    store.put("a", issue())
    assert store.source().reload(pair.certificate) is None


def test_the_change_token_tells_every_change_and_nothing_else(store: StoreBuilder) -> None:
    source = store.source()
    tokens = [source.change_token()]
    changes: tuple[Callable[[], None], ...] = (
        lambda: store.put("a", issue()),
        lambda: store.put("b", issue("mail.b.test")),
        lambda: store.put("a", issue()),
        lambda: store.damage("a", key=issue().key_pem + b"\n"),
        lambda: store.remove("b"),
    )
    for change in changes:
        change()
        store.pass_time()
        tokens.append(source.change_token())
    assert len(set(tokens)) == len(tokens)
    source.scan({})
    assert source.change_token() == tokens[-1]


def test_what_holds_keys_is_watched_and_can_be_examined(store: StoreBuilder) -> None:
    store.put("a", issue())
    files = store.source().files()
    watched = [place.path.resolve() for place in store.source().watch_paths()]
    assert bool(files.keys) is bool(watched) is store.has_files
    for key in files.keys:
        assert not key.is_symlink()
        assert store.key_mark in key.read_bytes()
        assert any(key.resolve().is_relative_to(place) for place in watched)
        assert any(key.parent == directory for directory in files.directories)
    assert all(directory.is_dir() for directory in files.directories)


def test_an_acme_client_knows_the_certificates_of_its_store(store: StoreBuilder) -> None:
    names = ["a", "b-1"]
    for name in names:
        store.put(name, issue(f"mail.{name}.test"))
    client = store.source().acme_client
    if client is None:
        return
    assert (PROJECT / "hooks" / f"{client.name}-post").is_file()
    assert client.hook.is_relative_to(client.directory)
    for name, origin in ((name, store.origin(name)) for name in names):
        assert client.renewal_file(origin).is_relative_to(client.directory)
        assert all(path.exists() for path in client.paths(origin))
        repair = client.repair(origin, Reason.KEY_MISMATCH)
        assert repair is not None
        for command in (shlex.split(repair[0]), client.issue(origin, ["mail.a.test"]), client.delete(origin)):
            assert command[0] == client.name
            assert name in command
        assert client.issue(origin, ["mail.a.test", "a.test"])[-4:] == ("-d", "mail.a.test", "-d", "a.test")


def test_paths_of_a_certificate_lead_to_its_chain_and_key(store: StoreBuilder) -> None:
    issued = issue()
    store.put("a", issued)
    certificate = only(store)
    assert bool(certificate.chain_path) == bool(certificate.key_path)
    if certificate.chain_path:
        assert Path(certificate.chain_path).read_bytes() == issued.fullchain_pem
        assert Path(certificate.key_path).read_bytes() == issued.key_pem


# ── several stores ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_selection_is_made_over_all_stores(tmp_path: Path) -> None:
    built = [builder(tmp_path / kind) for kind, builder in BUILDERS.items()]
    stores = [each for each in built if not each.holds_one]
    for number, each in enumerate(stores):
        each.put("own", issue(f"mail.{number:02}.test"))
        each.put("shared", issue("mail.shared.test"))
    settings = replace(without_servers(tmp_path, tmp_path), sources=tuple(each.settings for each in stores))
    first = take_snapshot(settings, datetime.now(UTC))
    assert [winner.name for winner in first.selection.winners] == [
        *(f"mail.{number:02}.test" for number in range(len(stores))),
        "mail.shared.test",
    ]
    (tmp_path / "state").mkdir()
    scan_cache.save(tmp_path / "state" / "readings.json", first.inventory.cached, datetime(2099, 1, 1, tzinfo=UTC))
    again = take_snapshot(settings, datetime.now(UTC))
    read = {pair.certificate.source for pair in again.inventory.read}
    assert read == {each.origin(name) for each in stores if not each.has_files for name in ("own", "shared")}
    assert again.plan.pins == first.plan.pins, "each store reads its own again"


@dataclass(frozen=True)
class TwoStores:
    """A host with an unreadable-to-be store beside a good one, and a Dovecot that only its settings tell of."""

    settings: Settings
    lost: StoreBuilder
    good: StoreBuilder

    def apply(self, now: datetime | None = None) -> ApplyResult:
        """What ``mailsni apply --no-reload`` does."""
        snapshot = take_snapshot(self.settings, now or datetime.now(UTC))
        return transaction.apply(snapshot, Options(reload=False))

    def served(self) -> set[str]:
        """The names in the published file."""
        return {name for name in NAMES_OF_BOTH if name in self.settings.dovecot.include_file.read_text()}


NAMES_OF_BOTH = ("mail.lost.test", "mail.good.test", "mail.shared.test", "mail.new.test")


@pytest.fixture(params=[("certbot", "json"), ("json", "certbot")], ids=lambda kinds: f"{kinds[0]}-is-lost")
def two_stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoStores:
    monkeypatch.setattr(dovecot_target, "_is_installed", lambda _: False)
    lost, good = (BUILDERS[kind](tmp_path / kind) for kind in request.param)
    lost.put("own", issue("mail.lost.test"))
    good.put("own", issue("mail.good.test"))
    good.put("shared", issue("mail.shared.test"))
    lost.put("shared", authority().issue(["mail.shared.test"], not_before=datetime.now(UTC) - timedelta(minutes=1)))
    plain = without_servers(tmp_path, tmp_path)
    dovecot = replace(plain.dovecot, enabled=True, version="2.4", include_file=tmp_path / "include.conf")
    return TwoStores(replace(plain, sources=(lost.settings, good.settings), dovecot=dovecot), lost, good)


def test_a_run_that_publishes_nothing_saves_what_it_read(two_stores: TwoStores) -> None:
    """A renewal of a web site's certificate changes no file of a server, and is read once all the same."""
    later = datetime.now(UTC) + timedelta(minutes=1)
    two_stores.apply()
    assert two_stores.apply(later).reloads is None, "too young before, they are cached now"
    assert take_snapshot(two_stores.settings, later).inventory.read == ()
    two_stores.good.put("web", issue("www.good.test"))
    for changed in (True, False):
        result = two_stores.apply(later)
        assert (result.reloads, result.warnings) == (None, ())
        assert bool(result.snapshot.inventory.read) is changed
    two_stores.good.remove("web")
    readings = scan_cache.load(two_stores.settings.state.directory / "readings.json")
    assert len(readings.content or {}) == 5
    two_stores.apply(later)
    readings = scan_cache.load(two_stores.settings.state.directory / "readings.json")
    assert len(readings.content or {}) == 4


def test_what_openssl_refuses_is_read_again_and_the_last_good_one_stays(two_stores: TwoStores) -> None:
    two_stores.apply()
    later = datetime.now(UTC) + timedelta(minutes=1)
    two_stores.good.put("own", RECIPES["intermediate_of_1024_bits"]("mail.good.test"))
    two_stores.good.put("shared", issue("mail.shared.test"))
    for _ in range(2):
        result = two_stores.apply(later)
        reasons = {problem.reason for problem in result.snapshot.selection.problems}
        assert reasons == {Reason.REFUSED_BY_OPENSSL, Reason.KEPT_LAST_GOOD}
        assert (result.exit_code, two_stores.served()) == (Exit.SKIPPED, set(NAMES_OF_BOTH) - {"mail.new.test"})


def test_the_other_stores_are_deployed_when_one_cannot_be_read_and_what_is_deployed_from_it_stays(
    two_stores: TwoStores,
) -> None:
    first = two_stores.apply()
    assert first.exit_code is Exit.DONE
    before = {winner.name: winner.certificates for winner in first.snapshot.selection.winners}
    two_stores.lost.unmount()
    two_stores.good.put("new", issue("mail.new.test"))
    result = two_stores.apply()
    assert result.exit_code is Exit.FAILED
    SCHEMA.validate(documents.run(result))
    (problem,) = result.snapshot.selection.problems
    assert (problem.source, problem.reason) == (two_stores.lost.source().location, Reason.UNREADABLE)
    assert [change.name for change in result.snapshot.plan.changes] == ["mail.new.test"]
    after = {winner.name: winner.certificates for winner in result.snapshot.selection.winners}
    assert {name: after[name] for name in before} == before
    assert two_stores.served() == set(NAMES_OF_BOTH)
    assert two_stores.apply().exit_code is Exit.FAILED, "nothing to do, and the store is still not there"
    two_stores.lost.mount()
    assert two_stores.apply().exit_code is Exit.DONE
    assert two_stores.served() == set(NAMES_OF_BOTH)


def lose_the_record(two_stores: TwoStores) -> None:
    (two_stores.settings.state.directory / "deployment.json").unlink()


def lose_a_pinned_file(two_stores: TwoStores) -> None:
    (certificate,) = (one for one in scan(two_stores.lost).certificates if one.names == ("mail.lost.test",))
    (two_stores.settings.dovecot.pin_directory / f"{certificate.ident}.pem").unlink()


def lose_the_other_store_too(two_stores: TwoStores) -> None:
    two_stores.good.unmount()


@pytest.mark.parametrize("lose", [lose_the_record, lose_a_pinned_file, lose_the_other_store_too])
def test_the_whole_run_fails_when_what_is_deployed_cannot_stay(
    two_stores: TwoStores, lose: Callable[[TwoStores], None]
) -> None:
    two_stores.apply()
    text = two_stores.settings.dovecot.include_file.read_bytes()
    lose(two_stores)
    two_stores.lost.unmount()
    with pytest.raises(HostError) as caught:
        two_stores.apply()
    assert caught.value.path == two_stores.lost.error_path
    assert two_stores.settings.dovecot.include_file.read_bytes() == text


def test_an_expired_certificate_of_a_store_that_cannot_be_read_stays(two_stores: TwoStores) -> None:
    """The store may hold a new one."""
    two_stores.apply()
    before = two_stores.served()
    two_stores.lost.unmount()
    result = two_stores.apply(datetime.now(UTC) + timedelta(days=400))
    assert result.exit_code is Exit.FAILED
    assert result.snapshot.plan.changes == ()
    assert two_stores.served() == before


# ── an empty directory in the place of a store ───────────────────────────────────────────────────────────────────────


def test_an_empty_directory_in_the_place_of_a_store_is_bare_or_an_error(store: StoreBuilder) -> None:
    store.put("a", issue())
    assert not scan(store).is_bare
    store.unmount()
    store.root.mkdir()
    with suppress(HostError):
        assert scan(store).is_bare
