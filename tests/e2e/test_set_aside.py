"""A certificate that mailsni and OpenSSL accept, and that one of the servers refuses, beside good ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailsni.host.commands import require_tool, run
from tests.support.mail_host import ABORTED, MailHost


def applied(mail_host: MailHost, *arguments: str, code: int) -> dict[str, Any]:
    """Apply, and give what it says of itself."""
    document = json.loads(mail_host.apply("--json", *arguments, code=code).stdout)
    assert isinstance(document, dict)
    return document


def refuse_rsa(mail_host: MailHost) -> None:
    """Have Postfix take no RSA certificate, as an administrator may who trims the list of ciphers."""
    settings = ["smtpd_tls_protocols=!SSLv2, !SSLv3, !TLSv1, !TLSv1.1, !TLSv1.3", "smtpd_tls_exclude_ciphers=aRSA"]
    done = run([require_tool("postconf"), "-c", mail_host.postfix.config_directory, "-e", *settings])
    assert done.returncode == 0, done.stderr
    mail_host.postfix.settle()
    mail_host.postfix.reload()


def test_a_certificate_that_one_server_refuses_is_set_aside_and_the_others_are_served(mail_host: MailHost) -> None:
    mail_host.configure(verify={"timeout": 2})
    refuse_rsa(mail_host)
    first = {name: mail_host.issue(f"mail.{name}.test") for name in "abc"}
    applied(mail_host, code=0)

    refused = mail_host.authority.issue(["mail.a.test"], algorithm="rsa")
    mail_host.store.put("mail.a.test", refused)
    renewed, new = mail_host.renew("mail.b.test"), mail_host.issue("mail.d.test")
    document = applied(mail_host, code=4)
    problems = {each["reason"]: each for each in document["skipped"]}
    assert set(problems) == {"set_aside", "kept_last_good"}
    assert problems["set_aside"]["names"] == ["mail.a.test"]
    assert "postfix cut off the clients of mail.a.test" in problems["set_aside"]["detail"]
    expected = {"mail.a.test": first["a"], "mail.b.test": renewed, "mail.c.test": first["c"], "mail.d.test": new}
    mail_host.dovecot.restart()
    for name, issued in expected.items():
        mail_host.assert_served(name, issued)

    reloads = mail_host.reloads()
    assert applied(mail_host, code=4)["result"] == "unchanged"
    assert mail_host.reloads() == reloads
    assert "set_aside" in mail_host.mailsni("status", "--skipped").stdout
    assert "set_aside" in mail_host.mailsni("check").stdout

    mended = mail_host.renew("mail.a.test")
    assert applied(mail_host, code=0)["skipped"] == []
    mail_host.assert_served("mail.a.test", mended)


@pytest.mark.shared
def test_a_refused_certificate_that_a_killed_run_left_live_is_set_aside_by_the_next_one(mail_host: MailHost) -> None:
    """It is cut off already when that run begins, and nothing but the journal says that this is new."""
    mail_host.configure(verify={"timeout": 2})
    refuse_rsa(mail_host)
    first = {name: mail_host.issue(f"mail.{name}.test") for name in "ab"}
    applied(mail_host, code=0)
    mail_host.store.put("mail.a.test", mail_host.authority.issue(["mail.a.test"], algorithm="rsa"))
    mail_host.configure(dovecot={"action": ["/bin/sh", "-c", "kill -9 $PPID"]})
    assert mail_host.mailsni("apply").returncode == -9
    assert mail_host.served("smtp", "mail.a.test") == ABORTED

    mail_host.configure(dovecot={"action": "auto"})
    renewed = mail_host.renew("mail.b.test")
    document = applied(mail_host, code=4)
    assert {each["reason"] for each in document["skipped"]} == {"set_aside", "kept_last_good"}
    mail_host.assert_served("mail.a.test", first["a"])
    mail_host.assert_served("mail.b.test", renewed)
    assert applied(mail_host, code=4)["result"] == "unchanged"
