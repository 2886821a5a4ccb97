"""Each mistake in hooks, cron jobs and leftovers that `mailsni doctor` knows: named, placed, mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailsni.doctor.finding import Finding
from mailsni.host.commands import find_tool
from tests.support.doctor_host import ERROR, NOTE, WARNING, DoctorHost, Mistake, Plant, edit_of, run_fix
from tests.support.mail_host import require


def at_line(path: Path, number: int = 3) -> str:
    return f"{path}:{number}"


def _gone(_: DoctorHost, finding: Finding) -> None:
    """The fix is to remove the line, or to write another one there."""
    assert "remove the " in edit_of(finding)
    Path(finding.where.rpartition(":")[0]).write_text("#!/bin/sh\n")


def _link(host: DoctorHost) -> str:
    path = host.hooks / "post" / "link"
    path.symlink_to("/nowhere")
    return str(path)


def _in_cli_ini(host: DoctorHost) -> str:
    path = host.mail_host.store.root / "cli.ini"
    path.write_text("# certbot's\nmax-log-backups = 0\ndeploy-hook = systemctl restart dovecot.service\n")
    return at_line(path)


def _fifo(host: DoctorHost) -> str:
    path = host.hooks / "pre" / "fifo"
    os.mkfifo(path, 0o700)
    return str(path)


def _in_renewal(host: DoctorHost) -> str:
    path = host.mail_host.store.renewal / "one.test.conf"
    path.write_text(path.read_text() + "renew_hook = systemctl restart postfix dovecot\n")
    return host.line(path, "renew_hook")


def _renewal_hook_gone(host: DoctorHost, finding: Finding) -> None:
    assert "reload" in edit_of(finding)
    host.mail_host.store._write_renewal("one.test")


def _cron(text: str) -> Plant:
    def plant(host: DoctorHost) -> str:
        path = host.root / "etc/cron.d/sni"
        path.write_text(f"SHELL=/bin/sh\n\n{text}\n")
        return at_line(path)

    return plant


def _cron_script(host: DoctorHost) -> str:
    script = host.root / "root/update-sni"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\nset -e\npostmap -F hash:/etc/postfix/sni\n")
    (host.root / "var/spool/cron/crontabs").mkdir(parents=True)
    (host.root / "var/spool/cron/crontabs/root").write_text("@daily /root/update-sni >/dev/null\n")
    return at_line(script)


def _nothing_starts(host: DoctorHost) -> str:
    record = host.mail_host.directory / "state/runs.json"
    record.write_text(record.read_text().replace('"cron"', '"terminal"'))
    return str(host.hooks / "post")


def _timer(host: DoctorHost, finding: Finding) -> None:
    assert finding.fix.command == "mailsni setup"
    wanted = host.root / "etc/systemd/system/timers.target.wants"
    wanted.mkdir(parents=True)
    (wanted / "mailsni.timer").symlink_to("/etc/systemd/system/mailsni.timer")


def _deploy_hook_alone(host: DoctorHost) -> str:
    _nothing_starts(host)
    return str(host.hook("exec mailsni apply --quiet", name="mailsni"))


def _panel_map(host: DoctorHost) -> str:
    source = host.etc / "vmail_ssl.map"
    source.write_text(f"extra.test {host.pair('one.test')}\n")
    source.chmod(0o644)
    host.shell(f"postmap -c {host.etc} -F hash:{source}")
    return str(source)


HOOKS = [
    Mistake("hook_not_executable", WARNING, lambda host: str(host.hook("true", mode=0o644)), run_fix),
    Mistake("hook_ignored", NOTE, lambda host: str(host.hook("true", name="theirs~")), run_fix),
    Mistake("hook_backup_executable", WARNING, lambda host: str(host.hook("true", name="theirs.sh.bak")), run_fix),
    Mistake("hook_writable", ERROR, lambda host: str(host.hook("true", mode=0o777)), run_fix),
    Mistake("hook_dangling_link", WARNING, _link, run_fix),
    Mistake("hook_not_regular_file", WARNING, _fifo, run_fix),
    Mistake(
        "hook_calls_certbot", WARNING, lambda host: at_line(host.hook("sleep 1; /usr/bin/certbot -q renew")), _gone
    ),
    Mistake("hook_restarts_server", WARNING, lambda host: at_line(host.hook("systemctl restart nginx dovecot")), _gone),
    Mistake("hook_restarts_server", WARNING, lambda host: at_line(host.hook("service postfix restart")), _gone),
    Mistake("hook_restarts_server", WARNING, _in_cli_ini, _gone),
    Mistake("hook_restarts_server", WARNING, _in_renewal, _renewal_hook_gone),
    Mistake(
        "hook_compiles_in_place", WARNING, lambda host: at_line(host.hook("postmap -F hash:/etc/postfix/sni")), _gone
    ),
    Mistake("hook_compiles_without_f", ERROR, lambda host: at_line(host.hook("postmap /etc/postfix/sni_map")), _gone),
    Mistake(
        "cron_compiles_in_place", WARNING, _cron("0 4 * * * root postmap -F lmdb:/etc/postfix/vmail_ssl.map"), _gone
    ),
    Mistake("cron_compiles_in_place", WARNING, _cron_script, _gone),
    Mistake("cron_restarts_server", WARNING, _cron("0 4 * * * root systemctl restart postfix"), _gone),
    Mistake(
        "cron_panel_script",
        WARNING,
        _cron("0 4 * * * root /usr/local/CyberCP/bin/python /usr/local/CyberCP/plogical/renew.py"),
        _gone,
    ),
    Mistake("mailsni_not_scheduled", WARNING, _nothing_starts, _timer),
    Mistake("first_issuance_missed", WARNING, _deploy_hook_alone, _timer),
    Mistake("leftover_map", ERROR, _panel_map, run_fix),
]


@pytest.mark.shared
@pytest.mark.parametrize("mistake", HOOKS, ids=[f"{one.code}-{at}" for at, one in enumerate(HOOKS)])
def test_a_mistake_in_what_is_started_is_named_and_its_fix_mends_it(doctor_host: DoctorHost, mistake: Mistake) -> None:
    require(None if find_tool("certbot") else "certbot: not installed")
    mistake.try_on(doctor_host)
