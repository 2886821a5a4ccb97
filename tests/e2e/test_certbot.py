"""certbot itself, issuing and renewing against a real ACME server, with the hook that the project ships."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import sys
from pathlib import Path

import pytest

from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import Certbot, MailHost

HOOKS = Path(__file__).parents[2] / "hooks"


def leaf(lineage: Path) -> str:
    """The fingerprint of the certificate that certbot keeps for a lineage."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((lineage / "cert.pem").read_text())).hexdigest()


@pytest.fixture
def store(certbot: Certbot) -> CertbotDirectory:
    """The mail host reads certbot's own directory."""
    return CertbotDirectory(certbot.config_directory)


def test_a_renewal_reaches_the_wire_through_the_post_hook(certbot: Certbot, mail_host: MailHost) -> None:
    first = certbot.issue("mail.a.test", "imap.a.test", lineage="any-name")
    certbot.issue("*.b.test", "b.test", options=["--key-type", "rsa"])
    assert mail_host.mailsni("apply").returncode == 0
    assert mail_host.served("smtp", "mail.a.test") == leaf(first)
    assert mail_host.served("imaps", "smtp.b.test") == leaf(certbot.config_directory / "live" / "b.test")

    hook = certbot.config_directory / "renewal-hooks" / "post" / "mailsni"
    hook.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(HOOKS / "certbot-post", hook)
    before = leaf(first)
    program = Path(sys.executable).parent
    path = f"{program}:/usr/bin:/bin"
    certbot.renew(hook_environment={"MAILSNI_CONFIG": str(mail_host.config), "PATH": path})
    assert leaf(first) != before
    for service in mail_host.endpoints:
        assert mail_host.served(service, "mail.a.test") == leaf(first)
        assert mail_host.served(service, "mx.b.test") == leaf(certbot.config_directory / "live" / "b.test")


def test_a_deleted_lineage_leaves_both_servers_at_the_next_run(certbot: Certbot, mail_host: MailHost) -> None:
    certbot.issue("mail.a.test")
    certbot.issue("mail.b.test")
    assert mail_host.mailsni("apply").returncode == 0
    certbot.delete("mail.a.test")
    assert mail_host.mailsni("apply").returncode == 0
    for service in mail_host.endpoints:
        assert mail_host.served(service, "mail.a.test") == mail_host.default.fingerprint
        assert mail_host.served(service, "mail.b.test") == leaf(certbot.config_directory / "live" / "mail.b.test")
