#!/usr/bin/env python3
"""Run a command and measure which lines of mailsni every Python process of this environment executes meanwhile.

    scripts/measure.py DIRECTORY COMMAND…

Each process leaves one data file of coverage.py in DIRECTORY. A .pth file starts the measurement, since tests start
the program with environments of their own, which would lose coverage.py's variables. Exit code: the command's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

CONFIGURATION = Path(__file__).resolve().parents[1] / "pyproject.toml"
STARTUP = """\
import os; \
os.environ.update(COVERAGE_PROCESS_START={configuration!r}, COVERAGE_FILE={data!r}); \
import coverage; \
coverage.process_startup(); \
del os.environ["COVERAGE_PROCESS_START"], os.environ["COVERAGE_FILE"]
"""
"""One line, as site.py wants it."""


def main(directory: Path, command: list[str]) -> int:
    """Install the .pth file, run the command, and remove the file."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o1777)  # programs under test also run as other users
    startup = Path(sysconfig.get_path("purelib"), "mailsni-measure.pth")
    startup.write_text(STARTUP.format(configuration=str(CONFIGURATION), data=str(directory.resolve() / "data")))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        startup.unlink()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
