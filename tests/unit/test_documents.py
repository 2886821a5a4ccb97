"""Every JSON document is what its schema says, no less and no more, and the schema knows every word of the code."""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from mailsni.check.model import CheckResult, Expiry, Level, unknown
from mailsni.check.model import Finding as CheckFinding
from mailsni.config import parser
from mailsni.config.effective import effective_values
from mailsni.config.settings import Settings
from mailsni.core.model import Algorithm, Reason
from mailsni.core.plan import Kind, name_states
from mailsni.core.selection import explain
from mailsni.core.x509 import Leaf
from mailsni.deploy.confirm import Confirmation
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.transaction import ApplyResult
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.errors import Exit, HostError, LockedError, MailsniError, RolledBackError, UsageError
from mailsni.metrics import MetricsInput
from mailsni.output import configuration, documents, prometheus, setup, sources, verify
from mailsni.output.configuration import EffectiveConfiguration
from mailsni.output.sources import KindEntry
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import ProbeResult, Problem
from mailsni.runs.history import EMPTY_HISTORY, Run
from mailsni.setup.model import SetupPlan
from mailsni.sources.detection import HostStore, Survey
from mailsni.sources.kinds import KINDS, SourceSettings
from mailsni.targets.base import TargetName
from mailsni.targets.detection import Detection
from mailsni.targets.reload import ReloadResult
from mailsni.verify.model import Assessment, Audit
from tests.support.builders import (
    EVERYTHING,
    MAIL,
    NOW,
    PUBLISHED,
    certificate,
    deployment,
    inventory,
    kept,
    mixture,
    skipped,
    snapshot,
)

