"""How many days before the end of a certificate somebody should look: by then its renewal has failed for weeks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

WARNING_DAYS, CRITICAL_DAYS = 14.0, 7.0
"""Before the end of a certificate."""
WARNING_SHARE, CRITICAL_SHARE = 1 / 4, 1 / 8
"""Of a certificate's lifetime, where that is less: certbot renews when a third, or a half, of it is left."""
DAY: Final = timedelta(days=1)


def warning_days(not_before: datetime | None, not_after: datetime) -> float:
    """From how many days before its end a certificate is a warning; without ``not_before`` it counts as long-lived."""
    return min(WARNING_DAYS, _lifetime(not_before, not_after) * WARNING_SHARE)


def critical_days(not_before: datetime | None, not_after: datetime) -> float:
    """From how many days before its end a certificate is critical; see :func:`warning_days`."""
    return min(CRITICAL_DAYS, _lifetime(not_before, not_after) * CRITICAL_SHARE)


def _lifetime(not_before: datetime | None, not_after: datetime) -> float:
    return (not_after - not_before) / DAY if not_before is not None else float("inf")
