"""Compares an answer with what was expected."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mailsni.core import x509
from mailsni.core.names import listed, stand_for
from mailsni.deploy.confirm import asked_for
from mailsni.probes.starttls import Outcome
from mailsni.probes.tls_client import Served
from mailsni.verify.model import _NAMES_SHOWN, Client, Concern, Shown, _Case

_CONCERNS: Mapping[Outcome, Concern] = {
    Outcome.REFUSED: Concern.NOT_LISTENING,
    Outcome.TIMEOUT: Concern.NO_ANSWER,
    Outcome.NO_STARTTLS: Concern.NO_STARTTLS,
    Outcome.GARBAGE: Concern.NOT_UNDERSTOOD,
    Outcome.ABORTED: Concern.CUT_OFF,
}


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
