"""certbot's own renewal code in a tight loop against a scanning loop: no torn pair is ever taken for a certificate.

tests/data/certbot-renewals runs in Debian's own Python, which has certbot; it calls what ``certbot renew``, ``certbot
certonly`` and ``certbot delete`` call to write, link and remove files, without an ACME server in between.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsni.core.model import KeyAndChain
from mailsni.host.commands import environment, find_tool
from mailsni.sandbox.authority import Issued
from mailsni.sources.certbot import certbot_store
from tests.support import data
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory, der_blocks
from tests.support.mail_host import MailHost, require

GENERATIONS = 40
RENEWALS = 3000
SECONDS = 15.0
"""The loop ends after so many renewals, or this time, whichever comes first."""
APPLIES = 5
END_LIMIT = 120.0
STEADY, FLEETING = "steady", "fleeting"
"""A lineage that is renewed all the time, and one that is issued and deleted all the time."""
NAMES = {STEADY: "mail.steady.test", FLEETING: "mail.fleeting.test"}

pytestmark = [pytest.mark.shared, pytest.mark.long]


@pytest.fixture
def generations(authority: Authority) -> list[dict[str, Issued]]:
    """Certificates to renew with: keys and intermediates all differ, so that no mixture looks whole."""
    return [
        {lineage: authority.issue([name], issuer_name=f"Sandbox {lineage} {number}") for lineage, name in NAMES.items()}
        for number in range(GENERATIONS)
    ]


@contextmanager
def renewing(
    store: CertbotDirectory, directory: Path, generations: list[dict[str, Issued]]
) -> Iterator[subprocess.Popen[str]]:
    """Certbot's code at work in a process of its own."""
    require(None if find_tool("certbot") else "certbot: not installed")
    script, material = directory / "renew.py", directory / "generations.json"
    script.write_text(data.read("certbot-renewals"))
    parts = [
        {
            lineage: {"cert": one.leaf_pem, "privkey": one.key_pem, "chain": one.chain_pem}
            for lineage, one in generation.items()
        }
        for generation in generations
    ]
    material.write_text(json.dumps(parts, default=bytes.decode))
    words = ["/usr/bin/python3", str(script), str(store.root), str(material), str(RENEWALS), str(SECONDS)]
    with subprocess.Popen(
        words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def assert_whole(pair: KeyAndChain, known: dict[str, set[tuple[bytes, ...]]]) -> None:
    """Key, leaf and chain are of one generation of the lineage that they were found in."""
    lineage = pair.certificate.source.rpartition("/")[2]
    assert der_blocks(pair.pem) in known[lineage], f"{lineage}: a torn pair was accepted"
    assert pair.certificate.names == (NAMES[lineage],)


def test_no_torn_pair_is_accepted_while_certbot_renews(
    mail_host: MailHost, generations: list[dict[str, Issued]], figures: list[str]
) -> None:
    """Looks in a loop, and whole runs of the program beside them; in the end the last version is served."""
    known = {
        lineage: {der_blocks(one[lineage].key_pem + one[lineage].fullchain_pem) for one in generations}
        for lineage in NAMES
    }
    fingerprints = {one[STEADY].fingerprint for one in generations}
    seen: Counter[str] = Counter()
    versions: set[str] = set()

    def wait_a_little(seconds: float) -> None:
        """A look that finds a renewal in the middle waits and looks again; here it does not wait for long."""
        seen["torn looks"] += 1
        time.sleep(seconds / 100)

    def apply() -> subprocess.CompletedProcess[str]:
        done = mail_host.mailsni("apply")
        assert mail_host.served("smtp", NAMES[STEADY]) in fingerprints
        assert mail_host.served("imaps", NAMES[STEADY]) in fingerprints
        return done

    deadline = time.monotonic() + END_LIMIT
    with renewing(mail_host.store, mail_host.directory, generations) as process, ThreadPoolExecutor(1) as pool:
        runs = [pool.submit(apply) for _ in range(APPLIES)]
        while (process.poll() is None or not runs[-1].done()) and time.monotonic() < deadline:
            inventory = certbot_store(mail_host.store.live, wait_a_little).scan({})
            seen["looks"] += 1
            for pair in inventory.read:
                assert_whole(pair, known)
                versions.add(pair.certificate.fingerprint)
                seen["accepted"] += 1
            seen.update(f"skipped: {skipped.reason}" for skipped in inventory.skipped)
        assert process.stdout is not None
        renewals = int(process.stdout.read())
    figures.append(
        f"{renewals} renewals by certbot, {len(versions)} certificates seen, {APPLIES} applies: {dict(seen)}"
    )
    results = [one.result() for one in runs]
    assert {done.returncode for done in results} <= {0, 4}, [done.stderr for done in results]
    assert seen["torn looks"] > 0, "no look met a renewal in the middle"
    for lineage in NAMES:
        seen_of_it = versions & {one[lineage].fingerprint for one in generations}
        assert len(seen_of_it) > 1, f"{lineage} was not seen to change"
    last = generations[renewals % GENERATIONS][STEADY].fingerprint
    inventory = certbot_store(mail_host.store.live).scan({})
    assert last in {one.fingerprint for one in inventory.certificates}
    mail_host.apply()
    assert mail_host.served("smtps", NAMES[STEADY]) == last
    assert mail_host.served("imap", NAMES[STEADY]) == last
