"""What Dovecot's checks judge, and the fixes and phrases that several of them use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import DovecotSettings
from mailsni.core.text import printable_name, summarize_names
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.finding import Fix
from mailsni.doctor.helpers import quoted
from mailsni.targets.dovecot.configuration import FILTERS, DovecotConfiguration
from mailsni.targets.dovecot.parser import Block, Setting
from mailsni.targets.dovecot.target import Dovecot

APPLY = Fix("mailsni apply")
"""Repairs the include that this program writes."""


@dataclass(frozen=True)
class DovecotFacts:
    """A Dovecot and its configuration."""

    dovecot: Dovecot
    configuration: DovecotConfiguration
    host: HostFacts

    @property
    def main(self) -> Path:
        """``dovecot.conf``."""
        return self.dovecot.settings.config_file

    @property
    def can_ask(self) -> bool:
        """Whether Dovecot's own tools are there, and would not wait for ever for a FIFO among the files."""
        return self.dovecot.installed and not any(one.irregular for one in self.configuration.source.unreadable)

    @property
    def reload(self) -> str:
        """The command that makes the running Dovecot read its configuration."""
        option = () if self.main == DovecotSettings().config_file else ("-c", self.main)
        return quoted("doveadm", *option, "reload")

    @property
    def restart(self) -> str:
        """The command that restarts Dovecot, where a reload is not enough."""
        if self.main == DovecotSettings().config_file:
            return "systemctl restart dovecot"
        return f"{{ {quoted('doveadm', '-c', self.main, 'stop')}; {quoted('dovecot', '-c', self.main)}; }}"

    @property
    def is_published(self) -> bool:
        """Whether the record says that the include was published."""
        snapshot = self.host.snapshot
        return snapshot is not None and str(self.dovecot.path) in snapshot.record.deployment.files

    @property
    def is_include_missing(self) -> bool:
        """Whether the include that this program writes is not there."""
        return not os.access(self.dovecot.path, os.F_OK)

    @property
    def asked_then_reloaded(self) -> str:
        """The command that asks Dovecot whether it would start with what was edited, and then reloads it."""
        return f"{quoted('doveconf', '-c', self.main, '-n', '-x')} > /dev/null && {self.reload}"

    def by_hand(self, edit: str) -> Fix:
        """An edit for a person, and the reload after it."""
        return Fix(self.reload, edit=edit)

    def sed(self, file: Path, script: str, *, then: str | None = None) -> Fix:
        """Changes lines of a configuration file by command (a link stays a link)."""
        return Fix(f"sed -i {shlex.quote(script)} {quoted(os.path.realpath(file))} && {then or self.reload}")

    def append(self, *lines: str, then: str | None = None) -> Fix:
        """Adds lines to ``dovecot.conf`` by command."""
        printf = quoted("printf", "%s\\n", "", *lines)
        return Fix(f"{printf} >> {quoted(self.main)} && {then or self.reload}")

    def without(self, block: Block) -> Fix:
        """Removes a block: as a comment, so that the lines below keep their numbers."""
        if self.is_ours(block):
            return APPLY
        end = self.configuration.source.ends.get(block)
        if end is None:
            return self.by_hand(f"remove the block that begins at {place_of(block)}")
        return self.sed(block.file, f"{block.line},{end}s/^/#/")

    def without_filter(self, blocks: Sequence[Block]) -> Fix | None:
        """Removes the outermost block that is for some clients only; None where there is none."""
        outer = next((block for block in blocks if block.kind in FILTERS), None)
        return self.without(outer) if outer is not None else None

    def is_ours(self, place: Block | Setting) -> bool:
        """Whether something stands in the include that this program writes."""
        return place.file == self.dovecot.path

    def group(self, setting: Setting) -> tuple[Path, Block | None]:
        """Settings of one group make one finding: those of a block, and all of our own include."""
        return setting.file, setting.blocks[-1] if setting.blocks and not self.is_ours(setting) else None


def place_of(place: Block | Setting) -> str:
    """``/path:LINE``."""
    return f"{place.file}:{place.line}"


def owner(blocks: Sequence[Block]) -> str:
    """The innermost block that says for whom a setting is."""
    for block in reversed(blocks):
        if block.kind in FILTERS:
            return f"{block.kind} {summarize_names(block.name.split())}"
    if not blocks:
        return "the default certificate"
    return f"{printable_name(blocks[-1].kind)} {printable_name(blocks[-1].name)}".strip()


def disconnected(blocks: Sequence[Block]) -> str:
    """Whose handshakes fail when a certificate cannot be loaded (measured)."""
    names = [block.name for block in blocks if block.kind == "local_name"]
    if names:
        asked = summarize_names(names[-1].split())
        return f"clients that ask for {asked} are cut off, they do not get the default certificate"
    if blocks:
        return f"clients of {blocks[0].kind} {printable_name(blocks[0].name)} are cut off"
    return "every client is cut off, also those that ask for a name with a good block of its own"
