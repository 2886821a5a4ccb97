"""Whatever lies in a store, both servers read from the artifacts exactly what was meant, and mean the same by it.

The parsers here know the servers' own syntax (postmap(1), Dovecot's config-parser.c) and nothing of the templates.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.core.model import Certificate, Inventory, Reason
from mailsni.core.names import NamePatterns, RefusedNameError, host_name, safe_path
from mailsni.core.selection import Selection, select
from mailsni.sources.certbot import certbot_store
from mailsni.targets.dovecot.rendering import DovecotVersion
from mailsni.targets.pinned import PinDirectory
from tests.support.authority import subject_alternative_names
from tests.support.builders import EVERYTHING, MAIL, NOW, PINS, artifacts, authority, certificate, kept
from tests.support.lineages import CertbotDirectory
from tests.support.strategies import crowded, effort, names, raw_names

Served = tuple[str, ...]
"""The files that a name is served from: of its first certificate, then of its second."""


# ── what the servers read ────────────────────────────────────────────────────────────────────────────────────────────


def read_postfix(text: str) -> dict[str, Served]:
    """A source text as postmap(1) reads it: keys, and the files that follow."""
    found: dict[str, Served] = {}
    for line in postfix_lines(text):
        key, *rest = line.replace(",", " ").split()
        assert key not in found, f"{key} twice"
        assert rest, f"{key} without a file"
        found[key] = tuple(rest)
    return found


def postfix_lines(text: str) -> Iterator[str]:
    """Logical lines: comments and blank lines are nothing, one that begins with blank space continues the last."""
    logical = ""
    for line in text.split("\n"):
        if not line.strip(" \t\r\v\f") or line.lstrip(" \t\r\v\f").startswith("#"):
            continue
        if line[0] in " \t\r\v\f":
            assert logical, "the first line begins with blank space"
            logical += line
            continue
        if logical:
            yield logical
        logical = line
    if logical:
        yield logical


@dataclass
class Block:
    """A ``local_name`` block as Dovecot reads it."""

    names: tuple[str, ...]
    settings: dict[str, str]


def read_dovecot(text: str) -> list[Block]:
    """The blocks of a configuration file, and the assurance that it says nothing else."""
    found: list[Block] = []
    inside = False
    for line in map(without_comment, text.split("\n")):
        if not line:
            continue
        assert not line.endswith("\\"), "a line that goes on in the next one"
        if line.endswith("{"):
            assert not inside, "a block in a block"
            verb, _, argument = line[:-1].strip().partition(" ")
            assert verb == "local_name", line
            found.append(Block(tuple(argument.strip().removeprefix('"').removesuffix('"').split(" ")), {}))
            inside = True
        elif line == "}":
            assert inside, "a brace too many"
            inside = False
        else:
            key, equals, value = line.partition("=")
            assert inside, f"a global setting: {line}"
            assert equals, f"neither block nor setting: {line}"
            assert key.strip() not in found[-1].settings, f"{key} twice"
            found[-1].settings[key.strip()] = value.strip()
    assert not inside, "a block without an end"
    return found


def without_comment(line: str) -> str:
    """A line as far as Dovecot looks at it: a hash at its beginning, or after blank space, begins a comment."""
    stripped = line.strip(" \t\r")
    return "" if stripped.startswith("#") else stripped.replace("\t#", " #").split(" #")[0].rstrip()


CERTIFICATE_SETTINGS: Mapping[DovecotVersion, tuple[str, ...]] = {
    "2.3": ("ssl_cert", "ssl_key", "ssl_alt_cert", "ssl_alt_key"),
    "2.4": (
        "ssl_server_cert_file",
        "ssl_server_key_file",
        "ssl_server_alt_cert_file",
        "ssl_server_alt_key_file",
    ),
}


def files_of(block: Block, version: DovecotVersion) -> Served:
    """The certificate files of a block, each of which is its own key file: pinned files hold both."""
    known = CERTIFICATE_SETTINGS[version]
    assert tuple(block.settings) in (known[:2], known), block.settings
    values = list(block.settings.values())
    if version == "2.3":
        assert all(value.startswith("<") for value in values), "a path taken for the PEM itself"
        values = [value[1:] for value in values]
    assert values[0::2] == values[1::2]
    return tuple(values[0::2])


# ── what the servers answer ──────────────────────────────────────────────────────────────────────────────────────────


def dovecot_answer(blocks: Sequence[Block], version: DovecotVersion, asked: str) -> Served | None:
    """2.3 takes the first block that matches, 2.4 the last (servers.md, both measured)."""
    matching = [block for block in blocks if any(dovecot_matches(name, asked) for name in block.names)]
    if not matching:
        return None
    return files_of(matching[0 if version == "2.3" else -1], version)


def dovecot_matches(pattern: str, asked: str) -> bool:
    if not pattern.startswith("*."):
        return pattern == asked
    first, _, rest = asked.partition(".")
    return bool(first) and rest == pattern[2:]


def postfix_answer(table: Mapping[str, Served], asked: str) -> tuple[str, Served] | None:
    """The key that is found and its value: the name, then with one leading label after the other taken off."""
    key = asked
    while key:
        if key in table:
            return key, table[key]
        at = key.find(".", 1)
        key = key[at:] if at > 0 else ""
    return None


def intended(meant: Mapping[str, Served], asked: str) -> Served | None:
    return meant.get(asked) or meant.get("*." + asked.partition(".")[2])


def served(selection: Selection) -> dict[str, Served]:
    """What is meant: each name and its pinned files."""
    return {one.name: tuple(str(PINS.path_of(item)) for item in one.certificates) for one in selection.winners}


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def shared_key() -> bytes:
    """Making a key takes longer than all the rest."""
    return authority().issue(["a.test"]).key_pem


@st.composite
def certificates(draw: st.DrawFn, sans: st.SearchStrategy[Iterable[str]]) -> Certificate:
    number = draw(st.integers(0, 10**6))
    made = certificate(
        f"x-{number}",
        *frozenset(draw(sans)),
        algorithm=draw(st.sampled_from(["ecdsa", "rsa"])),
        age=draw(st.integers(-1, 3)),
        left=draw(st.sampled_from([80, 80, 80, -1])),
        self_signed=draw(st.booleans()),
        staging=draw(st.sampled_from([False, False, False, True])),
    )
    return kept(made) if draw(st.booleans()) else made


def of_the_grammar(found: Iterable[str]) -> Iterator[str]:
    for name in found:
        try:
            yield host_name(name)
        except RefusedNameError:
            continue


hostile = st.lists(names, max_size=6).map(of_the_grammar)
overlapping = st.lists(crowded, min_size=1, max_size=4)
pattern_sets = st.sampled_from(
    [EVERYTHING, MAIL, NamePatterns(["*"], ["mail.*"]), NamePatterns(["m*.a.test", "imap.*"])]
)


def selected(found: Sequence[Certificate], patterns: NamePatterns) -> Selection:
    unique = {one.source: one for one in found}
    return select(Inventory(tuple(unique.values()), (), frozenset(unique)), patterns, NOW)


def assert_all_say_what_is_meant(selection: Selection) -> None:
    meant = served(selection)
    texts = {name: text.decode("ascii") for name, text in artifacts(selection).items()}
    table = read_postfix(texts["postfix-sni"])
    assert table == {name.removeprefix("*"): value for name, value in meant.items()}
    for version in CERTIFICATE_SETTINGS:
        blocks = read_dovecot(texts[f"dovecot-{version}.conf"])
        spread = [(name, files_of(block, version)) for block in blocks for name in block.names]
        assert len(spread) == len(meant)
        assert dict(spread) == meant
        assert version == "2.3" or all(len(block.names) == 1 for block in blocks)


@effort(200)
@given(st.lists(certificates(hostile), max_size=5), pattern_sets)
def test_the_artifacts_parse_back_to_what_is_meant(found: list[Certificate], patterns: NamePatterns) -> None:
    assert_all_say_what_is_meant(selected(found, patterns))


@effort(200)
@given(st.lists(certificates(overlapping), min_size=1, max_size=6), pattern_sets, st.data())
def test_all_servers_answer_alike(found: list[Certificate], patterns: NamePatterns, data: st.DataObject) -> None:
    selection = selected(found, patterns)
    meant = served(selection)
    texts = {name: text.decode("ascii") for name, text in artifacts(selection).items()}
    table = read_postfix(texts["postfix-sni"])
    blocks = {version: read_dovecot(texts[f"dovecot-{version}.conf"]) for version in CERTIFICATE_SETTINGS}
    some = crowded.map(lambda name: name.removeprefix("*."))
    for asked in data.draw(st.lists(st.one_of(some, some.map(lambda name: f"imap.{name}")), min_size=1, max_size=8)):
        wanted = intended(meant, asked)
        for version in CERTIFICATE_SETTINGS:
            assert dovecot_answer(blocks[version], version, asked) == wanted, (version, asked)
        answer = postfix_answer(table, asked)
        if wanted is not None:
            assert answer is not None
            assert answer[1] == wanted, asked
        elif answer is not None:
            # Postfix takes a wildcard for names of any depth, and the two others do not: documented.
            key, value = answer
            assert key.startswith(".")
            assert asked.removesuffix(key).count(".") >= 1
            assert value == meant[f"*{key}"]


directories = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))


@effort(80)
@given(st.dictionaries(st.one_of(directories, st.sampled_from(["a.test", "npm-7"])), st.lists(raw_names), max_size=3))
def test_from_the_store_to_the_text(store: dict[str, list[bytes]]) -> None:
    with tempfile.TemporaryDirectory(prefix="mailsni-") as temporary:
        certbot = CertbotDirectory(Path(temporary))
        for name, raw in store.items():
            certbot.add(name, authority().issue([], key=shared_key(), raw_san=subject_alternative_names(*raw)))
        found = certbot_store(certbot.live, lambda _: None).scan({})
        accepted = {str(certbot.live / name) for name in store if is_safe(f"{certbot.live}/{name}")}
        assert {one.source for one in found.certificates} <= accepted
        refused = [one for one in found.skipped if one.reason is Reason.BAD_NAME]
        assert len(refused) >= len(store) - len(accepted)
        for one in found.skipped:
            assert (one.source + one.detail).isascii()
            assert (one.source + one.detail).isprintable()
        assert_all_say_what_is_meant(select(found, EVERYTHING, datetime.now(UTC)))


def is_safe(path: str) -> bool:
    try:
        return safe_path(path) == path
    except RefusedNameError:
        return False


@pytest.mark.parametrize("path", ["/etc/dove cot", "/etc/a\nb", "/etc/a#b", "/etc/{a}", "/etc/ä", "relative"])
def test_no_text_is_made_of_an_unsafe_path(path: str) -> None:
    winners = selected([certificate("a", "mail.a.test")], MAIL)
    moved = selected([replace(certificate("a", "mail.a.test"), source=path.replace("#", "\r"))], MAIL)
    for selection, pins in ((winners, PinDirectory(Path(path))), (moved, PINS)):
        with pytest.raises(RefusedNameError):
            artifacts(selection, pins)


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────────────────────────


@effort(80)
@given(st.lists(certificates(overlapping), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_store_changes_nothing(found: list[Certificate], chance: random.Random) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    unique = {one.source: one for one in found}
    again = [unique[name] for name in dict.fromkeys(one.source for one in shuffled)]
    first, second = selected(list(unique.values()), EVERYTHING), selected(again, EVERYTHING)
    assert first == second
    assert artifacts(first) == artifacts(second)


def test_that_a_lineage_is_broken_does_not_show_or_it_would_cost_a_reload() -> None:
    whole = certificate("a.test", "mail.a.test")
    broken = replace(whole, kept=True)
    assert artifacts(select(Inventory((whole,), (), frozenset()), MAIL, NOW)) == artifacts(
        select(Inventory((broken,), (), frozenset()), MAIL, NOW)
    )
