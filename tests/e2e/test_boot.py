"""The units in a system that boots: systemd is the first process of name spaces of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailsni.config.settings import Settings
from mailsni.host.commands import find_tool
from mailsni.setup.autostart import Kind, startup_files
from tests.support.mail_host import require
from tests.support.processes import running, until

pytestmark = pytest.mark.shared

SYSTEMD = Path("/usr/lib/systemd")
KINDS: tuple[Kind, ...] = ("timer", "watch")
UNITS = ("time-sync.target", "mailsni.timer", "mailsni-watch.service")
CANNOT_BOOT = 99
BOOT = f"""
mount --bind "$1" /mnt && mount --bind /mnt/units /etc/systemd/system
# Nothing of the system but these units is to be started, or to clean up.
for place in /tmp /var/tmp /run {SYSTEMD}/system/sysinit.target.wants; do mount -t tmpfs tmpfs $place; done
mount -t proc proc /proc && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit {CANNOT_BOOT}
export container=lab
exec {SYSTEMD}/systemd --system --unit=test.target
"""
IN_TEST = """[Service]
Type=simple
ExecStart=
ExecStart=/bin/sleep infinity
ExecStopPost=
"""
CLOCK = """[Unit]
DefaultDependencies=no
Wants=time-sync.target
Before=time-sync.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 2
"""
REPORT = f"""[Unit]
DefaultDependencies=no
After={" ".join(UNITS)}
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'systemctl show -p Id -p ActiveState -p ActiveEnterTimestampMonotonic {" ".join(UNITS)} > /mnt/new'
ExecStart=/bin/mv /mnt/new /mnt/report
"""


def write_system(directory: Path, *, knows_its_clock: bool) -> None:
    """Our units, a service that finds out the time, and one that says how all of this was started."""
    units = directory / "units"
    units.mkdir()
    for unit in (
        file for kind in KINDS for file in startup_files("systemd", kind, Path("/bin/true"), None, Settings())
    ):
        (units / unit.path.name).write_bytes(unit.text)
        if unit.path.suffix == ".service":
            drop_in = units / f"{unit.path.name}.d/test.conf"
            drop_in.parent.mkdir()
            drop_in.write_text(IN_TEST)
    (units / "clock.service").write_text(CLOCK)
    (units / "report.service").write_text(REPORT)
    wanted = ["report.service", *UNITS[1:], *(["clock.service"] if knows_its_clock else [])]
    (units / "test.target").write_text(f"[Unit]\nWants={' '.join(wanted)}\n")


@pytest.mark.parametrize("knows_its_clock", [True, False])
def test_nothing_starts_before_the_clock_is_right_where_the_system_knows(
    tmp_path: Path, *, knows_its_clock: bool
) -> None:
    """And where nothing of the system tells, nothing waits, and nothing pretends that the clock is right."""
    require(None if (SYSTEMD / "systemd").exists() else "systemd: not installed")
    write_system(tmp_path, knows_its_clock=knows_its_clock)
    apart = ["--pid", "--mount", "--cgroup", "--ipc", "--net", "--fork", "--kill-child"]
    words = [str(find_tool("unshare")), *apart, "/bin/sh", "-c", BOOT, "sh", str(tmp_path)]
    log, report = tmp_path / "log", tmp_path / "report"
    with running(words, log) as process:
        until(lambda: report.exists() or process.poll() is not None, log.read_text)
    if process.returncode == CANNOT_BOOT:
        pytest.skip("no control groups of its own here")
    found = dict(re.findall(r"Id=(\S+)\nActiveState=(\w+)", report.read_text()))
    since = dict(re.findall(r"Id=(\S+)\n.*\nActiveEnterTimestampMonotonic=(\d+)", report.read_text()))
    clock, *ours = UNITS
    assert [found[unit] for unit in ours] == ["active", "active"]
    assert (found[clock] == "active") is knows_its_clock
    if knows_its_clock:
        assert all(int(since[unit]) >= int(since[clock]) for unit in ours), since
