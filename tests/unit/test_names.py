"""Names, patterns and paths by example; the grammar itself is compared with a second opinion in tests/property."""

from __future__ import annotations

import pytest

from mailsni.config.settings import MAIL_NAMES
from mailsni.core.names import NamePatterns, RefusedNameError, wildcard_matches
from mailsni.core.text import printable_name


def test_a_wildcard_stands_for_names_below_its_domain() -> None:
    assert not wildcard_matches("*.a.test", "a.test")
    assert not wildcard_matches("mail.a.test", "mail.a.test")


def served(include: list[str], *names: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return list(NamePatterns(include, exclude).served_names(names))


def test_only_names_that_are_asked_for_are_served() -> None:
    assert served(list(MAIL_NAMES), "a.test", "mail.a.test", "www.a.test", "mx.a.test") == ["mail.a.test", "mx.a.test"]
    assert served(["m*.a.test"], "mx1.a.test", "mail.b.test") == ["mx1.a.test"]
    assert served(["mail.*"], "mail.a.test", "mail.b.test", exclude=("*.b.test",)) == ["mail.a.test"]
    assert served(["mx[0-9].*", "m-?.*"], "mx1.a.test", "mxa.a.test", "m-1.a.test") == ["mx1.a.test", "m-1.a.test"]


def test_a_wildcard_becomes_the_names_that_the_patterns_begin_with() -> None:
    assert served(["mail.*", "imap.*"], "*.a.test") == ["mail.a.test", "imap.a.test"]
    assert served(["mail.a.test"], "*.a.test", "*.b.test") == ["mail.a.test"]
    assert served(["m*.a.test", "*.a.test"], "*.a.test") == []
    assert served(["mail.*"], "*.a.test", exclude=("mail.a.*",)) == []
    long = ".".join(["l" * 62] * 4)[2:]
    assert served(["mail.*"], f"*.{long}") == []


def test_only_the_pattern_for_everything_makes_real_wildcards() -> None:
    assert served(["*"], "*.a.test", "a.test") == ["*.a.test", "a.test"]
    assert served(["*", "mail.*"], "*.a.test") == ["*.a.test", "mail.a.test"]
    assert served(["*"], "*.a.test", exclude=("*.a.test",)) == []


@pytest.mark.parametrize("pattern", ["Mail.*", "mail *", "mail.ä", "{mail}.*", "mail.*\n", ""])
def test_a_pattern_that_no_name_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(RefusedNameError, match="not a pattern"):
        NamePatterns(["mail.*"], [pattern])


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("mail.a.test", "mail.a.test"),
        ("a\nb", r"'a\nb'"),
        ("ä\u202e", r"'\xe4\u202e'"),
        (b"\xff\x00", r"'\udcff\x00'"),
        ("a" * 80, "a" * 80),
        ("a" * 81, "a" * 79 + "~"),
    ],
)
def test_anything_is_shown_in_printable_ascii(text: str | bytes, printed: str) -> None:
    assert printable_name(text) == printed
