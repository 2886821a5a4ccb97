"""Clients never notice an apply: real handshakes in a loop on both servers through many applies with renewals."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.support.clients import SERVERS, Visit, crowd
from tests.support.mail_host import MailHost

NAMES = tuple(f"mail.d{number}.test" for number in range(6))
RENEWED_AT_ONCE = 2
APPLIES = 50
TIME_LIMIT = 240.0
"""Seconds after which no further apply is begun; only a crowded machine gets there."""
LOOKED_AT = 0.1
"""Seconds that clients have after each apply, to look at it before the next begins."""


PAUSE = 0.02
"""Seconds that a client rests between two visits, so that a small machine has time for the servers too."""


@dataclass(frozen=True)
class Renewal:
    """A name got another certificate: the old one until the apply begins, the new one once it has ended."""

    begun: float
    ended: float
    old: str
    new: str


def allowed(visit: Visit, first: str, renewals: list[Renewal]) -> set[str]:
    """The certificates of a name that a visit may have been shown."""
    found = set()
    certificate, since = first, 0.0
    for renewal in renewals:
        if since <= visit.ended and visit.begun <= renewal.ended:
            found.add(certificate)
        certificate, since = renewal.new, renewal.begun
    if since <= visit.ended:
        found.add(certificate)
    return found


@pytest.mark.long
@pytest.mark.lasting_logins
@pytest.mark.shared("bookworm")
def test_clients_never_notice_an_apply(mail_host: MailHost, figures: list[str]) -> None:
    """Zero failed or refused, never a certificate that is neither old nor new, after each apply the new one."""
    first = {name: mail_host.issue(name).fingerprint for name in NAMES}
    assert mail_host.mailsni("apply").returncode == 0
    services = [service for names in SERVERS.values() for service in names]
    ports = {service: mail_host.endpoints[service] for service in services}
    current = dict(first)
    renewals: dict[str, list[Renewal]] = {name: [] for name in NAMES}
    applies = 0
    deadline = time.monotonic() + TIME_LIMIT
    with crowd(mail_host.directory, ports, NAMES, mail_host.authority.root_pem, pause=PAUSE) as leave:
        while applies < APPLIES and time.monotonic() < deadline:
            chosen = [NAMES[(applies * RENEWED_AT_ONCE + at) % len(NAMES)] for at in range(RENEWED_AT_ONCE)]
            renewed = {name: mail_host.renew(name) for name in chosen}
            begun = time.monotonic()
            mail_host.apply()
            ended = time.monotonic()
            for name, issued in renewed.items():
                renewals[name].append(Renewal(begun, ended, current[name], issued.fingerprint))
                current[name] = issued.fingerprint
            applies += 1
            time.sleep(LOOKED_AT)
        visits = leave()
    assert applies == APPLIES, f"only {applies} applies in {TIME_LIMIT:g} s"
    wrong = [one for one in visits if one.fingerprint not in allowed(one, first[one.name], renewals[one.name])]
    shown_at_once = sum(
        renewal.ended <= one.begun <= renewal.ended + LOOKED_AT and one.fingerprint == renewal.new
        for one in visits
        for renewal in renewals[one.name]
    )
    longest = max(one.seconds for one in visits)
    figures.append(
        f"{applies} applies, {len(visits)} visits ({shown_at_once} of a name right after its renewal), "
        f"longest {longest:.2f} s, {sum(one.fingerprint is None for one in visits)} failed"
    )
    assert [one for one in visits if one.problem] == []
    assert wrong == []
    assert {one.service for one in visits} == set(services)
    assert shown_at_once > 0
