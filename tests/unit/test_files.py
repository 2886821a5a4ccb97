"""The only module that writes: what it makes is private, whole and durable, and it walks into no trap."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailsni.errors import ConfigurationError, HostError, PermissionMissingError, RefusedError
from mailsni.host import file_identity, files, permissions
from mailsni.host import lock as lock_module

SECRET = b"-----BEGIN PRIVATE KEY-----\n"
OTHER_USER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    try:
        yield
    finally:
        os.umask(before)


def open_descriptors() -> set[str]:
    return set(names_in(Path("/proc/self/fd")))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("_any_umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    files.ensure_directory(tmp_path / "a" / "b", 0o755)
    files.create(tmp_path / "private", SECRET)
    files.create(tmp_path / "public", b"x", files.PUBLIC)
    files.replace(tmp_path / "replaced", SECRET)
    files.copy_new(tmp_path / "public", tmp_path / "copy")
    with files.staging(tmp_path) as staging, lock_module.locked(tmp_path / "lock"):
        modes = {path: mode_of(tmp_path / path) for path in ("private", "public", "replaced", "copy", "lock")}
        assert modes == {"private": 0o600, "public": 0o644, "replaced": 0o600, "copy": 0o644, "lock": 0o600}
        assert mode_of(staging) == 0o700
        assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")) == (0o755, 0o755)


def test_a_wide_file_is_replaced_by_a_narrow_one(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with path.open("rb") as reader:
        files.replace(path, SECRET)
        assert reader.read() == b"old", "a reader has the old file whole"
    assert (path.read_bytes(), mode_of(path), names_in(tmp_path)) == (SECRET, 0o600, ["map"])


def test_a_file_is_never_wider_than_it_shall_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at the moment at which the mode is set: before it, the content is there already."""
    seen: list[int] = []

    def look(descriptor: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        change(descriptor, mode)

    change = os.fchmod
    monkeypatch.setattr(os, "fchmod", look)
    before = os.umask(0)
    try:
        files.create(tmp_path / "public", b"x", files.PUBLIC)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_directories_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    files.ensure_directory(tmp_path / "new", 0o700)
    files.ensure_directory(tmp_path, 0o700)
    assert (mode_of(tmp_path), mode_of(tmp_path / "new")) == (0o711, 0o700)


def test_a_directory_that_others_can_change_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    for path in (tmp_path, tmp_path / "new"):
        with pytest.raises(ConfigurationError, match="has mode 0770"):
            files.ensure_directory(path, 0o700)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/below", "dangling", "dangling/below"])
def test_a_directory_cannot_be_made_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HostError):
        files.ensure_directory(tmp_path / name, 0o700)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("count", [0, 1, 64, 65])
