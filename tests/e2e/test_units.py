"""The systemd units are right, hard, and let the real job through; the cron job is run by a real cron.

systemd is not the first process here. So its own tools judge the units, and what the sandbox of the service allows is
built by hand: a read-only file system but for the paths of the unit, no temporary directory, the capabilities of the
unit, no new privileges. The system calls of a run are held against the filter of the unit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.settings import Settings
from mailsni.host.commands import environment, find_tool, parent, require_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.setup.autostart import Kind, startup_files
from tests.support.mail_host import MailHost, require
from tests.support.processes import LIMIT, running, until

NAME = "mail.one.test"
PROGRAM = Path(sys.executable).with_name("mailsni")
EXPOSURE = {"mailsni.service": 29, "mailsni-watch.service": 29}
"""What `systemd-analyze security` may give at most, times ten (0 is best, 100 is open)."""


def write_units(directory: Path, settings: Settings, kind: Kind, named: Path | None = None) -> list[Path]:
    written = []
    for unit in startup_files("systemd", kind, PROGRAM, named, settings):
        path = directory / unit.path.name
        path.write_bytes(unit.text)
        written.append(path)
    return written


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    tool = find_tool("systemd-analyze")
    require(None if tool else "systemd-analyze: not installed")
    return subprocess.run(
        [str(tool), *map(str, words)], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("kind", ["timer", "watch"])
@pytest.mark.parametrize("named", [None, Path("/srv/mailsni/config.toml")])
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path, kind: Kind, named: Path | None) -> None:
    units = write_units(tmp_path, Settings(), kind, named)
    done = analyze("verify", "--man=no", "--recursive-errors=no", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["timer", "watch"])
def test_the_services_are_hardened(tmp_path: Path, kind: Kind, figures: list[str]) -> None:
    service = write_units(tmp_path, Settings(), kind)[0]
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE[service.name]}", "--no-pager", service)
    overall = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
    figures.append(f"{service.name}: {' '.join(overall).strip()}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_timer_comes_every_hour(tmp_path: Path) -> None:
    timer = next(path for path in write_units(tmp_path, Settings(), "timer") if path.suffix == ".timer")
    when = re.search(r"^OnCalendar=(.+)$", timer.read_text(), re.MULTILINE)
    assert when is not None
    done = analyze("calendar", when[1])
    assert "Normalized form: *-*-* *:00:00" in done.stdout


SANDBOX = """
# A private /tmp (the doveconf of Dovecot 2.4 writes there), in which the mail host is still to be seen.
mkdir -p /run/private && mount -t tmpfs tmpfs /run/private
for path in /tmp/*/; do mkdir "/run/private/${path#/tmp/}" && mount --rbind "$path" "/run/private/${path#/tmp/}"; done
mount --move /run/private /tmp
for path in $WRITABLE; do mount --bind $path $path; done
findmnt -rn -o TARGET | while read -r target; do
    case " $WRITABLE /tmp /proc /sys /dev " in *" $target "*) continue ;; esac
    case $target in /proc/*|/sys/*|/dev/*) continue ;; esac
    mount -o remount,bind,ro "$target"
done
exec 3>&2 2>/dev/null
if touch /root/x || touch /etc/x || touch /var/tmp/x || touch /usr/x; then
    echo "the file system can be written" >&3
    exit 99
fi
exec 2>&3 3>&-
ulimit -c 0
umask 0077
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,$CAPABILITIES "$@"
"""


def in_the_sandbox(mail_host: MailHost, kind: Kind, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The program as the rendered service would run it: a command, and its environment."""
    settings = parser.load(mail_host.config, required=True)
    service = startup_files("systemd", kind, PROGRAM, mail_host.config, settings)[0].text.decode()
    paths = [Path(path) for path in re.findall(r"^ReadWritePaths=-(.+)$", service, re.MULTILINE)]
    capabilities = re.findall(r"^CapabilityBoundingSet=(.+)$", service, re.MULTILINE)[0].lower().split()
    variables = {
        "WRITABLE": " ".join(str(path) for path in paths if path.exists()),
        "CAPABILITIES": ",".join(f"+{one.removeprefix('cap_')}" for one in capabilities),
    }
    own = ["--config", str(mail_host.config), *arguments]
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SANDBOX, "sh", str(PROGRAM), *own]
    return words, environment() | variables


def sandboxed(mail_host: MailHost, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end as the service of the timer would."""
    words, variables = in_the_sandbox(mail_host, "timer", *arguments)
    return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_the_real_job_is_done_inside_the_sandbox_of_the_service(mail_host: MailHost) -> None:
    first = mail_host.issue(NAME)
    done = sandboxed(mail_host, "apply", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    assert mail_host.served_everywhere(NAME) == dict.fromkeys(mail_host.endpoints, first.fingerprint)
    renewed = mail_host.renew(NAME)
    done = sandboxed(mail_host, "apply", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"postfix": "reloaded"' in done.stdout
    assert '"dovecot": "reloaded"' in done.stdout
    assert mail_host.served_everywhere(NAME) == dict.fromkeys(mail_host.endpoints, renewed.fingerprint)


def is_served(mail_host: MailHost, issued: Issued) -> bool:
    return set(mail_host.served_everywhere(NAME).values()) == {issued.fingerprint}


def test_the_watcher_does_its_job_inside_the_sandbox_of_its_service(mail_host: MailHost, tmp_path: Path) -> None:
    issued = mail_host.issue(NAME)
    words, variables = in_the_sandbox(mail_host, "watch", "watch")
    log = tmp_path / "log"
    with running(words, log, variables) as watcher:
        for _ in range(2):
            until(partial(is_served, mail_host, issued), log.read_text, beside=watcher)
            issued = mail_host.renew(NAME)
        watcher.terminate()
        assert watcher.wait(LIMIT) == 0, log.read_text()


def test_no_system_call_of_a_run_is_outside_the_filter_of_the_service(mail_host: MailHost, tmp_path: Path) -> None:
    mail_host.issue(NAME)
    listed = analyze("syscall-filter", "--no-pager").stdout
    sets: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in re.sub(r"\x1b\[[0-9;]*m", "", listed).splitlines():
        if line.startswith("@"):
            sets[line.split()[0]] = current = set()
        elif line.startswith("    ") and not line.lstrip().startswith("#"):
            current.add(line.strip())

    def members(name: str) -> set[str]:
        return {call for one in sets[name] for call in (members(one) if one.startswith("@") else {one})}

    log = tmp_path / "strace"
    tracing: list[str | Path] = [require_tool("strace"), "-f", "-qq", "-o", log, "-e", "signal=none"]
    done = run([*tracing, PROGRAM, "--config", mail_host.config, "apply"], timeout=120)
    assert done.returncode == 0, done.stderr
    made = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))
    assert len(made) > 50
    assert {"execve", "openat", "rename", "connect", "kill"} <= made
    assert made - members("@system-service") - members("@default") == set()
    # What the other filters of the unit look at is not the call, but what it is given.
    calls = log.read_text(errors="replace")
    families = set(re.findall(r" socket\((AF_\w+|PF_\w+)", calls))
    assert {"AF_UNIX", "AF_INET"} <= families <= {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
    forbidden = {
        "MemoryDenyWriteExecute": r" mmap\(.*PROT_WRITE\|PROT_EXEC| (?:pkey_)?mprotect\(.*PROT_EXEC| shmat\(.*SHM_EXEC",
        "RestrictNamespaces": r" (?:clone3?|unshare)\(.*CLONE_NEW| setns\(",
        "RestrictSUIDSGID": r" (?:f?chmod|fchmodat2?|open|openat|mkdir|mkdirat)\(.*\b0[246][0-7]{3}\b",
        "RestrictRealtime": r" sched_setscheduler\(.*SCHED_(?:FIFO|RR|DEADLINE)",
        "LockPersonality": r" personality\(",
    }
    assert " mmap(" in calls
    assert {name: found for name, what in forbidden.items() if (found := re.findall(f".*{what}.*", calls))} == {}


def is_at_work(number: int) -> bool:
    """Whether a process has others below it."""
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if parent(int(one.name)) == number:
                return True
    return False


@pytest.mark.shared
@pytest.mark.real_host
def test_a_real_cron_runs_the_job_and_mails_only_when_it_fails(mail_host: MailHost, tmp_path: Path) -> None:
    issued = mail_host.issue(NAME)
    require(None if "MAILSNI_LAB_RELEASE" in os.environ else "/etc of this host is not to be written")
    require(None if find_tool("cron") else "cron: not installed")
    run([require_tool("postfix"), "check"], timeout=60)  # makes the directories of the queue
    mails = Path("/var/spool/postfix/maildrop")
    assert list(mails.iterdir()) == []
    missing = tmp_path / "missing.toml"
    jobs = {Path("/etc/cron.d/mailsni"): mail_host.config, Path("/etc/cron.d/mailsni-fails"): missing}
    for path, named in jobs.items():
        job = startup_files("cron", "timer", PROGRAM, named, Settings())[0].text.decode()
        assert "\n*/15 * * * * root " in job
        path.write_text(job.replace("*/15 * * * *", "* * * * *"))
    log = tmp_path / "cron.log"
    try:
        with running([str(require_tool("cron")), "-f"], log) as cron:
            until(
                lambda: (
                    mail_host.served("imaps", NAME) == issued.fingerprint
                    and any(mails.iterdir())
                    and not is_at_work(cron.pid)
                ),
                log.read_text,
                beside=cron,
            )
        texts = [path.read_bytes().decode(errors="replace") for path in mails.iterdir()]
        assert [text for text in texts if str(missing) not in text] == [], "a run that went well was mailed"
    finally:
        for path in (*jobs, *mails.iterdir()):
            path.unlink()
