"""Whatever two files hold, they are a proven certificate or a reason, and no key ever shows."""

from __future__ import annotations

import base64
import functools
import re
import traceback
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsni.core.model import KeyAndChain
from mailsni.core.x509 import InvalidPair, validate_pair
from mailsni.sandbox.authority import Issued
from tests.support.authority import Algorithm
from tests.support.builders import authority
from tests.support.strategies import effort

BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n(.*?)-----END \1-----\n", re.DOTALL)
BEGIN = b"-----BEGIN "


@functools.cache
def pair(algorithm: Algorithm) -> Issued:
    return authority().issue(["mail.a.test", "*.a.test"], algorithm=algorithm, common_name="mail.a.test")


def material(outcome: KeyAndChain | InvalidPair) -> bytes | None:
    return outcome.pem if isinstance(outcome, KeyAndChain) else None


@functools.cache
def whole(algorithm: Algorithm) -> bytes:
    issued = pair(algorithm)
    found = material(validate_pair("/live/a", issued.fullchain_pem, issued.key_pem))
    assert found is not None
    return found


def key_lines(issued: Issued) -> Sequence[bytes]:
    return [line for line in issued.key_pem.splitlines() if not line.startswith(b"-")]


def assert_says_nothing_of_the_key(outcome: object, issued: Issued) -> None:
    for text in (repr(outcome), str(outcome), f"{outcome}"):
        assert b"PRIVATE KEY" not in text.encode()
        for line in key_lines(issued):
            assert line not in text.encode()


# ── any bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────

pieces = st.sampled_from(
    [
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"-----END PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n",
        b"Proc-Type: 4,ENCRYPTED\n\n",
        b"MAA=\n",
        b"-----BEGIN ",
    ]
)
anything = st.one_of(st.binary(max_size=200), st.lists(st.one_of(pieces, st.binary(max_size=30))).map(b"".join))


@effort(500)
@given(anything, anything)
def test_any_two_files_are_rejected_in_peace(chain: bytes, key: bytes) -> None:
    outcome = validate_pair("/live/a", chain, key)
    assert isinstance(outcome, InvalidPair)
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()
    assert isinstance(validate_pair("/live/a", chain, chain), InvalidPair)


Change = Callable[[bytes], bytes]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """One thing that can happen to a file: bytes are lost, changed, put in, or there twice."""
    begin, length = draw(st.floats(0, 1)), draw(st.integers(0, 40))
    kind = draw(st.sampled_from(["lose", "flip", "insert", "repeat", "cut"]))
    added = draw(st.binary(min_size=1, max_size=6))
    bit = 1 << draw(st.integers(0, 7))

    def change(content: bytes) -> bytes:
        at = int(begin * len(content))
        rest = content[at:]
        match kind:
            case "lose":
                return content[:at] + rest[length:]
            case "flip":
                return content[:at] + bytes(byte ^ bit for byte in rest[:1]) + rest[1:]
            case "insert":
                return content[:at] + added + rest
            case "repeat":
                return content[:at] + rest[:length] + rest
            case _:
                return content[:at]

    return change


def apply(found: Iterable[Change], content: bytes) -> bytes:
    for change in found:
        content = change(content)
    return content


def below_the_base64(found: Sequence[Change], pem: bytes) -> bytes:
    """The same changes to the DER of each block, so that they get past the first checks."""

    def block(match: re.Match[bytes]) -> bytes:
        der = apply(found, base64.b64decode(match[2]))
        return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (match[1], base64.encodebytes(der), match[1])

    return BLOCK.sub(block, pem)


few = st.lists(changes(), max_size=2)


@effort(400)
@given(few, few, st.sampled_from(["ecdsa", "rsa"]))
def test_a_damaged_pair_is_proven_or_rejected(for_chain: list[Change], for_key: list[Change], kind: Algorithm) -> None:
    issued = pair(kind)
    chain, key = apply(for_chain, issued.fullchain_pem), apply(for_key, issued.key_pem)
    outcome = validate_pair("/live/a", chain, key)
    assert_says_nothing_of_the_key(outcome, issued)
    found = material(outcome)
    if found is not None and chain == issued.fullchain_pem:
        assert found.endswith(issued.fullchain_pem)


@effort(600)
@given(few, few, st.sampled_from(["ecdsa", "rsa"]))
def test_so_is_one_whose_der_is_damaged(for_chain: list[Change], for_key: list[Change], kind: Algorithm) -> None:
    issued = pair(kind)
    chain = below_the_base64(for_chain, issued.fullchain_pem)
    key = below_the_base64(for_key, issued.key_pem)
    assert_says_nothing_of_the_key(validate_pair("/live/a", chain, key), issued)