def test_files_are_made_durable_one_by_one_or_all_at_once(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        files.create(path, b"x")
    before = open_descriptors()
    files.fsync_all(paths)
    assert open_descriptors() == before


def test_what_is_not_there_cannot_be_made_durable(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="durable"):
        files.fsync_all([tmp_path / "missing"])


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    files.create(tmp_path / "map", SECRET)
    files.copy_new(tmp_path / "map", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SECRET
    assert ((tmp_path / "map").stat().st_nlink, mode_of(tmp_path / "copy")) == (1, 0o600)


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    files.remove(tmp_path / "missing")
    with pytest.raises(HostError, match="cannot be removed"):
        files.remove(tmp_path)


# ── traps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


Trap = Callable[[Path], object]
TRAPS: dict[str, Trap] = {
    "link": lambda path: path.symlink_to(path.parent / "victim"),
    "dangling": lambda path: path.symlink_to(path.parent / "nowhere"),
    "regular": lambda path: path.write_bytes(b"mine"),
    "hard_link": lambda path: path.hardlink_to(path.parent / "victim"),
    "directory": Path.mkdir,
    "occupied": lambda path: (path / "file").mkdir(parents=True),
    "fifo": os.mkfifo,
    "socket": listening,
}


def traps(names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("trap", [TRAPS[name] for name in names.split()], ids=names.split())


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that must be the same afterwards."""
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    path.chmod(0o644)
    yield path
    assert (path.read_bytes(), mode_of(path)) == (b"precious", 0o644)
    assert not (tmp_path / "nowhere").exists()


@traps("link dangling regular hard_link directory fifo socket")
def test_a_new_file_is_not_written_into_anything(victim: Path, trap: Trap) -> None:
    path = victim.with_name("trap")
    trap(path)
    with pytest.raises(RefusedError, match="exists already"):
        files.create(path, SECRET)
    with pytest.raises(RefusedError, match="exists already"):
        files.copy_new(victim, path)


@traps("link dangling directory")
def test_what_is_copied_must_be_a_file(victim: Path, trap: Trap) -> None:
    trap(victim.with_name("trap"))
    with pytest.raises(HostError):
        files.copy_new(victim.with_name("trap"), victim.with_name("copy"))


@traps("link dangling regular hard_link fifo")
def test_what_lies_at_the_place_of_a_replacement_is_not_followed(victim: Path, trap: Trap) -> None:
    trap(victim.with_name(".record.new"))
    trap(victim.with_name("record"))
    files.replace(victim.with_name("record"), SECRET)
    assert victim.with_name("record").read_bytes() == SECRET
    assert not victim.with_name("record").is_symlink()


@traps("directory occupied")
def test_a_directory_is_not_replaced(tmp_path: Path, trap: Trap) -> None:
    trap(tmp_path / "record")
    with pytest.raises(HostError, match="cannot be published"):
        files.replace(tmp_path / "record", SECRET)


@traps("link dangling regular hard_link fifo socket")
def test_a_staging_name_that_no_run_took_is_refused(victim: Path, trap: Trap) -> None:
    trap(victim.with_name(files.STAGING_NAME))
    with pytest.raises(RefusedError, match="not the staging directory"), files.staging(victim.parent):
        pass
    assert os.path.lexists(victim.with_name(files.STAGING_NAME))


@as_root
def test_a_staging_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / files.STAGING_NAME
    trap.mkdir()
    os.chown(trap, OTHER_USER, OTHER_USER)
    with pytest.raises(RefusedError), files.staging(tmp_path):
        pass
    assert trap.exists()


@traps("link dangling directory fifo socket")
def test_only_a_regular_file_is_read_or_known(victim: Path, trap: Trap) -> None:
    path = victim.with_name("trap")
    trap(path)
    before = open_descriptors()
    assert files.read_private(path) is None
    assert open_descriptors() == before
    assert file_identity.of_file(path) is None
    assert permissions.mode_problem(path, 0o600) is not None


def test_what_is_not_there_is_nothing(victim: Path) -> None:
    for path in (victim.with_name("missing"), victim / "below"):
        assert files.read_private(path) is None
        assert file_identity.of_file(path) is None
        assert permissions.mode_problem(path, 0o600) == f"{path} is gone, or is no regular file"
    assert files.read_private(victim) == b"precious"


def test_an_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.create(path, b"x")
    first = file_identity.of_file(path)
    assert first == file_identity.of_file(path)
    assert first is not None
    assert (first.mode, first.owner, first.size) == (0o600, os.geteuid(), 1)
    files.replace(path, b"x")
    assert file_identity.of_file(path) != first


def test_a_file_is_as_published_while_it_holds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert file_identity.published(path) is None
    assert file_identity.is_as_published(path, None)
    files.create(path, b"x")
    known = file_identity.published(path)
    assert not file_identity.is_as_published(path, None)
    files.replace(path, b"x")
    assert file_identity.is_as_published(path, known)
    files.replace(path, b"y")
    assert not file_identity.is_as_published(path, known)
    path.unlink()
    assert not file_identity.is_as_published(path, known)


def test_a_loose_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.create(path, b"x")
    assert permissions.mode_problem(path, 0o600) is None
    assert permissions.mode_problem(path, 0o644) == f"{path} has mode 0600 instead of 0644"


@as_root
def test_a_file_of_another_user_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.create(path, b"x")
    os.chown(path, OTHER_USER, OTHER_USER)
    assert permissions.mode_problem(path, 0o600) == f"{path} belongs to somebody else"


# ── staging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _BoomError(Exception):
    pass


def test_a_staging_directory_is_gone_afterwards_with_all_that_is_in_it(tmp_path: Path) -> None:
    def work() -> None:
        with files.staging(tmp_path) as path:
            files.create(path / "key.pem", SECRET)
            (path / "more").mkdir()
            raise _BoomError

    with pytest.raises(_BoomError):
        work()
    assert names_in(tmp_path) == []


def test_what_a_killed_run_left_is_removed_first(tmp_path: Path) -> None:
    leftover = tmp_path / files.STAGING_NAME
    leftover.mkdir()
    (leftover / "key.pem").write_bytes(SECRET)
    with files.staging(tmp_path) as path:
        assert names_in(path) == []
        # A postmap of the killed run may still come and open its files by their paths.
        assert path != leftover
        assert not leftover.exists()
    assert not files.clear_staging(tmp_path)
    (tmp_path / f"{files.STAGING_NAME}-4711").mkdir()
    assert files.clear_staging(tmp_path)
    assert names_in(tmp_path) == []
    assert not files.clear_staging(tmp_path / "missing")
    leftover.mkdir()
    assert files.clear_staging(tmp_path)


def test_removing_a_staging_directory_does_not_follow_links(victim: Path) -> None:
    leftover = victim.with_name(files.STAGING_NAME)
    leftover.mkdir()
    (leftover / "link").symlink_to(victim.parent)
    assert files.clear_staging(victim.parent)


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_free_after_a_failure_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def work() -> None:
        with lock_module.locked(path):
            raise _BoomError

    before = open_descriptors()
    for _ in range(2):
        with pytest.raises(_BoomError):
            work()
    assert open_descriptors() == before
    assert path.exists()


def test_a_lock_file_replaced_at_the_wrong_moment_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock: the lock of the file that was opened says nothing any more."""
    path = tmp_path / "lock"
    replaced: list[int] = []

    def replace_first(descriptor: int, operation: int) -> None:
        if not replaced:
            replaced.append(path.stat().st_ino)
            (tmp_path / "new").touch()
            (tmp_path / "new").rename(path)
        lock(descriptor, operation)

    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", replace_first)
    with lock_module.locked(path, 5):
        assert replaced
        with path.open() as again, pytest.raises(BlockingIOError):
            lock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@traps("link dangling hard_link fifo")
def test_a_lock_file_must_be_one(victim: Path, trap: Trap) -> None:
    path = victim.with_name("lock")
    trap(path)
    before = open_descriptors()
    with pytest.raises(RefusedError), lock_module.locked(path):
        pass
    assert open_descriptors() == before


def test_a_lock_needs_a_place(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "lock"):
        with pytest.raises(HostError, match="the lock file cannot be opened"), lock_module.locked(path):
            pass


# ── permission ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_nearest_directory_that_exists_decides(tmp_path: Path) -> None:
    permissions.require_writable([tmp_path, tmp_path / "a" / "b"])


@traps("link dangling directory occupied fifo socket")
def test_a_place_of_somebodys_choice_holds_a_file_or_nothing(victim: Path, trap: Trap) -> None:
    path = victim.with_name("chosen")
    permissions.require_replaceable(path)
    permissions.require_replaceable(victim)
    trap(path)
    before = path.lstat()
    with pytest.raises(RefusedError, match="is no regular file"):
        permissions.require_replaceable(path)
    assert path.lstat() == before


def test_a_place_of_somebodys_choice_is_in_a_directory(victim: Path) -> None:
    for path in (victim.with_name("no") / "such", victim / "below"):
        with pytest.raises(HostError):
            permissions.require_replaceable(path)
    with pytest.raises(RefusedError):
        permissions.require_replaceable(Path())
    with pytest.raises(HostError, match="cannot be looked at"):
        permissions.require_replaceable(victim.with_name("x" * 300))


@not_as_root
def test_what_this_user_may_not_do_is_a_matter_of_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for act in (
        lambda: permissions.require_writable([tmp_path / "a"]),
        lambda: permissions.require_replaceable(tmp_path / "a"),
        lambda: files.create(tmp_path / "a", b""),
        lambda: files.ensure_directory(tmp_path / "a", 0o700),
        lambda: files.replace(tmp_path / "a", b""),
        lambda: lock_module.locked(tmp_path / "a").__enter__(),
        lambda: files.staging(tmp_path).__enter__(),
    ):
        with pytest.raises(PermissionMissingError):
            act()
