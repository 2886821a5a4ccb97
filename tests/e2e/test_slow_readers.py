"""A server that starts slowly beside applies finds every file that it is about to open."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from mailsni.host.commands import require_tool
from tests.support.fault_host import strace_unavailable
from tests.support.mail_host import MailHost, require
from tests.support.processes import running, until

NAMES = ("mail.a.test", "mail.b.test", "mail.c.test")
_PIN = re.compile(r"[^\s<\"]+\.pem")


def is_stopped(pid: int) -> bool:
    """Whether a process is there and stands still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_dovecot_starts_though_everything_is_renewed_twice_while_it_reads(mail_host: MailHost, tmp_path: Path) -> None:
    """It is held where it opens the first pinned file that its configuration names; the others come later."""
    require(strace_unavailable())
    for name in NAMES:
        mail_host.issue(name)
    mail_host.apply()
    dovecot, log = mail_host.dovecot, tmp_path / "strace"
    dovecot.stop()
    first = _PIN.findall(mail_host.include_file.read_text())[0]
    words = ["-f", "-qq", "-o", log, "-P", first, "-e", "trace=open,openat", "-e", "inject=open,openat:signal=SIGSTOP"]
    start = [require_tool("strace"), *words, require_tool("dovecot"), "-c", dovecot.config_file]
    with running([str(word) for word in start], tmp_path / "output") as process:
        until(lambda: log.exists() and first in log.read_text(), "it opens no pinned file", beside=process)
        pid = int(log.read_text().split()[0])
        until(lambda: is_stopped(pid), "it is not held")
        wanted: dict[str, str] = {}
        for _ in range(2):
            wanted = {name: mail_host.renew(name).fingerprint for name in NAMES}
            mail_host.apply()
        assert first not in mail_host.include_file.read_text()

        def is_running() -> bool:
            if is_stopped(pid):
                os.kill(pid, signal.SIGCONT)
            return dovecot.running()

        until(is_running, lambda: (tmp_path / "output").read_text() + dovecot.log.read_text()[-2000:], beside=process)
        dovecot.reload()
        until(lambda: {name: mail_host.served("imaps", name) for name in NAMES} == wanted, "the renewed ones")
        dovecot.stop()
