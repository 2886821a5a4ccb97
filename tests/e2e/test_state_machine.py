"""A host that lives: certificates come, change, break and go, the program runs, fails and dies, servers are rebooted.

Hypothesis makes up the stories. A model that reads the certbot directory by itself knows what each name must be served
with; what is served is read back without the program's help (postmap, the include, real handshakes). At every moment
nothing that a server would read may be torn, Dovecot must be able to start, and no name may be gone that no plan said
would go. After a run that went well the served set is the model's.

MAILSNI_STORIES=100 tells more stories than the few of every run, other ones each time, and shortens one that fails.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mailsni.config import parser
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import take_snapshot
from mailsni.errors import MailsniError, RefusedError
from mailsni.host import files, lock
from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import workspace
from mailsni.sources import directory
from tests.support.authority import Authority
from tests.support.clients import visit
from tests.support.lineages import der_blocks
from tests.support.mail_host import DEFAULT_NAME, MailHost

pytestmark = [pytest.mark.shared("trixie"), pytest.mark.long]

STORIES = int(os.environ.get("MAILSNI_STORIES", "0"))
FEW_STORIES = 5
STEPS = 24
SEED = 2
"""Of the few stories: they stay the same when the text of this file changes."""
LINEAGES: Mapping[str, tuple[str, ...]] = {
    "one": ("imap.a.test", "mail.a.test"),
    "two": ("mail.b.test",),
    "three": ("mail.a.test", "mail.c.test"),
}
"""Of these names a certificate of the lineage has the last ones; lineage three competes with lineage one."""
NAMES = sorted({name for names in LINEAGES.values() for name in names})
DEATHS = st.one_of(
    st.tuples(st.just("publishing"), st.integers(1, 20)),
    st.tuples(st.just("publishing"), st.integers(1, 8)),
    st.tuples(st.just("all"), st.integers(1, 25)),
)
"""Before which of its operations a run is killed, counted from its first one or from the first publish."""
MUTATIONS = frozenset(("os.rename", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen"))
"""Audit events of Python that tell of a change of the file system, or of a program that is started."""
_BLOCK = re.compile(r'^local_name "?(?P<names>[^"{]+?)"? \{\n(?P<settings>.*?)^\}', re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"= <?(/\S+)")


@dataclass
class Outcome:
    """How a run ended."""

    removals: frozenset[str]
    """The names that the plan before it said would go."""
    error: str | None = None
    refused: bool = False
    killed: bool = False

    @property
    def done(self) -> bool:
        """Whether it went well."""
        return self.error is None and not self.killed


def run_in_child(
    configuration: Path, now: datetime, *, allow_empty: bool = False, dies_before: tuple[str, int] | None = None
) -> Outcome:
    """Plan and apply in a process of its own, at a moment of the story's time, to its end or until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as answer:
            try:
                _plan_and_apply(configuration, now, answer, allow_empty=allow_empty, dies_before=dies_before)
            except MailsniError as error:
                answer.write(json.dumps({"error": str(error), "refused": isinstance(error, RefusedError)}))
            except BaseException:  # noqa: BLE001  # the parent says it
                answer.write(json.dumps({"error": traceback.format_exc(), "refused": False}))
            answer.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = [json.loads(line) for line in answer]
    _, status = os.waitpid(child, 0)
    removals = frozenset(said[0]) if said and isinstance(said[0], list) else frozenset()
    if os.WIFSIGNALED(status):
        return Outcome(removals, killed=True)
    return Outcome(removals, said[-1]["error"], said[-1]["refused"])


def _plan_and_apply(
    configuration: Path,
    now: datetime,
    answer: Any,  # noqa: ANN401
    *,
    allow_empty: bool,
    dies_before: tuple[str, int] | None,
) -> None:
    directory.RETRY_PAUSE = 0.01  # nobody mends anything while it waits
    known = parser.load(configuration, required=True)
    plan = take_snapshot(known, now).plan
    answer.write(json.dumps([change.name for change in plan.changes if change.kind == "remove"]) + "\n")
    answer.flush()
    if dies_before is not None:
        zone, left = dies_before

        def die(event: str, words: tuple[Any, ...]) -> None:
            nonlocal zone, left
            if event not in MUTATIONS:
                return
            staged = event == "os.rename" and files.STAGING_NAME in str(words[0])
            if zone == "all" or (staged and not str(words[1]).endswith(".pem")):
                zone = "all"
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
    with lock.locked(known.state.lock):
        transaction.apply(take_snapshot(known, now), transaction.Options(allow_empty=allow_empty))
    answer.write(json.dumps({"error": None, "refused": False}))


