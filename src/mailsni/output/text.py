"""Results as text: tables and colour on a terminal, plain lines where the output is piped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import datetime

from mailsni.core.deployment import DeployedCertificate
from mailsni.core.log import Level
from mailsni.core.model import Certificate, SkippedLineage
from mailsni.core.plan import SYMBOLS, Change, Kind, NameState, Plan, name_states
from mailsni.core.selection import Candidate
from mailsni.core.text import counted, summarize
from mailsni.deploy.confirm import Confirmation
from mailsni.deploy.snapshot import Snapshot
from mailsni.deploy.transaction import ApplyResult
from mailsni.doctor.finding import Finding, Severity
from mailsni.host import files
from mailsni.output.console import log, print_coloured, print_line, table
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

Anyone = Certificate | DeployedCertificate


def status(snapshot: Snapshot, history: History, *, skipped: bool) -> None:
    """The table of names and the last run; with ``skipped`` also what is not served, and why."""
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    deployed = snapshot.record.deployment
    rows, colours = [], []
    for name, state in name_states(snapshot.selection, snapshot.plan):
        certificates: Sequence[Anyone] = winners.get(name) or deployed.certificates_for(name)
        for one in certificates:
            rows.append((name, one.algorithm.upper(), _until(one, snapshot.now), state, one.source))
            colours.append(_STATE_COLOURS[state])
    if rows:
        table(("NAME", "KEY", "EXPIRES", "STATE", "SOURCE"), rows, colours)
    else:
        print_line("no name is served and none can be")
    if skipped:
        _skipped_table(snapshot.selection.skipped)
    else:
        _skipped_summary(snapshot.selection.skipped)
    if history.last is not None:
        print_line()
        print_line(_last_run(history.last, history.last_good))


def _last_run(last: Run, last_good: Run | None) -> str:
    """One line: when, started by what, how it ended, and when one ended well if that one did not."""
    when = f"{last.ended_at:%Y-%m-%d %H:%M} UTC"
    line = f"last run: {when} by {last.trigger}: {last.summary} (exit code {last.exit_code})"
    if last.good:
        return line
    if last_good is None:
        return f"{line}; no good one yet"
    return f"{line}; the last good one: {last_good.ended_at:%Y-%m-%d %H:%M} UTC"


def _skipped_table(found: Sequence[SkippedLineage]) -> None:
    print_line()
    if not found:
        print_line("nothing is skipped")
        return
    rows = [(one.reason, "" if one.information else "!", one.source, summarize(one.names), one.detail) for one in found]
    table(("REASON", "", "SOURCE", "NAMES", "WHY"), rows, ["" if one.information else "red" for one in found])


def _skipped_summary(found: Sequence[SkippedLineage]) -> None:
    problems = sum(not one.information for one in found)
    if found:
        print_line()
        print_line(f"{counted(problems, 'problem')}, {len(found) - problems} for information: mailsni status --skipped")


def plan(snapshot: Snapshot) -> None:
    """What apply would do, a line for each name, and in sum."""
    for change in snapshot.plan.changes:
        _change(change)
    for artifact in snapshot.plan.artifacts:
        print_line(f"  {artifact.server}: {artifact.path}: {artifact.why}")
    if snapshot.plan.pins:
        print_line(f"  {counted(len(snapshot.plan.pins), 'key and chain file')} to write in {snapshot.pins.path}")
    print_line(_sum(snapshot.plan))


def _sum(found: Plan) -> str:
    counts = (
        f"{found.count(Kind.ADD)} to add, {found.count(Kind.RENEW, Kind.REPLACE)} to change, "
        f"{found.count(Kind.REMOVE)} to remove, {found.count(Kind.KEEP)} kept"
    )
    return f"Plan: {counts}." if found.pending else f"Nothing to do ({counts})."


def _change(change: Change) -> None:
    old, new = _certificates(change.old), _certificates(change.new)
    if change.kind is Kind.RENEW:
        detail = f"{new}, was {' + '.join(f'{one.not_after:%Y-%m-%d}' for one in change.old)}"
    else:
        detail = f"{old} -> {new}" if old and new and old != new else new or old
    key = ", with a new key" if change.new_public_key else ""
    print_coloured(f"{SYMBOLS[change.kind]} {change.name}  {detail}  ({change.why}{key})", _COLOURS[change.kind])


def _certificates(found: Sequence[Anyone]) -> str:
    return " + ".join(f"{one.algorithm.upper()} {one.source} until {one.not_after:%Y-%m-%d}" for one in found)


def diffs(snapshot: Snapshot) -> Sequence[tuple[str, str]]:
    """The unified diff between each server's live text and the one that it should have, where they differ."""
    found = []
    for target in snapshot.targets:
        live = files.read_private(target.path) or b""
        planned = snapshot.texts[target.name]
        lines = difflib.unified_diff(_lines(live), _lines(planned), str(target.path), f"{target.path} (planned)")
        difference = "".join(lines)
        if difference:
            found.append((target.name, difference))
    return found


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines(keepends=True)


