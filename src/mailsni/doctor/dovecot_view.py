"""What the looks at Dovecot work on: its configuration by blocks, the files that it names, and the words for both."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from mailsni.config.settings import DovecotSettings
from mailsni.core.model import Reason
from mailsni.core.text import printable, printable_name, summarize_names
from mailsni.doctor.finding import Fix
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary
from mailsni.targets.dovecot.parser import Block, Configuration, Setting
from mailsni.targets.dovecot.precedence import LocalName, Scope
from mailsni.targets.dovecot.target import Dovecot

FILTERS = ("local_name", "local", "remote", "protocol")
"""Blocks whose settings are for some clients only."""
FORMER = {
    "ssl_cert": "ssl_server_cert_file",
    "ssl_key": "ssl_server_key_file",
    "ssl_alt_cert": "ssl_server_alt_cert_file",
    "ssl_alt_key": "ssl_server_alt_key_file",
    "ssl_ca": "ssl_server_ca_file",
    "ssl_dh": "ssl_server_dh_file",
    "ssl_key_password": "ssl_server_key_password",
    "ssl_cert_username_field": "ssl_server_cert_username_field",
    "ssl_verify_client_cert": "ssl_server_request_client_cert",
    "ssl_prefer_server_ciphers": "ssl_server_prefer_ciphers",
    "ssl_require_crl": "ssl_server_require_crl",
}
"""What 2.4 calls the settings of 2.3 (both ask 2.4.1's doveconf, which knows the right-hand names alone)."""
FROM_FILE = frozenset({"ssl_cert", "ssl_key", "ssl_alt_cert", "ssl_alt_key", "ssl_ca", "ssl_dh"})
"""Settings of 2.3 that are the content of a file, and so need ``<``."""
FILE_SETTINGS = frozenset({FORMER[key] for key in FROM_FILE} | {"ssl_client_ca_file", "ssl_client_cert_file"})
"""Settings of 2.4 that name a file."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate and key as a block has them, its own or those it takes over."""

    scope: Scope
    alternative: bool
    certificate: Setting
    key: Setting
    own: Setting
    """The one to show: it stands in this very block."""


@dataclass
class View:
    """What all looks work on."""

    dovecot: Dovecot
    now: datetime
    configuration: Configuration
    told: set[tuple[Path, int]] = field(default_factory=set)
    """Places of mistakes with which Dovecot does not start: what it says of them itself is nothing new."""
    _read: dict[str, bytes | ReadRefusedError] = field(default_factory=dict)

    @property
    def settings(self) -> DovecotSettings:
        """Where Dovecot's configuration is."""
        return self.dovecot.settings

    @property
    def askable(self) -> bool:
        """Dovecot's own tools are there, and will not wait for ever for a FIFO among the files."""
        return self.dovecot.installed and not any(one.irregular for one in self.configuration.unreadable)

    @property
    def old(self) -> bool:
        """It is 2.3, which reads another syntax than 2.4."""
        return self.dovecot.version == "2.3"

    @cached_property
    def scopes(self) -> Mapping[Scope, Mapping[str, list[Setting]]]:
        """The settings of every block, by name; blocks of one name are one. ``ssl_server { }`` is no block here."""
        found: dict[Scope, dict[str, list[Setting]]] = defaultdict(lambda: defaultdict(list))
        for setting in self.configuration.settings:
            found[scope_of(setting.blocks)][key_of(setting)].append(setting)
        return found

    @cached_property
    def local_names(self) -> tuple[LocalName, ...]:
        """Every ``local_name`` block, in the order in which Dovecot reads them."""
        return tuple(
            LocalName(
                path[-1],
                tuple(path[-1].name.lower().split()),
                scope_of(path[:-1]),
                path[-1].file == self.dovecot.path,
            )
            for path in self.configuration.blocks
            if path[-1].kind == "local_name"
        )

    def last(self, key: str, scope: Scope = ()) -> Setting | None:
        """The setting in force in a block, not what it takes over from outside."""
        found = self.scopes.get(scope, {}).get(key)
        return found[-1] if found else None

    def named(self, key: str) -> str:
        """What this release calls a setting of 2.3."""
        return key if self.old else FORMER[key]

    def names_file(self, setting: Setting) -> Path | None:
        """The file that a setting names; relative names are meant from the directory of the configuration file."""
        value = setting.value
        names_one = setting.from_file if self.old else key_of(setting) in FILE_SETTINGS and not setting.from_file
        if not names_one or not value or value.startswith(("$", "inline:")) or "%{" in value or "\0" in value:
            return None
        return setting.file.parent / value

    def content(self, path: Path) -> bytes | ReadRefusedError:
        """A file that a block names; read once."""
        key = str(path)
        if key not in self._read:
            self._read[key] = _content(key)
        return self._read[key]

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every certificate that a block, or the configuration outside all blocks, sets or changes the key of."""
        found = []
        for scope in self.scopes:
            for alternative in (False, True):
                keys = ("ssl_alt_cert", "ssl_alt_key") if alternative else ("ssl_cert", "ssl_key")
                own = [self.last(self.named(key), scope) for key in keys]
                certificate, key = (self._in_force(self.named(key), scope) for key in keys)
                chosen = own[0] or own[1]
                if chosen is not None and certificate is not None and key is not None:
                    found.append(Pair(scope, alternative, certificate, key, chosen))
        return tuple(found)

    def _in_force(self, key: str, scope: Scope) -> Setting | None:
        for depth in range(len(scope), -1, -1):
            if (found := self.last(key, scope[:depth])) is not None:
                return found
        return None

    @cached_property
    def reload(self) -> str:
        """The command that makes a change known to the running Dovecot."""
        main = self.settings.config_file
        option = "" if main == DovecotSettings().config_file else f"-c {word(main)} "
        return f"doveadm {option}reload"

    @property
    def restart(self) -> str:
        """The command that starts Dovecot afresh, for what a reload cannot do."""
        main = self.settings.config_file
        if main == DovecotSettings().config_file:
            return "systemctl restart dovecot"
        return f"{{ doveadm -c {word(main)} stop; dovecot -c {word(main)}; }}"

    def edit(self, file: Path, script: str, *, then: str | None = None) -> Fix:
        """Changes a line of a configuration file by command (a link stays a link)."""
        return Fix(f"sed -i {shlex.quote(script)} {word(os.path.realpath(file))} && {then or self.reload}")

    def by_hand(self, edit: str) -> Fix:
        """An edit for a person, and the reload after it."""
        return Fix(self.reload, edit=edit)

    def without(self, block: Block) -> Fix:
        """Removes a block: as a comment, so that the lines below keep their numbers."""
        if block.file == self.dovecot.path:
            return Fix("mailsni apply")
        end = self.configuration.ends.get(block)
        if end is None:
            return self.by_hand(f"remove the block that begins at {place_of(block)}")
        return self.edit(block.file, f"{block.line},{end}s/^/#/")


def scope_of(blocks: Sequence[Block]) -> Scope:
    """What makes blocks in several places one to Dovecot: kinds and names, case aside."""
    return tuple((block.kind, block.name.lower()) for block in blocks if block.kind != "ssl_server")


def key_of(setting: Setting) -> str:
    """The full name of a setting: 2.4 writes ``ssl_server { cert_file = … }`` too."""
    inside = bool(setting.blocks) and setting.blocks[-1].kind == "ssl_server"
    return f"ssl_server_{setting.key}" if inside and not setting.key.startswith("ssl_") else setting.key


def sed_literally(text: str) -> str:
    """Text that stands for itself in a ``s`` command of sed(1) without slashes."""
    return re.sub(r"([*.\[\]^$&\\])", r"\\\1", text)


def printed(path: str | Path) -> str:
    """A path or another program's talk in one line."""
    return printable(str(path)).replace("\n", "?")


def word(path: str | Path) -> str:
    """A path as a word of a command."""
    return shlex.quote(printed(path))


def place_of(place: Block | Setting) -> str:
    """``/path:LINE``."""
    return f"{printed(place.file)}:{place.line}"


def owner(blocks: Sequence[Block]) -> str:
    """The innermost block with a name that says for whom a setting is."""
    for block in reversed(blocks):
        if block.kind in FILTERS:
            return f"{block.kind} {summarize_names(block.name.split())}"
    return (
        "the default certificate"
        if not blocks
        else f"{printable_name(blocks[-1].kind)} {printable_name(blocks[-1].name)}".strip()
    )


def owner_of(pair: Pair) -> str:
    """For whom a certificate is."""
    return owner(pair.own.blocks) + (" (second algorithm)" if pair.alternative else "")


def path_of(view: View, pair: Pair) -> Path:
    """The file of a certificate."""
    return view.names_file(pair.certificate) or pair.certificate.file


def _content(path: str) -> bytes | ReadRefusedError:
    """A certificate or a key, wherever it lies: bounded, and only from a regular file."""
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return StoreBoundary(("",)).read(path, directory, missing=Reason.CHAIN_MISSING).content
    except ReadRefusedError as error:
        return error
    finally:
        os.close(directory)


def cut_off(blocks: Sequence[Block]) -> str:
    """Whose handshakes fail when a certificate cannot be loaded (measured)."""
    names = [block.name for block in blocks if block.kind == "local_name"]
    if names:
        asked = summarize_names(names[-1].split())
        return f"clients that ask for {asked} are cut off, they do not get the default certificate"
    if blocks:
        return f"clients of {blocks[0].kind} {printable_name(blocks[0].name)} are cut off"
    return "every client is cut off, also those that ask for a name with a good block of its own"
