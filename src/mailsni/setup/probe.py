"""Probes a server before and after a change of its configuration, so that a change that cuts clients off is undone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailsni.config.settings import Settings
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Answer, Confirmation
from mailsni.deploy.listeners import find_listener
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation
from mailsni.targets.base import Target

_UNKNOWN_NAME = "mailsni-probe.invalid"
"""A name that no map and no block has. Its clients too are cut off by a map that cannot be read."""


def responsive_endpoints(settings: Settings, target: Target) -> tuple[Endpoint, ...]:
    """Where a server offers TLS now; nothing when it does not run, or the configuration forbids to probe it."""
    if not target.installed or not settings.verify.after_apply or target.reload_action == "none":
        return ()
    return find_listener(target, settings.verify, _UNKNOWN_NAME).endpoints or ()


def ask(
    settings: Settings, target: Target, endpoints: Sequence[Endpoint], expected: Iterable[Expectation], *, patient: bool
) -> Confirmation:
    """Probe names, and one that nobody has.

    Args:
        settings: the time limit of a probe.
        target: the server.
        endpoints: where it answers.
        expected: the names, and what they must be served.
        patient: repeat a probe whose answer is not as expected. Postfix's programs alone wait two seconds at their
            start when main.cf was changed within the last one (measured).
    """
    wanted = [*expected, Expectation(_UNKNOWN_NAME)]
    patience = settings.verify.timeout + confirm.PATIENCE_PER_NAME * len(wanted) if patient else 0.0
    return confirm.probe_server(target.name, endpoints, wanted, timeout=settings.verify.timeout, patience=patience)


def summarize_answers(answers: Sequence[Answer]) -> str:
    """The first answer, and how many more there are."""
    first = answers[0]
    more = f" and {len(answers) - 1} more" if len(answers) > 1 else ""
    return f"{first.expectation.name} at {first.result.endpoint}{more}: {first.result.detail}"
