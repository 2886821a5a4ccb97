"""Which command restarts a server, by what keeps it running."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.targets.reload import ServiceManager, restart_commands, unit_of

OWN = ((Path("/usr/sbin/postfix"), "stop"), (Path("/usr/sbin/postfix"), "start"))
SCRIPT = Path("/etc/init.d/postfix")


@pytest.mark.parametrize(
    ("manager", "commands"),
    [
        (ServiceManager(), OWN),
        (
            ServiceManager(unit="postfix@-.service", init_script=SCRIPT),
            (("systemctl", "restart", "postfix@-.service"),),
        ),
        (ServiceManager(supervisor_pid=17), ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (ServiceManager(supervisor_pid=17, init_script=SCRIPT), ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (ServiceManager(openrc=True, init_script=SCRIPT), (("rc-service", "postfix", "restart"),)),
        (ServiceManager(openrc=True), OWN),
        (ServiceManager(init_script=SCRIPT), ((SCRIPT, "restart"),)),
    ],
)
def test_who_keeps_a_server_running_restarts_it(
    manager: ServiceManager, commands: tuple[tuple[str | Path, ...], ...]
) -> None:
    assert restart_commands(manager, OWN) == commands


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
