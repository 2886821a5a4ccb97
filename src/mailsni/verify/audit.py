"""What the running servers show, name by name and port by port, held against what they should show.

Where :mod:`mailsni.deploy.confirm` asks for the names that were just published, this asks for every name, on every
port, as
every kind of client, and looks at all that was sent: the leaf, the chain behind it, the dates, the names, and whether
the system's trust store leads to it. Nothing is changed, whatever is found.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mailsni.config.settings import Settings, VerifySettings
from mailsni.core import x509
from mailsni.core.deployment import DeployedCertificate
from mailsni.core.model import Algorithm, Certificate, Progress
from mailsni.core.names import host_name, listed, stand_for
from mailsni.deploy.confirm import asked_for
from mailsni.deploy.snapshot import Observation
from mailsni.errors import HostError, UsageError
from mailsni.host import files
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.probes.starttls import Outcome
from mailsni.probes.tls_client import Question, Served, probe_all
from mailsni.targets.base import Target

UNKNOWN_NAME = "mailsni-unknown.invalid"
"""A name that nobody can have (RFC 6761, 6.4)."""
CONCURRENCY = 32
"""Connections at a time: probes wait for the network, and both servers take 100 clients by default."""
_BATCH = 512
"""Questions after which is looked whether an endpoint still answers."""
_NAMES_SHOWN = 3
_TRIES = 3
"""Clients that are asked for a verdict on a chain, until one has seen it."""
_PATIENCE = 16
"""Questions that an endpoint may leave unanswered, each to its time limit, until it is not asked any more."""


class Client(enum.StrEnum):
    """What kind of client asks."""

    NAMED = "named"
    """It sends a name that is to be served."""
    WITHOUT_SNI = "without_sni"
    UNKNOWN_NAME = "unknown_name"
    """It sends a name that no certificate is for."""


class Concern(enum.StrEnum):
    """What is wrong with an answer."""

    NOT_LISTENING = "not_listening"
    NO_ANSWER = "no_answer"
    """Nothing within the time limit."""
    NO_STARTTLS = "no_starttls"
    NOT_UNDERSTOOD = "not_understood"
    """The server breaks its protocol, or speaks another."""
    CUT_OFF = "cut_off"
    """No handshake."""
    OTHER_CERTIFICATE = "other_certificate"
    """Not the intended one."""
    SERVERS_DISAGREE = "servers_disagree"
    """Nothing is known of what is meant, and not all endpoints show the same."""
    OTHER_CHAIN = "other_chain"
    """The chain behind the leaf is not the intended one, or incomplete, or out of order."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    OTHER_NAME = "other_name"
    """The certificate is not for the name that the client asked for."""
    UNTRUSTED = "untrusted"
    """The system's trust store does not lead to it: a warning only, for a company may have an authority of its own."""


_CONCERNS: Mapping[Outcome, Concern] = {
    Outcome.REFUSED: Concern.NOT_LISTENING,
    Outcome.TIMEOUT: Concern.NO_ANSWER,
    Outcome.NO_STARTTLS: Concern.NO_STARTTLS,
    Outcome.GARBAGE: Concern.NOT_UNDERSTOOD,
    Outcome.ABORTED: Concern.CUT_OFF,
}


@dataclass(frozen=True, slots=True)
class Intention:
    """A certificate that a name is to be served."""

    fingerprint: str
    """SHA-256 of the leaf, hexadecimal."""
    algorithm: Algorithm
    chain: tuple[str, ...] = ()
    """SHA-256 of each certificate of the chain, the leaf first; none when it is not known."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer and what is wrong with it."""

    client: Client
    name: str | None
    """The name that was asked for; a wildcard stands as ``*.example.com``. None: the client sent none."""
    endpoint: Endpoint
    algorithm: Algorithm | None
    """The only kind of certificate that the client takes, where the name has two; else None."""
    intended: str | None
    """SHA-256 of the leaf that is meant, hexadecimal; None: any valid one."""
    served: Served
    concerns: tuple[Concern, ...]
    not_after: datetime | None
    """Of the leaf that was shown."""
    detail: str = ""
    """What is wrong, and what is shown instead, for people: printable, bounded."""
    served_names: tuple[str, ...] = ()
    """Of the leaf that was shown, as far as they are of the grammar."""

    @property
    def wrong(self) -> bool:
        """Whether somebody must act: there is a concern that is more than a warning."""
        return any(concern is not Concern.UNTRUSTED for concern in self.concerns)


