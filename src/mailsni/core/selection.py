"""One winner per name, for both servers: pure, from an inventory and a moment in time.

The rule: valid now over deployed already; issued by an authority over self-signed; the exact name over a wildcard;
whole in the store over a last good copy; issued later (notBefore); then the order of origins and fingerprints, so that
equal input gives equal output. RSA and ECDSA are decided apart and served together: Postfix aborts the handshake when
a name has two chains of one algorithm (postconf(5), tls_server_sni_maps; measured), and each client takes the one that
it can use.

A clock may be wrong. So a certificate that it calls expired or not yet valid stays with the names that it is deployed
for already, as long as no valid one can serve them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from mailsni.core.model import Algorithm, Certificate, Inventory, Reason, SkippedLineage
from mailsni.core.names import NamePatterns, covered_by, is_wildcard
from mailsni.core.text import summarize

ALGORITHMS: tuple[Algorithm, ...] = ("ecdsa", "rsa")
"""In the order in which a name's certificates are listed and rendered."""
NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})
"""Where no name is deployed."""


@dataclass(frozen=True, slots=True)
class Winner:
    """A name and its certificates: one, or an ECDSA and an RSA one."""

    name: str
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Every name with its winner, ordered by name, and everything that is not served as it is in the stores."""

    winners: tuple[Winner, ...]
    skipped: tuple[SkippedLineage, ...]

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates that serve at least one name, each once, ordered by their pinned file's name."""
        unique = {each.ident: each for winner in self.winners for each in winner.certificates}
        return tuple(unique[ident] for ident in sorted(unique))

    @property
    def problems(self) -> tuple[SkippedLineage, ...]:
        """The skipped certificates that a person must look at."""
        return tuple(skipped for skipped in self.skipped if not skipped.information)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A certificate that has a name, and why it does or does not serve it."""

    certificate: Certificate
    exact: bool
    wins: bool
    why: str


def select(
    inventory: Inventory, patterns: NamePatterns, now: datetime, deployed: Mapping[str, Collection[str]] = NOTHING
) -> Selection:
    """Choose the winners.

    Args:
        inventory: the certificates of all stores, and the last good ones of broken lineages.
        patterns: which names are mail names.
        now: the moment at which certificates must be valid, with a time zone.
        deployed: the idents of each name's certificates that are deployed.
    """
    wanted = {id(each): tuple(dict.fromkeys(patterns.served_names(each.names))) for each in inventory.certificates}
    claims = _claims(inventory.certificates, wanted, now, deployed)
    winners = tuple(Winner(name, _winners(name, claims[name], now)) for name in sorted(claims))
    winning = {winner.name: winner.certificates for winner in winners}
    serving: dict[int, list[str]] = defaultdict(list)
    for name, certificates in winning.items():
        for certificate in certificates:
            serving[id(certificate)].append(name)
    skipped = [_with_mail_names(broken, patterns) for broken in inventory.skipped]
    for certificate in inventory.certificates:
        names = tuple(dict.fromkeys((*wanted[id(certificate)], *serving[id(certificate)])))
        skipped.extend(_skips(certificate, names, winning, now))
    return Selection(winners, tuple(sorted(skipped, key=lambda item: (item.source, item.reason, item.detail))))


def explain(
    name: str,
    inventory: Inventory,
    patterns: NamePatterns,
    now: datetime,
    deployed: Mapping[str, Collection[str]] = NOTHING,
) -> tuple[Candidate, ...]:
    """Every certificate that has a name, the winners first, each with the reason for its place."""
    able = [certificate for certificate in inventory.certificates if covered_by(name, certificate.names)]
    usable = [certificate for certificate in able if _why_unusable(certificate, now) is None]
    winning = {winner.name: winner.certificates for winner in select(inventory, patterns, now, deployed).winners}
    best = _serving(name, winning)
    candidates = []
    for certificate in sorted(able, key=lambda item: _rank(name, item)):
        wins = any(certificate is winner for winner in best)
        unusable = _why_unusable(certificate, now)
        if wins and unusable is not None:
            why = f"{unusable[1]}; deployed already, and no valid one can serve the name"
        elif wins:
            why = _why_it_wins(name, certificate, usable)
        elif not patterns.match(name):
            why = "the name is none of names.include, or one of names.exclude"
        elif unusable is not None:
            _, why = unusable
        elif not best:
            why = "a wildcard, and no pattern of names.include begins with this very label"
        else:
            why = _why_it_lost(name, certificate, best)
        candidates.append(Candidate(certificate, name in certificate.names, wins, why))
    return tuple(sorted(candidates, key=lambda item: not item.wins))


def _claims(
    certificates: Iterable[Certificate],
    wanted: Mapping[int, tuple[str, ...]],
    now: datetime,
    deployed: Mapping[str, Collection[str]],
) -> dict[str, list[Certificate]]:
    """For each name that is served, everything that can serve it.

    A wildcard competes for every name below it, even where the patterns give it no name of its own: otherwise a
    self-signed certificate for ``mail.example.com`` would beat a good one for ``*.example.com``.
    """

    def usable(certificate: Certificate, name: str) -> bool:
        """Whether it may serve the name: it is valid, or deployed for it already."""
        return not certificate.staging and (certificate.valid_at(now) or certificate.ident in deployed.get(name, ()))

    claims: dict[str, list[Certificate]] = defaultdict(list)
    wildcards: dict[str, list[Certificate]] = defaultdict(list)
    for certificate in certificates:
        for name in wanted[id(certificate)]:
            if usable(certificate, name):
                claims[name].append(certificate)
            elif name in deployed and not certificate.staging:
                claims.setdefault(name, [])  # a wildcard may serve it
        for name in certificate.names:
            if is_wildcard(name):
                wildcards[name].append(certificate)
    for name, claimants in claims.items():
        known = {id(certificate) for certificate in claimants}
        if not is_wildcard(name):
            below = wildcards.get("*." + name.partition(".")[2], ())
            claimants.extend(each for each in below if id(each) not in known and usable(each, name))
    return {name: claimants for name, claimants in claims.items() if claimants}


def _serving(name: str, winning: Mapping[str, tuple[Certificate, ...]]) -> tuple[Certificate, ...]:
    """What a client that asks for a name gets: the entry of the name, else of the wildcard above it."""
    return winning.get(name) or winning.get("*." + name.partition(".")[2], ())


def _rank(name: str, certificate: Certificate) -> tuple[bool, bool, bool, float, str, str]:
    """Smaller is better."""
    return (
        certificate.self_signed,
        name not in certificate.names,
        certificate.kept,
        -certificate.not_before.timestamp(),
        certificate.source,
        certificate.ident,
    )


def _winners(name: str, claimants: Sequence[Certificate], now: datetime) -> tuple[Certificate, ...]:
    valid = [certificate for certificate in claimants if certificate.valid_at(now)]
    ranked = sorted(valid or claimants, key=lambda certificate: _rank(name, certificate))
    if any(not certificate.self_signed for certificate in ranked):
        ranked = [certificate for certificate in ranked if not certificate.self_signed]
    best: dict[Algorithm, Certificate] = {}
    for certificate in ranked:
        best.setdefault(certificate.algorithm, certificate)
    return tuple(best[algorithm] for algorithm in ALGORITHMS if algorithm in best)


def _why_unusable(certificate: Certificate, now: datetime) -> tuple[Reason, str] | None:
    if certificate.staging:
        return Reason.STAGING, "issued by a staging or local authority, which no client trusts"
    if now >= certificate.not_after:
        return Reason.EXPIRED, f"expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_before:
        return Reason.NOT_YET_VALID, f"not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
    return None


def _skips(
    certificate: Certificate, names: tuple[str, ...], winning: Mapping[str, tuple[Certificate, ...]], now: datetime
) -> Iterable[SkippedLineage]:
    """Why a valid pair does not serve its names, or not all of them."""
    if not names:
        if not certificate.kept:
            detail = "no name of the certificate is one of names.include"
            yield SkippedLineage(certificate.source, Reason.NO_MATCHING_NAME, detail, (), information=True)
        return
    served = tuple(name for name in names if any(certificate is winner for winner in winning.get(name, ())))
    unusable = _why_unusable(certificate, now)
    if unusable is not None:
        reason, detail = unusable
        if served:
            detail += "; it is served on, because no valid one can serve its names; is the clock right?"
            yield SkippedLineage(certificate.source, reason, detail, served)
        elif not certificate.kept:
            others_serve = all(_serving(name, winning) for name in names)
            information = reason is Reason.STAGING or (reason is Reason.EXPIRED and others_serve)
            yield SkippedLineage(certificate.source, reason, detail, names, information=information)
        return
    lost = tuple(name for name in names if name not in served)
    if certificate.kept and served:
        detail = f"its last good certificate, valid until {certificate.not_after:%Y-%m-%d}, is served on"
        yield SkippedLineage(certificate.source, Reason.KEPT_LAST_GOOD, detail, served)
    if certificate.self_signed and served:
        detail = "self-signed: no client trusts it, and it is served for want of another"
        yield SkippedLineage(certificate.source, Reason.SELF_SIGNED, detail, served, information=True)
    if lost and not certificate.kept:
        to = sorted({winner.source for name in lost for winner in winning[name]})
        detail = f"lost to {summarize(to)}"
        yield SkippedLineage(certificate.source, Reason.LOST_TO_OTHER, detail, lost, information=True)


def _with_mail_names(skipped: SkippedLineage, patterns: NamePatterns) -> SkippedLineage:
    """A broken lineage with its mail names only; one that has none is a web site's, and no problem."""
    if not skipped.names:
        return skipped
    names = tuple(dict.fromkeys(patterns.served_names(skipped.names)))
    if names:
        return replace(skipped, names=names)
    detail = f"no name of the certificate is one of names.include; besides, {skipped.detail}"
    return SkippedLineage(skipped.source, Reason.NO_MATCHING_NAME, detail, (), information=True)


