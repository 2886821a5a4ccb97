"""Asking a server before and after a change of its configuration, so that a change that cuts clients off goes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailsni.config.settings import Settings
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Answer, Confirmation
from mailsni.errors import HostError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation
from mailsni.targets.base import Target

_UNKNOWN_NAME = "mailsni-probe.invalid"
"""A name that no map and no block has. A map that cannot be read cuts off its clients too."""


def listening(settings: Settings, target: Target) -> tuple[Endpoint, ...]:
    """Where a server answers now; nothing when it does not run, or is not to be asked."""
    if not target.installed or not settings.verify.after_apply or target.reload_action == "none":
        return ()
    given = settings.verify.endpoints
    try:
        said = target.endpoints() if given == "auto" else tuple(one for one in given if one.server == target.name)
    except HostError:
        return ()
    good, _ = confirm.responsive_endpoints(said, _UNKNOWN_NAME, timeout=settings.verify.timeout) if said else ([], [])
    return tuple(good)


def ask(
    settings: Settings, target: Target, where: Sequence[Endpoint], expected: Iterable[Expectation], *, patient: bool
) -> Confirmation:
    """Ask a server for names, and for one that nobody has.

    Args:
        settings: how long to wait for each answer.
        target: whom.
        where: it answers.
        expected: the names, and what they are to be shown.
        patient: ask again for a while when an answer is not what is expected. Postfix's programs alone wait two
            seconds at their start when main.cf was changed within the last one (measured).
    """
    wanted = [*expected, Expectation(_UNKNOWN_NAME)]
    patience = settings.verify.timeout + confirm.PATIENCE_PER_NAME * len(wanted) if patient else 0.0
    return confirm.probe_server(target.name, where, wanted, timeout=settings.verify.timeout, patience=patience)


def story(answers: Sequence[Answer]) -> str:
    """Some answers in words."""
    first = answers[0]
    more = f" and {len(answers) - 1} more" if len(answers) > 1 else ""
    return f"{first.expectation.name} at {first.result.endpoint}{more}: {first.result.detail}"
