"""Checks whether the servers would start again with their configurations as they are."""

from __future__ import annotations

from collections.abc import Iterator

from mailsni.check.gather import CheckContext, cannot_start
from mailsni.check.model import Result, Unreadable
from mailsni.errors import PermissionMissingError


def check_startup(context: CheckContext) -> Iterator[Result]:
    """The answer of each installed server. One that could not be read at all is among the context's problems."""
    for target in (context.host.postfix, context.host.dovecot):
        if target is None:
            continue
        try:
            why = target.startup_problem()
        except PermissionMissingError:
            yield Unreadable(f"whether {target.name.capitalize()} would start again")
        else:
            if why is not None:
                yield cannot_start(target.name, why)
