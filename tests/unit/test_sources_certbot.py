"""A certbot directory as it is found: whole, torn, in the middle of a renewal, with traps and strangers in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.core.model import Certificate, Inventory, Reason, SkippedLineage
from mailsni.errors import HostError
from mailsni.sandbox.authority import Issued
from mailsni.sources.certbot import certbot_store
from mailsni.sources.directory import RECENT, RETRIES, RETRY_PAUSE, STILL_WRITING
from mailsni.sources.kinds import SourceSettings, is_deleted
from mailsni.sources.safe_read import SIZE_LIMIT
from tests.support.authority import subject_alternative_names
from tests.support.builders import authority
from tests.support.lineages import CertbotDirectory

NAME = "mail.a.test"
SECRET = "the content of a file that lies elsewhere"


def issue(*names: str) -> Issued:
    return authority().issue(names or [NAME])


class Pause:
    """Instead of waiting."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.waited: list[float] = []
        self._steps = iter(steps)

    def __call__(self, seconds: float) -> None:
        """Note it, and do the next thing that happens meanwhile."""
        self.waited.append(seconds)
        next(self._steps, lambda: None)()


def look(store: CertbotDirectory, pause: Pause | None = None) -> Inventory:
    return certbot_store(store.live, pause or Pause()).scan({})


def only(store: CertbotDirectory, pause: Pause | None = None) -> Certificate:
    found = look(store, pause)
    assert found.skipped == ()
    (certificate,) = found.certificates
    return certificate


def left_out(store: CertbotDirectory, pause: Pause | None = None) -> SkippedLineage:
    found = look(store, pause)
    assert found.certificates == ()
    (skipped,) = found.skipped
    return skipped


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores have not been touched for a while: nothing can set a ctime back, so the clock goes on."""
    moment = datetime.now(UTC) + timedelta(seconds=2 * RECENT)
    monkeypatch.setattr("mailsni.sources.certbot.time.time", moment.timestamp)


# ── whole lineages ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_that_are_refused_are_told_and_the_others_served(store: CertbotDirectory) -> None:
    store.add("a", authority().issue([], raw_san=subject_alternative_names(NAME, "mail_1.a.test", "x\n}")))
    found = look(store)
    assert [one.names for one in found.certificates] == [(NAME,)]
    assert [(one.reason, one.detail) for one in found.skipped] == [
        (Reason.BAD_NAME, "the name mail_1.a.test in the certificate is refused"),
        (Reason.BAD_NAME, r"the name 'x\n}' in the certificate is refused"),
    ]


def test_the_store_may_be_reached_by_a_link(store: CertbotDirectory, tmp_path: Path) -> None:
    store.add("a", issue())
    (tmp_path / "link").symlink_to(store.root)
    found = certbot_store(tmp_path / "link" / "live").scan({})
    assert [one.source for one in found.certificates] == [str(tmp_path / "link" / "live" / "a")]
    other = CertbotDirectory(tmp_path / "other")
    other.archive.rmdir()
    (tmp_path / "disk").mkdir()
    other.archive.symlink_to(tmp_path / "disk")
    other.add("b", issue())
    assert len(look(other).certificates) == 1


def test_plain_files_are_as_good_as_links(store: CertbotDirectory) -> None:
    issued = issue()
    (store.live / "a").mkdir()
    (store.live / "a" / "privkey.pem").write_bytes(issued.key_pem)
    (store.live / "a" / "fullchain.pem").write_bytes(issued.fullchain_pem)
    assert only(store).fingerprint == issued.fingerprint


# ── strangers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_lineage_is_not_spoken_of(store: CertbotDirectory) -> None:
    for name in ("empty", "my notes"):
        (store.live / name).mkdir()
    (store.live / "notes").mkdir()
    (store.live / "notes" / "todo.txt").touch()
    (store.live / "link-to-file").symlink_to(store.live / "README")
    (store.live / "a file").touch()
    os.mkfifo(store.live / "fifo")
    assert look(store) == Inventory((), (), frozenset())


def test_a_store_that_is_not_there_is_an_error_of_the_host(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(HostError) as caught:
            certbot_store(path).scan({})
        assert caught.value.hint is not None


# ── bad lineages ─────────────────────────────────────────────────────────────────────────────────────────────────────


def unlink(*kinds: str) -> Callable[[CertbotDirectory], None]:
    def damage(store: CertbotDirectory) -> None:
        for kind in kinds:
            store.path("a", kind).unlink()

    return damage


def put(kind: str, make: Callable[[Path], object]) -> Callable[[CertbotDirectory], None]:
    def damage(store: CertbotDirectory) -> None:
        store.path("a", kind).unlink()
        make(store.path("a", kind))

    return damage


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{(handle := os.open(path.parent, os.O_RDONLY))}/{path.name}")
        os.close(handle)


def outside(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere.pem"
    elsewhere.write_text(f"-----BEGIN {SECRET}-----\n")
    path.symlink_to(elsewhere)


def beside(path: Path) -> None:
    """In a directory whose name begins like the store's."""
    elsewhere = path.parents[2] / "archive-of-mine"
    elsewhere.mkdir()
    (elsewhere / "x.pem").write_text(SECRET)
    path.symlink_to(elsewhere / "x.pem")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


