"""One certificate that a server refuses harms no other: it is set aside, and everything else is deployed.

The server is a stand-in that serves what its published file names, and refuses what a test says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config.settings import Settings, VerifySettings
from mailsni.core.deployment import Deployment
from mailsni.core.model import Reason
from mailsni.deploy import confirm, transaction
from mailsni.deploy.listeners import Listener
from mailsni.deploy.publish import CutOffError
from mailsni.deploy.snapshot import take_snapshot
from mailsni.deploy.state_directory import State
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit
from mailsni.host import file_identity
from mailsni.output import documents, text
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Answer, Expectation
from mailsni.probes.model import ProbeResult, Problem
from mailsni.sandbox.authority import Issued
from mailsni.targets.dovecot import target as dovecot_target
from tests.support.builders import authority, without_servers
from tests.support.command_line import SCHEMA
from tests.support.store_builder import StoreBuilder
from tests.support.stores import BUILDERS

pytestmark = pytest.mark.usefixtures("short_pauses")

IMAPS = Endpoint.parse("imaps://127.0.0.1:993")
DEFAULT = "d" * 64
TIMEOUT = 0.02
_BLOCK = re.compile(r"^local_name (\S+) \{\n.*?/([0-9a-f]{64})-", re.MULTILINE)


@dataclass
class Host:
    """A store, and a Dovecot that reads its include at once."""

    settings: Settings
    store: StoreBuilder
    refused: set[str] = field(default_factory=set)
    """Fingerprints with which it cuts off the client."""
    broken: Callable[[dict[str, str]], bool] = lambda _: False
    """Whether what is published, fingerprints by name, makes it cut off everybody."""
    slow: Callable[[dict[str, str]], bool] = lambda _: False
    """Whether it makes it answer nobody in time."""
    states: list[dict[str, str]] = field(default_factory=list)
    """What was live whenever somebody asked, each once in a row."""

    @property
    def include(self) -> Path:
        """What Dovecot reads."""
        return self.settings.dovecot.include_file

    @property
    def live(self) -> dict[str, str]:
        """The fingerprints that the include names, by name."""
        return dict(_BLOCK.findall(self.include.read_text())) if self.include.exists() else {}

    @property
    def recorded(self) -> Deployment:
        """What the record has."""
        return State(self.settings.state.directory).load().deployment

    def put(self, lineage: str, *, age: int = 60) -> Issued:
        """Issue a certificate for a lineage, so many minutes ago, or renew it."""
        issued = authority().issue([f"mail.{lineage}.test"], not_before=datetime.now(UTC) - timedelta(minutes=age))
        self.store.put(lineage, issued)
        return issued

    def put_refused(self, lineage: str) -> Issued:
        """The same, and the server refuses it."""
        issued = self.put(lineage, age=1)
        self.refused.add(issued.fingerprint)
        return issued

    def apply(self, *, force: bool = False) -> ApplyResult:
        """What ``mailsni apply`` does."""
        self.states.clear()
        result = transaction.deploy(self.settings, Options(force=force))
        SCHEMA.validate(documents.run(result))
        return result

    def probe(self, pairs: Sequence[tuple[Expectation, Endpoint]], *, timeout: float) -> list[Answer]:
        """What stands for :func:`mailsni.probes.tls_client.probe_expectations`."""
        del timeout
        live = self.live
        if self.states[-1:] != [live]:
            self.states.append(live)
        return [self._answer(expectation, endpoint, live) for expectation, endpoint in pairs]

    def _answer(self, expectation: Expectation, endpoint: Endpoint, live: dict[str, str]) -> Answer:
        fingerprint = live.get(expectation.name or "", DEFAULT)
        problem = None
        if self.slow(live):
            problem = Problem.NO_ANSWER
        elif self.broken(live) or fingerprint in self.refused:
            problem = Problem.HANDSHAKE_FAILED
        served = None if problem else fingerprint
        result = ProbeResult(endpoint, expectation.name, problem, served, "detail", in_handshake=served is None)
        return Answer(expectation, result)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    store = BUILDERS["certbot"](tmp_path / "store")
    plain = without_servers(tmp_path, tmp_path)
    dovecot = replace(plain.dovecot, enabled=True, version="2.4", include_file=tmp_path / "include.conf")
    verify = VerifySettings(timeout=TIMEOUT)
    settings = replace(plain, sources=(store.settings,), dovecot=dovecot, verify=verify)
    made = Host(settings, store)
    monkeypatch.setattr(dovecot_target, "_is_installed", lambda _: False)
    monkeypatch.setattr(transaction, "find_listener", lambda *_: Listener((IMAPS,)))
    monkeypatch.setattr("mailsni.probes.tls_client.probe_expectations", made.probe)
    monkeypatch.setattr(confirm, "_PAUSE", 0.001)
    return made


def reasons(result: ApplyResult) -> set[tuple[str, Reason]]:
    """Why which lineages are skipped."""
    return {(Path(each.source).name, each.reason) for each in result.snapshot.selection.problems}


ASIDE = {("a", Reason.SET_ASIDE), ("a", Reason.KEPT_LAST_GOOD)}


def test_a_refused_renewal_is_set_aside_and_the_others_are_deployed(host: Host) -> None:
    old = {name: host.put(name).fingerprint for name in "abc"}
    assert host.apply().exit_code is Exit.DONE
    bad, good = host.put_refused("a"), host.put("b", age=1)
    result = host.apply()
    assert result.exit_code is Exit.SKIPPED
    assert reasons(result) == ASIDE
    (skipped,) = [each for each in result.snapshot.selection.problems if each.reason is Reason.SET_ASIDE]
    assert skipped.names == ("mail.a.test",)
    assert "dovecot cut off the clients of mail.a.test at imaps://127.0.0.1:993" in skipped.detail
    expected = {"mail.a.test": old["a"], "mail.b.test": good.fingerprint, "mail.c.test": old["c"]}
    assert host.live == expected
    assert [state["mail.a.test"] for state in host.states] == [old["a"], bad.fingerprint, old["a"], old["a"]]


def test_what_was_set_aside_is_not_tried_again_until_it_changes(host: Host) -> None:
    host.put("a")
    host.apply()
    host.put_refused("a")
    assert reasons(host.apply()) == ASIDE
    before = file_identity.of_file(host.include)
    again = host.apply()
    assert (again.reloads, again.exit_code, reasons(again)) == (None, Exit.SKIPPED, ASIDE)
    assert host.states == []
    assert file_identity.of_file(host.include) == before
    assert len(host.recorded.set_aside) == 1

    renewed = host.put("a", age=0)
    assert host.apply().exit_code is Exit.DONE
    assert host.live == {"mail.a.test": renewed.fingerprint}
    assert host.recorded.set_aside == {}


def test_force_tries_it_again(host: Host) -> None:
    host.put("a")
    host.apply()
    bad = host.put_refused("a")
    host.apply()
    assert host.apply(force=True).exit_code is Exit.SKIPPED
    assert bad.fingerprint in {state["mail.a.test"] for state in host.states}
    host.refused.clear()
    assert host.apply().reloads is None
    assert host.apply(force=True).exit_code is Exit.DONE
    assert host.live == {"mail.a.test": bad.fingerprint}
    assert host.recorded.set_aside == {}


def test_of_a_first_deployment_the_refused_name_keeps_the_default_certificate(host: Host) -> None:
    good = host.put("b")
    host.put_refused("a")
    result = host.apply()
    assert reasons(result) == {("a", Reason.SET_ASIDE)}
    assert host.live == {"mail.b.test": good.fingerprint}


def test_of_too_many_names_one_of_each_new_kind_of_certificate_is_asked_first(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An even sample of three would be a, e and i."""
    monkeypatch.setattr(confirm, "PROBE_LIMIT", 3)
    for lineage in "acdefghijkl":
        host.put(lineage)
    odd = authority().issue(["mail.b.test"], algorithm="rsa")
    host.store.put("b", odd)
    host.refused.add(odd.fingerprint)
    result = host.apply()
    assert reasons(result) == {("b", Reason.SET_ASIDE)}
    (confirmation,) = result.confirmations
    assert (confirmation.names, confirmation.names_probed) == (11, 3)
    assert "; 8 names not asked" in text.applied_in_a_line(result)
    host.put("h", age=1)
    monkeypatch.setattr(confirm, "PROBE_LIMIT", 1)
    (confirmation,) = host.apply(force=True).confirmations
    assert [answer.expectation.name for answer in confirmation.answers] == ["mail.h.test"], "what is new"


