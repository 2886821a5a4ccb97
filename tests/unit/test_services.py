"""Which command restarts a server, by what keeps it running."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsni.services import Keeper, restart_commands

OWN = ((Path("/usr/sbin/postfix"), "stop"), (Path("/usr/sbin/postfix"), "start"))
SCRIPT = Path("/etc/init.d/postfix")


@pytest.mark.parametrize(
    ("keeper", "commands"),
    [
        (Keeper(), OWN),
        (Keeper(unit="postfix@-.service", init_script=SCRIPT), (("systemctl", "restart", "postfix@-.service"),)),
        (Keeper(supervised=17), ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (Keeper(supervised=17, init_script=SCRIPT), ((Path("/bin/sh"), "-c", "kill -TERM 17"),)),
        (Keeper(openrc=True, init_script=SCRIPT), (("rc-service", "postfix", "restart"),)),
        (Keeper(openrc=True), OWN),
        (Keeper(init_script=SCRIPT), ((SCRIPT, "restart"),)),
    ],
)
def test_who_keeps_a_server_running_restarts_it(keeper: Keeper, commands: tuple[tuple[str | Path, ...], ...]) -> None:
    assert restart_commands(keeper, OWN) == commands
