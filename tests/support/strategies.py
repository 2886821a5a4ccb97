"""Names and paths, good and hostile, and how hard to look."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EFFORT = int(os.environ.get("MAILSNI_EFFORT", "1"))
"""1: the same examples in every run. More: so many times as many, and others in every run. 0: a few, for quick runs."""
_QUICK = 20
QUICK_CASES = 3
"""Of a parametrised test, in quick runs."""


def effort(examples: int) -> settings:
    """So many examples."""
    return settings(
        max_examples=examples * EFFORT or min(examples, _QUICK),
        derandomize=EFFORT <= 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def each(count: int) -> range:
    """The numbers below the count; for quick runs a few of them."""
    return range(0, count, 1 if EFFORT else count // _QUICK or 1)


HOSTILE = (
    "mail.a.test\n}\nssl = no\nlocal_name b.test {",
    'mail.a.test" {',
    "mail.a.test }",
    "mail.a.test#",
    "# mail.a.test",
    "{{ 7 * 7 }}.test",
    "{% for x in y %}.test",
    "mail.a.test\0.b.test",
    "mail.a.test\r",
    "mail.a.test\n",
    "mail.a.test /etc/shadow",
    "mail.a.test,/etc/shadow",
    "\tmail.a.test",
    "mail.ä.test",
    "mail.\u212a.test",
    "mail.\u0661.test",
    "*",
    "*.",
    "*.*.test",
    "**.a.test",
    "m*.a.test",
    ".a.test",
    "mail..test",
    "mail.a.test.",
    "-mail.a.test",
    "mail-.a.test",
    "mail_1.a.test",
    "192.0.2.1",
    "mail.a.1",
    "$mail.a.test",
    "%{mail}.a.test",
    "!include.test",
    "localhost",
    "",
    "l" * 64 + ".a.test",
    "*." + "l" * 64 + ".test",
    ".".join(["l" * 49] * 5) + ".test",
)
"""What a subject alternative name can hold, and no artifact may."""

_LETTERS = "aZ09-"
_labels = st.one_of(
    st.sampled_from(["mail", "imap", "a", "b", "test", "xn--mnchen-3ya", "0", "1a", "a-b", "MAIL"]),
    st.text(_LETTERS, min_size=1, max_size=4),
    st.integers(61, 65).map(lambda length: "l" * length),
)
_dotted = st.lists(_labels, min_size=1, max_size=6).map(".".join)
_wildcards = _dotted.map(lambda name: f"*.{name}")
_spiced = st.tuples(_dotted, st.sampled_from("\n\r\t\0 \"'#{}$%*\\/,;:=<>ä\u2028\x7f"), st.integers(0, 40)).map(
    lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
)
names = st.one_of(_dotted, _wildcards, _spiced, st.sampled_from(HOSTILE), st.text(max_size=20))
"""Host names, wildcards, and what is almost one, or not at all."""

_few = st.sampled_from(["mail", "imap", "web", "x"])
_domains = st.sampled_from(["a.test", "b.test", "x.a.test", "mail.a.test"])
crowded = st.one_of(st.tuples(_few, _domains).map(".".join), _domains, _domains.map(lambda domain: f"*.{domain}"))
"""Good names, so few that they overlap often."""

_steps = st.one_of(
    st.sampled_from(["etc", "a.test-0001", ".", "..", "...", ".x", "a b", "live", "x@y", "a+b", "~", ""]),
    st.text("a9._@+- \n\0,#\"'{}ä%$\\", max_size=4),
)
paths = st.one_of(
    st.lists(_steps, max_size=5).map(lambda steps: "/" + "/".join(steps)),
    st.lists(_steps, max_size=3).map("/".join),
    st.text(max_size=20),
)
"""Absolute paths of the grammar, and what is almost one, or not at all."""

raw_names = st.one_of(names.map(lambda name: name.encode("utf-8", "surrogatepass")), st.binary(max_size=20))
"""The bytes of a dNSName."""