def test_another_lineage_takes_the_place_and_is_set_aside_too_when_it_is_refused(host: Host) -> None:
    first = host.put("a", age=90)
    host.apply()
    host.put_refused("a")
    names = {}
    for lineage, age in (("a-0001", 5), ("a-0002", 8)):
        issued = authority().issue(["mail.a.test"], not_before=datetime.now(UTC) - timedelta(minutes=age))
        host.store.put(lineage, issued)
        names[lineage] = issued.fingerprint
    host.refused.add(names["a-0001"])
    result = host.apply()
    assert {lineage for lineage, reason in reasons(result) if reason is Reason.SET_ASIDE} == {"a", "a-0001"}
    assert host.live == {"mail.a.test": names["a-0002"]}
    assert first.fingerprint not in host.live.values()


def test_a_server_that_serves_nobody_any_more_is_no_fault_of_a_certificate(host: Host) -> None:
    old = {name: host.put(name).fingerprint for name in "ab"}
    host.apply()
    renewed = host.put("a", age=1).fingerprint
    host.broken = lambda live: live["mail.a.test"] == renewed
    with pytest.raises(CutOffError, match=r"dovecot: mail\.a\.test"):
        host.apply()
    assert host.live == {f"mail.{name}.test": fingerprint for name, fingerprint in old.items()}
    assert host.recorded.set_aside == {}
    host.broken = lambda _: False
    assert host.apply().exit_code is Exit.DONE
    assert host.live["mail.a.test"] == renewed


