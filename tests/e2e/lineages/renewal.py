"""Torn: certbot was killed between two of its steps, or is at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lineages import KINDS


def _around(before: tuple[str, ...], each: str) -> tuple[str, ...]:
    return tuple(f"{word} {each.format(kind)}" for kind in KINDS for word in before)


RENEWAL_STEPS = (
    *(f"write {kind}2.pem" for kind in ("privkey", "cert", "chain", "fullchain")),
    "write renewal/",
    *_around(("symlink",), "previous_{}.pem"),
    *_around(("unlink", "symlink"), "{}.pem"),
    *_around(("unlink",), "previous_{}.pem"),
)
"""What ``CertbotDirectory.renewal_steps`` does, as far as a lineage of one version goes."""
FIRST_STEPS = (
    "mkdir archive/",
    "mkdir live/",
    *_around(("symlink",), "{}.pem"),
    *_around(("write",), "{}1.pem"),
    "write README",
    "write renewal/",
)
"""What ``CertbotDirectory.issuance_steps`` does."""
TORN_FROM, TORN_TO = RENEWAL_STEPS.index("unlink privkey.pem"), RENEWAL_STEPS.index("unlink fullchain.pem")
FIRST_SEEN, FIRST_WHOLE = FIRST_STEPS.index("symlink cert.pem"), FIRST_STEPS.index("write fullchain1.pem")


def stop_at(steps: Iterator[str], last: str) -> None:
    """Let certbot go on to a step, and no further."""
    done = []
    for step in steps:
        done.append(step)
        if step.startswith(last):
            return
    pytest.fail(f"certbot never came to {last!r}: {done}")
