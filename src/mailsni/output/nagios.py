"""A check as a monitoring plugin says it (Monitoring Plugins Development Guidelines, "Plugin Output").

``MAILSNI STATUS - TEXT | PERFORMANCE DATA``, and with ``-v`` a line for each finding after it. Everything is printable
ASCII; ``|`` ends the text, so none is in it, and no line ends within.
"""

from __future__ import annotations

import re
from datetime import timedelta

from mailsni.check.runner import Checked, Level
from mailsni.core.text import counted, summarize_names

TEXT_LIMIT = 700
"""Characters of the text in the first line: NRPE before 3.0 cuts its answers off at 1,024 bytes."""
LINE_LIMIT = 500
"""Characters of each further line."""
LINES = 100
"""Further lines: Nagios reads 8 KiB, other systems more."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def output(found: Checked, *, verbose: bool = False) -> str:
    """The first line, and further ones if they are asked for; without a line feed at the end."""
    data = _performance_data(found)
    first = f"MAILSNI {found.level.name} - {text(found)}" + (f" | {data}" if data else "")
    if not verbose:
        return first
    lines = [_bounded(f"{one.level.name}: {plain(one.text)}", LINE_LIMIT) for one in found.findings[:LINES]]
    if len(found.findings) > LINES:
        lines.append(f"and {len(found.findings) - LINES} more: `mailsni check --json` has them all")
    return "\n".join([first, *lines])


def unknown(why: str) -> str:
    """The line for a check that could not be made."""
    return f"MAILSNI {Level.UNKNOWN.name} - {_bounded(plain(why), TEXT_LIMIT)}"


def text(found: Checked) -> str:
    """What the line says after the status: the worst findings, or that all is well; bounded."""
    partial = f"public parts only: not seen: {', '.join(found.unseen)}" if found.unseen else ""
    room = TEXT_LIMIT - len(partial)
    if not found.findings:
        parts = [_healthy(found)]
    else:
        texts = [plain(one.text) for one in found.findings]
        parts = [_bounded(texts[0], room // 2)]
        for said in texts[1:]:
            if sum(map(len, parts)) + len(said) + 2 * len(parts) > room - len("; … and 99999 more"):
                parts.append(f"... and {len(texts) - len(parts)} more")
                break
            parts.append(said)
    return "; ".join([*parts, *([plain(partial)] if partial else [])])


def plain(text: str) -> str:
    """Any text, fit for the line: printable ASCII without ``|``."""
    return _UNPRINTABLE.sub("?", " ".join(text.split())).replace("|", "/") or "?"


def _healthy(found: Checked) -> str:
    names = counted(found.names, "name")
    asked = f", {found.on_the_wire} answers as intended" if found.on_the_wire is not None else ""
    if not found.expiries:
        return names + asked
    days = int((found.expiries[0].not_after - found.now) / timedelta(days=1))
    unit = "day" if days == 1 else "days"
    word = "expires" if found.names == 1 else f"the first ({summarize_names([found.expiries[0].name])}) expires"
    return f"{names}, {word} in {days} {unit}{asked}"


def _performance_data(found: Checked) -> str:
    """Label, value, unit (none of these has one) and thresholds: ``10:`` is "alert below 10"."""
    values = []
    if found.expiries:
        first = found.expiries[0]
        days = (first.not_after - found.now) / timedelta(days=1)
        values.append(f"'expiry'={days:.2f};{first.warning:.6g}:;{first.critical:.6g}:")
    if any(one.code == "not_checked" for one in found.findings):
        return ""
    values.append(f"'names'={found.names};;;0")
    if found.pending is not None:
        values.append(f"'pending'={found.pending};;;0")
    if found.on_the_wire is not None:
        values.append(f"'answers'={found.on_the_wire};;;0")
    values += [f"'{level.name.lower()}'={found.count(level)};;;0" for level in (Level.WARNING, Level.CRITICAL)]
    return " ".join(values)


def _bounded(line: str, limit: int) -> str:
    return line if len(line) <= limit else line[: limit - 3] + "..."