# ── torn files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def borders(pem: bytes, first: int = 1) -> Sequence[range]:
    """Where a file can be cut and be a shorter file of whole blocks: from a block's end to where the next one shows."""
    ends = [match.end() - 1 for match in BLOCK.finditer(pem)]
    starts = [match.start() + len(BEGIN) for match in BLOCK.finditer(pem)]
    return [range(end, start) for end, start in zip(ends[first - 1 :], starts[first:], strict=False)]


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa"])
def test_a_torn_chain_is_whole_or_ends_between_blocks(algorithm: Algorithm) -> None:
    issued = pair(algorithm)
    leaf_alone = whole(algorithm).removesuffix(issued.chain_pem)
    (border,) = borders(issued.fullchain_pem)
    for at in range(len(issued.fullchain_pem)):
        found = material(validate_pair("/live/a", issued.fullchain_pem[:at], issued.key_pem))
        if at == len(issued.fullchain_pem) - 1:
            assert found == whole(algorithm)
        else:
            assert found == (leaf_alone if at in border else None), at


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa"])
def test_a_torn_key_is_whole_or_nothing(algorithm: Algorithm) -> None:
    issued = pair(algorithm)
    for at in range(len(issued.key_pem)):
        found = material(validate_pair("/live/a", issued.fullchain_pem, issued.key_pem[:at]))
        assert found == (whole(algorithm) if at == len(issued.key_pem) - 1 else None), at


def test_a_torn_pinned_file_is_never_another_one() -> None:
    pinned = whole("ecdsa")
    complete = validate_pair("/live/a", pinned, pinned)
    assert isinstance(complete, KeyAndChain)
    (border,) = borders(pinned, first=2)
    for at in range(len(pinned)):
        outcome = validate_pair("/live/a", pinned[:at], pinned[:at])
        if at == len(pinned) - 1:
            assert outcome == complete
        else:
            assert isinstance(outcome, KeyAndChain) == (at in border), at
            assert not isinstance(outcome, KeyAndChain) or outcome.certificate.ident != complete.certificate.ident


# ── the same in other clothes ────────────────────────────────────────────────────────────────────────────────────────

BOM = b"\xef\xbb\xbf"
line_ends = st.sampled_from([b"\n", b"\r\n"])
around = st.sampled_from([b"", BOM, b"Bag Attributes\n    friendlyName: x\n", b"\r\n\r\n", b"\xff\0\n", b"----\n"])


@effort(300)
@given(st.lists(st.sampled_from([0, 1]), max_size=4), st.lists(around, min_size=7, max_size=7), line_ends)
@example([], [BOM] * 7, b"\r\n")
def test_neither_order_nor_wrapping_changes_the_material(more: list[int], junk: list[bytes], end: bytes) -> None:
    issued = pair("ecdsa")
    blocks = [issued.leaf_pem, issued.chain_pem]
    order = [*more, *(at for at in (0, 1) if at not in more)]
    chain = b"".join(before + blocks[at] for before, at in zip(junk, order, strict=False)) + junk[-1]
    key = junk[0] + issued.key_pem + junk[1]
    assert material(validate_pair("/live/a", chain.replace(b"\n", end), key.replace(b"\n", end))) == whole("ecdsa")


def test_another_chain_is_another_pinned_file() -> None:
    issued = pair("ecdsa")
    both = [validate_pair("/live/a", chain, issued.key_pem) for chain in (issued.fullchain_pem, issued.leaf_pem)]
    certificates = [pair.certificate for pair in both if isinstance(pair, KeyAndChain)]
    idents, fingerprints = ({getattr(one, name) for one in certificates} for name in ("ident", "fingerprint"))
    assert (len(idents), len(fingerprints)) == (2, 1)


# ── silence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa"])
def test_nothing_that_can_be_printed_holds_a_key(algorithm: Algorithm) -> None:
    issued = pair(algorithm)
    outcome = validate_pair("/live/a", issued.fullchain_pem, issued.key_pem)
    assert isinstance(outcome, KeyAndChain)
    for shown in (outcome, outcome.certificate, [outcome], {"x": outcome}):
        assert_says_nothing_of_the_key(shown, issued)
    try:
        raise ValueError(outcome)
    except ValueError as error:
        assert_says_nothing_of_the_key(traceback.format_exception(error), issued)
