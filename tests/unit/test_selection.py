"""How one certificate wins a name, rule by rule; what is said of the others, and what of it is a problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.core.model import Certificate, Reason, SkippedLineage, merged
from mailsni.core.names import NamePatterns
from mailsni.core.selection import Candidate, Selection, explain, select
from tests.support.builders import EVERYTHING, MAIL, NOW, certificate, inventory, kept, selection, skipped, source
from tests.support.strategies import crowded, effort

MAIL_A = "mail.a.test"


def winners(*certificates: Certificate, patterns: NamePatterns = MAIL) -> dict[str, list[str]]:
    found = selection(*certificates, patterns=patterns)
    return {one.name: [item.source.rpartition("/")[2] for item in one.certificates] for one in found.winners}


def told(found: Selection) -> set[tuple[str, Reason, tuple[str, ...], bool]]:
    return {(one.source.rpartition("/")[2], one.reason, one.names, one.information) for one in found.skipped}


def why(name: str, *certificates: Certificate, patterns: NamePatterns = MAIL) -> dict[str, str]:
    found = explain(name, inventory(*certificates), patterns, NOW)
    return {one.certificate.source.rpartition("/")[2]: one.why for one in found}


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────────────────────────


WILD, OWN = certificate("wild", "*.a.test", age=80), certificate("own", MAIL_A, age=1, self_signed=True)
RULES: dict[str, tuple[list[Certificate], list[str]]] = {
    "valid beats expired": ([WILD, certificate("late", MAIL_A, left=0)], ["wild"]),
    "valid beats not yet valid": ([WILD, certificate("early", MAIL_A, age=-0.01)], ["wild"]),
    "trusted beats staging": ([WILD, certificate("staging", MAIL_A, staging=True)], ["wild"]),
    "validity begins with its first moment": ([certificate("first", MAIL_A, age=0)], ["first"]),
    "validity ends before its last moment": ([certificate("last", MAIL_A, left=0)], []),
    "a wildcard of an authority beats self-signed": ([OWN, WILD], ["wild"]),
    "a kept one of an authority beats self-signed": ([OWN, kept(certificate("kept", MAIL_A, age=80))], ["kept"]),
    "self-signed is better than none": ([OWN], ["own"]),
    "self-signed is not even served beside another algorithm": (
        [certificate("rsa", MAIL_A, algorithm="rsa", self_signed=True), certificate("good", MAIL_A)],
        ["good"],
    ),
    "self-signed ones of two algorithms are served": (
        [certificate("rsa", MAIL_A, algorithm="rsa", self_signed=True), OWN],
        ["own", "rsa"],
    ),
    "exact beats a wildcard issued later": (
        [certificate("later", "*.a.test", age=1), certificate("exact", MAIL_A, age=80)],
        ["exact"],
    ),
    "an exact last good copy beats a whole wildcard": (
        [kept(certificate("copy", MAIL_A)), certificate("later", "*.a.test")],
        ["copy"],
    ),
    "whole beats a last good copy issued later": (
        [kept(certificate("copy", MAIL_A, age=1)), certificate("whole", MAIL_A, age=80)],
        ["whole"],
    ),
    "issued later beats lasting longer": (
        [certificate("long", MAIL_A, age=2, left=999), certificate("new", MAIL_A, age=1)],
        ["new"],
    ),
    "the order of the directories breaks a tie": ([certificate("b", MAIL_A), certificate("a", MAIL_A)], ["a"]),
    "each algorithm has its winner, ECDSA first": (
        [
            certificate("rsa-old", MAIL_A, algorithm="rsa", age=9),
            certificate("ec-new", MAIL_A, age=1),
            certificate("ec-old", MAIL_A, age=9),
            certificate("rsa-new", MAIL_A, algorithm="rsa", age=1),
        ],
        ["ec-new", "rsa-new"],
    ),
    "a wildcard of the other algorithm joins an exact one": (
        [certificate("exact", MAIL_A), certificate("wild-rsa", "*.a.test", algorithm="rsa")],
        ["exact", "wild-rsa"],
    ),
}


@pytest.mark.parametrize(("rivals", "expected"), RULES.values(), ids=RULES)
def test_the_winner_of_a_name(rivals: list[Certificate], expected: list[str]) -> None:
    assert winners(*rivals).get(MAIL_A, []) == expected


def test_the_fingerprint_breaks_the_last_tie() -> None:
    low, high = (replace(certificate("a", MAIL_A), fingerprint=digit * 64) for digit in "0f")
    for pair in ((low, high), (high, low)):
        assert selection(*pair).winners[0].certificates == (low,)


@pytest.mark.parametrize("patterns", [MAIL, EVERYTHING, NamePatterns(["m*.a.test"])])
def test_a_wildcard_competes_for_a_name_that_another_certificate_brings_in(patterns: NamePatterns) -> None:
    """Also where the patterns ask nothing of the wildcard itself."""
    own = certificate("own", MAIL_A, self_signed=True)
    assert winners(own, certificate("wild", "*.a.test"), patterns=patterns)[MAIL_A] == ["wild"]


def test_a_wildcard_alone_serves_what_the_patterns_spell_out() -> None:
    wild = certificate("wild", "*.a.test", "a.test")
    assert set(winners(wild)) == {f"{label}.a.test" for label in ("mail", "imap", "smtp", "pop", "pop3", "mx")}
    assert winners(wild, patterns=EVERYTHING) == {"*.a.test": ["wild"], "a.test": ["wild"]}
    assert winners(wild, patterns=NamePatterns(["m*.a.test"])) == {}


def test_the_winners_are_ordered_and_each_certificate_is_there_once() -> None:
    both = certificate("both", "mail.b.test", MAIL_A)
    found = selection(both, certificate("rsa", MAIL_A, algorithm="rsa"))
    assert [one.name for one in found.winners] == [MAIL_A, "mail.b.test"]
    assert sorted(one.source for one in found.certificates) == [source("both"), source("rsa")]
    assert [one.ident for one in found.certificates] == sorted(one.ident for one in found.certificates)


# ── what is said of the others ───────────────────────────────────────────────────────────────────────────────────────


def test_what_nobody_must_look_at_is_information() -> None:
    found = selection(
        certificate("good", MAIL_A, age=1),
        certificate("web", "www.a.test", "a.test"),
        certificate("older", MAIL_A, age=9),
        certificate("staging", "mail.s.test", staging=True),
        certificate("expired", MAIL_A, left=-1),
        certificate("own", "mail.own.test", self_signed=True),
        certificate("own2", MAIL_A, self_signed=True),
    )
    assert told(found) == {
        ("web", Reason.NO_MATCHING_NAME, (), True),
        ("older", Reason.LOST_TO_OTHER, (MAIL_A,), True),
        ("staging", Reason.STAGING, ("mail.s.test",), True),
        ("expired", Reason.EXPIRED, (MAIL_A,), True),
        ("own", Reason.SELF_SIGNED, ("mail.own.test",), True),
        ("own2", Reason.LOST_TO_OTHER, (MAIL_A,), True),
    }
    assert found.problems == ()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (certificate("bad", MAIL_A, left=-1), Reason.EXPIRED),
        (certificate("bad", MAIL_A, age=-1), Reason.NOT_YET_VALID),
        (kept(certificate("bad", MAIL_A)), Reason.KEPT_LAST_GOOD),
    ],
)
def test_what_a_person_must_look_at_is_a_problem(bad: Certificate, reason: Reason) -> None:
    found = selection(bad, certificate("other", "mail.b.test"))
    assert told(found) == {("bad", reason, (MAIL_A,), False)}
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("others", "patterns", "information"),
    [
        ([], MAIL, False),
        ([certificate("half", MAIL_A)], MAIL, False),
        ([certificate("half", MAIL_A), certificate("rest", "imap.a.test")], MAIL, True),
        ([certificate("wild", "*.a.test")], MAIL, True),
        ([certificate("wild", "*.a.test")], EVERYTHING, True),
        ([certificate("wild", "*.b.test")], EVERYTHING, False),
    ],
)
def test_an_expired_one_is_information_once_all_its_names_are_served(
    others: list[Certificate],
    patterns: NamePatterns,
    information: bool,  # noqa: FBT001
) -> None:
    found = selection(certificate("expired", MAIL_A, "imap.a.test", left=-1), *others, patterns=patterns)
    assert [one.information for one in found.skipped if one.reason is Reason.EXPIRED] == [information]


def test_a_broken_lineage_is_a_problem_for_its_mail_names_only() -> None:
    found = select(
        inventory(
            skipped=[
                skipped("mail", Reason.KEY_MISMATCH, MAIL_A, "www.a.test"),
                skipped("web", Reason.KEY_MISMATCH, "www.b.test"),
                skipped("unknown", Reason.BAD_PEM),
            ]
        ),
        MAIL,
        NOW,
    )
    assert told(found) == {
        ("mail", Reason.KEY_MISMATCH, (MAIL_A,), False),
        ("web", Reason.NO_MATCHING_NAME, (), True),
        ("unknown", Reason.BAD_PEM, (), False),
    }
    assert "besides, made up" in next(one.detail for one in found.skipped if one.source == source("web"))


def test_a_last_good_copy_that_serves_nothing_is_not_spoken_of() -> None:
    broken = skipped("a", Reason.KEY_MISSING, MAIL_A)
    copy = kept(certificate("a", MAIL_A))
    store = merged([inventory(copy, skipped=[broken]), inventory(certificate("b", MAIL_A))])
    assert told(select(store, MAIL, NOW)) == {("a", Reason.KEY_MISSING, (MAIL_A,), False)}


def test_who_won_is_said_and_not_at_any_length() -> None:
    names = [f"mail.{letter}.test" for letter in "abcde"]
    found = selection(certificate("old", *names, age=9), *(certificate(name[5], name, age=1) for name in names))
    (lost,) = (one for one in found.skipped if one.source == source("old"))
    assert lost.detail == f"lost to {source('a')}, {source('b')}, {source('c')} and 2 more"
    assert lost.names == tuple(names)


def test_a_wildcard_that_wins_a_name_it_was_not_asked_for_is_no_stranger() -> None:
    patterns = NamePatterns(["m*.a.test"])
    own = certificate("own", MAIL_A, self_signed=True)
    assert told(selection(own, certificate("wild", "*.a.test"), patterns=patterns)) == {
        ("own", Reason.LOST_TO_OTHER, (MAIL_A,), True)
    }


# ── explain ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_loser_is_told_the_rule_that_it_lost_by() -> None:
    assert why(
        MAIL_A,
        certificate("best", MAIL_A, age=1),
        certificate("own", MAIL_A, self_signed=True),
        certificate("wild", "*.a.test"),
        kept(certificate("copy", MAIL_A)),
        certificate("old", MAIL_A, age=2),
        certificate("expired", MAIL_A, left=-1),
        certificate("early", MAIL_A, age=-1),
        certificate("staging", MAIL_A, staging=True),
        certificate("stranger", "mail.b.test"),
    ) == {
        "best": "issued later (2026-02-28 12:00 against 2026-02-27 12:00)",
        "own": f"lost to {source('best')}: that one is issued by an authority, the other is self-signed",
        "wild": f"lost to {source('best')}: that one is for the exact name, the other is a wildcard",
        "copy": f"lost to {source('best')}: that one is whole in the store, the other is a last good copy",
        "old": f"lost to {source('best')}: that one is issued later (2026-02-28 12:00 against 2026-02-27 12:00)",
        "expired": "expired on 2026-02-28 12:00 UTC",
        "early": "not valid before 2026-03-02 12:00 UTC",
        "staging": "issued by a staging or local authority, which no client trusts",
    }


def test_a_winner_is_told_what_it_won_by() -> None:
    alone = certificate("a", MAIL_A)
    assert why(MAIL_A, alone) == {"a": "the only one"}
    assert why(MAIL_A, alone, certificate("r", MAIL_A, algorithm="rsa")) == {
        "a": "the only ecdsa one",
        "r": "the only rsa one",
    }
    assert why(MAIL_A, alone, certificate("b", MAIL_A))["a"] == "first by the order of the directories"
    assert why(MAIL_A, alone, certificate("w", "*.a.test"))["a"] == "for the exact name, the other is a wildcard"
    assert why(MAIL_A, kept(alone)) == {"a": "the last good certificate of a lineage that is broken now"}
    own = certificate("o", MAIL_A, algorithm="rsa", self_signed=True)
    assert why(MAIL_A, alone, own)["o"] == "self-signed, and another is not"


def test_a_name_that_is_not_asked_for_is_not_said_to_be_served() -> None:
    outside = "the name is none of names.include, or one of names.exclude"
    assert why("www.a.test", certificate("a", "www.a.test")) == {"a": outside}
    not_spelt = "a wildcard, and no pattern of names.include begins with this very label"
    assert why(MAIL_A, certificate("w", "*.a.test"), patterns=NamePatterns(["m*.a.test"])) == {"w": not_spelt}


def test_a_name_below_a_wildcard_entry_is_served_by_it() -> None:
    (candidate,) = explain("web.a.test", inventory(certificate("w", "*.a.test")), EVERYTHING, NOW)
    assert (candidate.wins, candidate.exact, candidate.why) == (True, False, "the only one")


def test_a_name_that_nobody_has_has_no_candidates() -> None:
    assert explain("mail.b.test", inventory(certificate("a", MAIL_A)), MAIL, NOW) == ()


@st.composite
def stores(draw: st.DrawFn) -> list[Certificate]:
    found = [
        certificate(
            f"x-{at}",
            *draw(st.frozensets(crowded, min_size=1, max_size=3)),
            algorithm=draw(st.sampled_from(["ecdsa", "rsa"])),
            age=draw(st.integers(0, 2)),
            left=draw(st.sampled_from([9, 9, -1])),
            self_signed=draw(st.booleans()),
        )
        for at in range(draw(st.integers(1, 5)))
    ]
    return [kept(one) if draw(st.booleans()) else one for one in found]


@effort(300)
@given(stores(), st.sampled_from([MAIL, EVERYTHING, NamePatterns(["m*.a.test", "imap.*"], ["imap.b.test"])]))
def test_what_is_explained_is_what_is_done(store: list[Certificate], patterns: NamePatterns) -> None:
    found = selection(*store, patterns=patterns)
    for winner in found.winners:
        candidates = explain(winner.name, inventory(*store), patterns, NOW)
        assert {one.certificate.ident for one in winning(candidates)} == {one.ident for one in winner.certificates}
        assert list(candidates[: len(winner.certificates)]) == list(winning(candidates))
        assert all(one.why for one in candidates)
    served = {one.name for one in found.winners}
    for name in {name for one in store for name in one.names} - served:
        above = "*." + name.partition(".")[2]
        assert bool(list(winning(explain(name, inventory(*store), patterns, NOW)))) == (above in served)
    for one in store:
        assert speaks_of(one, found) or one.kept, "a certificate that is neither served nor mentioned"


def winning(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [one for one in candidates if one.wins]


def speaks_of(one: Certificate, found: Selection) -> list[Certificate | SkippedLineage]:
    served = [item for item in found.certificates if item is one]
    return [*served, *(item for item in found.skipped if item.source == one.source)]


# ── a clock that is wrong ────────────────────────────────────────────────────────────────────────────────────────────


EARLY, LATE = certificate("early", MAIL_A, age=-0.2), certificate("late", MAIL_A, age=90, left=0)


@pytest.mark.parametrize(("deployed", "reason"), [(EARLY, Reason.NOT_YET_VALID), (LATE, Reason.EXPIRED)])
def test_what_is_deployed_stays_whatever_the_clock_says_and_is_a_problem(deployed: Certificate, reason: Reason) -> None:
    found = select(inventory(deployed), MAIL, NOW, {MAIL_A: (deployed.ident,)})
    assert [(winner.name, winner.certificates) for winner in found.winners] == [(MAIL_A, (deployed,))]
    (problem,) = found.problems
    assert (problem.reason, problem.names) == (reason, (MAIL_A,))
    assert problem.detail.endswith("; it is served on, because no valid one can serve its names; is the clock right?")


@pytest.mark.parametrize("deployed", [EARLY, LATE])
@pytest.mark.parametrize(
    "better",
    [certificate("own", MAIL_A, self_signed=True), certificate("wild", "*.a.test"), kept(certificate("old", MAIL_A))],
)
def test_every_valid_one_is_better(deployed: Certificate, better: Certificate) -> None:
    found = select(inventory(deployed, better), MAIL, NOW, {MAIL_A: (deployed.ident,)})
    assert {winner.name: winner.certificates for winner in found.winners}[MAIL_A] == (better,)


def test_the_clock_keeps_what_is_new_away_and_nothing_comes_back_by_it() -> None:
    """Only what is deployed for a name stays with it: the same material, and that name."""
    two = certificate("early", MAIL_A, "imap.a.test", age=-0.2)
    assert select(inventory(two), MAIL, NOW).winners == ()
    found = select(inventory(two, certificate("i", "imap.a.test")), MAIL, NOW, {MAIL_A: (two.ident,)})
    assert {winner.name: winner.certificates[0].source for winner in found.winners} == {
        MAIL_A: source("early"),
        "imap.a.test": source("i"),
    }
    gone = select(inventory(two), MAIL, NOW, {MAIL_A: (two.ident,)})
    assert [winner.name for winner in gone.winners] == [MAIL_A]
    staging = certificate("s", MAIL_A, staging=True)
    assert select(inventory(staging), MAIL, NOW, {MAIL_A: (staging.ident,)}).winners == ()


def test_both_algorithms_stay_and_explain_says_why() -> None:
    pair = certificate("e", MAIL_A, age=-0.2), certificate("r", MAIL_A, age=-0.2, algorithm="rsa")
    deployed = {MAIL_A: tuple(each.ident for each in pair)}
    (winner,) = select(inventory(*pair), MAIL, NOW, deployed).winners
    assert winner.certificates == pair
    for candidate in explain(MAIL_A, inventory(*pair), MAIL, NOW, deployed):
        assert candidate.wins
        assert candidate.why.startswith("not valid before ")
        assert candidate.why.endswith("deployed already, and no valid one can serve the name")


@effort(300)
@given(stores(), st.sampled_from([MAIL, EVERYTHING, NamePatterns(["m*.a.test", "imap.*"])]), st.integers(-20, 20))
def test_no_clock_takes_a_deployed_name_away(store: list[Certificate], patterns: NamePatterns, days: int) -> None:
    """Deployed at one moment, selected again at any other: every name is still served."""
    before = select(inventory(*store), patterns, NOW)
    deployed = {winner.name: tuple(each.ident for each in winner.certificates) for winner in before.winners}
    moment = NOW + timedelta(days=days)
    after = select(inventory(*store), patterns, moment, deployed)
    assert {winner.name for winner in after.winners} >= deployed.keys()
    for winner in after.winners:
        valid = {each.valid_at(moment) for each in winner.certificates}
        assert len(valid) == 1
        if valid == {False}:
            assert {each.ident for each in winner.certificates} <= set(deployed[winner.name])
