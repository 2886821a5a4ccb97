"""An executor that runs nothing: a stand-in for the tools of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailsni.host.commands import Completed


@dataclass
class FakeExecutor:
    """Prints what a test says, and notes the command lines.

    Attributes:
        output: of a program, by a word of its command line.
        error: standard error of every program, which fails then.
        failing: words of command lines that end with exit status 89.
    """

    output: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    failing: frozenset[str] = frozenset()
    calls: list[tuple[str, ...]] = field(default_factory=list)
    container = ""

    def inside(self, path: Path) -> Path:
        """See :class:`mailsni.host.commands.Executor`."""
        return path

    def outside(self, path: Path) -> Path | None:
        """See :class:`mailsni.host.commands.Executor`."""
        return path

    def find_tool(self, name: str) -> Path | None:
        """See :class:`mailsni.host.commands.Executor`."""
        return Path("/usr/sbin", name)

    def run(self, argv: Sequence[str | Path], **_options: object) -> Completed:
        """See :class:`mailsni.host.commands.Executor`."""
        words = tuple(map(str, argv))
        self.calls.append(words)
        text = next((self.output[word] for word in words if word in self.output), "")
        status = 89 if self.failing.intersection(words) else int(bool(self.error))
        return Completed(words, status, text.encode(), self.error)
