"""What setup is going to do, does and has done: as text, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from mailsni.core.text import counted
from mailsni.errors import Exit
from mailsni.output import console, text
from mailsni.output.documents import members
from mailsni.setup.model import SetupPlan

Result = Literal["in_place", "planned", "done", "done_not_serving"]


def show_plan(plan: SetupPlan) -> None:
    """Print everything that would be done."""
    for number, step in enumerate(plan.steps, 1):
        console.print_line(f"{number}. {step.title}")
        if step.change:
            text.diff([(step.title, "\n".join(f"   {line}" for line in step.change.splitlines()))])
        console.print_line()
    for note in plan.notes:
        console.print_line(f"note: {note}")


def show_result(plan: SetupPlan, result: Result, *, remove: bool) -> None:
    """Print how it ended."""
    steps = counted(len(plan.steps), "step")
    match result:
        case "in_place" if remove:
            console.print_line("mailsni is not set up here")
        case "in_place":
            console.print_line("everything is in place: nothing to do")
        case "planned":
            console.print_line(f"{steps} to do; nothing was changed")
        case "done" if remove:
            console.print_line(f"{steps} done: mailsni is taken out, both servers run without it")
        case "done_not_serving":
            console.print_line(
                f"{steps} done, but not all is served yet; `mailsni verify` probes again, "
                "`mailsni setup --remove` takes it back"
            )
        case "done":
            console.print_line(f"{steps} done: from now on it runs by itself; `mailsni setup --remove` takes it back")


def document(plan: SetupPlan, result: Result, code: Exit, warnings: Iterable[str], *, remove: bool) -> dict[str, Any]:
    """The JSON document; the warnings are those of the plan and of the steps that were done."""
    return {
        "schema": "mailsni.setup/1",
        "exit_code": int(code),
        "action": "remove" if remove else "setup",
        "result": result,
        "steps": [members(step, "title", "change") for step in plan.steps],
        "notes": list(plan.notes),
        "warnings": list(warnings),
    }