def test_a_certificate_that_is_too_much_for_the_server_is_set_aside(host: Host) -> None:
    """With it the server serves nobody, and of all that is new it is by far the heaviest."""
    host.put("a")
    host.apply()
    renewed = host.put("a", age=1)
    names = [f"mail.customer-number-{number}.test" for number in range(300)]
    huge = authority().issue(names)
    host.store.put("huge", huge)
    host.broken = lambda live: huge.fingerprint in live.values()
    assert reasons(host.apply()) == {("huge", Reason.SET_ASIDE)}
    assert host.live == {"mail.a.test": renewed.fingerprint}
    assert host.apply().reloads is None


def test_what_was_served_before_is_never_blamed(host: Host) -> None:
    """The server changed its mind about a certificate: nothing is new, so nothing can be set aside."""
    old = host.put("a")
    host.apply()
    host.put("b")
    host.broken = lambda live: set(live) != {"mail.a.test"}
    with pytest.raises(CutOffError):
        host.apply()
    assert host.live == {"mail.a.test": old.fingerprint}


def test_without_a_record_the_live_text_tells_the_last_good_certificate(host: Host) -> None:
    old = host.put("a")
    host.apply()
    host.put_refused("a")
    (host.settings.state.directory / "deployment.json").unlink()
    assert host.apply().exit_code is Exit.SKIPPED
    assert host.live == {"mail.a.test": old.fingerprint}


def test_a_new_leaf_that_lacks_the_issuer_it_names_is_published_with_a_warning(host: Host) -> None:
    """Once, when it is new; not with an authority of one's own, whose leaf does not say where its issuer is."""
    issued, own = authority().issue(["mail.a.test"]), authority().issue(["mail.b.test"], issuer_address=False)
    host.store.put("a", replace(issued, fullchain_pem=issued.leaf_pem))
    host.store.put("b", replace(own, fullchain_pem=own.leaf_pem))
    host.put("c")
    (warning,) = host.apply().warnings
    assert warning.startswith(f"{host.store.origin('a')}: published without the issuer's certificate: ")
    assert host.live["mail.a.test"] == issued.fingerprint
    host.put("c", age=1)
    assert host.apply().warnings == ()


