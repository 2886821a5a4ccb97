"""Which command restarts a server, by what keeps it running."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.targets.reload import Command, restart_commands, unit_of

OWN = ((Path("/usr/sbin/postfix"), "stop"), (Path("/usr/sbin/postfix"), "start"))
SCRIPT = Path("/etc/init.d/postfix")


@pytest.mark.parametrize(
    ("unit", "supervised", "openrc", "script", "commands"),
    [
        (None, None, False, None, OWN),
        ("postfix@-.service", None, False, SCRIPT, (("systemctl", "restart", "postfix@-.service"),)),
        (None, 17, False, None, ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (None, 17, False, SCRIPT, ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (None, None, True, SCRIPT, (("rc-service", "postfix", "restart"),)),
        (None, None, True, None, OWN),
        (None, None, False, SCRIPT, ((SCRIPT, "restart"),)),
    ],
)
def test_who_keeps_a_server_running_restarts_it(
    *, unit: str | None, supervised: int | None, openrc: bool, script: Path | None, commands: tuple[Command, ...]
) -> None:
    assert restart_commands(OWN, unit=unit, supervised=supervised, openrc=openrc, script=script) == commands


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/dovecot.service\n", "dovecot.service"),
        ("0::/system.slice/system-postfix.slice/postfix@-.service\n", "postfix@-.service"),
        ("4:memory:/\n1:name=systemd:/system.slice/dovecot.service\n0::/\n", "dovecot.service"),
        ("0::/system.slice/dovecot.service/workers\n", "dovecot.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_of_a_master_process(groups: str, unit: str | None) -> None:
    assert unit_of(groups) == unit
