"""Slowness is not wrongness: servers that answer too late are asked again, and never the reason for a rollback."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailsni.errors import Exit
from mailsni.host.commands import find_tool
from mailsni.sandbox.servers import LOOPBACK
from tests.support.mail_host import MailHost
from tests.support.servers import free_ports

TIMEOUT = 1.0
"""Seconds for each probe."""
SLOW = 3.0
"""Seconds for which the proxy keeps the first bytes of a server back."""


@contextlib.contextmanager
def proxy(slow: Path, targets: list[int]) -> Iterator[dict[int, int]]:
    """Forward connections to ports, until the end of the block; slowly while a file exists.

    Gives its own ports, by those.
    """
    over = threading.Event()

    def forward(client: socket.socket, target: int) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection((LOOPBACK, target)) as server:
            other = {client: server, server: client}
            while not over.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65536)
                    if source is server and slow.exists():
                        over.wait(SLOW)
                    if not data:
                        return
                    other[source].sendall(data)

    def serve(listener: socket.socket, target: int) -> None:
        with listener, ThreadPoolExecutor(64) as pool:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    pool.submit(forward, listener.accept()[0], target)

    ports = dict(zip(targets, free_ports(len(targets)), strict=True))
    with ThreadPoolExecutor(len(targets)) as pool:
        for target, port in ports.items():
            listener = socket.create_server((LOOPBACK, port), backlog=128)
            listener.settimeout(0.1)
            pool.submit(serve, listener, target)
        try:
            yield ports
        finally:
            over.set()


@pytest.fixture
def slow_host(mail_host: MailHost) -> Iterator[tuple[MailHost, Path]]:
    """A mail host whose probes go through a proxy, which turns slow when Dovecot is reloaded, and the file for that."""
    slow = mail_host.directory / "slow"
    reload = f"{find_tool('doveadm')} -c {mail_host.dovecot.config_file} reload"
    with proxy(slow, list(mail_host.endpoints.values())) as between:
        urls = mail_host.urls()
        for target, port in between.items():
            urls = [url.replace(f":{target}", f":{port}") for url in urls]
        mail_host.configure(verify={"endpoints": urls, "timeout": TIMEOUT})
        first = mail_host.issue("mail.a.test")
        mail_host.apply()
        mail_host.assert_served("mail.a.test", first)
        mail_host.configure(dovecot={"action": ["/bin/sh", "-c", f"touch {slow}; exec {reload}"]})
        yield mail_host, slow


@pytest.mark.shared
def test_servers_that_turn_slow_while_they_are_reloaded_keep_what_was_published(
    slow_host: tuple[MailHost, Path],
) -> None:
    mail_host, slow = slow_host
    renewed = mail_host.renew("mail.a.test")
    begin = time.monotonic()
    document = json.loads(mail_host.apply("--json", code=4).stdout)
    assert time.monotonic() - begin < 30
    assert document["result"] == "applied"
    assert {each["server"]: each["unconfirmed"] for each in document["confirmations"]} == {
        "postfix": ["mail.a.test"],
        "dovecot": ["mail.a.test"],
    }
    assert ["not confirmed" in warning for warning in document["warnings"]] == [True, True]
    mail_host.assert_served("mail.a.test", renewed)

    slow.unlink()
    reloads = mail_host.reloads()
    assert json.loads(mail_host.apply("--json").stdout)["result"] == "unchanged"
    assert mail_host.reloads() == reloads


@pytest.mark.shared
def test_servers_that_are_slow_for_a_moment_are_confirmed(slow_host: tuple[MailHost, Path]) -> None:
    mail_host, slow = slow_host
    command = mail_host.settings["dovecot"]["action"]
    assert isinstance(command, list)
    script = f"(sleep 1.5; rm {slow}) >/dev/null 2>&1 & {command[-1]}"
    mail_host.configure(dovecot={"action": ["/bin/sh", "-c", script]})
    renewed = mail_host.renew("mail.a.test")
    mail_host.apply()
    mail_host.assert_served("mail.a.test", renewed)


@pytest.mark.shared
def test_a_dovecot_whose_processes_fail_to_start_is_not_slow(mail_host: MailHost) -> None:
    """Its clients wait for an answer, as those of a slow one do; but it says so itself, and it is taken back."""
    first = mail_host.issue("mail.a.test")
    mail_host.apply()
    tight = mail_host.dovecot.include_directory / "tight.conf"
    reload = f"{find_tool('doveadm')} -c {mail_host.dovecot.config_file} reload"
    script = (
        f"if grep -q mail.b.test {mail_host.include_file}; "
        f"then printf 'service config {{\\n  vsz_limit = 2M\\n}}\\n' > {tight}; else rm -f {tight}; fi; exec {reload}"
    )
    mail_host.configure(verify={"timeout": 2}, dovecot={"action": ["/bin/sh", "-c", script]})
    mail_host.issue("mail.b.test")
    done = mail_host.mailsni("apply")
    assert "its services fail to start: config" in done.stderr
    # Dovecot waits for some seconds before it tries again: too long for the way back, on some machines.
    assert done.returncode in {Exit.ROLLED_BACK, Exit.ROLLBACK_FAILED}
    assert "mail.b.test" not in mail_host.include_file.read_text()
    assert not tight.exists()
    mail_host.dovecot.restart()
    mail_host.assert_served("mail.a.test", first)
