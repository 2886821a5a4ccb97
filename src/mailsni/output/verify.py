"""The result of `mailsni verify`, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mailsni.core.log import Level
from mailsni.core.text import counted, summarize
from mailsni.errors import Exit
from mailsni.output import console, documents
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.model import Problem
from mailsni.verify.assess import describe_names
from mailsni.verify.causes import Cause, causes_of
from mailsni.verify.model import Assessment, Audit, Client

_TABLE_LIMIT = 50
"""The table has a row for every name up to so many; beyond, for so many with something wrong."""
_CAUSE_LIMIT = 20
"""Causes with a line of their own."""
_CLIENTS: Final[Mapping[Client, str]] = {Client.WITHOUT_SNI: "(no SNI)", Client.UNKNOWN_NAME: "(unknown name)"}
_LOUD: Final = frozenset(Problem) - {
    Problem.NOT_LISTENING,
    Problem.NO_ANSWER,
    Problem.NO_STARTTLS,
    Problem.PROTOCOL_ERROR,
}
"""Problems that say something about a certificate."""


def exit_code(audit: Audit) -> Exit:
    """Of a ``verify``: whether somebody must act, or else whether something was not probed, or a person should look."""
    if audit.wrong:
        return Exit.SERVED_WRONG
    if audit.not_asked:
        return Exit.FAILED
    return Exit.SKIPPED if audit.cannot_start else Exit.DONE


def document(audit: Audit) -> dict[str, Any]:
    """All causes, and all answers."""
    return {
        "schema": "mailsni.verify/1",
        "exit_code": int(exit_code(audit)),
        "probed": len(audit.assessments),
        "not_asked": len(audit.not_asked),
        "wrong": len(audit.wrong),
        "causes": [_cause(cause) for cause in causes_of(audit.assessments)],
        "answers": [_answer(assessment) for assessment in audit.assessments],
        "notes": list(_notes(audit)),
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "problem": str(cause.problem),
        "wrong": cause.wrong,
        "problems": [str(problem) for problem in cause.problems],
        "detail": cause.detail,
        "servers": list(cause.servers),
        "endpoints": [str(endpoint) for endpoint in cause.endpoints],
        "clients": [str(client) for client in cause.clients],
        "names": list(cause.names),
        "answers": len(cause.assessments),
    }


def _answer(assessment: Assessment) -> dict[str, Any]:
    expectation, result, not_after = assessment.expectation, assessment.result, assessment.not_after
    return {
        "client": str(assessment.client),
        "name": expectation.name,
        "endpoint": str(result.endpoint),
        "server": result.endpoint.server,
        "algorithm": expectation.algorithm,
        "expected": expectation.fingerprint,
        "served": result.fingerprint,
        "certificates_sent": len(result.chain),
        "served_names": list(assessment.served_names),
        "not_after": None if not_after is None else documents.time(not_after),
        "wrong": assessment.wrong,
        "problems": [str(problem) for problem in assessment.problems],
        "detail": assessment.detail or result.detail,
    }


def show(audit: Audit, *, verbose: bool, quiet: bool = False) -> None:
    """Print a table of names and ports, a line for each cause of wrong answers, and totals.

    With ``verbose`` the table has every name, however many there are, and each cause of a warning has a line. With
    ``quiet`` there are only the lines for what is wrong.
    """
    causes = [cause for cause in causes_of(audit.assessments) if cause.wrong or verbose]
    if not quiet:
        _table(audit, all_names=verbose)
        for line in _defaults(audit):
            console.print_line(line)
        if causes:
            console.print_line()
    for cause in causes[:_CAUSE_LIMIT]:
        console.print_line(f"{'wrong' if cause.wrong else 'warning'}: {_cause_line(cause)}")
    if len(causes) > _CAUSE_LIMIT:
        console.print_line(f"({len(causes) - _CAUSE_LIMIT} more causes: --json has all)")
    if quiet:
        return
    console.print_line()
    for line in _totals(audit):
        console.print_line(line)


def _cause_line(cause: Cause) -> str:
    who = "every client" if cause.nobody_served else summarize(_clients(cause))
    where = summarize([str(endpoint) for endpoint in cause.endpoints])
    algorithms = {each.expectation.algorithm for each in cause.assessments}
    algorithm = algorithms.pop() if len(algorithms) == 1 else None
    kind = f", {algorithm.upper()} only" if algorithm else ""
    detail = cause.detail if cause.identical else f"for the first: {cause.detail}"
    return f"{who} at {where}{kind}: {', '.join(cause.problems)}: {detail}"


def _clients(cause: Cause) -> list[str]:
    return [*cause.names, *(_CLIENTS[client] for client in cause.clients if client in _CLIENTS)]


def warn(audit: Audit) -> None:
    """Print what could not be probed, and what is only a warning, on standard error."""
    warn_of_gaps(audit)
    untrusted = [each for each in audit.assessments if Problem.UNTRUSTED in each.problems]
    if untrusted:
        first = untrusted[0]
        console.log(
            Level.WARNING,
            f"this system does not trust the certificate of {counted(len(untrusted), 'answer')}, "
            f"the first: {_client(first)} at {first.endpoint}: {first.detail}",
        )


def warn_of_gaps(audit: Audit) -> None:
    """Print what could not be probed, and which servers would not start again, on standard error."""
    for note in _notes(audit):
        console.log(Level.WARNING, note)
    if audit.not_asked:
        console.log(Level.WARNING, audit.gap)


def _notes(audit: Audit) -> tuple[str, ...]:
    return (*audit.notes, *(problem.text for problem in audit.cannot_start))


def _client(assessment: Assessment) -> str:
    return _CLIENTS.get(assessment.client) or str(assessment.expectation.name)


def _table(audit: Audit, *, all_names: bool) -> None:
    rows: dict[str, dict[str, list[Assessment]]] = {}
    for assessment in audit.assessments:
        port = _port(assessment.endpoint)
        rows.setdefault(_client(assessment), {}).setdefault(port, []).append(assessment)
    ports = list(dict.fromkeys(_port(assessment.endpoint) for assessment in audit.assessments))
    wrong = {_client(assessment) for assessment in audit.wrong}
    shown = rows.keys() if all_names or len(rows) <= _TABLE_LIMIT else _worth_a_row(audit)
    visible = {name: cells for name, cells in rows.items() if name in shown}
    table = [[name, *(_cell(cells.get(port, ())) for port in ports)] for name, cells in visible.items()]
    console.table(["NAME", *ports], table, ["red" if name in wrong else "" for name in visible])
    if len(visible) < len(rows):
        console.print_line(f"({counted(len(rows) - len(visible), 'name')} more: -v shows them)")


def _worth_a_row(audit: Audit) -> set[str]:
    """The clients without a known name, and some names with something wrong; not because nobody is served there."""
    causes = [cause for cause in causes_of(audit.assessments) if cause.wrong and not cause.nobody_served]
    names = dict.fromkeys(name for cause in causes for name in cause.names)
    return {*_CLIENTS.values(), *list(names)[:_TABLE_LIMIT]}


def _port(endpoint: Endpoint) -> str:
    return f"{endpoint.protocol}:{endpoint.port}"


def _defaults(audit: Audit) -> Iterator[str]:
    """What clients without a known name get: a line for each server and certificate."""
    clients: dict[tuple[str, str, str], dict[str, None]] = {}
    for assessment in audit.assessments:
        not_after = assessment.not_after
        if assessment.client is not Client.NAMED and not_after is not None:
            certificate = f"a certificate for {describe_names(assessment.served_names)}, until {not_after:%Y-%m-%d}"
            key = (assessment.endpoint.server, certificate, assessment.result.fingerprint or "")
            clients.setdefault(key, {})[_CLIENTS[assessment.client]] = None
    for (server, certificate, _), kinds in clients.items():
        yield f"{' and '.join(kinds)}: {server} serves {certificate}"


def _cell(assessments: Sequence[Assessment]) -> str:
    """The answers of a port for a name, of all addresses and kinds of client; with the address where they differ."""
    by_host: dict[str, dict[str, None]] = {}
    for assessment in assessments:
        by_host.setdefault(assessment.endpoint.host, {}).update(dict.fromkeys(_words(assessment)))
    texts = {host: " ".join(words) for host, words in by_host.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{host} {words}" for host, words in texts.items()) or "-"


def _words(assessment: Assessment) -> Iterator[str]:
    if not assessment.wrong:
        yield "ok"
    for problem in assessment.problems:
        yield _word(problem)


def _word(problem: Problem) -> str:
    """How a cell names a problem: loud where it is about a certificate, in brackets where it is only a warning."""
    words = problem.replace("_", " ")
    if problem is Problem.UNTRUSTED:
        return f"({words})"
    return words.upper() if problem in _LOUD else words


def _totals(audit: Audit) -> Iterator[str]:
    for server in dict.fromkeys(assessment.endpoint.server for assessment in audit.assessments):
        answers = [assessment for assessment in audit.assessments if assessment.endpoint.server == server]
        right = sum(not answer.wrong for answer in answers)
        names = len({answer.expectation.name for answer in answers if answer.client is Client.NAMED})
        endpoints = len({answer.endpoint for answer in answers})
        yield (
            f"{server}: {right} of {counted(len(answers), 'answer')} as intended, "
            f"for {counted(names, 'name')} at {counted(endpoints, 'endpoint')}"
        )
