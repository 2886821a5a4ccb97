"""What setup is going to do, does and has done: as text, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from mailsni.core.log import Level
from mailsni.core.text import counted
from mailsni.errors import Exit
from mailsni.output import console, text
from mailsni.setup.model import SetupPlan
from mailsni.setup.steps import Step

Result = Literal["in_place", "planned", "done"]


class Report:
    """Of one run; with ``remove`` it takes mailsni away."""

    def __init__(self, plan: SetupPlan, *, remove: bool) -> None:
        self._plan = plan
        self._remove = remove
        self._said = 0
        self.warnings = list(plan.warnings)
        """What a person should look at."""

    def plan(self, *, quiet: bool) -> None:
        """Show everything that would be done."""
        if quiet:
            return
        for number, step in enumerate(self._plan.steps, 1):
            console.print_line(f"{number}. {step.title}")
            if step.change:
                text.diff([(step.title, "\n".join(f"   {line}" for line in step.change.splitlines()))])
            console.print_line()
        for note in self._plan.notes:
            console.print_line(f"note: {note}")

    def step(self, step: Step) -> None:
        """Say that a step is done."""
        console.log(Level.INFO, f"done: {step.title}")

    def say_warnings(self) -> None:
        """Say those that have not been said yet: what is known before is said before anybody is asked."""
        for warning in self.warnings[self._said :]:
            console.log(Level.WARNING, f"{warning}")
        self._said = len(self.warnings)

    def done(self, warnings: Iterable[str]) -> None:
        """Take what the steps found."""
        self.warnings += warnings

    def end(self, result: Result, *, quiet: bool) -> None:
        """Say how it ended."""
        if quiet:
            return
        count = len(self._plan.steps)
        steps = counted(count, "step")
        match result:
            case "in_place" if self._remove:
                console.print_line("mailsni is not set up here")
            case "in_place":
                console.print_line("everything is in place: nothing to do")
            case "planned":
                console.print_line(f"{steps} to do; nothing was changed")
            case "done" if self._remove:
                console.print_line(f"{steps} done: mailsni is taken out, both servers run without it")
            case "done":
                console.print_line(
                    f"{steps} done: from now on it runs by itself; `mailsni setup --remove` takes it back"
                )

    def document(self, result: Result, code: Exit) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": "mailsni.setup/1",
            "exit_code": int(code),
            "action": "remove" if self._remove else "setup",
            "result": result,
            "steps": [{"title": step.title, "change": step.change} for step in self._plan.steps],
            "notes": list(self._plan.notes),
            "warnings": list(self.warnings),
        }
