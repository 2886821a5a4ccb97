"""What is watched of a store: its trees, and the names in the directories above it."""

from __future__ import annotations

from pathlib import Path

from mailsni.sources.base import WatchPath
from mailsni.sources.certbot import certbot_store
from mailsni.watch.events import to_watch
from tests.support.lineages import CertbotDirectory


def test_a_store_is_watched_from_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    live = tmp_path / "a" / "b" / "live"
    paths = certbot_store(live).watch_paths()
    assert [(each.path, each.is_tree, each.names) for each in to_watch(paths)] == [
        (str(tmp_path), False, frozenset("a"))
    ]
    store = CertbotDirectory(live.parent)
    found = to_watch([*paths, *paths])
    assert [each.path for each in found if each.is_tree] == [str(store.archive), str(store.live)]
    assert {each.path: each.names for each in found if not each.is_tree} == {
        str(tmp_path / "a"): {"b"},
        str(live.parent): {"archive", "live"},
    }
    assert to_watch(paths) == found
    store.root.rename(tmp_path / "gone")
    CertbotDirectory(live.parent)
    assert to_watch(paths) != found


def test_a_store_in_one_file_is_watched_by_its_name_in_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "data" / "acme.json"
    file.parent.mkdir()
    for _ in ("not there yet", "there"):
        watched = to_watch([WatchPath(file)])
        assert {(each.path, each.is_tree, *each.names) for each in watched} == {
            (str(tmp_path), False, "data"),
            (str(file.parent), False, "acme.json"),
        }
        file.touch()
