"""Real ACME clients renew while ``mailsni watch`` runs: both servers present theirs, and no client is cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailsni.host.commands import find_tool
from tests.support.acme_tools import TOOLS, AcmeTool, acme_tool, root_of
from tests.support.clients import crowd
from tests.support.mail_host import ONE_EACH, Certbot, MailHost
from tests.support.processes import mailsni_command, running, until

pytestmark = [pytest.mark.shared("trixie"), pytest.mark.lasting_logins, pytest.mark.long]

NAME = "mail.a.test"


def use(mail_host: MailHost, tool: AcmeTool) -> None:
    """Have the tool's store be the only one."""
    _, _, rest = mail_host.config.read_text().partition("\n\n")
    store = f"[[sources]]\ntype = {json.dumps(tool.kind)}\npath = {json.dumps(str(tool.path))}\n"
    mail_host.config.write_text(f"{store}\n{rest}")


def fingerprints(mail_host: MailHost) -> set[str]:
    """Of what both servers present."""
    return {mail_host.served(service, NAME) for service in ONE_EACH}


@pytest.mark.parametrize("kind", TOOLS)
def test_a_renewal_by_the_real_tool_reaches_both_wires(
    kind: str, mail_host: MailHost, certbot: Certbot, tmp_path: Path, shared_tmp: Path
) -> None:
    if kind == "acme.sh" and find_tool(kind) is None:
        pytest.skip("Debian has acme.sh from 13 on")
    with acme_tool(kind, certbot, shared_tmp / "tool", NAME) as tool:
        tool.issue()
        mail_host.configure(watch={"scan": 3600.0})  # only events tell
        use(mail_host, tool)
        mail_host.apply()
        (first,) = fingerprints(mail_host)
        assert first != mail_host.default.fingerprint
        talk = tmp_path / "talk"
        ports = {service: mail_host.endpoints[service] for service in ONE_EACH}
        with (
            running(mailsni_command(mail_host.config, "watch", "-v"), talk) as watch,
            crowd(tmp_path, ports, [NAME], root_of(certbot)) as leave,
        ):
            until(lambda: "nothing to do" in talk.read_text(), talk.read_text, beside=watch)
            tool.renew()
            until(lambda: first not in fingerprints(mail_host), talk.read_text, beside=watch)
            visits = leave()
        assert [visit for visit in visits if visit.problem] == []
        assert {visit.fingerprint for visit in visits} - {first}, "a client saw the renewed one"
        assert len(fingerprints(mail_host)) == 1
        assert "warning" not in talk.read_text()
