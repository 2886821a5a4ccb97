"""What must come before what, read from a log of strace: durable before published, and never wide before narrow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailsni.host.files import STAGING_NAME
from tests.support.fault_host import MUTATING, OPENING, Call, FaultCertificates, FaultHost, Runner

pytestmark = pytest.mark.shared

_RENAME = re.compile(r'^(?:\w+(?:<[^>]*>)?, )?"([^"]+)", (?:\w+(?:<[^>]*>)?, )?"([^"]+)".*= 0$')
_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
_CREATED = re.compile(r'"([^"]+)", \S*O_CREAT\S*, (0\d+)\)')
_CHMOD = re.compile(r'^(?:\w+(?:<[^>]*>)?, )?(?:\d+<([^>]*)>|"([^"]+)"), (0\d+)')
_SYNCS = ("fsync", "fdatasync", "syncfs")
_CALLS = (*MUTATING, *OPENING)


def _log(host: FaultHost, *, umask: int = -1) -> list[Call]:
    """The calls of a run of the program; those of its children, which only write into staging, are not looked at."""
    with Runner(host, umask=umask) as runner:
        return runner.calls(_CALLS)


def _renames(calls: Sequence[Call]) -> list[tuple[int, str, str]]:
    """But for the record of the last run, which may be lost."""
    found = ((at, _RENAME.match(call.what)) for at, call in enumerate(calls) if call.name.startswith("rename"))
    return [(at, match[1], match[2]) for at, match in found if match is not None and "runs.json" not in match[2]]


def _synced(calls: Sequence[Call], path: str) -> bool:
    """Whether one of these calls makes a file or a directory durable; syncfs(2) does it for the whole file system."""
    for call in calls:
        match = _DESCRIPTOR.match(call.what)
        if call.name in _SYNCS and match is not None and (match[1] == path or call.name == "syncfs"):
            return True
    return False


def test_everything_is_durable_before_it_is_published_and_its_directory_afterwards(host: FaultHost) -> None:
    calls = _log(host)
    renames = _renames(calls)
    published = [destination for _, _, destination in renames]
    last = {name: max(at for at, _, path in renames if path == name) for name in published}
    journal, record = "own/state/journal.json", "own/state/deployment.json"
    live = ["postfix/etc/mailsni.cdb", "postfix/etc/mailsni", "dovecot/etc/conf.d/99-mailsni.conf"]
    pins = [path for path in published if path.startswith("dovecot/etc/mailsni/")]
    assert {*published} >= {journal, record, *live}
    assert len(pins) == 3, "one for each certificate that is new"

    for at, staged, destination in renames:
        assert _synced(calls[:at], staged), f"{destination} is published before it is durable"
        written = [
            later.what for later in calls[at:] if later.name.startswith("write") and f"<{destination}>" in later.what
        ]
        assert not written, f"{destination} is written to after it was published"
        directory = str(Path(destination).parent)
        following = [later for later, _, path in renames if later > at and str(Path(path).parent) != directory]
        end = following[0] if destination in (journal, *pins) else len(calls)
        assert _synced(calls[at:end], directory), f"the directory of {destination} is not made durable in time"

    order = [last[journal], *(last[pin] for pin in pins), *(last[path] for path in live), last[record]]
    assert order == sorted(order), "journal, pins, what names them, record"
    ended = next(
        at
        for at, call in enumerate(calls)
        if call.name.startswith("unlink") and f'"{journal}"' in call.what and call.what.endswith("= 0")
    )
    assert ended > last[record], "the journal ends before there is a record"
    gone = [call.what for call in calls if call.name.startswith("unlink") and ".pem" in call.what]
    assert gone == [], "a key is removed while a server may be about to open it"
    retired = "own/state/retired.json"
    assert last[retired] > last[record]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_no_file_is_ever_wider_than_it_ends(host: FaultHost, umask: int) -> None:
    calls = _log(host, umask=umask)
    modes: dict[str, int] = {}
    created = 0
    for call in calls:
        if (match := _CREATED.search(call.what)) is not None:
            created += 1
            modes[match[1]] = int(match[2], 8)
            assert int(match[2], 8) == 0o600, f"{match[1]} is created with mode {match[2]}"
            assert "O_NOFOLLOW" in call.what, f"{match[1]} may be somebody's link"
            assert "O_EXCL" in call.what or match[1].endswith(".lock"), f"{match[1]} may be there already"
        if call.name.startswith("mkdir"):
            assert "0700)" in call.what, f"mkdir {call.what}"
        if "chmod" in call.name:
            change = _CHMOD.match(call.what)
            assert change is not None, call.what
            path, mode = change[1] or change[2], int(change[3], 8)
            assert modes.get(path, 0o600) & ~mode == 0, f"{path} is narrowed to {mode:04o}"
            modes[path] = mode
    assert created > 8
    wide = [path for path, mode in modes.items() if mode != 0o600]
    assert all("conf.d" in path for path in wide), wide


def test_postmap_finds_the_mode_of_its_source_whatever_the_umask(
    shared_tmp: Path, certificates: FaultCertificates
) -> None:
    """It makes the map as open as its source is."""
    host = FaultHost.build(shared_tmp / "x", certificates, "hash")
    with Runner(host) as runner:
        calls = runner.calls(OPENING, [f"postfix/etc/{STAGING_NAME}/mailsni.db"])
    made = [match for call in calls if (match := _CREATED.search(call.what)) is not None]
    assert made
    assert all(int(match[2], 8) & ~0o600 == 0 for match in made), made
