"""Publishes a staged deployment: rename, reload, confirm on the wire, and the way back when that fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from mailsni.core.text import summarize
from mailsni.deploy import confirm
from mailsni.deploy.confirm import Answer, Confirmation, WireCheck
from mailsni.deploy.rollback import Rollback, publish_file, way_back_from
from mailsni.errors import HostError, RolledBackError
from mailsni.host import files
from mailsni.targets.base import StagedFile, Target
from mailsni.targets.reload import ReloadResult


def publish(
    staged: Sequence[StagedFile], targets: Sequence[Target], wire: WireCheck, undo: Rollback, *, reload: bool
) -> tuple[dict[str, ReloadResult], tuple[Confirmation, ...]]:
    """Rename the files to their places in this order, reload the servers, and confirm that they serve what they should.

    ``undo`` takes the steps that bring the previous files back. Without ``reload`` the servers are left alone.

    Raises:
        HostError: a file cannot be renamed, or a server cannot be reloaded.
        RolledBackError: a server does not serve what it should.
    """

    def reload_all() -> dict[str, ReloadResult]:
        return {target.name: target.reload() if reload else ReloadResult.LEFT_ALONE for target in targets}

    def reload_restored(cause: BaseException) -> None:
        with way_back_from(cause):
            if isinstance(cause, RolledBackError):
                reload_all()
                _require_answers(before, wire.any_certificate())
            else:  # nothing was confirmed: a server may not even know what was published
                with suppress(HostError):
                    reload_all()

    before = wire.now()
    undo.add(reload_restored)
    for file in staged:
        publish_file(file, undo)
    files.fsync_all(sorted({file.destination.parent for file in staged}))
    reloads = reload_all()
    after = wire.confirm()
    _check_result(before, after)
    return reloads, after


def _check_result(before: Sequence[Confirmation], after: Sequence[Confirmation]) -> None:
    for old, new in zip(before, after, strict=True):
        cut_off = confirm.newly_cut_off(old, new)
        if cut_off:
            raise RolledBackError(
                f"{new.server}: {_names_of(cut_off)}: answered before, and cut off with what was published: "
                f"{cut_off[0].result.detail}",
                hint="the previous deployment is live again",
            )
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
    return summarize(list(dict.fromkeys(answer.expectation.name or "(no SNI)" for answer in answers)))
