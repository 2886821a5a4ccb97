"""A server that runs, and would not start again, is said by everything that looks; what is published harms none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mailsni.deploy.state_directory import State
from mailsni.host import file_identity
from mailsni.host.commands import require_tool
from mailsni.targets.postfix.postconf import Installation
from mailsni.targets.postfix.startup import startup_error
from tests.support import command_line
from tests.support.mail_host import MailHost

NAME = "mail.a.test"
CRITICAL = 2


@contextmanager
def appended(path: Path, text: str, mail_host: MailHost) -> Iterator[None]:
    """A file of a server's configuration with lines more."""
    before = path.read_text()
    path.write_text(before + text)
    mail_host.postfix.settle()
    try:
        yield
    finally:
        path.write_text(before)
        mail_host.postfix.settle()


def said(mail_host: MailHost, code: int, *words: str) -> str:
    done = command_line.invoke("--config", str(mail_host.config), *words)
    assert done.exit_code == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_postfix_that_would_not_start_again_is_said_and_not_reloaded(mail_host: MailHost) -> None:
    """A reload would make master(8) read master.cf, which ends it (measured): every client would be cut off."""
    mail_host.issue(NAME)
    mail_host.apply()
    complaint = "would not start again: "
    with appended(mail_host.postfix.config_directory / "master.cf", "nosuchport inet n - n - - smtpd\n", mail_host):
        found = said(mail_host, CRITICAL, "check", "-v")
        assert f"CRITICAL: postfix: {complaint}" in found
        assert "nosuchport/inet: nosuchport: no such service in /etc/services" in found
        assert "error: Postfix would not start with its configuration: " in said(mail_host, 4, "doctor")
        assert f"warning: postfix: {complaint}" in said(mail_host, 4, "apply")
        assert f"warning: postfix: {complaint}" in said(mail_host, 4, "verify")
        metrics = said(mail_host, 0, "metrics")
        assert 'mailsni_can_start{server="postfix"} 0.0' in metrics
        assert 'mailsni_can_start{server="dovecot"} 1.0' in metrics
        renewed, master = mail_host.renew(NAME), mail_host.postfix.pid()
        done = mail_host.apply(code=4)
        assert "postfix: " in done.stdout
        assert "not reloaded" in done.stdout
        assert f"warning: postfix: {complaint}" in done.stderr
        mail_host.assert_served(NAME, renewed)
        assert mail_host.postfix.pid() == master
    assert said(mail_host, 0, "apply")


def test_a_dovecot_that_would_not_start_again_is_said_by_all(mail_host: MailHost) -> None:
    mail_host.issue(NAME)
    mail_host.configure(verify={"endpoints": "auto"})
    mail_host.apply()
    complaint = "dovecot: would not start again: "
    with appended(mail_host.dovecot.config_file, "no_such_setting = yes\n", mail_host):
        found = said(mail_host, CRITICAL, "check", "-v")
        assert f"CRITICAL: {complaint}" in found
        assert "no_such_setting" in found
        assert f"warning: {complaint}" in said(mail_host, 4, "apply")
        assert f"warning: {complaint}" in said(mail_host, 4, "verify")
        metrics = said(mail_host, 0, "metrics")
        assert 'mailsni_can_start{server="dovecot"} 0.0' in metrics
        assert 'mailsni_wire_up{server="dovecot"} 0.0' in metrics
        assert 'mailsni_wire_up{server="postfix"} 1.0' in metrics
        old, renewed = mail_host.served("imaps", NAME), mail_host.renew(NAME)
        done = mail_host.apply(code=4)
        assert "warning: dovecot: nothing new is published there" in done.stderr
        mail_host.assert_served(NAME, renewed, mail_host.postfix.endpoints)
        assert mail_host.served("imaps", NAME) == old, "its configuration harms no other server"
    mail_host.apply()
    mail_host.assert_served(NAME, renewed)
    assert said(mail_host, 0, "apply")
    assert 'mailsni_wire_up{server="dovecot"} 1.0' in said(mail_host, 0, "metrics")


def test_an_include_of_the_other_release_is_said_and_replaced_without_complaint(idle_mail_host: MailHost) -> None:
    """After an upgrade of Dovecot, which is down: the old include is what it refuses."""
    mail_host = idle_mail_host
    mail_host.issue(NAME, "imap.a.test")
    mail_host.configure(verify={"endpoints": "auto"})
    mail_host.apply()
    other = "2.3" if mail_host.dovecot.version == "2.4" else "2.4"
    mail_host.configure(dovecot={"version": other})
    mail_host.include_file.write_text(mail_host.mailsni("render", "dovecot").stdout)
    mail_host.configure(dovecot={"version": "auto"})
    state = State(mail_host.directory / "state")
    deployed = state.load().deployment
    published = file_identity.published(mail_host.include_file)
    assert published is not None
    state.commit(replace(deployed, files={**deployed.files, str(mail_host.include_file): published}))
    found = said(mail_host, CRITICAL, "check", "-v")
    complaint = f"doveconf: Fatal: Error in configuration file {mail_host.include_file}"
    assert f"CRITICAL: dovecot: would not start again: {complaint}" in found
    assert "edited" not in found
    done = mail_host.apply()
    assert "dovecot: " in done.stdout
    assert done.stderr == ""
    assert said(mail_host, 0, "check")
    with mail_host.dovecot:
        mail_host.dovecot.assert_can_start()


CASES = {
    "": True,
    "127.0.0.1:2525 inet n - n - - smtpd\n": True,
    "99999 inet n - n - - smtpd\n": True,
    "2525 inet - - n - - smtpd\n": False,
    "192.0.2.1:2525 inet n - n - - smtpd\n": False,
    "*:2525 inet n - n - - smtpd\n": False,
    "[::1]:2525 inet n - n - - smtpd\n": False,
    "a/b unix n - n - 0 cleanup\n": False,
    "2525 inet n - n - - smtpd\n  -o { smtpd_banner = x\n": False,
    "default_process_limit = abc\n": False,
    "command_directory = /nonexistent\n": False,
}
"""Lines of master.cf, or of main.cf, and whether Postfix starts with them (it listens on IPv4 alone here)."""


@pytest.mark.parametrize("lines", CASES)
def test_postfix_starts_where_it_is_said_to_start(idle_mail_host: MailHost, lines: str) -> None:
    postfix = idle_mail_host.postfix
    file = postfix.config_directory / ("main.cf" if "_" in lines.partition(" ")[0] else "master.cf")
    with appended(file, lines, idle_mail_host):
        why = startup_error(Installation(postfix.config_directory))
        assert (why is None) is CASES[lines], why
        output = idle_mail_host.directory / "output"
        with output.open("w") as log:  # daemons hold it open
            words = [str(require_tool("postfix")), "-c", str(postfix.config_directory), "start"]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        assert (done.returncode == 0) is CASES[lines], output.read_text()
    if done.returncode == 0:
        postfix.stop()
