"""Looks at Dovecot."""

from __future__ import annotations

from collections.abc import Iterator

from mailsni.doctor import Facts, Finding


def findings(facts: Facts) -> Iterator[Finding]:
    """Nothing yet: the other half of the doctor is written apart from this one."""
    del facts
    yield from ()
