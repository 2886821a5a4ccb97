"""Publishes a staged deployment: rename, reload, confirm on the wire, and the way back when that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from mailsni.core.text import summarize
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Confirmation, CutOff, WireCheck
from mailsni.errors import HostError, MailsniError, RollbackFailedError, RolledBackError
from mailsni.host import files
from mailsni.probes.expectation import Answer
from mailsni.targets.base import StagedFile, Target
from mailsni.targets.reload import ReloadResult


class CutOffError(RolledBackError):
    """What was published cut off clients; the previous deployment is live again."""

    def __init__(self, cut_off: CutOff, failures: Mapping[str, str]) -> None:
        server = cut_off.answers[0].endpoint.server
        answers = [answer for answer in cut_off.answers if answer.endpoint.server == server]
        super().__init__(
            f"{server}: {_names_of(answers)}: answered before, and cut off with what was published: "
            f"{failures.get(server, answers[0].result.detail)}",
            hint="the previous deployment is live again",
        )
        self.cut_off = cut_off


UndoStep = Callable[[BaseException], None]
"""Undoes one thing; takes what went wrong. It must not fail where the thing has not been done yet."""


@contextmanager
def rollback() -> Iterator[list[UndoStep]]:
    """A list of undo steps, taken in reverse order when the block fails.

    A step is added before what it undoes is done, so that a signal between the two loses nothing. A step that fails
    ends the way back: the steps below it rely on what it should have undone.
    """
    steps: list[UndoStep] = []
    try:
        yield steps
    except BaseException as cause:
        while steps:
            steps.pop()(cause)
        raise


def publish(
    staged: Sequence[StagedFile], targets: Sequence[Target], wire: WireCheck, undo: list[UndoStep], *, reload: bool
) -> tuple[dict[str, ReloadResult], tuple[Confirmation, ...]]:
    """Rename the files to their places in this order, reload the servers, and confirm that they serve what they should.

    ``undo`` takes the steps that bring the previous files back. Without ``reload`` the servers are left alone.

    Raises:
        HostError: a file cannot be renamed, or a server cannot be reloaded.
        CutOffError: clients get no certificate any more that got one before.
        RolledBackError: a server does not serve what it should.
    """

    def reload_all() -> dict[str, ReloadResult]:
        return {target.name: target.reload() if reload else ReloadResult.LEFT_ALONE for target in targets}

    def reload_restored(cause: BaseException) -> None:
        with _way_back_from(cause):
            if isinstance(cause, RolledBackError):
                reload_all()
                _require_answers(before, wire.any_certificate())
            else:  # nothing was confirmed: a server may not even know what was published
                with suppress(HostError):
                    reload_all()

    before = wire.now()
    undo.append(reload_restored)
    for file in staged:
        _publish_file(file, undo)
    files.fsync_all(sorted({file.destination.parent for file in staged}))
    reloads = reload_all()
    # What starts again reads the new files, which are proven: nothing is gained by going back.
    wire = wire.without([server for server, result in reloads.items() if result is ReloadResult.CONTAINER_DOWN])
    before = tuple(each for each in before if each.server in wire.endpoints)
    after = wire.confirm()
    failures = _failures(targets, after)
    cut_off = wire.cut_off(before, after, failures.keys())
    if cut_off.answers:
        raise CutOffError(cut_off, failures)
    _require_taken(after)
    return reloads, after


@contextmanager
def _way_back_from(cause: BaseException) -> Iterator[None]:
    """Undo something that servers can see.

    Raises:
        RollbackFailedError: it cannot be undone.
    """
    try:
        yield
    except (MailsniError, OSError) as error:
        raise RollbackFailedError(
            f"the way back failed too: {error}; what led to it: {cause}",
            hint="look at the servers now: `mailsni apply --force` publishes everything again",
        ) from cause


def _publish_file(file: StagedFile, undo: list[UndoStep]) -> None:
    """Rename a staged file to its destination; on the way back its predecessor takes the place again."""
    if file.path.is_dir():
        _publish_directory(file, undo)
        return

    def restore(cause: BaseException) -> None:
        if os.path.lexists(file.path):  # it was never renamed
            return
        with _way_back_from(cause):
            if file.previous is None:
                files.remove(file.destination)
            else:
                files.publish(file.previous, file.destination)
            files.fsync_all([file.destination.parent])

    undo.append(restore)
    files.publish(file.path, file.destination)


def _publish_directory(file: StagedFile, undo: list[UndoStep]) -> None:
    """Exchange a staged directory with what lies at its destination, if anything does; on the way back again."""
    made = file.path.stat().st_ino

    def restore(cause: BaseException) -> None:
        with _way_back_from(cause):
            if not file.destination.is_dir() or file.destination.stat().st_ino != made:  # it was never renamed
                return
            if file.path.is_dir():
                files.exchange(file.path, file.destination)
            else:
                files.publish(file.destination, file.path)
            files.fsync_all([file.destination.parent])

    undo.append(restore)
    files.exchange(file.path, file.destination)


def _failures(targets: Iterable[Target], after: Iterable[Confirmation]) -> dict[str, str]:
    """Why servers that answered nobody in time say that they fail, by their names."""
    silent = {each.server for each in after if each.unconfirmed and not any(one.served for one in each.answers)}
    failures = ((target.name, target.failure()) for target in targets if target.name in silent)
    return {server: why for server, why in failures if why is not None}


def _require_taken(after: Sequence[Confirmation]) -> None:
    """Make sure that no server serves something else for all names."""
    for confirmation in confirm.all_wrong(after):
        names = _names_of(confirmation.wrong_certificates)
        raise RolledBackError(
            f"{confirmation.server}: {names}: not served with the certificate that was published, and neither "
            "is any other name that changed",
            hint="the previous deployment is live again; is another configuration in front of this one?",
        )


def _require_answers(before: Sequence[Confirmation], after: Sequence[Confirmation]) -> None:
    """Make sure, on the way back, that every probe that got a certificate before gets one again, whichever it is."""
    lost = [answer for old, new in zip(before, after, strict=True) for answer in confirm.newly_cut_off(old, new)]
    if lost:
        raise HostError(f"{_names_of(lost)}: still cut off")


def _names_of(answers: Iterable[Answer]) -> str:
    return summarize(list(dict.fromkeys(answer.expectation.label for answer in answers)))