@pytest.mark.usefixtures("_later")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unlink("privkey"), Reason.KEY_MISSING),
        (put("privkey", dangling), Reason.KEY_MISSING),
        (unlink("fullchain"), Reason.CHAIN_MISSING),
        (put("fullchain", dangling), Reason.CHAIN_MISSING),
        (unlink("privkey", "fullchain"), Reason.CHAIN_MISSING),
        (put("privkey", loop), Reason.UNREADABLE),
        (put("privkey", Path.mkdir), Reason.NOT_A_REGULAR_FILE),
        (put("fullchain", os.mkfifo), Reason.NOT_A_REGULAR_FILE),
        (put("privkey", os.mkfifo), Reason.NOT_A_REGULAR_FILE),
        (put("privkey", listening), Reason.NOT_A_REGULAR_FILE),
        (put("privkey", device), Reason.NOT_A_REGULAR_FILE),
        (put("fullchain", outside), Reason.SYMLINK_OUTSIDE_STORE),
        (put("privkey", outside), Reason.SYMLINK_OUTSIDE_STORE),
        (put("privkey", beside), Reason.SYMLINK_OUTSIDE_STORE),
        (put("fullchain", sparse(SIZE_LIMIT + 1)), Reason.TOO_LARGE),
        (put("fullchain", sparse(1 << 40)), Reason.TOO_LARGE),
        (put("fullchain", sparse(SIZE_LIMIT)), Reason.BAD_PEM),
        (put("privkey", sparse(0)), Reason.BAD_PEM),
        (put("privkey", lambda path: path.write_bytes(issue().key_pem)), Reason.KEY_MISMATCH),
    ],
)
def test_a_bad_lineage_is_told_by_its_reason_and_the_good_one_found(
    store: CertbotDirectory, damage: Callable[[CertbotDirectory], None], reason: Reason
) -> None:
    store.add("a", issue())
    store.add("good", issue("mail.good.test"))
    damage(store)
    pause = Pause()
    found = look(store, pause)
    assert [one.names for one in found.certificates] == [("mail.good.test",)]
    assert [(one.source, one.reason) for one in found.skipped] == [(str(store.live / "a"), reason)]
    assert SECRET not in repr(found)
    assert found.lineages == {str(store.live / "a"), str(store.live / "good")}
    assert pause.waited == [], "nothing that was broken a minute ago is waited for"


def test_a_file_is_too_large_before_a_byte_of_it_is_read(store: CertbotDirectory) -> None:
    store.add("a", issue())
    put("privkey", sparse(1 << 40))(store)
    assert left_out(store).detail == f"privkey.pem has {1 << 40} bytes, more than {SIZE_LIMIT}"


def test_names_are_known_though_the_key_is_bad(store: CertbotDirectory) -> None:
    store.add("a", issue())
    put("privkey", os.mkfifo)(store)
    assert left_out(store).names == (NAME,)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("/etc", Reason.SYMLINK_OUTSIDE_STORE), ("nowhere", Reason.CHAIN_MISSING), ("a", Reason.UNREADABLE)],
)
def test_a_lineage_that_is_a_link_to_no_lineage(store: CertbotDirectory, target: str, reason: Reason) -> None:
    (store.live / "a").symlink_to(target)
    assert left_out(store).reason is reason


