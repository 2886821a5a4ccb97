"""What the servers show, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mailsni.core.log import Level
from mailsni.errors import Exit
from mailsni.output import console, documents, text
from mailsni.probes.endpoint import Endpoint
from mailsni.verify.assess import called
from mailsni.verify.model import Client, Concern, Inspection, Shown

_TABLE_LIMIT = 50
"""Rows up to which the table has all of them, not only those with something wrong."""
_CLIENTS = {Client.WITHOUT_SNI: "(no SNI)", Client.UNKNOWN_NAME: "(unknown name)"}
_WORDS = {
    Concern.NOT_LISTENING: "not listening",
    Concern.NO_ANSWER: "no answer",
    Concern.NO_STARTTLS: "no STARTTLS",
    Concern.NOT_UNDERSTOOD: "not understood",
    Concern.CUT_OFF: "CUT OFF",
    Concern.OTHER_CERTIFICATE: "OTHER CERTIFICATE",
    Concern.SERVERS_DISAGREE: "SERVERS DISAGREE",
    Concern.OTHER_CHAIN: "OTHER CHAIN",
    Concern.EXPIRED: "EXPIRED",
    Concern.NOT_YET_VALID: "NOT YET VALID",
    Concern.OTHER_NAME: "OTHER NAME",
    Concern.UNTRUSTED: "(untrusted)",
}


def exit_code(inspection: Inspection) -> Exit:
    """Of a ``verify``: whether somebody must act."""
    return Exit.SERVED_WRONG if inspection.wrong else Exit.DONE


def document(inspection: Inspection) -> dict[str, Any]:
    """All answers."""
    return {
        "schema": "mailsni.verify/1",
        "exit_code": int(exit_code(inspection)),
        "asked": len(inspection.shown),
        "wrong": len(inspection.wrong),
        "answers": [_answer(one) for one in inspection.shown],
        "notes": list(inspection.notes),
    }


def _answer(one: Shown) -> dict[str, Any]:
    return {
        "client": str(one.client),
        "name": one.name,
        "endpoint": str(one.endpoint),
        "server": one.endpoint.server,
        "algorithm": one.algorithm,
        "intended": one.intended,
        "served": one.served.fingerprint,
        "certificates_sent": len(one.served.chain),
        "served_names": list(one.served_names),
        "not_after": None if one.not_after is None else documents.time(one.not_after),
        "wrong": one.wrong,
        "concerns": [str(concern) for concern in one.concerns],
        "detail": one.detail or one.served.detail,
    }


def show(inspection: Inspection, *, verbose: bool, quiet: bool = False) -> None:
    """A table of names and ports, what is wrong with each answer that is, and a sum.

    Args:
        inspection: what was found.
        verbose: the table has every name, however many there are, and warnings are told one by one.
        quiet: only what is wrong.
    """
    told = [one for one in inspection.shown if one.wrong or (verbose and one.concerns)]
    if not quiet:
        _table(inspection, everything=verbose)
        for line in _defaults(inspection):
            console.print_line(line)
        if told:
            console.print_line()
    for one in told:
        kind = f", {one.algorithm.upper()} only" if one.algorithm else ""
        word = "wrong" if one.wrong else "warning"
        console.print_line(f"{word}: {_called(one)} at {one.endpoint}{kind}: {', '.join(one.concerns)}: {one.detail}")
    if quiet:
        return
    console.print_line()
    for line in _sums(inspection):
        console.print_line(line)


def warn(inspection: Inspection) -> None:
    """What could not be asked, and what is only a warning, on standard error."""
    for note in inspection.notes:
        console.log(Level.WARNING, f"{note}")
    untrusted = [one for one in inspection.shown if Concern.UNTRUSTED in one.concerns]
    if untrusted:
        first = untrusted[0]
        console.log(
            Level.WARNING,
            f"{text.counted(len(untrusted), 'answer')} with a certificate that this system does not trust, "
            f"the first: {_called(first)} at {first.endpoint}: {first.detail}",
        )


def _called(one: Shown) -> str:
    return one.name or "(no SNI)" if one.client is Client.NAMED else _CLIENTS[one.client]


def _table(inspection: Inspection, *, everything: bool) -> None:
    rows: dict[str, dict[str, list[Shown]]] = {}
    for one in inspection.shown:
        rows.setdefault(_called(one), {}).setdefault(_port(one.endpoint), []).append(one)
    ports = list(dict.fromkeys(_port(one.endpoint) for one in inspection.shown))
    wrong = {_called(one) for one in inspection.wrong}
    everything = everything or len(rows) <= _TABLE_LIMIT
    shown = {name: cells for name, cells in rows.items() if everything or name in wrong or name in _CLIENTS.values()}
    table = [[name, *(_cell(cells.get(port, ())) for port in ports)] for name, cells in shown.items()]
    console.table(["NAME", *ports], table, ["red" if name in wrong else "" for name in shown])
    if len(shown) < len(rows):
        console.print_line(f"({text.counted(len(rows) - len(shown), 'name')} more, all as intended: -v shows them)")


def _port(endpoint: Endpoint) -> str:
    return f"{endpoint.protocol}:{endpoint.port}"


def _defaults(inspection: Inspection) -> Iterator[str]:
    """What clients without a known name are shown: a line for each server and certificate."""
    clients: dict[tuple[str, str, str], dict[str, None]] = {}
    for one in inspection.shown:
        if one.client is not Client.NAMED and one.not_after is not None:
            certificate = f"a certificate for {called(one.served_names)}, until {one.not_after:%Y-%m-%d}"
            key = (one.endpoint.server, certificate, one.served.fingerprint or "")
            clients.setdefault(key, {})[_CLIENTS[one.client]] = None
    for (server, certificate, _), asked in clients.items():
        yield f"{' and '.join(asked)}: {server} shows {certificate}"


def _cell(found: Sequence[Shown]) -> str:
    """The answers of a port for a name, of all addresses and kinds of client; with the address where they differ."""
    by_host: dict[str, dict[str, None]] = {}
    for one in found:
        by_host.setdefault(one.endpoint.host, {}).update(dict.fromkeys(_words(one)))
    texts = {host: " ".join(words) for host, words in by_host.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{host} {words}" for host, words in texts.items()) or "-"


def _words(one: Shown) -> Iterator[str]:
    if not one.wrong:
        yield "ok"
    for concern in one.concerns:
        yield _WORDS[concern]


def _sums(inspection: Inspection) -> Iterator[str]:
    for server in dict.fromkeys(one.endpoint.server for one in inspection.shown):
        of_it = [one for one in inspection.shown if one.endpoint.server == server]
        right = sum(not one.wrong for one in of_it)
        names = len({one.name for one in of_it if one.client is Client.NAMED})
        yield (
            f"{server}: {right} of {text.counted(len(of_it), 'answer')} as intended, "
            f"for {text.counted(names, 'name')} at {text.counted(len({one.endpoint for one in of_it}), 'endpoint')}"
        )
