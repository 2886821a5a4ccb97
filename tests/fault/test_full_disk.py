"""A disk that is really full, at every place that is written to and for every type of map.

``postmap -F`` on a full disk destroys a hash map in place, and writes nothing for lmdb and exits 0 (both measured).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import mounts
from tests.support.fault_host import Ended, FaultCertificates, FaultHost

pytestmark = pytest.mark.shared

_PAGES_LEFT = (0, 1, 2, 3, 5, 8, 13, 21, 34)
"""Pages of 4096 bytes; what a run needs in one directory is less than the last of them."""
_PAGE = 4096
_MAP_TYPES = ("hash", "btree", "lmdb", "cdb", "texthash")
_SIZE = "4m"


@contextmanager
def _small_disk(place: Path, aside: Path) -> Iterator[None]:
    """A file system of its own for a directory, with what lies in it; the directory itself waits elsewhere."""
    place.rename(aside)
    place.mkdir()
    mounts.mount("tmpfs", place, kind="tmpfs", options=f"size={_SIZE},mode={aside.stat().st_mode & 0o7777:o}")
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        yield
    finally:
        mounts.unmount(place)
        shutil.rmtree(place)
        aside.rename(place)


def _fill(place: Path, pages: int) -> Path:
    """Leave so many pages; gives the file to remove again."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        room = os.statvfs(place).f_bavail - pages
        file.write(b"\0" * _PAGE * max(room, 0))
    return ballast


def _judge(host: FaultHost, place: Path, what: str, figures: list[str]) -> None:
    """Apply on a disk that is full to a different degree each time."""
    wrong, failed = [], 0
    for pages in _PAGES_LEFT:
        with _small_disk(place, host.directory.with_name("aside")):
            ballast = _fill(place, pages)
            ended = Ended.of(host.mail_host.mailsni("apply"))
            failed += ended.status != 0
            found = host.complaints(ended)
            ballast.unlink()
            found += host.convergence()
            wrong += [f"{pages} pages left, exit {ended.status}: {one} ({ended.talk.strip()})" for one in found]
        host.restore()
    figures.append(f"{what}: {len(_PAGES_LEFT)} fillings, {failed} of them too full; {len(wrong)} complaints")
    assert not wrong, "\n".join(wrong)
    assert 0 < failed < len(_PAGES_LEFT), "the disk was never full, or always"


@pytest.mark.parametrize("map_type", _MAP_TYPES)
def test_no_room_for_the_map(
    shared_tmp: Path, certificates: FaultCertificates, figures: list[str], map_type: str
) -> None:
    host = FaultHost.build(shared_tmp / "x", certificates, map_type)
    _judge(host, host.mail_host.map.parent, f"full disk, {map_type} map", figures)


@pytest.mark.parametrize("place", ["pins", "state", "include"])
def test_no_room_for_the_rest(host: FaultHost, figures: list[str], place: str) -> None:
    lab = host.mail_host
    where = {"pins": lab.pin_directory, "state": host.state, "include": lab.include_file.parent}[place]
    _judge(host, where, f"full disk, {place}", figures)
