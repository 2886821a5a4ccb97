"""Results as text: tables and colour on a terminal, plain lines where the output is piped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from mailsni.core.log import Level
from mailsni.core.model import LINEAGES_SHOWN, Certificate, SkippedLineage, by_reason
from mailsni.core.plan import SYMBOLS, Change, Kind, NameState, Plan, name_states
from mailsni.core.selection import Candidate
from mailsni.core.text import counted, summarize
from mailsni.deploy.confirm import Confirmation
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.transaction import ApplyResult
from mailsni.doctor.finding import Finding, Severity
from mailsni.host import files
from mailsni.output.console import log, print_coloured, print_line, table
from mailsni.probes.expectation import Answer
from mailsni.probes.model import Problem
from mailsni.runs.history import History, Run

_STATE_COLOURS = {
    NameState.KEPT: "magenta",
    NameState.PENDING: "yellow",
    NameState.LEAVING: "red",
    NameState.DEPLOYED: "",
}
_COLOURS = {
    Kind.ADD: "green",
    Kind.RENEW: "yellow",
    Kind.REPLACE: "yellow",
    Kind.REMOVE: "red",
    Kind.KEEP: "magenta",
}


def status(snapshot: Snapshot, history: History, *, skipped: bool) -> None:
    """Print the table of names and the last run; with ``skipped`` also what is not served, and why."""
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    deployed = snapshot.record.deployment
    rows, colours = [], []
    for name, state in name_states(snapshot.selection, snapshot.plan):
        certificates: Sequence[Certificate] = winners.get(name) or deployed.certificates_for(name)
        for certificate in certificates:
            days = (certificate.not_after - snapshot.now).days
            expiry = f"{certificate.not_after:%Y-%m-%d} ({counted(days, 'day')})"
            rows.append((name, certificate.algorithm.upper(), expiry, state, certificate.source))
            colours.append(_STATE_COLOURS[state])
    if rows:
        table(("NAME", "KEY", "EXPIRES", "STATE", "SOURCE"), rows, colours)
    else:
        print_line("no names: nothing is deployed, and no certificate can be")
    lonely = [certificate.source for certificate in snapshot.selection.certificates if certificate.issuer_missing]
    if lonely:
        print_line()
        print_line(f"without the issuer's certificate, which clients need: {summarize(lonely)}: mailsni doctor")
    if skipped:
        _skipped_table(snapshot.selection.skipped)
    else:
        _skipped_summary(snapshot.selection.skipped)
    if history.last is not None:
        print_line()
        print_line(_last_run(history.last, history.last_good))


def _last_run(last: Run, last_good: Run | None) -> str:
    """One line: when it ended, what started it, and how; after a failure also when one last succeeded."""
    when = f"{last.ended_at:%Y-%m-%d %H:%M} UTC"
    line = f"last run: {when} by {last.trigger}: {last.summary} (exit code {last.exit_code})"
    if last.good:
        return line
    if last_good is None:
        return f"{line}; no successful run yet"
    return f"{line}; last successful run: {last_good.ended_at:%Y-%m-%d %H:%M} UTC"


def _skipped_table(lineages: Sequence[SkippedLineage]) -> None:
    print_line()
    if not lineages:
        print_line("nothing is skipped")
        return
    rows = [
        (each.reason, "" if each.information else "!", each.source, summarize(each.names), each.detail)
        for each in lineages
    ]
    colours = ["" if each.information else "red" for each in lineages]
    table(("REASON", "", "SOURCE", "NAMES", "WHY"), rows, colours)


def _skipped_summary(lineages: Sequence[SkippedLineage]) -> None:
    count = sum(not lineage.information for lineage in lineages)
    if lineages:
        print_line()
        print_line(f"{counted(count, 'problem')}, {len(lineages) - count} for information: mailsni status --skipped")


def plan(snapshot: Snapshot) -> None:
    """Print what ``apply`` would change: one line for each name, and the totals."""
    for change in snapshot.plan.changes:
        _change(change)
    for artifact in snapshot.plan.artifacts:
        print_line(f"  {artifact.server}: {artifact.path}: {artifact.why}")
    if snapshot.plan.pins:
        print_line(f"  {counted(len(snapshot.plan.pins), 'key and chain file')} to write in {snapshot.pins.path}")
    print_line(_totals(snapshot.plan))


def _totals(plan: Plan) -> str:
    counts = (
        f"{plan.count(Kind.ADD)} to add, {plan.count(Kind.RENEW, Kind.REPLACE)} to change, "
        f"{plan.count(Kind.REMOVE)} to remove, {plan.count(Kind.KEEP)} kept"
    )
    return f"Plan: {counts}." if plan.pending else f"Nothing to do ({counts})."


def _change(change: Change) -> None:
    old, new = _certificates(change.old), _certificates(change.new)
    if change.kind is Kind.RENEW:
        detail = f"{new}, was {' + '.join(f'{one.not_after:%Y-%m-%d}' for one in change.old)}"
    else:
        detail = f"{old} -> {new}" if old and new and old != new else new or old
    key = ", with a new key" if change.new_public_key else ""
    print_coloured(f"{SYMBOLS[change.kind]} {change.name}  {detail}  ({change.why}{key})", _COLOURS[change.kind])


def _certificates(certificates: Sequence[Certificate]) -> str:
    return " + ".join(
        f"{each.algorithm.upper()} {each.source} until {each.not_after:%Y-%m-%d}" for each in certificates
    )


def diffs(snapshot: Snapshot) -> Sequence[tuple[str, str]]:
    """The unified diff between the live file of each server and the planned one, where they differ, by server."""
    differences = []
    for target in snapshot.targets:
        live = files.read_private(target.path) or b""
        planned = snapshot.texts[target.name]
        lines = difflib.unified_diff(_lines(live), _lines(planned), str(target.path), f"{target.path} (planned)")
        difference = "".join(lines)
        if difference:
            differences.append((target.name, difference))
    return differences


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines(keepends=True)


def diff(differences: Sequence[tuple[str, str]]) -> None:
    """Print diffs, in colour on a terminal."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for _, difference in differences:
        for line in difference.splitlines():
            print_coloured(line, colours.get(line[:1], ""))


