"""Damaged records and a clock that is wrong take no name away from either server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailsni.config import parser
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit
from mailsni.runs import history
from mailsni.runs.history import Run
from mailsni.sandbox.authority import Issued
from tests.support.mail_host import MailHost

FLIPS = 60 if os.environ.get("MAILSNI_FAULTS") == "all" else 3
"""Bits that are flipped in each record, one at a time."""
REASONS = ["bad_pem", "kept_last_good"]
"""Of the lineage that is broken."""


def renewed(mail_host: MailHost, name: str, not_before: datetime) -> Issued:
    issued = mail_host.authority.issue([name], not_before=not_before)
    mail_host.store.put(name, issued)
    return issued


def apply_at(mail_host: MailHost, now: datetime) -> ApplyResult:
    """A run by another clock, on the record."""
    settings = parser.load(mail_host.config, required=True)
    result = transaction.apply(take_snapshot(settings, now), Options())
    history.record(settings.state.directory, Run(now, now, int(result.exit_code), "", "timer"))
    return result


@pytest.mark.shared
def test_a_clock_that_is_five_hours_back_takes_nothing_away(mail_host: MailHost) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    right = now + timedelta(hours=5)
    old = {name: mail_host.issue(name) for name in ("mail.a.test", "mail.b.test")}
    mail_host.apply()
    new = renewed(mail_host, "mail.a.test", right - timedelta(minutes=30))
    assert apply_at(mail_host, right).exit_code is Exit.DONE
    mail_host.assert_all_served({"mail.a.test": new, "mail.b.test": old["mail.b.test"]})

    # The host reboots with a clock that is five hours back, and another lineage was renewed shortly before.
    late = renewed(mail_host, "mail.b.test", right - timedelta(minutes=10))
    document = json.loads(mail_host.apply("--json", code=4).stdout)
    assert any(warning.startswith("the clock went back: the last run ended on ") for warning in document["warnings"])
    said = {(each["reason"], *each["names"]) for each in document["skipped"] if not each["information"]}
    assert {("not_yet_valid", "mail.a.test"), ("not_yet_valid", "mail.b.test")} <= said
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0
    mail_host.postfix.restart()
    mail_host.dovecot.restart()
    mail_host.assert_all_served({"mail.a.test": new, "mail.b.test": old["mail.b.test"]})

    assert apply_at(mail_host, right).exit_code is Exit.DONE
    mail_host.assert_all_served({"mail.a.test": new, "mail.b.test": late})

    # Years ahead: everything has expired by this clock.
    assert apply_at(mail_host, right + timedelta(days=4000)).exit_code is Exit.SKIPPED
    mail_host.assert_all_served({"mail.a.test": new, "mail.b.test": late})


def flipped(content: bytes, number: int) -> bytes:
    """The same with one bit changed; the numbers spread over the file."""
    damaged = bytearray(content)
    bit = (len(content) * 8 - 1) * number // (FLIPS - 1)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.shared
@pytest.mark.long
def test_a_flipped_bit_in_a_record_costs_a_warning_and_no_name(mail_host: MailHost) -> None:
    """A lineage is broken meanwhile: only the record, the live texts and its pinned file know its certificate."""
    issued = {name: mail_host.issue(name) for name in ("mail.a.test", "mail.b.test", "mail.broken.test")}
    mail_host.apply()
    mail_host.store.path("mail.broken.test", "privkey").resolve().write_bytes(b"")
    time.sleep(2.1)
    mail_host.apply(code=4)
    state = mail_host.directory / "state"
    for name in ("deployment.json", "readings.json", "runs.json"):
        content = (state / name).read_bytes()
        for number in range(FLIPS):
            (state / name).write_bytes(flipped(content, number))
            assert_named(mail_host, state / name)
            (state / name).write_bytes(content)
    (state / "deployment.json").unlink()
    mail_host.apply(code=4)
    mail_host.postfix.restart()
    mail_host.dovecot.restart()
    mail_host.assert_all_served(issued)


def assert_named(mail_host: MailHost, path: Path) -> None:
    """A run ends as before, one line names the file, and no name is gone."""
    done = mail_host.apply("--json", code=4)
    document: Mapping[str, Any] = json.loads(done.stdout)
    assert [str(path) in warning for warning in document["warnings"]].count(True) == 1, document["warnings"]
    assert [each["reason"] for each in document["skipped"] if not each["information"]] == REASONS
    served = json.loads(mail_host.mailsni("status", "--json").stdout)["names"]
    assert {each["name"] for each in served} == {"mail.a.test", "mail.b.test", "mail.broken.test"}
