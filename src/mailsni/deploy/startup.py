"""Whether the servers would start again with their configurations as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailsni.deploy.snapshot import Snapshot
from mailsni.errors import HostError, PermissionMissingError, ServerConfigurationError
from mailsni.targets.base import Target, TargetName


@dataclass(frozen=True, slots=True)
class StartupProblem:
    """A server that would not start again."""

    server: TargetName
    why: str
    """In one line."""

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.server}: would not start again: {self.why}"


def unstartable(snapshot: Snapshot) -> tuple[StartupProblem, ...]:
    """All servers that would not start again, those that are left out of a snapshot included."""
    left_out = [each for each in snapshot.left_out if isinstance(each.error, ServerConfigurationError)]
    problems = (StartupProblem(each.name, each.error.message) for each in left_out)
    return (*problems, *startup_problems(snapshot.targets))


def startup_problems(targets: Iterable[Target]) -> tuple[StartupProblem, ...]:
    """The servers that would not start again, and those whose tools do not say; none that is not readable."""
    problems = []
    for target in targets:
        try:
            why = target.startup_problem()
        except HostError as error:
            why = error.message
        except PermissionMissingError:
            continue
        if why is not None:
            problems.append(StartupProblem(target.name, why))
    return tuple(problems)
