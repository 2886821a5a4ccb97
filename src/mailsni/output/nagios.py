"""The result of ``mailsni check`` as one line (Monitoring Plugins Development Guidelines, "Plugin Output").

``MAILSNI STATUS - TEXT | PERFORMANCE DATA``, and with ``-v`` a line for each finding after it. Everything is printable
ASCII; ``|`` ends the text, so none is in it, and no line ends within.
"""

from __future__ import annotations

import re
from collections import Counter

from mailsni.check.model import CheckResult, Code, Level
from mailsni.core.expiry import DAY
from mailsni.core.text import counted, summarize_names

TEXT_LIMIT = 700
"""Characters of the text in the first line: NRPE before 3.0 cuts its answers off at 1,024 bytes."""
LINE_LIMIT = 500
"""Characters of each further line."""
LINES = 100
"""Further lines: Nagios reads 8 KiB, other systems more."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def output(result: CheckResult, *, verbose: bool = False) -> str:
    """The first line, and with ``verbose`` further ones; without a line feed at the end."""
    data = _performance_data(result)
    first = f"MAILSNI {result.level.name} - {text(result)}" + (f" | {data}" if data else "")
    if not verbose:
        return first
    findings = result.findings
    lines = [_bounded(f"{finding.level.name}: {plain(finding.text)}", LINE_LIMIT) for finding in findings[:LINES]]
    if len(findings) > LINES:
        lines.append(f"and {len(findings) - LINES} more: `mailsni check --json` has them all")
    return "\n".join([first, *lines])


def unknown(why: str) -> str:
    """The line when no check could run."""
    return f"MAILSNI {Level.UNKNOWN.name} - {_bounded(plain(why), TEXT_LIMIT)}"


def text(result: CheckResult) -> str:
    """The text after the status: the worst findings, or that all is well; bounded."""
    unreadable = plain(f"public parts only, not readable: {', '.join(result.unreadable)}") if result.unreadable else ""
    room = TEXT_LIMIT - len(unreadable)
    texts = [plain(finding.text) for finding in result.findings] or [_healthy(result)]
    parts = [_bounded(texts[0], room // 2)]
    for more in texts[1:]:
        if sum(map(len, parts)) + len(more) + 2 * len(parts) > room - len("; ... and 99999 more"):
            parts.append(f"... and {len(texts) - len(parts)} more")
            break
        parts.append(more)
    return "; ".join([*parts, *filter(None, [unreadable])])


def plain(text: str) -> str:
    """Any text, fit for the line: printable ASCII without ``|``."""
    return _UNPRINTABLE.sub("?", " ".join(text.split())).replace("|", "/") or "?"


def _healthy(result: CheckResult) -> str:
    names = counted(result.names, "name")
    answers = f", {result.probed} answers as intended" if result.probed is not None else ""
    answers += f", no time for {counted(result.not_asked, 'more probe')}" if result.not_asked else ""
    if not result.expiries:
        return names + answers
    days = int((result.expiries[0].not_after - result.now) / DAY)
    word = "expires" if result.names == 1 else f"the first ({summarize_names([result.expiries[0].name])}) expires"
    return f"{names}, {word} in {counted(days, 'day')}{answers}"


def _performance_data(result: CheckResult) -> str:
    """Label, value, unit (none of these has one) and thresholds: ``10:`` is "alert below 10"."""
    if any(finding.code == Code.NOT_CHECKED for finding in result.findings):
        return ""
    values = []
    if result.expiries:
        first = result.expiries[0]
        days = (first.not_after - result.now) / DAY
        values.append(f"'expiry'={days:.2f};{first.warning:.6g}:;{first.critical:.6g}:")
    counts = {
        "names": result.names,
        "pending": result.pending,
        "answers": result.probed,
        "unasked": result.not_asked,
    }
    levels = Counter(finding.level for finding in result.findings)
    counts |= {level.name.lower(): levels[level] for level in (Level.WARNING, Level.CRITICAL)}
    values += [f"'{label}'={count};;;0" for label, count in counts.items() if count is not None]
    return " ".join(values)


def _bounded(line: str, limit: int) -> str:
    return line if len(line) <= limit else line[: limit - 3] + "..."
