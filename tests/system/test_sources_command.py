"""The kind ``command`` with real processes: what it runs, and how it ends those that do not end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mailsni.core.model import Inventory
from mailsni.errors import HostError
from mailsni.sources.command import OUTPUT_LIMIT, CommandDocument
from mailsni.sources.document import DocumentStore
from mailsni.sources.printed import entries
from tests.support.builders import authority


def script(tmp_path: Path, body: str) -> tuple[str, ...]:
    file = tmp_path / "print"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return (str(file),)


def scan(command: tuple[str, ...], time_limit: float = 30) -> Inventory:
    return DocumentStore(CommandDocument(command, 3600, time_limit=time_limit), entries).scan({})


def test_a_command_prints_pem_or_json(tmp_path: Path) -> None:
    issued = authority().issue(["mail.a.test"])
    pem = tmp_path / "pem"
    pem.write_bytes(issued.key_pem + issued.fullchain_pem)
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"data": {"cert": issued.fullchain_pem.decode(), "key": issued.key_pem.decode()}}))
    origins = set()
    for file in (pem, secret):
        (certificate,) = scan(("/bin/cat", str(file))).certificates
        assert certificate.fingerprint == issued.fingerprint
        origins.add(certificate.source)
        assert str(file) not in certificate.source
    assert len(origins) == 2
    assert all(origin.startswith("/bin/cat:") and origin.endswith("#mail.a.test") for origin in origins)
    (certificate,) = scan(script(tmp_path, f"cat {pem}")).certificates
    assert certificate.source == f"{tmp_path}/print#mail.a.test"


def test_it_has_no_standard_input_no_shell_and_an_environment_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    seen = tmp_path / "seen"
    body = f'{{ cat; env; pwd; echo "$1"; }} > {seen}; echo []'
    assert scan((*script(tmp_path, body), "$(id); x")) == Inventory((), (), frozenset())
    text = seen.read_text()
    assert "SECRET_OF_THE_CALLER" not in text
    assert text.endswith("/\n$(id); x\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo no token >&2; echo try again >&2; exit 3", "failed with exit status 3: no token / try again"),
        ("printf 'a\\033[2Jb' >&2; exit 1", r"failed with exit status 1: a\?\[2Jb"),
        ("exit 1", "failed with exit status 1: and said nothing"),
        ("kill -9 $$", "failed with exit status -9"),
        ("exit 0", "printed nothing"),
        ("echo", "printed nothing"),
        ("echo garbage", "gives no certificates: neither PEM nor JSON"),
        ("yes | head -c 100000000", f"printed more than {OUTPUT_LIMIT} bytes and was killed"),
        ("yes >&2", "did not end within 1 seconds and was killed"),
        ("sleep 60", "did not end within 1 seconds and was killed"),
        ("sleep 60 & echo []", "did not end within 1 seconds and was killed"),
        ("exec >&- 2>&-; sleep 60", "did not end within 1 seconds and was killed"),
        ("trap '' TERM; while :; do sleep 1; done", "did not end within 1 seconds and was killed"),
    ],
)
def test_a_command_that_fails_is_an_error_in_bounded_time(tmp_path: Path, body: str, message: str) -> None:
    command = script(tmp_path, body)
    begin = time.monotonic()
    with pytest.raises(HostError, match=message) as caught:
        scan(command, 1 if "did not end" in message else 30)
    assert time.monotonic() - begin < 30
    assert caught.value.path == Path(command[0])
    assert len(caught.value.message) < 1000


def test_a_long_complaint_is_cut_and_shows_no_key(tmp_path: Path) -> None:
    key = authority().issue(["mail.a.test"]).key_pem.decode()
    (tmp_path / "complaint").write_text(key + "x" * 10_000)
    with pytest.raises(HostError) as caught:
        scan(script(tmp_path, f"cat {tmp_path}/complaint >&2; exit 1"))
    assert "PRIVATE" not in caught.value.message
    assert len(caught.value.message) < 1000


def test_a_command_that_is_not_there_or_that_others_can_change_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be started: No such file"):
        scan((f"{tmp_path}/none",))
    ran = tmp_path / "ran"
    (command,) = script(tmp_path, f"touch {ran}; echo []")
    os.chmod(command, 0o777)  # noqa: S103, PTH101
    with pytest.raises(HostError, match="others can change it") as caught:
        scan((command,))
    assert caught.value.hint is not None
    assert not ran.exists()


def test_the_change_token_runs_nothing_and_changes_in_time(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = script(tmp_path, f"touch {ran}; echo []")
    now = 1000.0
    document = CommandDocument(command, 600, clock=lambda: now)
    first = document.change_token()
    now = 1199.0
    assert document.change_token() == first
    now = 1200.0
    assert document.change_token() != first
    assert not ran.exists()