@dataclass(frozen=True, slots=True)
class Inspection:
    """All answers, ordered by name and endpoint; the clients without a known name come last."""

    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()
    """What could not be asked, and why."""

    @property
    def wrong(self) -> tuple[Shown, ...]:
        """The answers that somebody must look at."""
        return tuple(one for one in self.shown if one.wrong)


@dataclass(frozen=True, slots=True)
class Limits:
    """How servers are asked."""

    timeout: float
    """Seconds for each question."""
    concurrency: int = CONCURRENCY


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to know.

    Attributes:
        names: what to ask for; all names that are to be served when there is none.
        endpoints: whom to ask, in the place of the configuration's or of this host's listeners.
    """

    names: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], endpoints: Iterable[str]) -> Wish:
        """From what was typed.

        Raises:
            UsageError: a name or an endpoint is not of its grammar.
        """
        try:
            asked = tuple(dict.fromkeys(host_name(name) for name in names))
            return cls(asked, tuple(Endpoint.parse(url) for url in endpoints))
        except ValueError as error:
            raise UsageError(str(error)) from None


EVERYTHING = Wish()


def inspect(
    observation: Observation | None,
    wish: Wish = EVERYTHING,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> Inspection:
    """Ask the servers of this host, or others, for what is to be served here.

    Args:
        observation: of this host; None where it is not known what is to be served: then the wish has all.
        wish: what to ask for and whom.
        timeout: seconds for each question; the configuration's, else 10, when None.
        concurrency: questions at a time.
        progress: told about the answers.

    Raises:
        HostError: nobody is known who could be asked.
    """
    if observation is None:
        limits = Limits(timeout or VerifySettings().timeout, concurrency)
        return ask(dict.fromkeys(wish.names, ()), wish.endpoints, limits, progress=progress)
    settings = observation.settings
    found, notes = (wish.endpoints, ()) if wish.endpoints else listeners(settings, observation.targets)
    if not found:
        raise HostError(
            "; ".join(notes) or "no service with TLS was found in the servers' configurations",
            hint="[verify] endpoints in the configuration, or --endpoint, says where to ask",
        )
    limits = Limits(timeout or settings.verify.timeout, concurrency)
    wanted = intentions(observation, wish.names)
    inspection = ask(wanted, found, limits, now=observation.now, known=_known(observation), progress=progress)
    return replace(inspection, notes=(*notes, *inspection.notes))


def listeners(settings: Settings, targets: Iterable[Target]) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """Where to ask: what the configuration names, else every listener with TLS of the servers, on IPv4 and on IPv6.

    Returns:
        The endpoints, and what could not be found out.
    """
    if settings.verify.endpoints != "auto":
        return settings.verify.endpoints, ()
    found: list[Endpoint] = []
    notes: list[str] = []
    for target in targets:
        if not target.installed:
            continue
        try:
            said = target.endpoints(every_family=True)
        except HostError as error:
            notes.append(f"{target.name}: where it listens could not be found out: {error.message}")
            continue
        if not said:
            notes.append(f"{target.name}: no service with TLS was found, so it was not asked")
        found += said
    return tuple(dict.fromkeys(found)), tuple(notes)


def intentions(observation: Observation, names: Sequence[str] = ()) -> dict[str, tuple[Intention, ...]]:
    """What names are to be served: the winners in the stores, also those that are not deployed yet.

    A name that is deployed and has no winner any more, because its certificate has expired or its lineage is gone, is
    served what is deployed until the next run.

    Args:
        observation: of this host.
        names: those of interest, all when there is none. One that is not to be served has no intention.
    """
    deployed, pins = observation.record.deployment, observation.pins
    meant: dict[str, Sequence[Certificate | DeployedCertificate]] = {
        **{name: deployed.of_name(name) for name in deployed.names},
        **{winner.name: winner.certificates for winner in observation.selection.winners},
    }

    @functools.cache
    def chain_of(ident: str) -> tuple[str, ...]:
        return x509.chain_digests(files.read_own(pins.path / f"{ident}.pem") or b"")

    return {
        name: tuple(Intention(one.fingerprint, one.algorithm, chain_of(one.ident)) for one in meant.get(name, ()))
        for name in names or sorted(meant)
    }


def _known(observation: Observation) -> dict[str, str]:
    """What to call a certificate, by fingerprint."""
    deployed = observation.record.deployment
    known = {
        one.fingerprint: f"that of {one.source}, deployed and not the newest any more: `mailsni apply`"
        for one in deployed.certificates.values()
    }
    return known | {one.fingerprint: f"that of {one.source}" for one in observation.inventory.certificates}


def ask(
    wanted: Mapping[str, Sequence[Intention]],
    endpoints: Sequence[Endpoint],
    limits: Limits,
    *,
    now: datetime | None = None,
    known: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Ask endpoints for names, and judge the answers.

    Args:
        wanted: each name with what it is to be served; nothing: any valid certificate for it will do, if only all
            endpoints show the same.
        endpoints: whom. One whose host is a name is asked at each address of it.
        limits: of time and number.
        now: the moment at which certificates must be valid, with a time zone; the present one when None.
        known: what to call a certificate, by fingerprint.
        progress: told about the answers.
    """
    asked = list(dict.fromkeys(address for endpoint in endpoints for address in resolved(endpoint)))
    judge = _Judge(now or datetime.now(UTC), known or {})
    first = {
        one.endpoint: one
        for one in probe_all(
            [Question(endpoint) for endpoint in asked], timeout=limits.timeout, concurrency=limits.concurrency
        )
    }
    # One that does not get as far as TLS would cost a time limit for each name, and tells nothing of certificates.
    given_up = {one.endpoint: one for one in first.values() if one.outcome not in (Outcome.SERVED, Outcome.ABORTED)}
    cases = [_Case(Client.NAMED, name, endpoint, *meant) for name, endpoint, meant in _cases(wanted, asked)]
    cases += [
        _Case(client, name, endpoint)
        for client, name in ((Client.WITHOUT_SNI, None), (Client.UNKNOWN_NAME, UNKNOWN_NAME))
        for endpoint in asked
    ]
    answers = _answers(cases, given_up, limits, progress)
    trust = _trust(cases, answers, limits, progress)
    shown = [judge.of(case, answer, trust.get(answer.chain)) for case, answer in zip(cases, answers, strict=True)]
    return Inspection(tuple(_with_disagreements(shown)))


