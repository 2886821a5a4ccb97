"""Checks Dovecot's include: is it read, is it as it was published, and are the files there that it names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailsni.check.files import check_published, is_absent
from mailsni.check.gather import CheckContext
from mailsni.check.model import Code, Finding, Level, Result, Unreadable
from mailsni.core.text import summarize_names
from mailsni.host import file_identity, files
from mailsni.targets.dovecot.live_include import LiveBlock, blocks_of
from mailsni.targets.dovecot.target import Dovecot


def check_include(context: CheckContext) -> Iterator[Result]:
    """The include and everything around it."""
    server = context.host.dovecot
    if server is None:
        return
    path = server.path
    yield from check_published(server.artifacts, files.PUBLIC, context.owner)
    if context.nothing_deployed:
        return
    if server.installed:
        yield from _check_configured(context, server)
    content = files.read_private(path)
    if content is None:
        text = f"dovecot: {path} is gone, or is no regular file: clients get the default certificate"
        yield Finding(Level.CRITICAL, Code.INCLUDE_MISSING, text)
        return
    blocks = blocks_of(content.decode("utf-8", "replace"))
    yield from _unrecorded_expiries(context, blocks)
    if context.record is not None and not context.publish_in_progress:
        yield from _check_edits(context, path, content, blocks)
    pins = context.pin_directory
    inside = dict.fromkeys(file for block in blocks for file in block.paths)
    named = [file for file in map(server.executor.outside, inside) if file is not None]
    dead = [str(file) for file in named if file.parent != pins and is_absent(file)]
    if dead:
        what = f"{path} names files that are not there, so Dovecot does not start again"
        yield Finding(Level.CRITICAL, Code.INCLUDE_DEAD_PATH, f"dovecot: {what}: {summarize_names(dead)}")


def _check_configured(context: CheckContext, server: Dovecot) -> Iterator[Result]:
    main = server.settings.config_file
    readable = bool(server.executor.container) or os.access(main, os.R_OK)
    reason = server.not_configured_reason({}) if readable else None
    # Without the record this user is not root, and one of the files in between may be unreadable too.
    if not readable or (reason is not None and context.record is None):
        yield Unreadable(f"whether {main} includes it")
    elif reason is not None:
        yield Finding(Level.CRITICAL, Code.NOT_CONFIGURED, reason)


def _unrecorded_expiries(context: CheckContext, blocks: Sequence[LiveBlock]) -> Iterator[Result]:
    """The expiries that the include states for certificates that should not be live, or that have no record."""
    expected = context.names or {}
    for block in blocks:
        for name in block.names:
            known = {ident.partition("-")[0] for ident in expected.get(name, ())}
            for stated in block.certificates:
                if stated.fingerprint not in known:
                    yield context.thresholds.expiry(name, None, stated.not_after)


def _check_edits(context: CheckContext, path: Path, content: bytes, blocks: Sequence[LiveBlock]) -> Iterator[Result]:
    """Whether somebody else wrote the include. That the next run writes another one is no edit."""
    if file_identity.is_as_published(path, context.deployment.files.get(str(path))):
        return
    if context.host.snapshot is not None and content == context.host.snapshot.texts.get("dovecot"):
        return
    expected = context.names or {}
    served = {name: block.paths for block in blocks for name in block.names}
    words = set(re.split(r'[\s"{}]+', content.decode("utf-8", "replace")))
    missing = [name for name in expected if name not in served and name not in words]
    pinned = context.host.settings.dovecot.certificates == "pinned"
    wrong = [
        name
        for name, idents in expected.items()
        if pinned and served.get(name) and not any(file.stem in idents for file in served[name])
    ]
    changed = f"dovecot: {path} was edited, or replaced: it is not as it was published"
    if missing:
        text = f"{changed}, and has no block for {summarize_names(missing)}"
        yield Finding(Level.CRITICAL, Code.INCLUDE_NAMES_MISSING, text, tuple(missing))
    if wrong:
        text = f"{changed}, and names other files for {summarize_names(wrong)}"
        yield Finding(Level.CRITICAL, Code.INCLUDE_WRONG_FILES, text, tuple(wrong))
    if not missing and not wrong:
        yield Finding(Level.WARNING, Code.INCLUDE_EDITED, changed)
