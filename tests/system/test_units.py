"""What the systemd services run after their end, by a real shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from mailsni.config.settings import Settings
from mailsni.setup.autostart import Kind, startup_files


def after_the_end(tmp_path: Path, program: str, result: str, status: str) -> tuple[str, str]:
    """What the services run after their end: gives what the journal and the mailer get.

    systemd.service(5): a doubled dollar or percent sign is one, ``%n`` the unit, and a backslash joins lines.
    """
    directory = tmp_path / "bin"
    directory.mkdir(exist_ok=True)
    for name, text in (("mailsni", program), ("sendmail", f"(echo to $*; cat) >> {tmp_path}/mailed")):
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    found = set()
    for kind in get_args(Kind):
        service = startup_files("systemd", kind, directory / "mailsni", None, Settings())[0]
        line = re.findall(r"^ExecStopPost=\+/bin/sh -c '(.*?)'$", service.text.decode(), re.MULTILINE | re.DOTALL)[0]
        found.add(line.replace("\\\n", " ").replace("\\\\", "\\").replace("$$", "$").replace("%%", "%"))
    (script,) = found
    done = subprocess.run(
        ["/bin/sh", "-c", script.replace("%n", "mailsni.service").replace("/run/mailsni.told", f"{tmp_path}/told")],
        env={"PATH": f"{directory}:/usr/bin:/bin", "SERVICE_RESULT": result, "EXIT_STATUS": status},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    mailed = tmp_path / "mailed"
    return done.stderr, mailed.read_text() if mailed.exists() else ""


def test_of_a_program_that_cannot_start_the_journal_is_told_and_root_once_a_day(tmp_path: Path) -> None:
    line = f"mailsni: error: mailsni.service: {tmp_path}/bin/mailsni did not end as it should (exit-code, status 1)"
    told, mailed = after_the_end(tmp_path, "exit 1", "exit-code", "1")
    assert told == f"{line}: new certificates may not be served\n"
    assert mailed == f"to root\nTo: root\nSubject: {line}\n\njournalctl -u mailsni.service; mailsni doctor\n"
    assert after_the_end(tmp_path, "exit 1", "exit-code", "1") == (told, mailed)
    os.utime(tmp_path / "told", (0, 0))
    assert after_the_end(tmp_path, "exit 1", "exit-code", "1") == (told, mailed * 2)


@pytest.mark.parametrize(
    ("program", "result", "status", "told"),
    [
        ("exit 0", "success", "0", False),
        ("exit 0", "success", "4", False),
        ("exit 0", "exit-code", "1", False),  # it has said so itself
        ("exit 0", "exit-code", "203", True),  # systemd could not execute it
        ("exit 0", "exit-code", "226", True),  # or not make its sandbox
        ("exit 0", "timeout", "TERM", True),
        ("exit 0", "oom-kill", "KILL", True),
        ("exit 127", "exit-code", "127", True),
    ],
)
def test_a_program_that_could_report_its_failure_is_left_to_do_it(
    tmp_path: Path, program: str, result: str, status: str, *, told: bool
) -> None:
    said, mailed = after_the_end(tmp_path, program, result, status)
    assert (bool(said), bool(mailed)) == (told, told)