Document = dict[str, Any]
MAPS = (("servers",), ("diff",), ("last_run", "skipped"))
DOCUMENT_NAMES = (
    *("status", "check", "plan", "apply", "explain", "render", "config"),
    *("verify", "metrics", "setup", "doctor", "sources", "error"),
)
SCHEMA: Document = json.loads(resources.files("mailsni.output").joinpath("schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
MAIL_A = "mail.a.test"
OF_VERIFY_ALONE = {
    Problem.SERVERS_DISAGREE,
    Problem.WRONG_CHAIN,
    Problem.EXPIRED,
    Problem.NOT_YET_VALID,
    Problem.NAME_MISMATCH,
    Problem.UNTRUSTED,
}
"""Problems that a confirmation after an apply does not look for."""
WITHOUT_CERTIFICATE = sorted(set(Problem) - OF_VERIFY_ALONE - {Problem.WRONG_CERTIFICATE})


def everything() -> Snapshot:
    """Each kind of change, each state and each reason in one."""
    old = certificate("a.test", MAIL_A, age=60, left=30)
    leaving = certificate("gone.test", "mail.gone.test")
    moved = certificate("x.test", "mail.x.test", age=20)
    renewed = certificate("r.test", "mail.r.test", age=60, left=30)
    broken = kept(certificate("old.test", "smtp.old.test", age=70, left=20))
    return snapshot(
        *mixture(),
        certificate("x.test-0001", "mail.x.test"),
        certificate("r.test", "mail.r.test", age=1),
        skipped=[skipped(f"bad-{reason}", reason, f"mail.{at}.test") for at, reason in enumerate(Reason)],
        deployed=deployment(old, leaving, moved, renewed, broken),
        patterns=EVERYTHING,
    )


def confirmation(problem: Problem | None, served: str = "a" * 64) -> Confirmation:
    expected = Expectation(MAIL_A, "a" * 64, "rsa" if served != "a" * 64 else None)
    endpoint = Endpoint.parse("imaps://127.0.0.1:993")
    fingerprint = served if problem is None else None
    result = ProbeResult(endpoint, MAIL_A, problem, fingerprint, "TLSv1.3")
    return Confirmation("dovecot", (Answer(expected, result),), 1, 1)


def applied() -> ApplyResult:
    return ApplyResult(
        everything(),
        {server: (path,) for server, path in PUBLISHED},
        {"postfix": ReloadResult.RELOADED, "dovecot": ReloadResult.NOT_RUNNING},
        (
            *map(confirmation, WITHOUT_CERTIFICATE),
            confirmation(None),
            confirmation(None, "b" * 64),
            Confirmation("postfix", (), 1, 1),
        ),
        ("something that is no fault of a certificate",),
    )


GOOD = Run(NOW, NOW, 4, "nothing to do", "certbot-post", 3, {str(reason): 1 for reason in Reason})
FAILED = Run(NOW, NOW, 143, "ended by a signal", "timer", error="cut off")
HISTORY = EMPTY_HISTORY.after(GOOD)

CHECKED = CheckResult(
    NOW,
    (CheckFinding(Level.CRITICAL, "map_stale", "postfix: another one for mail.a.test", (MAIL_A,)),),
    (Expiry(MAIL_A, NOW, 14.0, 7.0),),
    1,
    0,
    ("the last run",),
    8,
)
DOCUMENTS: dict[str, Callable[[], Document]] = {
    "status": lambda: documents.status(everything()),
    "status of nothing": lambda: documents.status(snapshot()),
    "status after a good run": lambda: documents.status(snapshot(), HISTORY),
    "status after a bad run": lambda: documents.status(snapshot(), HISTORY.after(FAILED)),
    "check": lambda: documents.check(CHECKED),
    "check of nothing": lambda: documents.check(unknown(NOW, "nothing could be seen")),
    "plan": lambda: documents.plan(everything()),
    "plan with diffs": lambda: documents.plan(everything(), [("postfix", "--- a\n+++ b\n"), ("dovecot", "")]),
    "plan of nothing": lambda: documents.plan(snapshot()),
    "apply": lambda: documents.run(applied()),
    "apply of nothing": lambda: documents.run(ApplyResult(snapshot())),
    "explain": lambda: documents.explanation(MAIL_A, explain(MAIL_A, inventory(*mixture()), MAIL, NOW), ()),
    "explain a stranger": lambda: documents.explanation("*.b.test", (), [skipped("b", Reason.BAD_PEM, "*.b.test")]),
    "render": lambda: documents.rendering("postfix", b"# text\n"),
    "config": lambda: configuration.document(effective()),
    "setup": lambda: setup.document(SetupPlan(Settings(), (), ("found",)), "in_place", Exit.DONE, (), remove=False),
    "verify": lambda: verify.document(audit()),
    "verify nothing": lambda: verify.document(Audit((), ("postfix: no service with TLS was found",))),
    "metrics": lambda: prometheus.document(MetricsInput(EMPTY_HISTORY, everything(), audit())),
    "doctor": lambda: documents.doctor([Finding("x", one, "what", "/x:1", "why", Fix("fix")) for one in Severity]),
    "doctor who finds nothing": lambda: documents.doctor(()),
    "kinds of store": lambda: sources.document(kinds_of_store(), None),
    "stores of a host": lambda: sources.document(kinds_of_store(), survey()),
    "error": lambda: documents.error(LockedError("/run/lock: another run holds the lock", hint="wait")),
    "error without a hint": lambda: documents.error(UsageError("x: not a host name")),
}


def kinds_of_store() -> list[KindEntry]:
    """One with a default, one with a key that is required, and one of another package that cannot be used."""
    entries = [KindEntry(name, kind) for name, kind in KINDS.items()]
    return [*entries, KindEntry("acme-gone", None, "acme-store", "cannot be used")]


def survey() -> Survey:
    """A configured store, another one, and a place that could not be seen."""
    certbot, lego = SourceSettings.of("certbot"), SourceSettings.of("lego", path=Path("/opt/x/lego"))
    stores = (
        HostStore(certbot, 1, (MAIL_A,), (), configured=True),
        HostStore(lego, 2, (MAIL_A, "mail.b.test"), ("mail.b.test",), configured=False),
    )
    return Survey(stores, {"/root": "/root: this user may not look into it"})


def effective() -> EffectiveConfiguration:
    """One value from a file, one default, one detected, and one that nothing was detected for."""
    text = 'sources = [{ path = "/x" }]\n[verify]\ntimeout = 3\nendpoints = "auto"\n'
    settings = parser.parse(text, Path("config.toml"))
    detections = {
        ("postfix", "enabled"): Detection(value=True, reason="postconf is /usr/sbin/postconf"),
        ("verify", "endpoints"): Detection((Endpoint("imaps", "::1", 993),), "the services"),
        ("dovecot", "version"): Detection("auto", "Dovecot is not deployed to"),
    }
    values = tuple(effective_values(settings, text.encode()))
    return EffectiveConfiguration(
        Path("config.toml"),
        "--config",
        exists=True,
        templates=Path("/t"),
        own_templates=["postfix-sni.j2"],
        values=values,
        detections=detections,
    )


def audit() -> Audit:
    """An answer of each kind."""
    endpoint = Endpoint("imaps", "127.0.0.1", 993)
    leaf = Leaf((MAIL_A,), NOW, NOW, "CN=x", self_signed=False, has_issuer_address=False)
    good = ProbeResult(endpoint, MAIL_A, None, "0" * 64, "TLSv1.3", (b"leaf", b"issuer"))
    refused = ProbeResult(endpoint, None, Problem.NOT_LISTENING, None, "connection refused")
    named = Expectation(MAIL_A, "0" * 64, "rsa")
    return Audit(
        (
            Assessment(named, good, (Problem.UNTRUSTED,), "not trusted", leaf),
            Assessment(Expectation("*.a.test"), good, leaf=leaf),
            Assessment(Expectation(None), refused, (Problem.NOT_LISTENING,), "refused"),
        )
    )


def errors(document: object) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(document)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_is_what_its_schema_says(make: Callable[[], Document]) -> None:
    document = make()
    assert errors(document) == []
    assert json.loads(json.dumps(document)) == document


def test_there_is_a_document_for_every_schema() -> None:
    told = {make()["schema"] for make in DOCUMENTS.values()}
    kinds = [SCHEMA["$defs"][one["$ref"].rpartition("/")[2]] for one in SCHEMA["oneOf"]]
    known = {kind["properties"]["schema"]["const"] for kind in kinds}
    assert told == known
    assert known == {f"mailsni.{name}/1" for name in DOCUMENT_NAMES}


# ── neither more nor less ────────────────────────────────────────────────────────────────────────────────────────────


Way = tuple[str | int, ...]


def objects(value: object, way: Way = ()) -> Iterator[tuple[Way, Document]]:
    """Every object in a document, and the way to it."""
    if isinstance(value, dict):
        yield way, value
    for step, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from objects(part, (*way, step))


def kinds_of_objects(document: Document) -> Iterator[tuple[Way, Document]]:
    """One of each: the certificates of a list are all alike."""
    seen = set()
    for way, found in objects(document):
        kind = (tuple(step for step in way if isinstance(step, str)), *found)
        if kind not in seen:
            seen.add(kind)
            yield way, found


def changed(document: Document, way: Way, change: Callable[[Document], object]) -> Document:
    """A copy with a change to one of the objects in it."""
    another = copy.deepcopy(document)
    found: Any = another
    for step in way:
        found = found[step]
    change(found)
    return another


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_one_member_more_anywhere_is_an_error(make: Callable[[], Document]) -> None:
    document = make()
    for way, _ in kinds_of_objects(document):
        assert errors(changed(document, way, lambda found: found.update(surplus=1))), way


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS)
def test_one_member_fewer_is_an_error_but_for_those_of_maps(make: Callable[[], Document]) -> None:
    document = make()
    for way, found in kinds_of_objects(document):
        for key in found:
            if key != "diff" and way not in MAPS and "labels" not in way:
                assert errors(changed(document, way, operator.methodcaller("pop", key))), (way, key)


# ── the same words ───────────────────────────────────────────────────────────────────────────────────────────────────


def words(name: str) -> list[object]:
    found = SCHEMA["$defs"][name]["enum"]
    assert isinstance(found, list)
    assert len(found) == len(set(found))
    return found


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("reason", Reason),
        ("kind", Kind),
        ("reload_result", ReloadResult),
        ("problem", Problem),
        ("severity", Severity),
        ("algorithm", get_args(Algorithm)),
        ("server", get_args(TargetName)),
    ],
)
def test_the_schema_has_the_words_of_the_code(name: str, members: Iterable[str]) -> None:
    assert words(name) == list(map(str, members))