def _why_it_wins(name: str, certificate: Certificate, usable: Iterable[Certificate]) -> str:
    rivals = [other for other in usable if other is not certificate and other.algorithm == certificate.algorithm]
    if certificate.kept:
        return "the last good certificate of a lineage that is broken now"
    if not rivals:
        alone = all(other is certificate for other in usable)
        return "the only one" if alone else f"the only {certificate.algorithm} one"
    return _difference(name, certificate, min(rivals, key=lambda other: _rank(name, other)))


def _why_it_lost(name: str, certificate: Certificate, best: Iterable[Certificate]) -> str:
    winners = list(best)
    same = next((winner for winner in winners if winner.algorithm == certificate.algorithm), None)
    if same is None:
        return "self-signed, and another is not"
    return f"lost to {same.source}: that one is {_difference(name, same, certificate)}"


def _difference(name: str, better: Certificate, worse: Certificate) -> str:
    """Why a certificate beats another, by the order of the rule."""
    if better.self_signed != worse.self_signed:
        return "issued by an authority, the other is self-signed"
    if (name in better.names) != (name in worse.names):
        return "for the exact name, the other is a wildcard"
    if better.kept != worse.kept:
        return "whole in the store, the other is a last good copy"
    if better.not_before != worse.not_before:
        return f"issued later ({better.not_before:%Y-%m-%d %H:%M} against {worse.not_before:%Y-%m-%d %H:%M})"
    return "first by the order of the directories"
