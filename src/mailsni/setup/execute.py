"""Carrying a plan out: permission first, the lock, the record before the first change, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from mailsni.errors import RollbackFailedError
from mailsni.host import files, lock, permissions
from mailsni.setup import record
from mailsni.setup.model import SetupPlan
from mailsni.setup.record import Record
from mailsni.setup.steps import Step, carry_out


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
                files.remove(state / record.NAME)
                if not existed:
                    files.remove_directory(state)
            raise
        if remove:
            files.remove(settings.state.lock)
        return notes if recorded.problem is None else (record.lost(recorded.problem), *notes)
