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


def _map_built_in_place_from_half_the_source(host: FaultHost) -> None:
    """What a postmap -F that is not looked after leaves: fewer names, and nobody is told."""
    source = host.mail_host.map
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-1]))
    run([require_tool("postmap"), "-c", source.parent, "-F", f"cdb:{source}"])


def _key_elsewhere(host: FaultHost) -> None:
    path = host.mail_host.directory / "backup"
    path.touch(mode=0o600)
    path.write_bytes(host.certificates.before["stays"].key_pem)


def _map_copied_to_where_no_map_is(host: FaultHost) -> None:
    shutil.copy2(_table(host), host.mail_host.include_file.parent / "99-mailsni.conf~")


def _record_of_something_else(host: FaultHost) -> None:
    record = host.state / "deployment.json"
    record.write_text(record.read_text().replace("mail.gone.test", "mail.other.test"))


def _torn_pin(host: FaultHost) -> None:
    first, second, *_ = sorted(host.mail_host.pin_directory.glob("*.pem"))
    first.write_bytes(second.read_bytes())


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


_WRONGS: dict[str, Callable[[FaultHost], object]] = {
    "cut map": lambda host: _cut(_table(host), 1000),
    "no map": lambda host: _table(host).unlink(),
    "map built in place from half the source": _map_built_in_place_from_half_the_source,
    "open map": lambda host: _table(host).chmod(0o644),
    "lost pin": lambda host: next(host.mail_host.pin_directory.glob("*.pem")).unlink(),
    "torn pin": _torn_pin,
    "cut include": lambda host: _cut(host.mail_host.include_file, -4),
    "key elsewhere": _key_elsewhere,
    "map copied to where no map is": _map_copied_to_where_no_map_is,
    "record of something else": _record_of_something_else,
}


def test_a_sound_deployment_is_not_complained_of(host: FaultHost) -> None:
    assert host.complaints(Ended(None, "")) == []
    assert host.complaints(Ended(1, "mailsni: error: something")) == []
    assert host.convergence() == []
    assert host.complaints(Ended(0, "")) == []


@pytest.mark.parametrize("wrong", _WRONGS)
def test_what_is_unsound_is_complained_of(host: FaultHost, wrong: str) -> None:
    _WRONGS[wrong](host)
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