def test_a_lineage_that_is_a_link_within_the_store_is_read(store: CertbotDirectory) -> None:
    store.add("a", issue())
    (store.live / "b").symlink_to("a")
    assert [one.source for one in look(store).certificates] == [str(store.live / name) for name in "ab"]


# ── while certbot works ──────────────────────────────────────────────────────────────────────────────────────────────


def steps(store: CertbotDirectory, *, first: bool) -> tuple[Iterator[str], Issued]:
    issued = issue()
    if first:
        return store.issuance_steps("a", issued), issued
    store.add("a", issue())
    return store.renewal_steps("a", issued), issued


def finish(rest: Iterator[str]) -> Callable[[], object]:
    return lambda: list(rest)


def advance(rest: Iterator[str]) -> Callable[[], object]:
    return lambda: next(rest, None)


@pytest.mark.parametrize("first", [True, False])
def test_whenever_certbot_is_met_a_whole_pair_comes_of_it(tmp_path: Path, first: bool) -> None:  # noqa: FBT001
    """Stopped after each step in turn: what is torn is looked at again, and certbot has finished meanwhile."""
    count = len(list(steps(CertbotDirectory(tmp_path / "count"), first=first)[0]))
    torn = 0
    for stop in range(count + 1):
        store = CertbotDirectory(tmp_path / str(stop))
        rest, issued = steps(store, first=first)
        for _ in range(stop):
            next(rest)
        pause = Pause(finish(rest))
        found = look(store, pause)
        torn += bool(pause.waited)
        if pause.waited:
            assert pause.waited == [RETRY_PAUSE]
            assert [one.fingerprint for one in found.certificates] == [issued.fingerprint]
        assert found.skipped == ()
    assert torn > 3, "certbot's own order makes torn moments, or this test sees nothing"


def test_a_renewal_that_goes_on_step_by_step_is_waited_for(store: CertbotDirectory) -> None:
    rest, issued = steps(store, first=False)
    assert "unlink privkey.pem" in rest
    # From here to a whole pair: privkey, chain (away and back), fullchain (away and back).
    assert only(store, Pause(*[advance(rest)] * RETRIES)).fingerprint == issued.fingerprint


def test_a_renewal_that_was_cut_off_is_told_as_one(store: CertbotDirectory) -> None:
    rest, _ = steps(store, first=False)
    assert "symlink privkey.pem" in rest
    pause = Pause()
    skipped = left_out(store, pause)
    assert skipped.reason is Reason.RENEWAL_IN_PROGRESS
    assert skipped.names == (NAME,)
    assert pause.waited == [RETRY_PAUSE] * RETRIES


@pytest.mark.usefixtures("_later")
def test_one_that_was_cut_off_long_ago_is_still_told_as_one(store: CertbotDirectory) -> None:
    rest, _ = steps(store, first=False)
    assert "unlink fullchain.pem" in rest
    assert left_out(store).reason is Reason.RENEWAL_IN_PROGRESS


@pytest.mark.usefixtures("_later")
def test_links_that_a_renewal_left_behind_do_no_harm_to_a_whole_pair(store: CertbotDirectory) -> None:
    rest, issued = steps(store, first=False)
    assert "symlink fullchain.pem" in rest
    pause = Pause()
    assert only(store, pause).fingerprint == issued.fingerprint
    assert pause.waited == []


def test_torn_lineages_are_waited_for_together_and_no_longer_than_it_takes(store: CertbotDirectory) -> None:
    names = [f"x{number}" for number in range(4)]
    issued = {name: issue(f"mail.{name}.test") for name in names}
    keys: dict[str, Path] = {}
    for name in names:
        store.add(name, issued[name])
        keys[name] = store.path(name, "privkey").readlink()
        store.path(name, "privkey").unlink()

    def mend(*which: str) -> Callable[[], object]:
        def work() -> None:
            for name in which:
                store.path(name, "privkey").symlink_to(keys[name])

        return work

    pause = Pause(mend("x0", "x3"), mend("x1"))
    found = look(store, pause)
    assert [one.fingerprint for one in found.certificates] == [issued[name].fingerprint for name in ("x0", "x1", "x3")]
    assert [(one.source, one.reason) for one in found.skipped] == [(str(store.live / "x2"), Reason.KEY_MISSING)]
    assert len(pause.waited) == RETRIES


