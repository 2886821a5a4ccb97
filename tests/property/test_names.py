"""The grammar of names and paths, against a second opinion that looks at one character after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsni.config.settings import MAIL_NAMES
from mailsni.core.names import (
    NamePatterns,
    RefusedNameError,
    escaped_origin,
    host_name,
    is_wildcard,
    safe_origin,
    safe_path,
    wildcard_matches,
)
from mailsni.core.text import printable_name
from tests.support.strategies import HOSTILE, effort, names, paths

DIGITS = frozenset("0123456789")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
UPPER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
IN_A_STEP = LETTERS | UPPER | DIGITS | frozenset("._@+-")


def is_host_name(text: str) -> bool:
    labels = text.removeprefix("*.").split(".")
    return len(text) <= 253 and len(labels) >= 2 and all(map(is_label, labels)) and not DIGITS.issuperset(labels[-1])


def is_label(label: str) -> bool:
    letters = all(character in LETTERS | UPPER | DIGITS or character == "-" for character in label)
    return letters and 1 <= len(label) <= 63 and label[0] != "-" and label[-1] != "-"


def is_safe_path(text: str) -> bool:
    root, *steps = text.split("/")
    return root == "" and bool(steps) and all(map(is_step, steps))


def is_step(step: str) -> bool:
    return step not in ("", ".", "..") and IN_A_STEP.issuperset(step)


def checked(text: str, door: Callable[[str], str] = host_name) -> str | None:
    """What a door makes of a text; None when it refuses, with a message that fits a line."""
    try:
        return door(text)
    except RefusedNameError as error:
        message = str(error)
    assert fits_a_line(message)
    return None


def fits_a_line(text: str) -> bool:
    return len(text) < 200 and all(" " <= character <= "~" for character in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_hostile_names_are_refused(text: str) -> None:
    assert not is_host_name(text)
    assert checked(text) is None


@effort(800)
@example("1.2.3.4a")
@example("l" * 63 + ".test")
@example(".".join(["l" * 62] * 4) + ".t")
@example(".".join(["l" * 62] * 4) + ".te")
@given(names)
def test_a_name_is_accepted_exactly_when_it_is_of_the_grammar(text: str) -> None:
    name = checked(text)
    assert (name is not None) == is_host_name(text)
    if name is not None:
        assert name == "".join(chr(ord(one) + 32) if one in UPPER else one for one in text)
        assert (LETTERS | DIGITS | {"-", ".", "*"}).issuperset(name)
        assert ("*" in name) == is_wildcard(name)
        assert host_name(name) == name


@effort(800)
@example("/etc/letsencrypt/live/npm-7")
@example("/a/b@c+d_e.pem")
@example("/a;b")
@given(paths)
def test_a_path_is_accepted_exactly_when_it_is_of_the_grammar(text: str) -> None:
    accepted = checked(text, safe_path)
    assert (accepted is not None) == is_safe_path(text)
    if accepted is not None:
        assert accepted == text
        assert safe_path(Path(text)) == text


@effort(300)
@given(names)
def test_anything_can_be_shown(text: str) -> None:
    assert fits_a_line(printable_name(text))
    assert fits_a_line(printable_name(text.encode("utf-8", "surrogatepass")))


@effort(500)
@given(names, names)
def test_a_wildcard_stands_for_exactly_one_label(first: str, second: str) -> None:
    wildcard, name = checked(f"*.{first}"), checked(f"{second}.{first}")
    if wildcard is not None and name is not None:
        assert wildcard_matches(wildcard, name) == ("." not in second and second != "*")


@effort(300)
@given(names)
def test_the_names_that_are_served_are_of_the_grammar_and_asked_for(text: str) -> None:
    name = checked(text)
    if name is None:
        return
    for patterns in (NamePatterns(MAIL_NAMES), NamePatterns(["*"], ["mail.*"])):
        for served in patterns.served_names([name]):
            assert checked(served) == served
            assert patterns.match(served)
            assert served == name or wildcard_matches(name, served)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("=#/ \udcff")))
def test_an_escaped_origin_is_safe_and_gives_the_path_back(text: str) -> None:
    path = f"/x{text}"
    origin = escaped_origin(path)
    assert safe_origin(origin) == origin
    back = re.sub(rb"=([0-9A-F]{2})", lambda code: bytes.fromhex(code[1].decode()), origin.encode())
    assert back == path.encode("utf-8", "surrogateescape")
    assert "#" not in origin