def applied(result: ApplyResult, *, verbose: bool) -> None:
    """Print what ``apply`` did."""
    snapshot = result.snapshot
    if result.reloads is None:
        names = len(snapshot.selection.winners)
        certificates = len(snapshot.selection.certificates)
        print_line(f"nothing to do: {counted(names, 'name')}, {counted(certificates, 'certificate')}")
        return
    for change in snapshot.plan.changes:
        _change(change)
    for server, outcome in result.reloads.items():
        paths = ", ".join(str(path) for path in result.published.get(server, ()))
        print_line(f"{server}: {paths or 'nothing'} published, {outcome}")
    for confirmed in result.confirmations:
        confirmation(confirmed, verbose=verbose)


def applied_in_a_line(result: ApplyResult) -> str:
    """What ``apply`` did, in one line for a log."""
    snapshot = result.snapshot
    if result.reloads is None:
        return f"nothing to do: {counted(len(snapshot.selection.winners), 'name')}"
    names = [change.name for change in snapshot.plan.effective]
    changed = f"{counted(len(names), 'name')} changed ({summarize(names)})" if names else "no name changed"
    servers = ", ".join(f"{server} {outcome}" for server, outcome in result.reloads.items())
    answers = sum(len(confirmation.answers) for confirmation in result.confirmations)
    right = sum(len(confirmation.right) for confirmation in result.confirmations)
    asked = f"; {right} of {counted(answers, 'answer')} as intended" if answers else ""
    left = max((each.names - each.names_probed for each in result.confirmations), default=0)
    not_asked = f"; {counted(left, 'name')} not asked" if left else ""
    return f"published: {changed}; {servers}{asked}{not_asked}"


