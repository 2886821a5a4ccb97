"""Reading Dovecot's configuration with positions, and which block wins: without any Dovecot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsni.config.settings import DovecotSettings, Settings
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.checks.dovecot import case_findings, findings
from mailsni.doctor.finding import Facts, Finding
from mailsni.doctor.runner import in_order
from mailsni.errors import HostError
from mailsni.targets.dovecot.configuration import parse_size
from mailsni.targets.dovecot.live_include import is_included, required_by, trial
from mailsni.targets.dovecot.parser import (
    DEPTH_LIMIT,
    NESTING_LIMIT,
    Assignment,
    Block,
    BlockEnd,
    BlockStart,
    Comment,
    Include,
    read,
    statements,
)
from mailsni.targets.dovecot.precedence import can_match, conflicts, pattern_matches
from mailsni.targets.dovecot.rendering import DovecotVersion
from mailsni.targets.dovecot.target import Dovecot
from tests.support.builders import NOW, authority
from tests.support.strategies import effort


def put(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files below a directory; returns the first of them."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory / next(iter(files))


# ---------------------------------------------------------------------------------------------------------------------
# Lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssl = yes", [Assignment(1, "ssl", "yes", from_file=False)]),
        ("  ssl=yes\t \r\n", [Assignment(1, "ssl", "yes", from_file=False)]),
        ("ssl =", [Assignment(1, "ssl", "", from_file=False)]),
        ("\n\nssl_cert = </a b/c.pem # mine", [Assignment(3, "ssl_cert", "/a b/c.pem", from_file=True)]),
        ("ssl_cert =<  /a", [Assignment(1, "ssl_cert", "/a", from_file=True)]),
        ('ssl_key = <"/a b"', [Assignment(1, "ssl_key", '"/a b"', from_file=True)]),
        ("a = \"x # y\" # z", [Assignment(1, "a", "x # y", from_file=False)]),
        (r'a = "say \"x\" \\"', [Assignment(1, "a", 'say "x" \\', from_file=False)]),
        ("a = 'it''", [Assignment(1, "a", "it'", from_file=False)]),
        ("a = x#y", [Assignment(1, "a", "x", from_file=False)]),
        ("# a = b\n  # c", [Comment(1, "# a = b"), Comment(2, "# c")]),
        ("a = b \\\n  c \\\n# between\n d\ne = f", [
            Assignment(1, "a", "b c d", from_file=False), Assignment(5, "e", "f", from_file=False)]),
        ("local_name a.test {\n}", [BlockStart(1, "local_name", "a.test"), BlockEnd(2)]),
        ('local_name "a.test b.test" { # c', [BlockStart(1, "local_name", "a.test b.test")]),
        ("ssl_server {", [BlockStart(1, "ssl_server", "")]),
        ("service imap-login{", []),  # "Expecting '{'"
        ("local_name a { ssl = yes }", []),  # "Garbage after '{'"
        ("!include conf.d/*.conf", [Include(1, "conf.d/*.conf", optional=False)]),
        ("!include_try  /a b # c", [Include(1, "/a b", optional=True)]),
        ("a = b\x0bc = d\x85e", [Assignment(1, "a", "b\x0bc = d\x85e", from_file=False)]),
        ("a = b\0c", [Assignment(1, "a", "b", from_file=False)]),
    ],
)  # fmt: skip
def test_lines_are_read_as_dovecot_does(text: str, expected: list[object]) -> None:
    assert list(statements(text)) == expected


WORDS = st.sampled_from(["local_name", "a.test", "!include", "/x", "é", *" \n\t\0\r{}=<\"'\\#$"])


@given(st.lists(WORDS, max_size=60).map("".join))
def test_any_text_can_be_read_and_numbers_do_not_fall(text: str) -> None:
    found = list(statements(text))
    numbers = [one.line for one in found]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= text.count("\n") + 1 for number in numbers)


@pytest.mark.parametrize("piece", ["x", '"', "\\", "'\"", "#", "{ ", "= ", '"\\', "<"])
def test_a_line_of_ten_megabytes_is_read(piece: str) -> None:
    text = "a = " + piece * (10_000_000 // len(piece))
    assert len(list(statements(f"{text}\nb = c"))) <= 2


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_settings_stand_where_they_stand(tmp_path: Path) -> None:
    main = put(
        tmp_path,
        {
            "dovecot.conf": "ssl = yes\n!include conf.d/*.conf\nprotocol imap {\n!include_try sub/in.conf\n}\nz = 1\n",
            "conf.d/20-b.conf": "local_name b {\n  ssl_server {\n    cert_file = /b\n  }\n}\n",
            "conf.d/10-a.conf": "a = 1\n",
            "conf.d/.hidden.conf": "hidden = 1\n",
            "sub/in.conf": "inside = 1\n!include ../more.conf\n",
            "more.conf": "more = 1\n}\n}\nstill = 1\n",
        },
    )
    found = read(main)
    assert [(one.key, one.file.name, one.line, [block.kind for block in one.blocks]) for one in found.settings] == [
        ("ssl", "dovecot.conf", 1, []),
        ("a", "10-a.conf", 1, []),
        ("cert_file", "20-b.conf", 3, ["local_name", "ssl_server"]),
        ("inside", "in.conf", 1, ["protocol"]),
        ("more", "more.conf", 1, ["protocol"]),
        ("still", "more.conf", 4, ["protocol"]),  # a block is closed where it was opened
        ("z", "dovecot.conf", 6, []),
    ]
    opened = {block.kind: (block.line, found.ends[block]) for block in found.blocks}
    assert opened == {"local_name": (1, 5), "ssl_server": (2, 4), "protocol": (3, 5)}
    assert found.unreadable == ()


def test_patterns_with_braces_are_two_in_their_order(tmp_path: Path) -> None:
    main = put(tmp_path, {"dovecot.conf": "!include {b,a}.conf\n", "a.conf": "a = 1", "b.conf": "b = 1"})
    assert [one.key for one in read(main).settings] == ["b", "a"]


def test_an_include_of_itself_is_read_once_and_reported(tmp_path: Path) -> None:
    main = put(tmp_path, {"dovecot.conf": "!include other.conf\na = 1", "other.conf": "b = 1\n!include dovecot.conf\n"})
    found = read(main)
    assert [one.key for one in found.settings] == ["b", "a"]
    assert [(one.file.name, one.line) for one in found.unreadable] == [("other.conf", 2)]
    assert "includes itself" in found.unreadable[0].why


def test_files_that_include_each_other_by_ever_new_names_come_to_an_end(tmp_path: Path) -> None:
    main = put(tmp_path, {"dovecot.conf": "a = 1\n!include d/dovecot.conf\n!include ./d/d/dovecot.conf\n"})
    (tmp_path / "d").symlink_to(".")
    found = read(main)
    assert found.files == (main,)
    assert ["includes itself" in one.why for one in found.unreadable] == [True, True]


def test_files_within_files_come_to_an_end(tmp_path: Path) -> None:
    files = {f"{depth}.conf": f"!include {depth + 1}.conf\na = {depth}\n" for depth in range(DEPTH_LIMIT + 10)}
    found = read(put(tmp_path, files))
    assert len(found.files) == DEPTH_LIMIT
    assert len(found.unreadable) == 1


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    main = put(tmp_path, {"dovecot.conf": "!include *.x\na = 1\n"})
    os.mkfifo(tmp_path / "a.x")
    (tmp_path / "b.x").mkdir()
    (tmp_path / "c.x").symlink_to("nowhere")
    found = read(main)
    assert [one.key for one in found.settings] == ["a"]
    assert [(one.line, one.irregular) for one in found.unreadable] == [(1, True), (1, True), (1, False)]


def test_a_missing_main_file_is_said(tmp_path: Path) -> None:
    (unreadable,) = read(tmp_path / "none.conf").unreadable
    assert (unreadable.file, unreadable.line) == (tmp_path / "none.conf", 1)


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsni.targets.dovecot.parser.FILE_LIMIT", 100)
    main = put(tmp_path, {"dovecot.conf": "!include large.conf\na = 1\n", "large.conf": "b = 1\n" * 100})
    found = read(main)
    assert [one.key for one in found.settings] == ["a"]
    assert "more than 100 bytes" in found.unreadable[0].why


def test_blocks_without_end_are_not_followed_without_end(tmp_path: Path) -> None:
    main = put(tmp_path, {"dovecot.conf": "a {\n" * 200_000})
    found = read(main)
    assert len(found.blocks) == NESTING_LIMIT
    assert found.unreadable[0].line == NESTING_LIMIT + 1


@given(st.binary(max_size=200), st.lists(WORDS, max_size=40).map("".join))
def test_any_bytes_can_be_included(tmp_path_factory: pytest.TempPathFactory, content: bytes, text: str) -> None:
    directory = tmp_path_factory.mktemp("any")
    main = put(
        directory, {"dovecot.conf": "!include other.conf\n" + text.replace("!include", "!inc"), "other.conf": content}
    )
    found = read(main)
    assert all(end > block.line for block, end in found.ends.items())
    assert {one.file for one in found.settings} <= set(found.files)


@pytest.mark.parametrize(
    "pattern", ["\0", "[", "[z-a]", "{", "{a,b", "{" + "{a,b}," * 50 + "}", "*" * 100, "", "../" * 500]
)
def test_any_pattern_comes_to_an_end(tmp_path: Path, pattern: str) -> None:
    main = put(tmp_path, {"dovecot.conf": f"!include {pattern}\na = 1\n"})
    assert [one.key for one in read(main).settings if one.file == main] == ["a"]


# ---------------------------------------------------------------------------------------------------------------------
# The include among the files


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"main.conf": "a = 1 # b\n!include_try d/ours.conf\nz = 1\n"}, "a = 1 # b\n!include /staged\nz = 1\n"),
        ({"main.conf": "a = 1"}, "a = 1\n!include /staged\n"),
        (
            {"main.conf": "!include d/*.conf # all\n", "d/aa.conf": "a = 1\n", "d/zz.conf": "z = 1\n"},
            "!include DIR/d/aa.conf\n!include /staged\n!include DIR/d/zz.conf\n",
        ),
        (
            {"main.conf": "!include_try {x,y}/*.conf\n!include x/no*\n", "y/a.conf": "!include DIR/d/*.conf\nb = 2\n"},
            "!include /staged\nb = 2\n!include DIR/x/no*\n",
        ),
        (
            {"main.conf": "ssl_cert = <c.pem\nssl_key = </k.pem\n!include \\\n  d/ours.conf\n# end"},
            "ssl_cert = <DIR/c.pem\nssl_key = </k.pem\n!include /staged\n# end\n",
        ),
        (
            {"main.conf": "!include loop.conf\n", "loop.conf": "!include loop.conf\n!include d/ours.conf\n"},
            "!include DIR/loop.conf\n!include /staged\n",
        ),
    ],
)
def test_a_trial_reads_the_staged_include_in_the_place_of_the_live_one(
    tmp_path: Path, files: dict[str, str], expected: str, *, exists: bool
) -> None:
    main = put(tmp_path, {name: text.replace("DIR", str(tmp_path)) for name, text in files.items()})
    live = tmp_path / "d/ours.conf"
    if exists:
        put(tmp_path, {"d/ours.conf": "ours = 1\n"})
    assert trial(main, live, Path("/staged")).replace(str(tmp_path), "DIR") == expected
    assert is_included(read(main), live) is (files != {"main.conf": "a = 1"})


def test_without_the_main_file_there_is_no_trial(tmp_path: Path) -> None:
    """Dovecot 2.3 would take an empty one, and not start without the real one."""
    main = tmp_path / "dovecot.conf"
    with pytest.raises(HostError, match=r"dovecot\.conf: does not exist"):
        trial(main, tmp_path / "ours.conf", Path("/staged"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\n!include ours.conf\n", 2),
        ("!include o*.conf\n", 1),
        ("!include *.conf\n", None),
        ("!include_try ours.conf\n", None),
        ("# !include ours.conf\n", None),
    ],
)
def test_an_include_that_matches_nothing_else_needs_the_file(tmp_path: Path, text: str, line: int | None) -> None:
    main = put(tmp_path, {"dovecot.conf": text, "ours.conf": ""})
    required = required_by(read(main), tmp_path / "ours.conf")
    assert (required and required.line) == line


# ---------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        # All measured with handshakes on 2.3.19 and 2.4.1.
        ("mail.x.test", ["mail.x.test"], ["imap.x.test", "mail.x.tes", "mail.x.test2"]),
        ("*.x.test", ["mail.x.test"], ["a.b.x.test", "x.test"]),
        ("mail*.y.test", ["mail7.y.test", "mail.y.test"], ["imap.y.test"]),
        ("*.*.z.test", ["a.b.z.test"], ["a.b.c.z.test", "b.z.test"]),
        ("?.q.test", ["a.q.test"], ["ab.q.test"]),
        ("x.test*", ["x.test"], ["x.testing", "x.test.a"]),  # this one read in the source
        (".x.test", [], ["mail.x.test", "x.test"]),
        ("*", [], ["foo.com", "com"]),
        ("**.w.test", [], ["a.w.test", "a.b.w.test"]),
        ("mail.*", [], ["mail.foo"]),
    ],
)
def test_patterns_match_as_in_dovecot(pattern: str, names: list[str], others: list[str]) -> None:
    assert all(pattern_matches(pattern, name) for name in names)
    assert not any(pattern_matches(pattern, name) for name in others)
    assert can_match(pattern) is bool(names)


LABELS = st.sampled_from(["a", "mail", "*", "a*", "?", "x", "**", "", "test"])


@given(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.lists(st.sampled_from(["a", "mail", "x", "ab"]), min_size=1, max_size=4).map(".".join),
)
def test_what_cannot_match_matches_nothing(pattern: str, name: str) -> None:
    if not can_match(pattern):
        assert not pattern_matches(pattern, name)


def blocks(*texts: str) -> list[Block]:
    return [Block(at, "local_name", text, Path("/f")) for at, text in enumerate(texts, 1)]


def lost(version: DovecotVersion, *texts: str) -> list[tuple[str, int, int]]:
    """Name, line of the block that is not taken for it, line of the one that is."""
    found = conflicts(blocks(*texts), version)
    return [(one.name, one.loser.line, one.winner.line) for one in found]


EXACT, WILD = "mail.x.test", "*.x.test"


@pytest.mark.parametrize(
    ("texts", "old", "new"),
    [
        # All measured with handshakes on 2.3.19 and 2.4.1.
        ((EXACT, WILD), [], [(EXACT, 1, 2)]),
        ((WILD, EXACT), [(EXACT, 2, 1)], []),
        ((EXACT, "Mail.X.test"), [(EXACT, 1, 2)], [(EXACT, 1, 2)]),
        ((EXACT, WILD, EXACT), [(EXACT, 1, 3)], [(EXACT, 1, 3), (EXACT, 3, 2)]),
        ((WILD, EXACT, WILD), [(WILD, 1, 3), (EXACT, 2, 3)], [(WILD, 1, 3)]),
        ((WILD, WILD, EXACT), [(WILD, 1, 2), (EXACT, 3, 2)], [(WILD, 1, 2)]),
    ],
)
def test_the_block_that_wins_is_the_one_that_dovecot_serves(
    texts: tuple[str, ...], old: list[object], new: list[object]
) -> None:
    assert lost("2.3", *texts) == old
    assert lost("2.4", *texts) == new


def test_a_block_of_several_names_loses_to_the_same_text_only() -> None:
    """Measured with handshakes on 2.3.19: the whole text is the name of a block."""
    both = "mail.x.test imap.x.test"
    assert lost("2.3", EXACT, both) == [(EXACT, 2, 1)]
    assert lost("2.3", both, EXACT) == [(EXACT, 2, 1)]
    assert lost("2.3", EXACT, both, EXACT) == [(EXACT, 1, 3), (EXACT, 2, 3)]
    assert lost("2.3", both, EXACT, EXACT) == [(EXACT, 2, 3), (EXACT, 3, 1)]


NAMES = st.sampled_from(["a.t", "b.t", "*.t", "x.a.t", "*.a.t", "a*.t", "a.t b.t"])


@given(st.lists(NAMES, max_size=8), st.sampled_from(["2.3", "2.4"]))
def test_a_conflict_is_told_exactly_when_another_block_answers(texts: list[str], version: DovecotVersion) -> None:
    places = {text: at for at, text in reversed(list(enumerate(texts, 1)))}
    values = {text: at for at, text in enumerate(texts, 1)}
    expected = set()
    for text in values:
        for name in text.split():
            if "*" in name:
                continue
            matching = [one for one in places if any(pattern_matches(want, name) for want in one.split())]
            taken = (min if version == "2.3" else max)(matching, key=lambda one: places[one])
            if taken != text:
                expected.add((name, values[text], values[taken]))
    told = {one for one in lost(version, *texts) if "*" not in one[0] and texts[one[1] - 1] != texts[one[2] - 1]}
    assert told == expected


def test_only_2_4_0_compares_letter_by_letter() -> None:
    strange = blocks("MAIL.x.test", "*.x.test")
    assert [one.where for one in case_findings("2.4.0 (1234)", strange, "reload")] == ["/f:1", "/f:2"]
    for version in ("2.4.1-4 (7d8c0e5759)", "2.4.5 (0cbb641e3e)", "2.40.0", ""):
        assert list(case_findings(version, strange, "reload")) == []


# ---------------------------------------------------------------------------------------------------------------------
# The looks, without any Dovecot


def found(main: Path, version: DovecotVersion) -> list[Finding]:
    """What the doctor finds in a configuration for a Dovecot that is not installed."""
    own = DovecotSettings(enabled=True, config_file=main, include_file=main.with_name("ours.conf"))
    host = HostFacts(Settings(dovecot=own), NOW, dovecot=Dovecot(own, installed=False, version=version))
    return list(in_order(findings(Facts(host))))


STATEMENTS = st.sampled_from(
    [
        *("local_name a.t {", 'local_name "a.t *.t" {', "local_name *.t {", "local_name .t\x1b {", "local_name {"),
        *("protocol imap {", "ssl_server {", "service config {", "local 10.0.0.0/8 {", "}", "}", "}", "{", "a b c {"),
        *("ssl_cert = <HERE/good.pem", "ssl_key = <HERE/good.pem", "ssl_cert = HERE/good.pem", "ssl_key =", "ssl = no"),
        *("ssl_server_cert_file = HERE/good.pem", "ssl_server_key_file = HERE/good.pem", "cert_file = HERE", "ssl ="),
        *("ssl_server_key_file = <HERE/good.pem", "ssl_cert = </nonexistent/\xff\x1b[2J", "ssl_alt_cert = <HERE/pipe"),
        *("ssl_key = <HERE/archive/a.t/privkey3.pem", "ssl_cert = <" + "x" * 3000, "ssl_alt_key = <.", "ssl_dh = <"),
        *("vsz_limit = 1k", "vsz_limit = 99999999999999999999T", "default_vsz_limit = 1", "vsz_limit = \u0661"),
        *("!include ours.conf", "!include_try *.conf", "!include_try pipe", "dovecot_config_version = 2.4.0"),
    ]
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("here")
    issued = authority().issue(["a.t", "b.t"])
    (directory / "good.pem").write_bytes(issued.key_pem + issued.fullchain_pem)
    (directory / "archive/a.t").mkdir(parents=True)
    (directory / "archive/a.t/privkey3.pem").write_bytes(issued.key_pem)
    os.mkfifo(directory / "pipe")
    return directory


@effort(400)
@example(["default_vsz_limit = 1", "ssl_server {", "ssl_cert = <HERE/good.pem"], [], "2.3")  # no block to divide by
@given(st.lists(STATEMENTS, max_size=14), st.lists(STATEMENTS, max_size=5), st.sampled_from(["2.3", "2.4"]))
def test_whatever_the_configuration_the_findings_can_be_shown(
    here: Path, own: list[str], ours: list[str], version: DovecotVersion
) -> None:
    text = {"dovecot.conf": "\n".join(own), "ours.conf": "\n".join(ours)}
    main = put(here, {name: content.replace("HERE", str(here)) for name, content in text.items()})
    for one in found(main, version):
        parts = [part for part in (one.fix.command, one.fix.edit, one.fix.note) if part is not None]
        assert parts
        texts = (one.code, one.what, one.where, one.why, *parts)
        assert all(text and text.isprintable() and len(text) < 9000 for text in texts), texts
        assert not any("-----BEGIN" in text for text in texts)


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_a_host_without_dovecots_programs_is_looked_at_all_the_same(tmp_path: Path, version: DovecotVersion) -> None:
    lines = "ssl_cert = </nonexistent/a\nssl_key = </nonexistent/a\n"
    codes = [one.code for one in found(put(tmp_path, {"dovecot.conf": lines}), version)]
    missing = "dovecot_default_certificate_missing"
    unwired = "dovecot_include_not_configured"
    syntax = "dovecot_wrong_release_syntax"
    assert codes == (["dovecot_file_missing", unwired] if version == "2.3" else [syntax, missing, unwired])


LISTENER = "service %s {\ninet_listener %s {\n%sssl = no\n}\n}\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ssl = no\nprotocol imap {\nssl = no\n}\n", [1]),
        ("ssl = no\nprotocols = lmtp\n", []),
        ("ssl = no\nprotocols = lmtp\nprotocols = $protocols imap\n", [1]),
        ("ssl = no\nprotocols = imap\nprotocols = lmtp\n", []),
        ("ssl = no\nprotocols = lmtp\nprotocols {\npop3 = yes\n}\n", [1]),
        ("ssl = no\nssl = required\n", []),
        ("protocol pop3 {\nssl = no\n}\nprotocols = imap pop3\n", [2]),
        ("protocol pop3 {\nssl = no\n}\nprotocols = imap\n", []),
        ("protocol lmtp {\nssl = no\n}\n", []),
        ("local_name a.t {\nssl = no\nprotocol imap {\nssl = no\n}\n}\n", []),
        ("remote 10.0.0.0/8 {\nssl = no\n}\n", [2]),
        ("service imap-login {\nssl = no\n}\nservice imap {\nssl = no\n}\n", [2]),
        (LISTENER % ("imap-login", "imaps", ""), [3]),
        (LISTENER % ("imap-login", "imaps", "port = 0\n"), []),
        (LISTENER % ("imap-login", "imap", ""), []),
        (LISTENER % ("imap-login", "other", "port = 993\n"), [4]),
        ("protocols = imap\n" + LISTENER % ("managesieve-login", "imaps", ""), []),
    ],
)
def test_every_ssl_no_that_takes_tls_from_clients_is_found(tmp_path: Path, text: str, lines: list[int]) -> None:
    main = put(tmp_path, {"dovecot.conf": text})
    found_here = [one.where for one in found(main, "2.4") if one.code == "dovecot_tls_off"]
    assert found_here == [f"{main}:{line}" for line in lines]


@pytest.mark.parametrize(
    ("text", "limit"),
    [("256M", 256 << 20), ("256 MB", 256 << 20), ("256mib", 256 << 20), ("1 g", 1 << 30), ("12345", 12345), ("0", 0)],
)
def test_limits_are_read_as_dovecot_writes_them(text: str, limit: int) -> None:
    assert parse_size(text) == limit


@pytest.mark.parametrize("text", ["", "M", "0.5G", "unlimited", "$x", "-1", "1Q", "1" * 30, "\u0661"])
def test_what_dovecot_refuses_is_no_limit(text: str) -> None:
    assert parse_size(text) is None
