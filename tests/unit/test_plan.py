"""From what is deployed to what should be: each kind of change, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

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


Certificates = tuple[Certificate, ...]
ELSEWHERE = "other lineages serve it now"
CHANGES: dict[str, tuple[Certificates, Certificates, Kind, str, bool]] = {
    "a new name": ((), (OLD,), Kind.ADD, "new", False),
    "another certificate of the lineage": ((OLD,), (NEW,), Kind.RENEW, "renewed", False),
    "one of two algorithms": ((OLD, RSA), (NEW, RSA), Kind.RENEW, "renewed", False),
    "another key": ((OLD,), (replace(NEW, spki="0" * 64),), Kind.RENEW, "renewed", True),
    "another lineage": ((OLD,), (replace(NEW, source=source("a-0001")),), Kind.REPLACE, ELSEWHERE, False),
    "one lineage more": ((OLD,), (OLD, RSA), Kind.REPLACE, ELSEWHERE, True),
    "one lineage fewer": ((OLD, RSA), (OLD,), Kind.REPLACE, ELSEWHERE, True),
    "no lineage any more": ((OLD,), (), Kind.REMOVE, "its lineage is gone", False),
}


@pytest.mark.parametrize(("before", "after", "kind", "why", "new_key"), CHANGES.values(), ids=CHANGES)
def test_a_change_says_why_and_whether_a_tlsa_record_of_the_key_changes_too(
    before: Certificates, after: Certificates, kind: Kind, why: str, *, new_key: bool
) -> None:
    (change,) = difference(deployment(*before), *after)
    assert (change.name, change.kind, change.why, change.new_public_key) == (MAIL_A, kind, why, new_key)
    assert ([one.ident for one in change.old], change.new) == ([one.ident for one in before], after)


def test_a_name_whose_lineage_has_other_names_now_is_removed() -> None:
    (change,) = difference(deployment(certificate("b", MAIL_B)), certificate("b", "www.b.test"))
    assert (change.kind, change.name, change.why) == (Kind.REMOVE, MAIL_B, "no certificate can serve it any more")


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