def _cases(
    wanted: Mapping[str, Sequence[Intention]], endpoints: Sequence[Endpoint]
) -> Iterator[tuple[str, Endpoint, tuple[Intention | None, Algorithm | None]]]:
    """Names first, so that what is asked at one time is spread over all endpoints."""
    for name in sorted(wanted):
        meant = wanted[name]
        for endpoint in endpoints:
            if not meant:
                yield name, endpoint, (None, None)
            for one in meant:
                yield name, endpoint, (one, one.algorithm if len(meant) > 1 else None)


@dataclass(frozen=True, slots=True)
class _Case:
    client: Client
    name: str | None
    endpoint: Endpoint
    intention: Intention | None = None
    algorithm: Algorithm | None = None

    def question(self, *, trusting: bool = False) -> Question:
        name = None if self.name is None else asked_for(self.name)
        return Question(self.endpoint, name, self.algorithm, trusting)


def _answers(
    cases: Sequence[_Case], given_up: Mapping[Endpoint, Served], limits: Limits, progress: Progress | None
) -> list[Served]:
    """The answers in the order of the cases; an endpoint that hangs is given up after a while."""
    stopped = dict(given_up)
    silences: Counter[Endpoint] = Counter()
    answers: list[Served] = []
    for at in range(0, len(cases), _BATCH):
        batch = cases[at : at + _BATCH]
        open_ones = [case for case in batch if case.endpoint not in stopped]

        def on_done(done: int, before: int = at) -> None:
            if progress is not None:
                progress("asking the servers", before + done, len(cases))

        got = iter(
            probe_all(
                [case.question() for case in open_ones],
                timeout=limits.timeout,
                concurrency=limits.concurrency,
                on_done=on_done,
            )
        )
        asked = set(map(id, open_ones))
        answers += [next(got) if id(case) in asked else _not_asked(case, stopped[case.endpoint]) for case in batch]
        for one in answers[at:]:
            silences[one.endpoint] += one.outcome is Outcome.TIMEOUT
            if silences[one.endpoint] >= _PATIENCE:
                stopped.setdefault(one.endpoint, one)
    return answers


