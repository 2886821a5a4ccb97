"""The oracle itself: it says nothing of a sound deployment, and sees each of the ways in which one can be unsound."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Authority
from tests.support.fault_host import Cast, Ended, Scene

pytestmark = pytest.mark.shared


@pytest.fixture
def scene(rooms: Path, authority: Authority, cast: Cast) -> Scene:
    (rooms / "x").mkdir(mode=0o755)
    return Scene.build(rooms / "x", authority, cast)


def _table(scene: Scene) -> Path:
    return scene.laboratory.map.with_name("mailsni.cdb")


def _cut_map(scene: Scene) -> None:
    _table(scene).write_bytes(_table(scene).read_bytes()[:1000])


def _no_map(scene: Scene) -> None:
    _table(scene).unlink()


def _map_built_in_place_from_half_the_source(scene: Scene) -> None:
    """What a postmap -F that is not looked after leaves: fewer names, and nobody is told."""
    source = scene.laboratory.map
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-1]))
    run([require_tool("postmap"), "-c", source.parent, "-F", f"cdb:{source}"])


def _open_map(scene: Scene) -> None:
    _table(scene).chmod(0o644)


def _lost_pin(scene: Scene) -> None:
    next(scene.laboratory.pin_directory.glob("*.pem")).unlink()


def _torn_pin(scene: Scene) -> None:
    pins = sorted(scene.laboratory.pin_directory.glob("*.pem"))
    pins[0].write_bytes(pins[1].read_bytes())


def _cut_include(scene: Scene) -> None:
    include = scene.laboratory.include_file
    include.write_text(include.read_text()[:-4])


def _key_elsewhere(scene: Scene) -> None:
    path = scene.laboratory.directory / "backup"
    path.touch(mode=0o600)
    path.write_bytes(scene.cast.before["stays"].key_pem)


def _map_copied_to_where_no_map_is(scene: Scene) -> None:
    shutil.copy2(_table(scene), scene.laboratory.include_file.parent / "99-mailsni.conf~")


def _record_of_something_else(scene: Scene) -> None:
    record = scene.state / "deployment.json"
    record.write_text(record.read_text().replace("mail.gone.test", "mail.other.test"))


_WRONGS = (
    _cut_map,
    _no_map,
    _map_built_in_place_from_half_the_source,
    _open_map,
    _lost_pin,
    _torn_pin,
    _cut_include,
    _key_elsewhere,
    _map_copied_to_where_no_map_is,
    _record_of_something_else,
)


def test_a_sound_deployment_is_not_complained_of(scene: Scene) -> None:
    assert scene.complaints(Ended(None, "")) == []
    assert scene.complaints(Ended(1, "mailsni: error: something")) == []
    assert scene.convergence() == []
    assert scene.complaints(Ended(0, "")) == []


@pytest.mark.parametrize("spoil", _WRONGS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_is_unsound_is_complained_of(scene: Scene, spoil: Callable[[Scene], None]) -> None:
    spoil(scene)
    assert scene.complaints(Ended(None, "")) != []


@pytest.mark.parametrize(
    "ended",
    [Ended(0, ""), Ended(3, ""), Ended(99, ""), Ended(1, "Traceback (most recent call")],
    ids=["done", "pending", "no contract", "traceback"],
)
def test_an_end_that_does_not_fit_is_complained_of(scene: Scene, ended: Ended) -> None:
    """The old deployment is live here, so exit 0 is a lie."""
    assert scene.complaints(ended) != []


def test_debris_is_complained_of(scene: Scene) -> None:
    (scene.laboratory.map.parent / "mailsni.cdb.old").touch(mode=0o600)
    assert scene.convergence() != []
