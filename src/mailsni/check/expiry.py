"""Checks when the certificates expire that are deployed, whatever lies in the stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime

from mailsni.check.gather import CheckContext
from mailsni.check.model import DAY, Code, Expiry, Finding, Level, Result
from mailsni.core.text import summarize_names


def check_expiry(context: CheckContext) -> Iterator[Result]:
    """The expiry of every certificate that the record names."""
    for name in context.names or ():
        for certificate in context.deployment.certificates_for(name):
            yield context.thresholds.expiry(name, certificate.not_before, certificate.not_after)


def first_expiries(expiries: Iterable[Expiry]) -> tuple[Expiry, ...]:
    """Of each name the one that comes first, ordered by time: the servers may serve a name with different ones."""
    first: dict[str, Expiry] = {}
    for expiry in expiries:
        known = first.get(expiry.name)
        if known is None or expiry.not_after < known.not_after:
            first[expiry.name] = expiry
    return tuple(sorted(first.values(), key=lambda expiry: (expiry.not_after, expiry.name)))


def expiry_findings(expiries: Iterable[Expiry], now: datetime) -> list[Finding]:
    """Three findings at most: names whose certificates have expired, expire very soon, expire soon."""
    groups: dict[tuple[Level, Code], list[Expiry]] = defaultdict(list)
    for expiry in sorted(expiries, key=lambda expiry: (expiry.not_after, expiry.name)):
        level = expiry.level(now)
        if expiry.not_after <= now:
            groups[Level.CRITICAL, Code.EXPIRED].append(expiry)
        elif level is not Level.OK:
            groups[level, Code.EXPIRES].append(expiry)
    return [_finding(level, code, group, now) for (level, code), group in groups.items()]


def _finding(level: Level, code: Code, group: list[Expiry], now: datetime) -> Finding:
    first = group[0].not_after
    days = abs(first - now) / DAY
    when = f"{days:.1f} days ago" if code is Code.EXPIRED else f"in {days:.1f} days"
    names = tuple(expiry.name for expiry in group)
    rest = ", the first of them" if len({expiry.not_after for expiry in group}) > 1 else ""
    text = f"{summarize_names(names)}: the deployed certificate {code}{rest} {when} ({first:%Y-%m-%d %H:%M} UTC)"
    return Finding(level, code, text, names)
