"""``mailsni demo`` shows the whole job, with the servers of the host, and without any."""

from __future__ import annotations

import pytest

from mailsni.host.commands import find_tool
from tests.support.processes import PROGRAM, run_command

TOOLS = ("postfix", "postconf", "postmap", "dovecot", "doveconf", "doveadm")


@pytest.mark.parametrize("hidden", [(), TOOLS[:3], TOOLS], ids=["both", "no Postfix", "no server"])
def test_every_name_of_the_demo_gets_the_right_certificate(hidden: tuple[str, ...]) -> None:
    """Without Postfix the berkeleydb package makes the map, and it is read back."""
    hide = "".join(f"mount --bind /dev/null {find_tool(tool)}\n" for tool in hidden)
    done = run_command(["unshare", "--mount", "sh", "-ec", f"{hide}exec {PROGRAM} demo"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nEvery name gets the right certificate.\n" in done.stdout
    assert ("read back from the compiled Postfix map" in done.stdout) is bool(hidden)
    assert ("probed as a mail client does" in done.stdout) is (hidden != TOOLS)