def test_a_lineage_deleted_meanwhile_is_forgotten(store: CertbotDirectory) -> None:
    store.add("a", issue())
    unlink("privkey")(store)
    assert look(store, Pause(lambda: store.delete("a"))) == Inventory((), (), frozenset())


def test_order_is_that_of_the_names_whatever_was_looked_at_twice(store: CertbotDirectory) -> None:
    names: Sequence[str] = ["c", "a", "b"]
    for name in names:
        store.add(name, issue())
    target = store.path("a", "fullchain").readlink()
    store.path("a", "fullchain").unlink()
    found = look(store, Pause(lambda: store.path("a", "fullchain").symlink_to(target)))
    assert [one.source for one in found.certificates] == [str(store.live / name) for name in sorted(names)]


# ── change token ──────────────────────────────────────────────────────────────────────────────────────────────────────


def token(store: CertbotDirectory) -> bytes:
    return certbot_store(store.live).change_token()


def test_the_change_token_changes_with_where_links_lead_and_not_with_what_is_no_certificate(tmp_path: Path) -> None:
    store = CertbotDirectory(tmp_path / "le")
    store.add("one", authority().issue(["mail.test"]))
    before = token(store)
    (store.live / "README").write_text("other")
    (store.live / "empty").mkdir()
    store.path("one", "privkey").read_bytes()
    assert token(store) == before
    store.path("one", "privkey").unlink()
    absent = token(store)
    store.path("one", "privkey").symlink_to("privkey.pem")  # a loop
    assert len({before, absent, token(store)}) == 3


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_that_an_administrator_put_beside_certbots_are_examined_too(tmp_path: Path) -> None:
    store = CertbotDirectory(tmp_path / "le")
    store.add("one", authority().issue(["mail.test"]))
    own = [store.live / "own.key", store.archive / "one" / "old.key"]
    for path in own:
        path.touch()
    (store.live / "link.key").symlink_to("own.key")
    assert set(certbot_store(store.live).files().keys) == {*own, store.archive / "one" / "privkey1.pem"}


def test_a_lineage_is_deleted_when_nothing_of_it_is_left_nor_what_would_renew_it(tmp_path: Path) -> None:
    store = CertbotDirectory(tmp_path / "le")
    settings = (SourceSettings.of("certbot", path=store.live),)
    origin = f"{store.live}/one"
    assert not is_deleted(settings, "/another/store/one")
    store.add("one", authority().issue(["mail.test"]))
    assert not is_deleted(settings, origin)
    store.delete("one")
    assert is_deleted(settings, origin)
    (store.renewal / "one.conf").touch()
    assert not is_deleted(settings, origin), "certbot goes on to renew it"


# ── a chain that is cut exactly between two blocks ───────────────────────────────────────────────────────────────────


def test_a_leaf_that_was_written_a_moment_ago_may_have_its_issuer_behind_it_in_a_moment(
    store: CertbotDirectory,
) -> None:
    new = issue()
    store.add("a", new)
    store.path("a", "fullchain").write_bytes(new.leaf_pem)
    pause = Pause(lambda: None, lambda: store.path("a", "fullchain").write_bytes(new.fullchain_pem))
    assert not only(store, pause).issuer_missing
    assert pause.waited == [RETRY_PAUSE] * 2


def test_a_leaf_alone_is_served_when_nothing_comes_and_not_waited_for_later(
    store: CertbotDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("a", issue())
    store.path("a", "fullchain").write_bytes((alone := issue()).leaf_pem)
    store.path("a", "privkey").write_bytes(alone.key_pem)
    pause = Pause()
    assert only(store, pause).issuer_missing
    assert pause.waited == [RETRY_PAUSE] * RETRIES
    moment = datetime.now(UTC) + timedelta(seconds=2 * STILL_WRITING)
    monkeypatch.setattr("mailsni.sources.directory.time.time", moment.timestamp)
    pause = Pause()
    assert only(store, pause).issuer_missing
    assert pause.waited == []


def test_a_private_authoritys_leaf_alone_is_not_waited_for(store: CertbotDirectory) -> None:
    store.add("a", authority().issue([NAME], issuer_address=False))
    store.path("a", "fullchain").write_bytes((private := authority().issue([NAME], issuer_address=False)).leaf_pem)
    store.path("a", "privkey").write_bytes(private.key_pem)
    pause = Pause()
    assert not only(store, pause).issuer_missing
    assert pause.waited == []
