"""From what is deployed to what should be: each kind of change, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mailsni.core.deployment import Deployment
from mailsni.core.model import Certificate
from mailsni.core.plan import ArtifactChange, Change, Kind, Plan, changes
from tests.support.builders import certificate, deployment, inventory, kept, selection, source, with_key

MAIL_A, MAIL_B = "mail.a.test", "mail.b.test"
OLD = certificate("a", MAIL_A, age=60, left=30)
NEW = certificate("a", MAIL_A, age=1)
RSA = certificate("a-rsa", MAIL_A, algorithm="rsa")
NOTHING = Deployment()


def difference(before: Deployment, *after: Certificate) -> list[Change]:
    return list(changes(selection(*after), before, inventory(*after).lineages))


def test_what_is_deployed_as_it_should_be_is_no_change() -> None:
    assert difference(deployment(OLD, RSA), OLD, RSA) == []
    assert difference(NOTHING) == []


def test_a_new_name_is_added() -> None:
    (change,) = difference(NOTHING, OLD)
    assert (change.kind, change.name, change.old, change.new, change.why) == (Kind.ADD, MAIL_A, (), (OLD,), "new")
    assert not change.new_public_key


def test_another_certificate_of_the_lineage_is_a_renewal() -> None:
    (change,) = difference(deployment(OLD), NEW)
    assert (change.kind, change.new, change.why) == (Kind.RENEW, (NEW,), "renewed")
    assert [one.ident for one in change.old] == [OLD.ident]


def test_one_of_two_algorithms_renewed_is_a_renewal() -> None:
    (change,) = difference(deployment(OLD, RSA), NEW, RSA)
    assert (change.kind, change.new) == (Kind.RENEW, (NEW, RSA))


def test_another_lineage_or_one_more_or_one_fewer_is_a_replacement() -> None:
    moved = replace(NEW, source=source("a-0001"))
    for before, after in (((OLD,), (moved,)), ((OLD,), (OLD, RSA)), ((OLD, RSA), (OLD,))):
        (change,) = difference(deployment(*before), *after)
        assert (change.kind, change.why) == (Kind.REPLACE, "other lineages serve it now")


def test_a_name_that_goes_is_told_why() -> None:
    gone, unasked = difference(deployment(OLD, certificate("b", MAIL_B)), certificate("b", "www.b.test"))
    assert (gone.kind, gone.name, gone.new, gone.why) == (Kind.REMOVE, MAIL_A, (), "its lineage is gone")
    assert (unasked.kind, unasked.name, unasked.why) == (
        Kind.REMOVE,
        MAIL_B,
        "no certificate can serve it any more",
    )
    assert not gone.new_public_key


def test_a_name_whose_certificate_is_not_recorded_any_more_is_replaced() -> None:
    forgotten = replace(deployment(OLD), certificates={})
    (change,) = difference(forgotten, OLD)
    assert (change.kind, change.old) == (Kind.REPLACE, ())
    (removed,) = difference(forgotten)
    assert (removed.kind, removed.why) == (Kind.REMOVE, "no certificate can serve it any more")


def test_a_last_good_certificate_that_stays_is_kept() -> None:
    (change,) = difference(deployment(OLD), kept(OLD))
    assert change.kind is Kind.KEEP
    assert not change.new_public_key
    assert difference(deployment(kept(OLD)), OLD) == []


def test_the_changes_are_ordered_by_name() -> None:
    found = difference(deployment(OLD), certificate("c", "mail.c.test"), certificate("b", MAIL_B))
    assert [(one.name, one.kind) for one in found] == [
        (MAIL_A, Kind.REMOVE),
        (MAIL_B, Kind.ADD),
        ("mail.c.test", Kind.ADD),
    ]


def test_a_new_key_is_said_for_the_sake_of_tlsa_records() -> None:
    assert OLD.spki == NEW.spki
    (same,) = difference(deployment(OLD), NEW)
    (other,) = difference(deployment(OLD), replace(NEW, spki="0" * 64))
    (more,) = difference(deployment(OLD), OLD, RSA)
    assert [one.new_public_key for one in (same, other, more)] == [False, True, True]


def test_a_plan_counts_and_knows_whether_anything_is_to_be_written() -> None:
    found = difference(deployment(OLD, certificate("b", MAIL_B)), kept(OLD), certificate("c", "mail.c.test"))
    plan = Plan(tuple(found), (), ())
    assert (
        plan.count(Kind.ADD),
        plan.count(Kind.RENEW, Kind.REPLACE),
        plan.count(Kind.REMOVE, Kind.KEEP),
    ) == (1, 0, 2)
    assert [one.name for one in plan.effective] == [MAIL_B, "mail.c.test"]
    assert not plan.pending
    assert replace(plan, pins=(with_key(NEW),)).pending
    assert replace(plan, artifacts=(ArtifactChange("postfix", Path("/etc/postfix/mailsni"), "x"),)).pending