def _not_asked(case: _Case, instead: Served) -> Served:
    """An endpoint that did not answer before is taken to answer the same again."""
    return replace(instead, name=case.name)


def _trust(
    cases: Sequence[_Case], answers: Sequence[Served], limits: Limits, progress: Progress | None
) -> dict[tuple[bytes, ...], str | None]:
    """For each chain that was shown, what a mail client says that trusts as this system does; None: nothing.

    Asked once for each chain, in a handshake of its own: Python's ssl has no other way to OpenSSL's verdict.
    """
    by_chain: dict[tuple[bytes, ...], list[_Case]] = {}
    for case, answer in zip(cases, answers, strict=True):
        if answer.outcome is Outcome.SERVED:
            by_chain.setdefault(answer.chain, []).append(case)
    verdicts: dict[tuple[bytes, ...], str | None] = {}
    # A server that shows something else now, or nothing, says nothing of the chain that it showed before.
    for attempt in range(_TRIES):
        asked = [(chain, several[attempt::_TRIES][:1]) for chain, several in by_chain.items() if chain not in verdicts]
        open_ones = [(chain, several[0]) for chain, several in asked if several]
        total = len(open_ones)
        said = probe_all(
            [case.question(trusting=True) for _, case in open_ones],
            timeout=limits.timeout,
            concurrency=limits.concurrency,
            on_done=None if progress is None else _counting(progress, total),
        )
        for (chain, _), one in zip(open_ones, said, strict=True):
            if one.outcome is Outcome.UNTRUSTED or (one.outcome is Outcome.SERVED and one.chain == chain):
                verdicts[chain] = one.detail if one.outcome is Outcome.UNTRUSTED else None
    return verdicts