def test_where_nothing_tells_it_everything_stays_as_it_is(host: Host) -> None:
    """To set the new certificate aside would take the name away: nobody knows its last good one."""
    old = host.put("a")
    host.apply()
    host.put_refused("a")
    (host.settings.state.directory / "deployment.json").unlink()
    host.include.write_text(re.sub(r"^#.*\n", "", host.include.read_text(), flags=re.MULTILINE))
    with pytest.raises(CutOffError):
        host.apply()
    assert host.live == {"mail.a.test": old.fingerprint}


def test_a_run_that_was_killed_while_a_refused_one_was_live_is_followed_by_one_that_sets_it_aside(host: Host) -> None:
    """Its names are cut off already when the next run begins, and nothing says that they were served before."""
    old = host.put("a")
    good = host.put("b")
    host.apply()
    previous = State(host.settings.state.directory)
    record = host.recorded
    bad = host.put_refused("a")
    host.refused.clear()
    host.apply()
    intended = host.recorded
    host.refused.add(bad.fingerprint)
    pin = take_snapshot(host.settings, datetime.now(UTC)).pins.path
    certificate = record.certificates_for("mail.a.test")[0]
    (pin / f"{certificate.ident}.pem").write_bytes(old.key_pem + old.fullchain_pem)
    (pin / f"{certificate.ident}.pem").chmod(0o600)
    previous.commit(record)
    previous.begin_journal(intended)

    result = host.apply()
    assert reasons(result) == ASIDE
    assert host.live == {"mail.a.test": old.fingerprint, "mail.b.test": good.fingerprint}
    assert reasons(host.apply()) == ASIDE
    assert host.states == [], "the journal is gone"


def test_a_slow_server_keeps_what_was_published_and_the_next_run_does_nothing(host: Host) -> None:
    host.put("a")
    host.apply()
    renewed = host.put("a", age=1).fingerprint
    host.slow = lambda live: live["mail.a.test"] == renewed
    result = host.apply()
    assert result.exit_code is Exit.SKIPPED
    assert result.unconfirmed == ("mail.a.test",)
    assert "dovecot: 1 name not confirmed (mail.a.test): no answer within 0.02 s" in result.warnings[0]
    assert host.live == {"mail.a.test": renewed}
    again = host.apply()
    assert (again.reloads, again.exit_code) == (None, Exit.DONE)


def test_a_slow_host_that_cut_a_run_off_is_recovered_by_one_publish(host: Host) -> None:
    """The next run publishes once more, is not confirmed either, and leaves nothing to do for the one after it."""
    host.put("a")
    host.apply()
    renewed = host.put("a", age=1).fingerprint
    host.slow = lambda _: True
    snapshot = take_snapshot(host.settings, datetime.now(UTC))
    State(host.settings.state.directory).begin_journal(Deployment.of(snapshot.selection, snapshot.pins.path))
    assert host.apply().exit_code is Exit.SKIPPED
    assert host.live == {"mail.a.test": renewed}
    assert host.apply().reloads is None


def test_a_rollback_that_a_slow_server_does_not_confirm_has_an_end(host: Host) -> None:
    """Cut off with what was published, and too slow to answer after the way back: no failure of the way back."""
    old = host.put("a").fingerprint
    host.apply()
    renewed = host.put("a", age=1).fingerprint
    host.broken = lambda live: live["mail.a.test"] == renewed
    host.slow = lambda live: live["mail.a.test"] == old and len(host.states) > 1
    with pytest.raises(CutOffError):
        host.apply()
    assert host.live == {"mail.a.test": old}
    assert not State(host.settings.state.directory).load().interrupted