class Story(RuleBasedStateMachine):
    """One host, from its first certificates on."""

    authority: Authority
    default: Issued
    tally: Counter[str] = Counter()  # noqa: RUF012  # of all stories

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        rooms = self.stack.enter_context(workspace())
        own = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        # Lasting login processes also let Dovecot stop at once; those that serve one client each take seconds.
        self.mail_host = MailHost.build(own, rooms, self.authority, self.default, lasting_logins=True)
        self.store = self.mail_host.store
        self.mail_host.configure(
            verify={
                "endpoints": [url for url in self.mail_host.urls() if url.startswith(("smtps:", "imap:", "imaps:"))]
            }
        )
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.unfinished: dict[str, Iterator[str]] = {}
        self.issued: dict[str, Issued] = {}
        self.lineage_of: dict[str, str] = {}
        self.deployed: dict[str, set[str | None]] = {name: {None} for name in NAMES}
        """What may be recorded as deployed for a name: one certificate for certain, more after a crash."""
        self.last_seen: dict[str, dict[str, str]] = {"postfix": {}, "dovecot": {}}
        self.announced: set[str] = set()
        self.stack.enter_context(self.mail_host.postfix)
        self.stack.enter_context(self.mail_host.dovecot)

    def teardown(self) -> None:
        """The end of the story."""
        self.stack.close()

    # ── what certbot does ────────────────────────────────────────────────────────────────────────────────────────

    @initialize()
    def begin(self) -> None:
        """Two lineages, deployed."""
        for lineage in ("one", "two"):
            self.store.add(lineage, self.new(lineage, len(LINEAGES[lineage])))
        self.run()

    def new(self, lineage: str, count: int, *, expired: bool = False) -> Issued:
        """A certificate for the last names of a lineage, issued a second after the one before."""
        start = self.now - timedelta(days=200 if expired else 1) + timedelta(seconds=len(self.issued))
        issued = self.authority.issue(LINEAGES[lineage][-count:], not_before=start)
        self.issued[issued.fingerprint] = issued
        self.lineage_of[issued.fingerprint] = lineage
        return issued

    @rule(data=st.data(), times=st.integers(1, 3))
    def certbot(self, data: st.DataObject, times: int) -> None:
        """Something happens to some lineages."""
        for _ in range(times):
            self.change(data)

    def change(self, data: st.DataObject) -> None:
        """Whatever can happen to a lineage in its state."""
        lineage = data.draw(st.sampled_from(sorted(LINEAGES)))
        if lineage in self.unfinished:
            can = ["mend", "delete"]
        elif self.exists(lineage):
            can = ["renew", "renew", "tear", "tear", "expire", "delete"]
        else:
            can = ["issue", "issue", "tear"]
        what = data.draw(st.sampled_from(can))
        if what == "mend":
            self.finish(lineage)
        elif what == "delete":
            self.finish(lineage)
            self.store.delete(lineage)
        else:
            count = data.draw(st.integers(1, len(LINEAGES[lineage])))
            issued = self.new(lineage, count, expired=what == "expire")
            step = self.store.renewal_steps if self.exists(lineage) else self.store.issuance_steps
            self.unfinished[lineage] = step(lineage, issued)
            if what == "tear":
                for _ in range(data.draw(st.integers(1, 20))):
                    next(self.unfinished[lineage], None)
            else:
                self.finish(lineage)
        self.tally[what] += 1
        note(f"{what} {lineage}: now {self.whole(lineage)}")

    def finish(self, lineage: str) -> None:
        """Let certbot end what it began."""
        for _ in self.unfinished.pop(lineage, iter(())):
            pass

    def wipe(self) -> None:
        """Every lineage is deleted."""
        for lineage in LINEAGES:
            if self.exists(lineage):
                self.finish(lineage)
                self.store.delete(lineage)

    # ── what the program does ────────────────────────────────────────────────────────────────────────────────────

    @rule(data=st.data(), changes=st.integers(0, 2), allow_empty=st.booleans())
    def apply(self, data: st.DataObject, changes: int, *, allow_empty: bool) -> None:
        """A run to its end, perhaps one that may take all names away."""
        for _ in range(changes):
            self.change(data)
        self.run(allow_empty=allow_empty)

    @rule(
        lineage=st.sampled_from(sorted(LINEAGES)),
        deaths=st.lists(DEATHS, min_size=1, max_size=3),
        then=st.sampled_from(["nothing", "a run", "a failure and a run"]),
    )
    def renew_and_crash(self, lineage: str, deaths: list[tuple[str, int]], then: str) -> None:
        """Runs that are killed before one of their changes, the second while it clears up after the first, and so on.

        SIGKILL gives them no chance to take anything back.
        """
        self.finish(lineage)
        issued = self.new(lineage, len(LINEAGES[lineage]))
        (self.store.renew if self.exists(lineage) else self.store.add)(lineage, issued)
        for death in deaths:
            self.run(dies_before=death)
            self.check()
        if then == "a failure and a run":
            self.apply_with_a_broken_dovecot()
        if then != "nothing":
            self.run()

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A run that has something to do, and cannot do it for Dovecot."""
        self.change(data)
        self.apply_with_a_broken_dovecot()

    def plan(self) -> None:
        """A plan, which touches nothing."""
        before = self.mail_host.snapshot()
        note(self.mail_host.mailsni("plan").stdout)
        assert self.mail_host.snapshot() == before

    def apply_with_a_broken_dovecot(self) -> None:
        """Somebody broke Dovecot's configuration: Dovecot keeps what it has, Postfix gets what is new; it is mended."""
        main = self.mail_host.dovecot.config_file
        good = main.read_text()
        expected, served = self.expected(), self.served()
        main.write_text(good + "no_such_setting = 1\n")
        try:
            outcome = run_in_child(self.mail_host.config, self.now, allow_empty=True)
        finally:
            main.write_text(good)
        note(f"against a broken Dovecot: {outcome}")
        self.tally["failed"] += any({served["dovecot"].get(name)} != expected[name] for name in NAMES)
        self.announced |= outcome.removals
        now_served = self.served()
        assert now_served["dovecot"] == served["dovecot"]
        if not outcome.done:
            assert now_served["postfix"] == served["postfix"]
            return
        for name in NAMES:
            in_map = now_served["postfix"].get(name)
            assert in_map in expected[name], f"{name} is not in the map as it must be"
            self.deployed[name] = {in_map, served["dovecot"].get(name)}

    def run(self, *, allow_empty: bool = False, dies_before: tuple[str, int] | None = None) -> None:
        """A run, and what must be true after it."""
        expected = self.expected()
        served = self.served()
        outcome = run_in_child(self.mail_host.config, self.now, allow_empty=allow_empty, dies_before=dies_before)
        note(f"apply: {outcome}")
        self.tally["killed" if outcome.killed else "refused" if outcome.refused else "applied"] += 1
        self.announced |= outcome.removals
        if outcome.killed:
            for name in NAMES:
                self.deployed[name] |= expected[name]
            return
        if outcome.refused:
            assert not allow_empty, outcome.error
            assert all(None in options for options in expected.values()), outcome.error
            assert self.served() == served
            return
        assert outcome.done, outcome.error
        now_served = self.served()
        assert now_served["postfix"] == now_served["dovecot"]
        found = now_served["postfix"]
        for name in NAMES:
            assert found.get(name) in expected[name], f"{name} is not served as it must be"
            self.deployed[name] = {found.get(name)}
            if (mark := found.get(name)) is not None and self.whole(self.lineage_of[mark]) != mark:
                self.tally["names kept"] += 1
        if served["dovecot"] and not found:
            assert allow_empty, "everything was taken away, and nobody asked for it"
        self.check_debris()
        if self.mail_host.dovecot.running():
            self.check_wire(found, found)

    # ── what the host does ───────────────────────────────────────────────────────────────────────────────────────

    @rule(what=st.sampled_from(["plan", "reboot", "reboot and a run", "20 days", "50 days", "80 days", "wipe"]))
    def something_else(self, what: str) -> None:
        """Somebody looks; the servers are rebooted; certificates of 90 days grow old; every lineage is deleted."""
        note(what)
        self.tally[what] += 1
        match what:
            case "plan":
                self.plan()
            case "wipe":
                self.wipe()
            case "reboot" | "reboot and a run":
                self.reboot(while_off=what != "reboot")
            case _:
                self.now += timedelta(days=int(what.split()[0]))

    def reboot(self, *, while_off: bool) -> None:
        """Both servers are stopped and started, and serve what their files say; perhaps a run comes in between."""
        self.mail_host.postfix.stop()
        self.mail_host.dovecot.stop()
        if while_off:
            self.run()
        self.check()
        self.mail_host.postfix.start()
        self.mail_host.dovecot.start()
        served = self.served()
        self.check_wire(served["postfix"], served["dovecot"])

    # ── what must be true ────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def nothing_is_torn_and_no_name_is_lost(self) -> None:
        """At every moment, for both servers."""
        self.check()

    def check(self) -> None:
        """See above."""
        served = self.served()
        self.tally["steps"] += 1
        for server, found in served.items():
            for name, fingerprint in found.items():
                assert fingerprint in self.deployed[name], f"{server}: {name} is served with something unexpected"
            lost = self.last_seen[server].keys() - found.keys()
            assert lost <= self.announced, f"{server}: {lost} lost, and no plan said so"
        self.last_seen = served
        self.announced &= {name for found in served.values() for name in found}
        self.mail_host.dovecot.assert_can_start()

    def served(self) -> dict[str, dict[str, str]]:
        """What both servers would serve after a start, by name: fingerprints. Whatever is torn fails here."""
        return {"postfix": self.in_map(), "dovecot": self.in_include()}

    def in_map(self) -> dict[str, str]:
        """What the live map holds."""
        postfix = self.mail_host.postfix
        asked = "".join(f"{name}\n" for name in NAMES).encode()
        table = f"cdb:{self.mail_host.map}"
        done = run([require_tool("postmap"), "-c", postfix.config_directory, "-q", "-", table], stdin=asked)
        assert done.returncode in (0, 1), done.stderr
        assert not done.stderr
        rows = [line.split(b"\t", 1) for line in done.stdout.splitlines()]
        return {name.decode(): self.known(base64.b64decode(value), name.decode()) for name, value in rows}

    def in_include(self) -> dict[str, str]:
        """What the live include names."""
        with suppress(FileNotFoundError):
            found: dict[str, str] = {}
            for block in _BLOCK.finditer(self.mail_host.include_file.read_text()):
                paths = set(_PATH.findall(block["settings"]))
                assert len(paths) == 1, "one file holds the key and the chain"
                content = Path(paths.pop()).read_bytes()
                found |= {name: self.known(content, name) for name in block["names"].split()}
            return found
        return {}

    def known(self, pem: bytes, name: str) -> str:
        """The fingerprint of the certificate that this is, with its key and its chain, whole."""
        for fingerprint, issued in self.issued.items():
            if der_blocks(pem) == der_blocks(issued.key_pem + issued.fullchain_pem):
                assert name in issued.names, f"{name} is served with a certificate for {issued.names}"
                return fingerprint
        raise AssertionError(f"{name} is served with something torn")

    def check_wire(self, postfix: Mapping[str, str], dovecot: Mapping[str, str]) -> None:
        """Real handshakes: what the files say, the default for all other names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.tally["handshakes"] += 2 * len(NAMES)
        for service, files_say in (("smtps", postfix), ("imaps", dovecot)):
            for name in NAMES:
                shown = visit(service, self.mail_host.endpoints[service], name, context)
                wanted = files_say.get(name, self.default.fingerprint)
                assert shown.fingerprint == wanted, f"{service}: {name}: {shown}"

    def check_debris(self) -> None:
        """Nothing is left of runs that were cut off."""
        debris = [path for place in self.mail_host.places[:2] for path in place.rglob(".*")]
        debris += list((self.mail_host.directory / "state").glob("*journal*"))
        assert debris == []
        pins = {path.stat().st_mode & 0o7777 for path in self.mail_host.pin_directory.iterdir()}
        assert pins <= {0o600}
        served = {found for options in self.deployed.values() for found in options if found}
        held = {path.name.partition("-")[0] for path in self.mail_host.pin_directory.iterdir()}
        assert held >= served

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────

    def exists(self, lineage: str) -> bool:
        """Whether certbot has such a lineage."""
        return (self.store.live / lineage).exists() or (self.store.archive / lineage).exists()

    def whole(self, lineage: str) -> str | None:
        """The certificate that lies in a lineage, if its key is beside it and its chain is all there."""
        try:
            found = [self.store.path(lineage, kind).read_bytes() for kind in ("privkey", "fullchain")]
        except OSError:
            return None
        known = self.issued.items()
        return next((mark for mark, one in known if [one.key_pem, one.fullchain_pem] == found), None)

    def valid(self, fingerprint: str | None) -> bool:
        """Whether a certificate is one, and in its time."""
        if fingerprint is None:
            return False
        issued = self.issued[fingerprint]
        return issued.not_before <= self.now < issued.not_after

    def options(self, lineage: str) -> set[str | None]:
        """What a lineage can serve its names with; more than one thing only after a crash."""
        if not self.is_a_lineage(lineage):
            return {None}
        whole = self.whole(lineage)
        if self.valid(whole):
            return {whole}
        own = {
            name: {one for one in options if one is not None and self.lineage_of[one] == lineage}
            for name, options in self.deployed.items()
        }
        kept: set[str | None] = {one for options in own.values() for one in options}
        certain = any(own[name] == self.deployed[name] for name in NAMES if own[name])
        return kept if certain else kept | {None}

    def is_a_lineage(self, lineage: str) -> bool:
        """Whether anything of a certificate lies in the directory."""
        directory = self.store.live / lineage
        return directory.exists() and any(path.suffix == ".pem" for path in directory.iterdir())

    def expected(self) -> dict[str, set[str | None]]:
        """What each name may be served with after a run, one thing unless a run was killed."""
        found: dict[str, set[str | None]] = {}
        for name in NAMES:
            ranked = [self.options(lineage) for lineage in LINEAGES]
            combinations: list[tuple[str, ...]] = [()]
            for options in ranked:
                usable = {one if one is not None and name in self.issued[one].names else None for one in options}
                combinations = [(*some, *([one] if one else [])) for some in combinations for one in usable]
            found[name] = {one for some in combinations for one in self.best(name, some)}
        return found

    def best(self, name: str, candidates: Collection[str]) -> set[str | None]:
        """What a name may be served with: valid ones before those that are deployed for it, whatever the clock says."""
        valid = [one for one in candidates if self.valid(one)]
        if valid:
            return {max(valid, key=self.rank)}
        deployed = [one for one in candidates if one in self.deployed[name]]
        if len(self.deployed[name]) > 1:  # a run was killed: nobody knows which of them its journal tells of
            return {None, *deployed}
        return {max(deployed, key=self.rank, default=None)}

    def rank(self, fingerprint: str) -> tuple[bool, datetime]:
        """Larger is better."""
        return self.whole(self.lineage_of[fingerprint]) == fingerprint, self.issued[fingerprint].not_before


@pytest.mark.timeout(3600 if STORIES else 600)
def test_stories_of_a_host(authority: Authority, default: Issued, figures: list[str]) -> None:
    """A few of every kind, the same each time."""
    assert DEFAULT_NAME not in NAMES
    Story.authority, Story.default = authority, default
    run_state_machine_as_test(
        Story if STORIES else seed(SEED)(Story),
        settings=settings(
            max_examples=STORIES or FEW_STORIES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if STORIES else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    figures.append(f"{STORIES or FEW_STORIES} stories: {dict(Story.tally)}")
    assert min(Story.tally[one] for one in ("applied", "killed", "names kept")) > 0
