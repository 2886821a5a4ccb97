"""Carrying a plan out: permission first, the lock, the record before the first change, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

from mailsni.config.settings import Settings
from mailsni.deploy.listeners import find_listener
from mailsni.deploy.startup import startup_problems
from mailsni.deploy.state_directory import State
from mailsni.errors import RollbackFailedError
from mailsni.host import files, lock, permissions
from mailsni.setup import record
from mailsni.setup.model import Caution, Note, SetupPlan
from mailsni.setup.record import Record
from mailsni.setup.steps import Step, carry_out
from mailsni.targets import registry
from mailsni.verify.model import UNKNOWN_NAME


def require_permission(plan: SetupPlan) -> None:
    """Make sure, before anything is touched, that this user can write everywhere.

    Raises:
        PermissionMissingError: some place cannot be written by this user.
        HostError: nor by root.
    """
    state = plan.settings.state
    places = (place for step in plan.steps for place in step.places)
    permissions.require_writable((state.lock.parent, state.directory, *places))


def run(plan: SetupPlan, *, remove: bool, wait: float, on_step: Callable[[Step], None] | None) -> tuple[str, ...]:
    """Do all steps of a plan, or none. After a removal no record and no lock file stay either.

    Returns:
        What a person should know.

    Raises:
        LockedError: another run still holds the lock after ``wait`` seconds.
        MailsniError: a step failed; everything is as it was.
        RollbackFailedError: and not everything could be taken back: what setup did is remembered for ``--remove``.
    """
    settings = plan.settings
    state = settings.state.directory
    with lock.locked(settings.state.lock, wait):
        recorded = record.load(state)
        before = recorded.content or Record()
        existed = state.is_dir()
        if not remove:
            record.save(state, reduce(Record.and_also, (step.record for step in plan.steps), before))
        try:
            notes = carry_out(plan.steps, on_step or (lambda _: None))
        except RollbackFailedError:
            raise
        except BaseException:
            if not remove and before != Record():
                record.save(state, before)
            elif not remove:
                files.remove(State(state).setup)
                if not existed:
                    files.remove_directory(state)
            raise
        if remove:
            files.remove(settings.state.lock)
        return notes if recorded.problem is None else (record.lost(recorded.problem), *notes)


def not_serving(settings: Settings) -> Iterator[Caution | Note]:
    """Why servers of this host do not serve what was set up: one would not start again, or does not answer."""
    for target in registry.find_all(settings):
        problems = startup_problems((target,))
        if problems:
            yield Caution(problems[0].text)
            continue
        listener = find_listener(target, settings.verify, UNKNOWN_NAME)
        if listener.endpoints == ():
            yield Note(f"{target.name}: does not answer: it serves the certificates once it is started")
        elif listener.endpoints is None:
            yield from map(Caution, listener.warnings)