def subclasses(base: type[MailsniError]) -> Iterable[type[MailsniError]]:
    for one in base.__subclasses__():
        yield one
        yield from subclasses(one)


def test_the_schema_has_the_exit_codes_of_all_errors() -> None:
    assert set(words("failure")) == {int(one.exit_code) for one in subclasses(MailsniError)}
    of_apply = SCHEMA["$defs"]["apply"]["properties"]["exit_code"]["enum"]
    assert {Exit(code) for code in of_apply} == {Exit.DONE, Exit.SKIPPED, HostError.exit_code}


def test_the_schema_has_the_states_of_names() -> None:
    settled = snapshot(certificate("a", MAIL_A), deployed=deployment(certificate("a", MAIL_A)))
    told = {state for seen in (everything(), settled) for _, state in name_states(seen.selection, seen.plan)}
    assert set(words("state")) == told


def test_every_kind_and_every_reason_was_among_the_documents() -> None:
    seen = everything()
    assert {change.kind for change in seen.plan.changes} == set(Kind)
    assert {one.reason for one in seen.selection.skipped} == set(Reason)
    verdicts = {answer.problem for one in applied().confirmations for answer in one.answers}
    assert verdicts == {None, *Problem} - OF_VERIFY_ALONE


def test_an_unknown_word_is_an_error() -> None:
    document = documents.status(everything())
    document["skipped"][0]["reason"] = "bad_weather"
    assert errors(document)


def test_no_document_holds_a_key() -> None:
    material = {pin.pem.decode().strip() for pin in everything().plan.pins}
    assert material
    for make in DOCUMENTS.values():
        text = json.dumps(make())
        assert not any(one in text for one in material)


def test_an_error_says_what_and_why_and_what_to_do() -> None:
    problem = RolledBackError("dovecot: mail.a.test: cut off", hint="look", path=Path("/etc/dovecot/x"), line=3)
    assert documents.error(problem) == {
        "schema": "mailsni.error/1",
        "exit_code": 5,
        "error": "dovecot: mail.a.test: cut off",
        "hint": "look",
        "path": "/etc/dovecot/x",
        "line": 3,
    }