def diff(found: Sequence[tuple[str, str]]) -> None:
    """Diffs, in colour on a terminal."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for _, difference in found:
        for line in difference.splitlines():
            print_coloured(line, colours.get(line[:1], ""))


def applied(done: ApplyResult, *, verbose: bool) -> None:
    """What apply did."""
    snapshot = done.snapshot
    if done.reloads is None:
        names = len(snapshot.selection.winners)
        certificates = len(snapshot.selection.certificates)
        print_line(f"nothing to do: {counted(names, 'name')}, {counted(certificates, 'certificate')}")
        return
    for change in snapshot.plan.changes:
        _change(change)
    for server, outcome in done.reloads.items():
        paths = ", ".join(str(path) for path in done.published if _belongs(path, server, snapshot))
        print_line(f"{server}: {paths or 'nothing'} published, {outcome}")
    for confirmation in done.confirmations:
        _confirmation(confirmation, verbose=verbose)


def applied_in_a_line(done: ApplyResult) -> str:
    """What apply did, for a log."""
    snapshot = done.snapshot
    if done.reloads is None:
        return f"nothing to do: {counted(len(snapshot.selection.winners), 'name')}"
    names = [change.name for change in snapshot.plan.effective]
    changed = f"{counted(len(names), 'name')} changed ({summarize(names)})" if names else "no name changed"
    servers = ", ".join(f"{server} {outcome}" for server, outcome in done.reloads.items())
    answers = sum(len(confirmation.answers) for confirmation in done.confirmations)
    right = answers - len(done.wrong)
    asked = f"; {right} of {counted(answers, 'answer')} as intended" if answers else ""
    return f"published: {changed}; {servers}{asked}"


def _belongs(path: object, server: str, snapshot: Snapshot) -> bool:
    return (path == snapshot.settings.dovecot.include_file) == (server == "dovecot")


def _confirmation(confirmation: Confirmation, *, verbose: bool) -> None:
    server, answers = confirmation.server, confirmation.answers
    if not answers:
        print_line(f"{server}: does not listen, so there is nothing to verify; it serves this when it starts")
        return
    endpoints = sorted({str(answer.result.endpoint) for answer in answers})
    names = confirmation.names_probed
    sampled = "" if names == confirmation.names else f" (a sample: {confirmation.names} names changed)"
    print_line(
        f"{server}: {len(confirmation.right)} of {counted(len(answers), 'answer')} as intended, "
        f"for {counted(names, 'name')}{sampled} at {', '.join(endpoints)}"
    )
    for answer in answers if verbose else confirmation.wrong:
        served = answer.result.fingerprint or answer.result.detail
        print_line(f"  {answer.problem or 'ok'}: {answer.expectation.name} at {answer.result.endpoint}: {served}")


def problems(found: Sequence[SkippedLineage]) -> None:
    """What a person should look at, on standard error."""
    for one in found:
        names = f" ({summarize(one.names)})" if one.names else ""
        log(Level.WARNING, f"{one.source}: {one.reason}: {one.detail}{names}")


def explanation(name: str, candidates: Sequence[Candidate]) -> None:
    """Which certificate a name gets, and why the others lost."""
    if not candidates:
        print_line(f"{name}: no certificate has this name: it is answered with the default certificate")
        return
    if not any(one.wins for one in candidates):
        print_line(f"{name}: none of its certificates serves it: it is answered with the default certificate")
    rows = [
        (
            "served" if one.wins else "lost",
            one.certificate.algorithm.upper(),
            f"{one.certificate.not_after:%Y-%m-%d}",
            one.certificate.source,
            one.why,
        )
        for one in candidates
    ]
    table(("", "KEY", "EXPIRES", "SOURCE", "WHY"), rows, ["green" if one.wins else "" for one in candidates])


def doctor(found: Sequence[Finding], *, errors_only: bool) -> None:
    """Every mistake that was found: what, and indented below it where, why, and the parts of its fix."""
    colours = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    for one in found:
        if errors_only and one.severity is not Severity.ERROR:
            continue
        print_coloured(f"{one.severity}: {one.what}", colours[one.severity])
        fix = (("edit", one.fix.edit), ("run", one.fix.command), ("note", one.fix.note))
        for label, line in (("where", one.where), ("why", one.why), *fix):
            if line is not None:
                print_line(f"  {f'{label}:':<7}{line}")
        print_line()
    if errors_only:
        return
    counts = [(sum(one.severity is severity for one in found), severity) for severity in Severity]
    said = [counted(count, severity) for count, severity in counts if count]
    print_line(", ".join(said) if said else "nothing found")


def _until(one: Anyone, now: datetime) -> str:
    days = (one.not_after - now).days
    return f"{one.not_after:%Y-%m-%d} ({counted(days, 'day')})"
