"""certbot itself, issuing and renewing against a real ACME server, with the hook that the project ships."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import sys
from pathlib import Path

import pytest

from mailsni.sandbox.lineages import CertbotDirectory
from tests.support.mail_host import Certbot, Laboratory

HOOKS = Path(__file__).parents[2] / "hooks"


def leaf(lineage: Path) -> str:
    """The fingerprint of the certificate that certbot keeps for a lineage."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((lineage / "cert.pem").read_text())).hexdigest()


@pytest.fixture
def store(certbot: Certbot) -> CertbotDirectory:
    """The laboratory reads certbot's own directory."""
    return CertbotDirectory(certbot.config_directory)


def test_a_renewal_reaches_the_wire_through_the_post_hook(certbot: Certbot, laboratory: Laboratory) -> None:
    first = certbot.issue("mail.a.test", "imap.a.test", lineage="any-name")
    certbot.issue("*.b.test", "b.test", options=["--key-type", "rsa"])
    assert laboratory.mailsni("apply").returncode == 0
    assert laboratory.served("smtp", "mail.a.test") == leaf(first)
    assert laboratory.served("imaps", "smtp.b.test") == leaf(certbot.config_directory / "live" / "b.test")

    hook = certbot.config_directory / "renewal-hooks" / "post" / "mailsni"
    hook.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(HOOKS / "certbot-post", hook)
    before = leaf(first)
    program = Path(sys.executable).parent
    path = f"{program}:/usr/bin:/bin"
    certbot.renew(hook_environment={"MAILSNI_CONFIG": str(laboratory.config), "PATH": path})
    assert leaf(first) != before
    for service in laboratory.endpoints:
        assert laboratory.served(service, "mail.a.test") == leaf(first)
        assert laboratory.served(service, "mx.b.test") == leaf(certbot.config_directory / "live" / "b.test")


def test_a_deleted_lineage_leaves_both_servers_at_the_next_run(certbot: Certbot, laboratory: Laboratory) -> None:
    certbot.issue("mail.a.test")
    certbot.issue("mail.b.test")
    assert laboratory.mailsni("apply").returncode == 0
    certbot.delete("mail.a.test")
    assert laboratory.mailsni("apply").returncode == 0
    for service in laboratory.endpoints:
        assert laboratory.served(service, "mail.a.test") == laboratory.default.fingerprint
        assert laboratory.served(service, "mail.b.test") == leaf(certbot.config_directory / "live" / "mail.b.test")
