"""What the running servers show, name by name and port by port, held against what they should show.

Where :mod:`mailsni.deploy.confirm` asks for the names that were just published, this asks for every name, on every
port, as
every kind of client, and looks at all that was sent: the leaf, the chain behind it, the dates, the names, and whether
the system's trust store leads to it. Nothing is changed, whatever is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mailsni.config.settings import VerifySettings
from mailsni.core.model import Algorithm, Progress
from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint, resolved
from mailsni.probes.starttls import Outcome
from mailsni.probes.tls_client import Question, Served, probe_all
from mailsni.verify.assess import _Judge, _with_disagreements
from mailsni.verify.expectations import EVERYTHING, Wish, _known, intentions, listeners
from mailsni.verify.model import CONCURRENCY, UNKNOWN_NAME, Client, Inspection, Intention, Limits, _Case

_BATCH = 512
"""Questions after which is looked whether an endpoint still answers."""
_TRIES = 3
"""Clients that are asked for a verdict on a chain, until one has seen it."""
_PATIENCE = 16
"""Questions that an endpoint may leave unanswered, each to its time limit, until it is not asked any more."""


def inspect(
    snapshot: Snapshot | None,
    wish: Wish = EVERYTHING,
    *,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> Inspection:
    """Ask the servers of this host, or others, for what is to be served here.

    Args:
        snapshot: of this host; None where it is not known what is to be served: then the wish has all.
        wish: what to ask for and whom.
        timeout: seconds for each question; the configuration's, else 10, when None.
        concurrency: questions at a time.
        progress: told about the answers.

    Raises:
        HostError: nobody is known who could be asked.
    """
    if snapshot is None:
        limits = Limits(timeout or VerifySettings().timeout, concurrency)
        return ask(dict.fromkeys(wish.names, ()), wish.endpoints, limits, progress=progress)
    settings = snapshot.settings
    found, notes = (wish.endpoints, ()) if wish.endpoints else listeners(settings, snapshot.targets)
    if not found:
        raise HostError(
            "; ".join(notes) or "no service with TLS was found in the servers' configurations",
            hint="[verify] endpoints in the configuration, or --endpoint, says where to ask",
        )
    limits = Limits(timeout or settings.verify.timeout, concurrency)
    wanted = intentions(snapshot, wish.names)
    inspection = ask(wanted, found, limits, now=snapshot.now, known=_known(snapshot), progress=progress)
    return replace(inspection, notes=(*notes, *inspection.notes))


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
