"""What the checks of `mailsni doctor` start from, for tests that call them directly."""

from __future__ import annotations

from datetime import UTC, datetime

from mailsni.config.settings import Settings
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.finding import Facts
from mailsni.targets.dovecot import target as dovecot


def facts_of(settings: Settings, now: datetime | None = None) -> Facts:
    """Dovecot as it is found on this host, and nothing else.

    Args:
        settings: of mailsni.
        now: the moment at which certificates must be valid; this one when None.
    """
    return Facts(HostFacts(settings, now or datetime.now(UTC), dovecot=dovecot.find(settings.dovecot)))