def _counting(progress: Progress, total: int) -> Callable[[int], None]:
    return lambda done: progress("asking for trust", done, total)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says what is wrong with answers."""

    now: datetime
    known: Mapping[str, str]
    """What to call a certificate, by fingerprint."""

    def of(self, case: _Case, served: Served, untrusted: str | None) -> Shown:
        """What is wrong with one answer.

        Args:
            case: what was asked.
            served: the answer.
            untrusted: why a mail client would not trust the chain; None when it would.
        """
        leaf = x509.look_at(served.chain[0]) if served.chain else None
        found = list(self._of_the_answer(case, served, leaf, untrusted))
        return Shown(
            case.client,
            case.name,
            case.endpoint,
            case.algorithm,
            None if case.intention is None else case.intention.fingerprint,
            served,
            tuple(dict.fromkeys(concern for concern, _ in found)),
            None if leaf is None else leaf.not_after,
            "; ".join(text for _, text in found),
            () if leaf is None else leaf.names,
        )

    def _of_the_answer(
        self, case: _Case, served: Served, leaf: x509.Leaf | None, untrusted: str | None
    ) -> Iterator[tuple[Concern, str]]:
        if served.outcome is not Outcome.SERVED:
            yield _CONCERNS.get(served.outcome, Concern.CUT_OFF), served.detail
            return
        if case.intention is not None and served.fingerprint != case.intention.fingerprint:
            yield Concern.OTHER_CERTIFICATE, f"shows {self._called(served, leaf)}"
        if leaf is None:
            yield Concern.OTHER_CERTIFICATE, "shows a certificate that cannot be decoded"
            return
        if self.now < leaf.not_before:
            yield Concern.NOT_YET_VALID, f"not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC"
        if self.now >= leaf.not_after:
            yield Concern.EXPIRED, f"expired on {leaf.not_after:%Y-%m-%d %H:%M} UTC"
        if case.client is Client.NAMED and case.name is not None and not _is_for(case.name, leaf):
            yield Concern.OTHER_NAME, f"is for {called(leaf.names)}"
        yield from self._of_the_chain(case, served, leaf, untrusted)

    def _of_the_chain(
        self, case: _Case, served: Served, leaf: x509.Leaf, untrusted: str | None
    ) -> Iterator[tuple[Concern, str]]:
        digests = tuple(hashlib.sha256(der).hexdigest() for der in served.chain)
        meant = case.intention.chain if case.intention is not None else ()
        flaw = x509.flaw_in_order(served.chain)
        if flaw is not None:
            yield Concern.OTHER_CHAIN, f"the chain is out of order: {flaw}"
        elif meant and digests[0] == meant[0] and digests != meant:
            sent = f"{len(digests)} certificate{'' if len(digests) == 1 else 's'} sent, {len(meant)} meant"
            yield Concern.OTHER_CHAIN, f"the chain is another one ({sent})"
        elif untrusted and len(digests) == 1 and leaf.has_issuer_address and not leaf.self_signed:
            yield Concern.OTHER_CHAIN, "the leaf is sent without its intermediates"
        if untrusted is not None and leaf.not_before <= self.now < leaf.not_after:  # else the dates are all it says
            yield Concern.UNTRUSTED, f"not trusted by this system: {untrusted}"

    def _called(self, served: Served, leaf: x509.Leaf | None) -> str:
        known = self.known.get(served.fingerprint or "")
        if known is not None:
            return known
        if leaf is None:
            return f"another one ({served.fingerprint})"
        return f"another one, for {called(leaf.names)}, by {leaf.issuer}, until {leaf.not_after:%Y-%m-%d}"


def _is_for(name: str, leaf: x509.Leaf) -> bool:
    return stand_for(leaf.names, asked_for(name))


def called(names: Sequence[str]) -> str:
    """The names of a certificate, for people."""
    return listed(names, _NAMES_SHOWN) or "no name"


def _with_disagreements(shown: Sequence[Shown]) -> Iterator[Shown]:
    """Where nothing is known of what is meant, all endpoints must show the same."""
    free: dict[str, set[str]] = defaultdict(set)
    for one in shown:
        if _is_free(one):
            free[one.name or ""].add(one.served.fingerprint or "")
    for one in shown:
        if _is_free(one) and len(free[one.name or ""]) > 1:
            concerns = (*one.concerns, Concern.SERVERS_DISAGREE)
            text = f"not every endpoint shows the same: {(one.served.fingerprint or '')[:16]}… here"
            yield replace(one, concerns=concerns, detail="; ".join(filter(None, (one.detail, text))))
        else:
            yield one


def _is_free(one: Shown) -> bool:
    return one.client is Client.NAMED and one.intended is None and one.served.outcome is Outcome.SERVED
