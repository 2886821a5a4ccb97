"""The oracle itself: it says nothing of a sound deployment, and sees each of the ways in which one can be unsound."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mailsni.host.commands import require_tool, run
from tests.support.fault_host import Ended, FaultHost

pytestmark = pytest.mark.shared


def _table(host: FaultHost) -> Path:
    return host.mail_host.map.with_name("mailsni.cdb")


def _cut_map(host: FaultHost) -> None:
    _table(host).write_bytes(_table(host).read_bytes()[:1000])


def _no_map(host: FaultHost) -> None:
    _table(host).unlink()


def _map_built_in_place_from_half_the_source(host: FaultHost) -> None:
    """What a postmap -F that is not looked after leaves: fewer names, and nobody is told."""
    source = host.mail_host.map
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-1]))
    run([require_tool("postmap"), "-c", source.parent, "-F", f"cdb:{source}"])


def _open_map(host: FaultHost) -> None:
    _table(host).chmod(0o644)


def _lost_pin(host: FaultHost) -> None:
    next(host.mail_host.pin_directory.glob("*.pem")).unlink()


def _torn_pin(host: FaultHost) -> None:
    pins = sorted(host.mail_host.pin_directory.glob("*.pem"))
    pins[0].write_bytes(pins[1].read_bytes())


def _cut_include(host: FaultHost) -> None:
    include = host.mail_host.include_file
    include.write_text(include.read_text()[:-4])


def _key_elsewhere(host: FaultHost) -> None:
    path = host.mail_host.directory / "backup"
    path.touch(mode=0o600)
    path.write_bytes(host.certificates.before["stays"].key_pem)


def _map_copied_to_where_no_map_is(host: FaultHost) -> None:
    shutil.copy2(_table(host), host.mail_host.include_file.parent / "99-mailsni.conf~")


def _record_of_something_else(host: FaultHost) -> None:
    record = host.state / "deployment.json"
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


def test_a_sound_deployment_is_not_complained_of(host: FaultHost) -> None:
    assert host.complaints(Ended(None, "")) == []
    assert host.complaints(Ended(1, "mailsni: error: something")) == []
    assert host.convergence() == []
    assert host.complaints(Ended(0, "")) == []


@pytest.mark.parametrize("spoil", _WRONGS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_is_unsound_is_complained_of(host: FaultHost, spoil: Callable[[FaultHost], None]) -> None:
    spoil(host)
    assert host.complaints(Ended(None, "")) != []


@pytest.mark.parametrize(
    "ended",
    [Ended(0, ""), Ended(3, ""), Ended(99, ""), Ended(1, "Traceback (most recent call")],
    ids=["done", "pending", "no contract", "traceback"],
)
def test_an_end_that_does_not_fit_is_complained_of(host: FaultHost, ended: Ended) -> None:
    """The old deployment is live here, so exit 0 is a lie."""
    assert host.complaints(ended) != []


def test_debris_is_complained_of(host: FaultHost) -> None:
    (host.mail_host.map.parent / "mailsni.cdb.old").touch(mode=0o600)
    assert host.convergence() != []
