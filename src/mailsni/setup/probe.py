"""Probes a server before and after a change of its configuration, so that a change that cuts clients off is undone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailsni.config.settings import Settings
from mailsni.deploy.confirm import WireCheck
from mailsni.deploy.listeners import find_listener
from mailsni.probes.expectation import Answer, Expectation
from mailsni.targets.base import Target

_UNKNOWN_NAME = "mailsni-probe.invalid"
"""A name that no map and no block has. Its clients too are cut off by a map that cannot be read."""


def wire_check(settings: Settings, target: Target, expected: Iterable[Expectation]) -> WireCheck:
    """The probes of a server for names, and for one that nobody has.

    None where the server does not run, or the configuration forbids to probe it. A changed server needs patience:
    Postfix's programs alone wait two seconds at their start when main.cf was changed within the last one (measured).
    """
    endpoints = find_listener(target, settings.verify, _UNKNOWN_NAME).endpoints
    wanted = (*expected, Expectation(_UNKNOWN_NAME))
    return WireCheck({target.name: endpoints or ()}, wanted, settings.verify.timeout, len(wanted))


def summarize_answers(answers: Sequence[Answer]) -> str:
    """The first answer, and how many more there are."""
    first = answers[0]
    more = f" and {len(answers) - 1} more" if len(answers) > 1 else ""
    return f"{first.expectation.name} at {first.result.endpoint}{more}: {first.result.detail}"
