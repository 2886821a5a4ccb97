"""What ``certificates = "live"`` costs: in which states of a renewal by certbot Dovecot could not start.

tests/data/certbot-states stops certbot's own code before each system call that changes the lineage.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsni.host.commands import environment, find_tool
from mailsni.targets.dovecot import doveconf
from tests.support import data
from tests.support.mail_host import MailHost, require

NAME = "mail.one.test"

pytestmark = pytest.mark.shared


def states(mail_host: MailHost) -> Iterator[str]:
    """The system call that certbot is about to do, in each state of a renewal; ``done`` in the last one."""
    script, material = mail_host.directory / "states.py", mail_host.directory / "generations.json"
    script.write_text(data.read("certbot-states"))
    issued = [mail_host.authority.issue([NAME], issuer_name=f"Sandbox {number}") for number in range(2)]
    parts = [{"cert": one.leaf_pem, "privkey": one.key_pem, "chain": one.chain_pem} for one in issued]
    material.write_text(json.dumps(parts, default=bytes.decode))
    words = ["/usr/bin/python3", str(script), str(mail_host.store.root), str(material)]
    with subprocess.Popen(
        words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as certbot:
        assert certbot.stdin is not None
        assert certbot.stdout is not None
        for line in certbot.stdout:
            yield line.strip()
            certbot.stdin.write("\n")
            certbot.stdin.flush()


def include(mail_host: MailHost, certificates: str) -> str:
    """What `apply` publishes for Dovecot."""
    mail_host.configure(dovecot={"certificates": certificates})
    mail_host.apply()
    return mail_host.include_file.read_text()


def generations(lineage: Path) -> set[str]:
    """The numbers of the files that key and chain lead to, as far as they are there: one where they belong together."""
    links = (lineage / f"{kind}.pem" for kind in ("privkey", "fullchain"))
    return {link.resolve().stem[-1:] for link in links if link.exists()}


def test_only_pinned_files_let_dovecot_start_in_every_state_of_a_renewal(
    mail_host: MailHost, figures: list[str]
) -> None:
    require(None if find_tool("certbot") else "certbot: not installed")
    texts: dict[str, str] = {}
    refused: dict[str, list[str]] = {"live": [], "pinned": []}
    count, torn = 0, 0
    for state in states(mail_host):
        texts = texts or {kind: include(mail_host, kind) for kind in ("live", "pinned")}
        for kind, text in texts.items():
            mail_host.include_file.write_text(text)
            if doveconf.startup_error(mail_host.dovecot.config_file) is not None:
                refused[kind].append(state)
        count += 1
        torn += len(generations(mail_host.store.live / "one")) > 1
    figures.append(f"{count} states of a renewal: Dovecot could not start in {len(refused['live'])}, {torn} are torn")
    assert torn > 0
    assert refused == {
        "live": ["os.symlink /live/one/privkey.pem", "os.symlink /live/one/fullchain.pem"],
        "pinned": [],
    }
