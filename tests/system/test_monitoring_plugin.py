"""A check that takes too long ends by itself, with an answer."""

from __future__ import annotations

import subprocess
import sys

from mailsni.cli import monitoring_plugin


def test_what_takes_too_long_is_ended() -> None:
    program = (
        "import time\nfrom mailsni.cli.monitoring_plugin import unknown_after\nwith unknown_after(0.1): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (3, "MAILSNI UNKNOWN - did not end within 0.1 seconds\n")


def test_what_ends_in_time_is_not() -> None:
    for seconds in (0.05, None):
        with monitoring_plugin.unknown_after(seconds):
            pass
    program = (
        "import time\nfrom mailsni.cli.monitoring_plugin import unknown_after\n"
        "with unknown_after(0.1): pass\ntime.sleep(0.3)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=50)
    assert done.returncode == 0