def confirmation(confirmed: Confirmation, *, verbose: bool) -> None:
    """Print what a server sends after ``apply``: a line for each fault, or with ``verbose`` for each answer."""
    server, answers = confirmed.server, confirmed.answers
    if not answers:
        print_line(f"{server}: does not listen, so there is nothing to verify; it serves this when it starts")
        return
    endpoints = sorted({str(answer.result.endpoint) for answer in answers})
    names = confirmed.names_probed
    print_line(
        f"{server}: {len(confirmed.right)} of {counted(len(answers), 'answer')} as intended, "
        f"for {counted(names, 'name')} at {', '.join(endpoints)}"
    )
    if left := confirmed.names - names:
        print_line(
            f"{server}: {counted(left, 'name')} not asked: `mailsni verify` and `mailsni check --wire` ask them all"
        )
    for group in [[answer] for answer in answers] if verbose else _by_cause(confirmed.wrong):
        first = group[0]
        who = summarize(list(dict.fromkeys(answer.expectation.label for answer in group)))
        where = summarize(list(dict.fromkeys(str(answer.endpoint) for answer in group)))
        served = first.result.fingerprint or first.result.detail
        print_line(f"  {first.problem or 'ok'}: {who} at {where}: {served}")


def _by_cause(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Wrong answers by the fault that explains them: names that kept their old certificates have different ones."""
    groups: dict[tuple[Problem | None, str], list[Answer]] = {}
    for answer in answers:
        detail = "" if answer.problem is Problem.WRONG_CERTIFICATE else answer.result.detail
        groups.setdefault((answer.problem, detail), []).append(answer)
    return list(groups.values())


def problems(lineages: Sequence[SkippedLineage]) -> None:
    """Log a warning for each skipped lineage that needs attention, or one for many with the same reason."""
    for reason, alike in by_reason(lineages).items():
        if len(alike) > LINEAGES_SHOWN:
            sources = summarize([lineage.source for lineage in alike])
            log(Level.WARNING, f"{len(alike)} certificates: {reason}: {sources}: mailsni status --skipped")
            continue
        for lineage in alike:
            names = f" ({summarize(lineage.names)})" if lineage.names else ""
            log(Level.WARNING, f"{lineage.source}: {reason}: {lineage.detail}{names}")


def explanation(name: str, candidates: Sequence[Candidate], broken: Iterable[SkippedLineage]) -> None:
    """Print which certificate a name gets, why it gets no other, and which lineages with the name cannot be used."""
    if not candidates:
        print_line(f"{name}: no certificate has this name: clients get the default certificate")
    elif not any(one.wins for one in candidates):
        print_line(f"{name}: none of its certificates is used: clients get the default certificate")
    rows = [
        (
            "served" if one.wins else "not used",
            one.certificate.algorithm.upper(),
            f"{one.certificate.not_after:%Y-%m-%d}",
            one.certificate.source,
            one.why,
        )
        for one in candidates
    ]
    if rows:
        table(("", "KEY", "EXPIRES", "SOURCE", "WHY"), rows, ["green" if one.wins else "" for one in candidates])
    for lineage in broken:
        print_line(f"skipped: {lineage.source}: {lineage.reason}: {lineage.detail}")


def doctor(findings: Sequence[Finding], *, errors_only: bool) -> None:
    """Print each finding: what, and indented below it where, why, and the parts of its fix."""
    colours = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    for finding in findings:
        if errors_only and finding.severity is not Severity.ERROR:
            continue
        print_coloured(f"{finding.severity}: {finding.what}", colours[finding.severity])
        fix = (("edit", finding.fix.edit), ("run", finding.fix.command), ("note", finding.fix.note))
        for label, line in (("where", finding.where), ("why", finding.why), *fix):
            if line is not None:
                print_line(f"  {f'{label}:':<7}{line}")
        print_line()
    if errors_only:
        return
    counts = [(sum(finding.severity is severity for finding in findings), severity) for severity in Severity]
    totals = [counted(count, severity) for count, severity in counts if count]
    print_line(", ".join(totals) if totals else "no findings")
