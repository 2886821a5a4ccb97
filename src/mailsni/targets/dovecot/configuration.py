"""What the files of a configuration mean to the Dovecot that reads them: certificates, names and limits, by block."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mailsni.targets.dovecot.parser import Block, Configuration, Scope, Setting
from mailsni.targets.dovecot.rendering import DovecotVersion

FILTERS = ("local_name", "local", "remote", "protocol")
"""Blocks whose settings are for some clients only."""
RENAMED_IN_24 = {
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
"""The names in 2.4 of settings of 2.3. (2.4.1's doveconf knows the right-hand names alone.)"""
RENAMED_FROM_23 = {new: old for old, new in RENAMED_IN_24.items()}
LOGIN_PROTOCOLS = frozenset({"imap", "pop3", "submission", "sieve"})
"""The words of ``protocols`` that clients log in by."""
IMPLICIT_TLS = {"imaps": "993", "pop3s": "995", "submissions": "465"}
"""The listeners with TLS from the first byte, and their ports."""
VERSION_SETTINGS = ("dovecot_config_version", "dovecot_storage_version")
"""Settings that only 2.4 knows."""
CONTENT_SETTINGS = frozenset({"ssl_cert", "ssl_key", "ssl_alt_cert", "ssl_alt_key", "ssl_ca", "ssl_dh"})
"""Settings of 2.3 that are the content of a file, and so need ``<``."""
FILE_SETTINGS = frozenset(
    {RENAMED_IN_24[key] for key in CONTENT_SETTINGS} | {"ssl_client_ca_file", "ssl_client_cert_file"}
)
"""Settings of 2.4 that name a file."""
BLOCK_BYTES = 190_000
"""Bytes of its limit that Dovecot 2.3's config process needs for each block, beside the files that the block names.

A block takes 147 KB, but memory is taken in portions that double, so that a limit is never used up. Measured on 2.3.19
with benchmarks/dovecot_memory.py, greatest number of blocks that serve: 173 with 32 MB, 352 with 64, 628 with 100, 710
with 128, 1319 with 200, 1430 with 256 (1420 where each has 20 names), 1675 with 300: one for each 159 to 194 KB.
"""
DEFAULT_MEMORY_LIMIT = 256 << 20
"""``default_vsz_limit`` where nothing sets it."""
_SIZE = re.compile(r"([0-9]{1,18})[ \t]*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class BlockPair:
    """Certificate and key of a block, its own or those of the blocks around it."""

    scope: Scope
    alternative: bool
    """The second pair, of another algorithm."""
    certificate: Setting
    key: Setting
    own: Setting
    """The setting of the two that stands in this very block."""


@dataclass(frozen=True)
class DovecotConfiguration:
    """A configuration as its Dovecot understands it."""

    source: Configuration
    version: DovecotVersion

    @property
    def is_23(self) -> bool:
        """Dovecot 2.3, which reads another syntax than 2.4."""
        return self.version == "2.3"

    @cached_property
    def scopes(self) -> Mapping[Scope, Mapping[str, list[Setting]]]:
        """The settings of every block, by full name; blocks of the same name are one to Dovecot."""
        scopes: dict[Scope, dict[str, list[Setting]]] = defaultdict(lambda: defaultdict(list))
        for setting in self.source.settings:
            scopes[scope_of(setting.blocks)][full_key(setting)].append(setting)
        return scopes

    def last(self, key: str, scope: Scope = ()) -> Setting | None:
        """The setting in force in a block, without those of the blocks around it."""
        settings = self.scopes.get(scope, {}).get(key)
        return settings[-1] if settings else None

    def key(self, key_of_23: str) -> str:
        """The name of a setting in this release."""
        return key_of_23 if self.is_23 else RENAMED_IN_24[key_of_23]

    @cached_property
    def protocols(self) -> frozenset[str]:
        """The protocols that are on; all that clients log in by where no file says it."""
        words = set(LOGIN_PROTOCOLS)
        for setting in self.scopes.get((), {}).get("protocols", ()):
            words = {*setting.value.split(), *(words if "$" in setting.value else ())}
        block = self.scopes.get((("protocols", ""),), {})
        words |= {protocol for protocol, settings in block.items() if settings[-1].value == "yes"}
        return frozenset(words & LOGIN_PROTOCOLS)

    @cached_property
    def tls_off(self) -> tuple[Setting, ...]:
        """Every ``ssl = no`` that takes TLS away from clients: the one outside of blocks, or else those in blocks.

        Measured with 2.3.19 and 2.4.1. Without TLS are the clients of a ``protocol``, ``local`` or ``remote`` block
        (ports with implicit TLS close the connection), and on 2.4 those of a login service. A listener with implicit
        TLS speaks clear text. In a ``local_name`` block, and for other listeners, it has no effect.
        """
        everywhere = self.last("ssl")
        if not self.protocols:
            return ()
        if everywhere is not None and everywhere.value == "no":
            return (everywhere,)
        in_blocks = (self.last("ssl", scope) for scope in self.scopes if scope and self._has_clients(scope))
        return tuple(setting for setting in in_blocks if setting is not None and setting.value == "no")

    def _has_clients(self, scope: Scope) -> bool:
        """Whether ``ssl = no`` in a block takes TLS away from somebody."""
        kinds = [kind for kind, _ in scope]
        if kinds[0] != "service":
            protocol = dict(scope).get("protocol")
            return "local_name" not in kinds and (protocol is None or protocol in self.protocols)
        service = scope[0][1]
        if not service.endswith("-login") or service[:-6].removeprefix("manage") not in self.protocols:
            return False
        if kinds != ["service", "inet_listener"]:
            return True
        port = setting.value if (setting := self.last("port", scope)) is not None else None
        return port != "0" and (scope[1][1] in IMPLICIT_TLS or port in IMPLICIT_TLS.values())

    @cached_property
    def local_names(self) -> tuple[Block, ...]:
        """Every ``local_name`` block, in the order in which Dovecot reads them."""
        return tuple(block for block in self.source.blocks if block.kind == "local_name")

    @cached_property
    def pairs(self) -> tuple[BlockPair, ...]:
        """Every certificate that a block, or the configuration outside all blocks, sets or changes the key of."""
        pairs = []
        for scope in self.scopes:
            for alternative in (False, True):
                names = ("ssl_alt_cert", "ssl_alt_key") if alternative else ("ssl_cert", "ssl_key")
                own = [self.last(self.key(name), scope) for name in names]
                certificate, key = (self._in_force(self.key(name), scope) for name in names)
                first = own[0] or own[1]
                if first is not None and certificate is not None and key is not None:
                    pairs.append(BlockPair(scope, alternative, certificate, key, first))
        return tuple(pairs)

    def _in_force(self, key: str, scope: Scope) -> Setting | None:
        found = (self.last(key, scope[:depth]) for depth in range(len(scope), -1, -1))
        return next((setting for setting in found if setting is not None), None)

    def file_of(self, setting: Setting) -> Path | None:
        """The file that a setting names; relative names start from the directory of the configuration file."""
        value = setting.value
        is_file = setting.from_file if self.is_23 else full_key(setting) in FILE_SETTINGS and not setting.from_file
        if not is_file or not value or value.startswith(("$", "inline:")) or "%{" in value or "\0" in value:
            return None
        return setting.file.parent / value

    # Each of these keeps Dovecot from starting (measured), while the running one ignores every reload.

    @cached_property
    def missing_files(self) -> tuple[tuple[Setting, str], ...]:
        """Settings whose file cannot be read, and why."""
        named = ((setting, self.file_of(setting)) for setting in self.source.settings)
        problems = ((setting, file_problem(path)) for setting, path in named if path is not None)
        return tuple((setting, problem) for setting, problem in problems if problem is not None)

    @cached_property
    def settings_of_other_release(self) -> tuple[Setting, ...]:
        """Settings that this release does not know."""
        unknown = {*RENAMED_FROM_23, *VERSION_SETTINGS} if self.is_23 else set(RENAMED_IN_24)
        return tuple(one for one in self.source.settings if full_key(one) in unknown or one.key in unknown)

    @cached_property
    def superfluous_marks(self) -> tuple[Setting, ...]:
        """Settings with a ``<`` before a path, where 2.4 takes the path alone."""
        marked = (one for one in self.source.settings if one.from_file and full_key(one) in FILE_SETTINGS)
        return () if self.is_23 else tuple(marked)

    @cached_property
    def several_names(self) -> tuple[Block, ...]:
        """Blocks of several names, where 2.4 takes one."""
        return () if self.is_23 else tuple(one for one in self.local_names if len(one.names) > 1)

    @cached_property
    def names_in_protocols(self) -> tuple[tuple[Block, str], ...]:
        """``local_name`` blocks in a ``protocol`` block, with its name; only the reverse is allowed."""
        inside = (
            (one, next((outer.name.lower() for outer in one.blocks if outer.kind == "protocol"), None))
            for one in self.local_names
        )
        return tuple((one, protocol) for one, protocol in inside if protocol is not None)

    def fatal_places(self) -> frozenset[tuple[Path, int]]:
        """The places of all that keeps Dovecot from starting, as far as these properties know it."""
        places: list[Setting | Block] = [setting for setting, _ in self.missing_files]
        places += [*self.settings_of_other_release, *self.superfluous_marks]
        places += [*self.several_names, *(block for block, _ in self.names_in_protocols)]
        return frozenset((place.file, place.line) for place in places)

    def memory_limit(self) -> tuple[int | None, Setting | None]:
        """The limit of 2.3's config process in bytes (0: none; None: Dovecot refuses the value), and what sets it."""
        setting = self.last("vsz_limit", (("service", "config"),)) or self.last("default_vsz_limit")
        return (parse_size(setting.value), setting) if setting is not None else (DEFAULT_MEMORY_LIMIT, None)

    @cached_property
    def filter_blocks(self) -> int:
        """How many blocks there are for some clients only; those of the same name are one."""
        scopes = {scope_of((*block.blocks, block)) for block in self.source.blocks}
        return sum(bool(scope) and scope[-1][0] in FILTERS for scope in scopes)

    def memory_needed(self) -> int:
        """Bytes that 2.3's config process needs for the blocks, and for their files as often as they are named."""
        sizes: dict[Path, int] = {}
        total = self.filter_blocks * BLOCK_BYTES
        for setting in self.source.settings:
            path = self.file_of(setting) if any(block.kind in FILTERS for block in setting.blocks) else None
            if path is not None:
                if path not in sizes:
                    sizes[path] = _size_of(path)
                total += sizes[path]
        return total

    def globals_after_blocks(self) -> Iterator[tuple[Setting, Setting]]:
        """TLS settings outside of blocks after a block that sets them, and that setting of the block.

        2.3 warns of it (``config_parser_check_warnings``); 2.4.1 does not (measured).
        """
        in_block: dict[str, Setting] = {}
        for setting in self.source.settings if self.is_23 else ():
            if not setting.key.startswith("ssl"):
                continue
            if setting.blocks and all(block.kind in FILTERS for block in setting.blocks):
                in_block.setdefault(setting.key, setting)
            elif not setting.blocks and setting.key in in_block:
                yield setting, in_block[setting.key]


def scope_of(blocks: Sequence[Block]) -> Scope:
    """What makes blocks in several places one to Dovecot: kinds and names, case aside; ``ssl_server { }`` is none."""
    return tuple((block.kind, block.name.lower()) for block in blocks if block.kind != "ssl_server")


def full_key(setting: Setting) -> str:
    """The full name of a setting: 2.4 writes ``ssl_server { cert_file = … }`` too."""
    inside = bool(setting.blocks) and setting.blocks[-1].kind == "ssl_server"
    return f"ssl_server_{setting.key}" if inside and not setting.key.startswith("ssl_") else setting.key


def file_problem(path: Path) -> str | None:
    """Why Dovecot cannot read a file; None when it can, or this user cannot tell."""
    root = os.geteuid() == 0
    try:
        status = path.stat()
    except PermissionError:
        return "cannot be reached, not even by root" if root else None
    except OSError:
        return "is a link to nothing" if os.path.lexists(path) else "does not exist"
    if stat.S_ISDIR(status.st_mode):
        return "is a directory"
    return "cannot be read, not even by root" if root and not os.access(path, os.R_OK) else None


def parse_size(text: str) -> int | None:
    """A size as Dovecot writes it: ``256M``, ``256 MB``; None for what it refuses itself."""
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2].lower()] if match is not None else None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
