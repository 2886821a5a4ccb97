"""The field's mistakes with Dovecot and SNI, each with where it stands and the command or line that mends it.

Most of it is read from the configuration files themselves (:mod:`.dovecot_lines`): ``doveconf`` tells no positions,
takes seconds with thousands of blocks, and says nothing at all once a file has a mistake. It is asked once: whether
Dovecot would start.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from mailsni.certificate import Rejected, prove
from mailsni.config import DovecotSettings
from mailsni.doctor import Facts, Finding, Severity
from mailsni.doctor.dovecot_lines import Block, Configuration, Setting, read
from mailsni.doctor.dovecot_names import Conflict, LocalName, Precedence, Scope, can_match
from mailsni.errors import HostError
from mailsni.inventory import Reason
from mailsni.names import covers, shown
from mailsni.process import printable, require_tool, run
from mailsni.sources.reading import Containment, ReadRefusedError
from mailsni.targets.dovecot import Dovecot, complaint_of, default_certificate

BLOCK_BYTES = 190_000
"""Bytes of its limit that Dovecot 2.3's config process needs for each block, beside the files that the block names.

A block takes 147 KB, but memory is taken in portions that double, so that a limit is never used up. Measured on 2.3.19
with benchmarks/dovecot_memory.py, greatest number of blocks that serve: 173 with 32 MB, 352 with 64, 628 with 100, 710
with 128, 1319 with 200, 1430 with 256 (1420 where each has 20 names), 1675 with 300: one for each 159 to 194 KB.
"""
NEAR = 0.7
"""Part of what the limit can hold from which on it is said."""
SPARE = 2
"""How many times the memory of today's blocks the proposed limit holds: for more names, and because portions double."""
SAME_LIMIT = 20
"""Findings of one kind that are told one by one."""

_LISTED = 3
_FILTERS = ("local_name", "local", "remote", "protocol")
_FORMER = {
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
_FROM_FILE = frozenset({"ssl_cert", "ssl_key", "ssl_alt_cert", "ssl_alt_key", "ssl_ca", "ssl_dh"})
"""Settings of 2.3 that are the content of a file, and so need ``<``."""
_FILE_SETTINGS = frozenset({_FORMER[key] for key in _FROM_FILE} | {"ssl_client_ca_file", "ssl_client_cert_file"})
"""Settings of 2.4 that name a file."""
_LEFTOVERS = {
    "sni.conf": "mailcow's, cPanel's or a tutorial's",
    "12-dovecot-sni.conf": "keyhelp-mail-sni's",
    "zzz-tls-sni.conf": "Froxlor's",
    "98-celikpanel-tls.conf": "CelikPanel's",
}
"""Files that other programs and tutorials write blocks into."""
_ARCHIVED = re.compile(r"(?P<root>/.+)/archive/(?P<lineage>[^/]+)/(?P<kind>cert|privkey|chain|fullchain)\d+\.pem")
_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]*)-----END ")
_SIZE = re.compile(r"([0-9]{1,18})[ \t]*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_POSITION = re.compile(r"configuration file (?P<file>/.*?) line (?P<line>\d+)")
_UNEXAMINED = frozenset({Reason.BAD_NAME, Reason.UNSUPPORTED_KEY})
"""Reasons for which this program leaves a certificate out, and Dovecot may serve it all the same."""


def findings(facts: Facts) -> Iterator[Finding]:
    """Look for every known mistake in Dovecot's configuration.

    Args:
        facts: with ``dovecot`` None nothing is looked for.

    Yields:
        What was found, the worst look first; nothing for a Dovecot that is in order.
    """
    if facts.dovecot is None:
        return
    view = _View(facts.dovecot, facts.now, read(facts.dovecot.settings.config_file))
    yield from _bounded(finding for look in _LOOKS for finding in look(view))


def _bounded(found: Iterable[Finding]) -> Iterator[Finding]:
    """No more than so many of one kind: a host with thousands of blocks can have one mistake in each of them."""
    seen: dict[str, int] = defaultdict(int)
    first_left_out: dict[str, Finding] = {}
    for finding in found:
        seen[finding.code] += 1
        if seen[finding.code] <= SAME_LIMIT:
            yield finding
        else:
            first_left_out.setdefault(finding.code, finding)
    for code, finding in first_left_out.items():
        more = seen[code] - SAME_LIMIT
        what = f"{more} more of this kind, the first of them: {finding.what}"
        yield Finding(code, finding.severity, what, finding.where, finding.why, finding.fix)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Certificate and key as a block has them, its own or those it takes over."""

    scope: Scope
    alternative: bool
    certificate: Setting
    key: Setting
    own: Setting
    """The one to show: it stands in this very block."""


@dataclass
class _View:
    """What all looks work on."""

    dovecot: Dovecot
    now: datetime
    configuration: Configuration
    told: set[tuple[Path, int]] = field(default_factory=set)
    """Places of mistakes with which Dovecot does not start: what it says of them itself is nothing new."""
    _read: dict[str, bytes | ReadRefusedError] = field(default_factory=dict)

    @property
    def settings(self) -> DovecotSettings:
        return self.dovecot.settings

    @property
    def askable(self) -> bool:
        """Dovecot's own tools are there, and will not wait for ever for a FIFO among the files."""
        return self.dovecot.installed and not any(one.irregular for one in self.configuration.unread)

    @property
    def old(self) -> bool:
        return self.dovecot.version == "2.3"

    @cached_property
    def scopes(self) -> Mapping[Scope, Mapping[str, list[Setting]]]:
        """The settings of every block, by name; blocks of one name are one. ``ssl_server { }`` is no block here."""
        found: dict[Scope, dict[str, list[Setting]]] = defaultdict(lambda: defaultdict(list))
        for setting in self.configuration.settings:
            found[_scope(setting.blocks)][_key(setting)].append(setting)
        return found

    @cached_property
    def local_names(self) -> tuple[LocalName, ...]:
        return tuple(
            LocalName(
                path[-1],
                tuple(path[-1].name.lower().split()),
                _scope(path[:-1]),
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
        return key if self.old else _FORMER[key]

    def names_file(self, setting: Setting) -> Path | None:
        """The file that a setting names; relative names are meant from the directory of the configuration file."""
        value = setting.value
        names_one = setting.from_file if self.old else _key(setting) in _FILE_SETTINGS and not setting.from_file
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
    def pairs(self) -> tuple[_Pair, ...]:
        """Every certificate that a block, or the configuration outside all blocks, sets or changes the key of."""
        found = []
        for scope in self.scopes:
            for alternative in (False, True):
                keys = ("ssl_alt_cert", "ssl_alt_key") if alternative else ("ssl_cert", "ssl_key")
                own = [self.last(self.named(key), scope) for key in keys]
                certificate, key = (self._in_force(self.named(key), scope) for key in keys)
                chosen = own[0] or own[1]
                if chosen is not None and certificate is not None and key is not None:
                    found.append(_Pair(scope, alternative, certificate, key, chosen))
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
        option = "" if main == DovecotSettings().config_file else f"-c {_word(main)} "
        return f"doveadm {option}reload"

    @property
    def restart(self) -> str:
        """The command that starts Dovecot afresh, for what a reload cannot do."""
        main = self.settings.config_file
        if main == DovecotSettings().config_file:
            return "systemctl restart dovecot"
        return f"{{ doveadm -c {_word(main)} stop; dovecot -c {_word(main)}; }}"

    def edit(self, file: Path, script: str, *, then: str | None = None) -> str:
        """The command that changes a line of a configuration file (a link stays a link)."""
        return f"sed -i {shlex.quote(script)} {_word(os.path.realpath(file))} && {then or self.reload}"

    def without(self, block: Block) -> str:
        """The command that takes a block out: as a comment, so that the lines below keep their numbers."""
        if block.file == self.dovecot.path:
            return "mailsni apply"
        end = self.configuration.ends.get(block)
        if end is None:
            return f"take the block out that begins at {_where(block)}, then `{self.reload}`"
        return self.edit(block.file, f"{block.line},{end}s/^/#/")


_Look = Callable[[_View], Iterator[Finding]]


# ---------------------------------------------------------------------------------------------------------------------
# What is not seen


def _unread(view: _View) -> Iterator[Finding]:
    for one in view.configuration.unread:
        yield Finding(
            "dovecot_not_examined",
            Severity.WARNING,
            f"a part of Dovecot's configuration was not looked at: {_text(one.why)}",
            f"{_text(one.file)}:{one.line}",
            "mistakes in it are not found, and where Dovecot cannot read it either, it does not start",
            f"look at that file, or take the line out; then `{view.reload}`",
        )


# ---------------------------------------------------------------------------------------------------------------------
# The default certificate


def _tls_off(view: _View) -> Iterator[Finding]:
    setting = view.last("ssl")
    if setting is not None and setting.value == "no":
        yield Finding(
            "dovecot_tls_off",
            Severity.ERROR,
            "TLS is off: ssl = no",
            _where(setting),
            "no client gets any certificate: there is no STARTTLS, and nobody listens on the ports with TLS",
            view.edit(setting.file, f"{setting.line}s/=.*/= yes/"),
        )


def _no_default(view: _View) -> Iterator[Finding]:
    keys = [view.named(key) for key in ("ssl_cert", "ssl_key")]
    missing = [key for key in keys if (setting := view.last(key)) is None or not setting.value]
    if not missing or _may_be_elsewhere(view):
        return
    mark = "<" if view.old else ""
    example = "/etc/letsencrypt/live/NAME"
    lines = (f"{keys[0]} = {mark}{example}/fullchain.pem", f"{keys[1]} = {mark}{example}/privkey.pem")
    yield Finding(
        "dovecot_default_certificate_missing",
        Severity.ERROR,
        f"there is no default certificate: {' and '.join(missing)} not set outside of blocks",
        _text(view.settings.config_file),
        "every handshake fails, also those of clients that ask for a name with a block of its own",
        f"write these lines before all blocks, with the server's own NAME: {lines[0]} and {lines[1]}; "
        f"then `{view.reload}`",
    )


def _may_be_elsewhere(view: _View) -> bool:
    """Whether Dovecot knows of a default certificate that the files as read here do not show."""
    if not view.askable or not view.configuration.unread:
        return False
    try:
        return default_certificate(view.settings.config_file, view.dovecot.version) is not None
    except HostError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# Syntax


def _other_syntax(view: _View) -> Iterator[Finding]:
    """Settings of the other release, told once for each block."""
    renamed = _FORMER if not view.old else {new: former for former, new in _FORMER.items()}
    places: dict[tuple[Path, Block | None], list[Setting]] = defaultdict(list)
    for setting in view.configuration.settings:
        known = _key(setting) in renamed or (view.old and setting.key in _VERSIONS)
        if known or (not view.old and setting.key in renamed):
            places[setting.file, setting.blocks[-1] if setting.blocks else None].append(setting)
    release, other = ("2.3", "2.4") if view.old else ("2.4", "2.3")
    for settings in places.values():
        view.told.update((setting.file, setting.line) for setting in settings)
        first = settings[0]
        listed = _listed([f"{setting.key} (line {setting.line})" for setting in settings])
        nested = view.old and any(block.kind == "ssl_server" for block in first.blocks)
        yield Finding(
            "dovecot_syntax_of_other_release",
            Severity.ERROR,
            f"settings of Dovecot {other}, this is {release}: {listed}",
            _where(first),
            "Dovecot does not know them: it does not start again once it is stopped, and no reload takes anything up",
            _rewritten(view, settings, renamed)
            if not nested
            else f"write ssl_cert = </path and ssl_key = </path in place of the block ssl_server; then `{view.reload}`",
        )


_VERSIONS = ("dovecot_config_version", "dovecot_storage_version")


def _rewritten(view: _View, settings: Sequence[Setting], renamed: Mapping[str, str]) -> str:
    parts = []
    for setting in settings:
        key = _key(setting)
        if key in _VERSIONS:
            parts.append(f"{setting.line}s/^/#/")
            continue
        parts.append(f"{setting.line}s/{re.escape(setting.key)}/{renamed[key]}/")
        if view.old and renamed[key] in _FROM_FILE and not setting.from_file:
            parts.append(_MARKED.format(setting.line))
        elif not view.old and key in _FROM_FILE:
            parts.append(_UNMARKED.format(setting.line))
    return view.edit(settings[0].file, "; ".join(parts))


_MARKED = "{}s/=[[:blank:]]*/= </"
_UNMARKED = "{}s/=[[:blank:]]*<[[:blank:]]*/= /"


def _several_names(view: _View) -> Iterator[Finding]:
    if view.old:
        return
    for one in view.local_names:
        if len(one.names) > 1:
            view.told.add((one.block.file, one.block.line))
            yield Finding(
                "dovecot_several_names",
                Severity.ERROR,
                f"several names in one local_name block: {_names(one.names)}",
                _where(one.block),
                "2.4 takes one name for each block: it does not start again once it is stopped, and no reload takes "
                "anything up",
                "mailsni apply"
                if one.ours
                else f"write the block once for each name, `local_name {shown(one.names[0])} {{` and so on; "
                f"then `{view.reload}`",
            )


def _marks(view: _View) -> Iterator[Finding]:
    """``<`` forgotten, or one too many."""
    for setting in view.configuration.settings:
        key = _key(setting)
        if view.old and key in _FROM_FILE and not setting.from_file and _is_path(setting.value):
            yield Finding(
                "dovecot_file_mark_forgotten",
                Severity.ERROR,
                f"{key} lacks the < before the path {_shown_path(setting.value)}",
                _where(setting),
                "the path itself is taken for the PEM text: "
                f"{_handshakes(setting.blocks)}, and Dovecot starts without a complaint",
                view.edit(setting.file, _MARKED.format(setting.line)),
            )
        if not view.old and key in _FILE_SETTINGS and setting.from_file:
            view.told.add((setting.file, setting.line))
            yield Finding(
                "dovecot_file_mark_superfluous",
                Severity.ERROR,
                f"{key} has a < before the path {_shown_path(setting.value)}",
                _where(setting),
                "the content of the file is taken for a path: Dovecot does not start again once it is stopped, no "
                "reload takes anything up, and the content, a key too, is written to its log",
                view.edit(setting.file, _UNMARKED.format(setting.line)),
            )


def _is_path(value: str) -> bool:
    return bool(value) and "-----BEGIN" not in value and not value.startswith("$")


def _misplaced(view: _View) -> Iterator[Finding]:
    for one in view.local_names:
        outside = next((name for kind, name in one.outer if kind == "protocol"), None)
        if outside is not None:
            view.told.add((one.block.file, one.block.line))
            yield Finding(
                "dovecot_local_name_in_protocol",
                Severity.ERROR,
                f"local_name {_names(one.names)} stands in protocol {shown(outside)}",
                _where(one.block),
                "Dovecot allows only the reverse: it does not start again once it is stopped, and no reload takes "
                "anything up",
                f"write local_name {shown(one.block.name)} {{ protocol {shown(outside)} {{ … }} }}, or the block "
                f"outside of protocol; or take it out: {view.without(one.block)}",
            )


def _useless_names(view: _View) -> Iterator[Finding]:
    for one in view.local_names:
        for name in one.names:
            if can_match(name):
                continue
            inner = name.lstrip(".*").rstrip("*")
            instead = f"*.{inner}" if inner else "*.example.com"
            yield Finding(
                "dovecot_name_matches_nothing",
                Severity.WARNING,
                f"local_name {shown(name)} is for no name at all",
                _where(one.block),
                "a * stands for one whole label or its end, before a dot: clients get the default certificate",
                view.edit(one.block.file, f"{one.block.line}s/{_literally(name)}/{_literally(instead)}/I")
                if shown(name) == name and "/" not in name
                else f"write local_name {shown(instead)}, one block for each depth; then `{view.reload}`",
            )


def _literally(text: str) -> str:
    return re.sub(r"([*.\[\]^$\\])", r"\\\1", text)


def _exact_case(view: _View) -> Iterator[Finding]:
    """2.4.0 compares names as they are written (fixed in 2.4.1, NEWS)."""
    telling = [one for one in view.local_names if one.block.name != one.block.name.lower() or "*" in one.block.name]
    if view.old or not telling or not view.dovecot.installed:
        return
    yield from case_findings(run([require_tool("dovecot"), "--version"]).stdout, telling, view.reload)


def case_findings(version: bytes, blocks: Sequence[LocalName], reload: str) -> Iterator[Finding]:
    """What 2.4.0 makes of names in upper case and of wildcards.

    Args:
        version: what ``dovecot --version`` prints.
        blocks: with such names.
        reload: the command.
    """
    if re.match(rb"2\.4\.0\b", version) is None:
        return
    for one in blocks:
        wildcard = "*" in one.block.name
        yield Finding(
            "dovecot_name_compared_exactly",
            Severity.ERROR,
            f"Dovecot 2.4.0 takes local_name {shown(one.block.name)} letter by letter",
            _where(one.block),
            "clients ask in lower case and never for a *: they get the default certificate",
            "update Dovecot to 2.4.1 or later" if wildcard else f"write it in lower case; then `{reload}`",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Files that blocks name


def _dead_paths(view: _View) -> Iterator[Finding]:
    dead: dict[tuple[Path, Block | None], list[tuple[Setting, str]]] = defaultdict(list)
    for setting in view.configuration.settings:
        path = view.names_file(setting)
        if path is not None and (why := _why_dead(path)) is not None:
            dead[setting.file, setting.blocks[-1] if setting.blocks else None].append((setting, f"{_text(path)} {why}"))
    for (file, block), found in dead.items():
        view.told.update((setting.file, setting.line) for setting, _ in found)
        first = found[0][0]
        keys = " and ".join(dict.fromkeys(_key(setting) for setting, _ in found))
        outer = next((one for one in first.blocks if one.kind in _FILTERS), None)
        if file == view.dovecot.path:
            fix = "mailsni apply"
        elif outer is not None and block is not None:
            fix = view.without(outer)
        else:
            fix = f"name a file that is there in line {first.line} of {_text(file)}; then `{view.reload}`"
        yield Finding(
            "dovecot_dead_path",
            Severity.ERROR,
            f"{_owner(first.blocks)}: {keys}: {_listed(list(dict.fromkeys(text for _, text in found)))}",
            _where(first),
            "Dovecot does not start again once it is stopped: all of IMAP, POP3 and authentication will be down; until "
            "then every reload fails without a word, and no renewed certificate is taken up",
            fix,
        )


def _why_dead(path: Path) -> str | None:
    try:
        status = path.stat()
    except PermissionError:
        return "cannot be reached, not even by root" if os.geteuid() == 0 else None
    except OSError:
        return "is a link to nothing" if path.is_symlink() else "is not there"
    if stat.S_ISDIR(status.st_mode):
        return "is a directory"
    return "cannot be read, not even by root" if os.geteuid() == 0 and not os.access(path, os.R_OK) else None


def _bad_pairs(view: _View) -> Iterator[Finding]:
    unseen: Setting | None = None
    for pair in view.pairs:
        certificate, key = view.names_file(pair.certificate), view.names_file(pair.key)
        if certificate is None or key is None or _why_dead(certificate) or _why_dead(key):
            continue
        chain_pem, key_pem = view.content(certificate), view.content(key)
        refused = next((one for one in (chain_pem, key_pem) if isinstance(one, ReadRefusedError)), None)
        if refused is not None and refused.reason is Reason.UNREADABLE and os.geteuid() != 0:
            unseen = unseen or pair.own
        elif refused is not None:
            yield _bad_pair(view, pair, refused.detail)
        if isinstance(chain_pem, bytes) and isinstance(key_pem, bytes):
            yield from _judged(view, pair, chain_pem, key_pem)
    if unseen is not None:
        yield Finding(
            "dovecot_keys_not_examined",
            Severity.NOTE,
            "the certificates and keys that blocks name were not looked at",
            _where(unseen),
            "only root may read them, so that a key that belongs to another certificate is not found",
            "sudo mailsni doctor",
        )


def _judged(view: _View, pair: _Pair, chain_pem: bytes, key_pem: bytes) -> Iterator[Finding]:
    outcome = prove(str(pair.certificate.file), chain_pem, key_pem)
    if isinstance(outcome, Rejected):
        encrypted = outcome.reason is Reason.ENCRYPTED_KEY and _has_password(view)
        if outcome.reason not in _UNEXAMINED and not encrypted:
            yield _bad_pair(view, pair, outcome.detail)
        return
    certificate = outcome.certificate
    # Dovecot takes the first certificate of the file, whichever it is; what is proven begins with the key's.
    if _first_certificate(chain_pem) != _first_certificate(certificate.material.pem or b""):
        yield _bad_pair(view, pair, "the certificate of the key is not the first in its file")
        return
    if not certificate.valid_at(view.now):
        expired = certificate.not_after <= view.now
        when = f"expired on {certificate.not_after:%Y-%m-%d}" if expired else "is not valid yet"
        yield Finding(
            "dovecot_certificate_expired" if expired else "dovecot_certificate_not_yet_valid",
            Severity.ERROR,
            f"{_owner_of(pair)}: the certificate in {_text(_path_of(view, pair))} {when}",
            _where(pair.own),
            "clients warn of it or refuse it",
            _replaced(view, pair),
        )
    if not certificate.self_signed and len(_CERTIFICATE.findall(chain_pem)) == 1:
        yield Finding(
            "dovecot_chain_incomplete",
            Severity.WARNING,
            f"{_owner_of(pair)}: {_text(_path_of(view, pair))} has the certificate alone, without its intermediates",
            _where(pair.own),
            "clients that have not met the intermediate before refuse it: mail programs and phones, seldom browsers",
            view.edit(pair.certificate.file, f"{pair.certificate.line}s/cert\\.pem/fullchain.pem/")
            if pair.certificate.value.endswith("/cert.pem")
            and view.names_file(pair.certificate).with_name("fullchain.pem").exists()  # type: ignore[union-attr]
            else f"name the file with the whole chain (certbot: fullchain.pem); then `{view.reload}`",
        )
    names = [name for kind, name in pair.scope if kind == "local_name"]
    asked = [name for text in names for name in text.lower().split() if can_match(name)]
    strange = [name for name in asked if not _is_for(certificate.names, name)]
    if strange and certificate.names:
        yield Finding(
            "dovecot_certificate_of_other_name",
            Severity.WARNING,
            f"the certificate for {_names(strange)} is one for {_names(certificate.names)}",
            _where(pair.own),
            "clients warn that it belongs to somebody else",
            _replaced(view, pair),
        )


def _first_certificate(pem: bytes) -> bytes:
    found = _CERTIFICATE.search(pem)
    return b"".join(found[1].split()) if found is not None else b""


def _is_for(names: Sequence[str], asked: str) -> bool:
    return asked in names or any(covers(name, asked) for name in names)


def _has_password(view: _View) -> bool:
    return any(_key(one) in ("ssl_key_password", "ssl_server_key_password") for one in view.configuration.settings)


def _bad_pair(view: _View, pair: _Pair, detail: str) -> Finding:
    files = list(dict.fromkeys(_text(path) for path in (_path_of(view, pair), view.names_file(pair.key)) if path))
    return Finding(
        "dovecot_bad_certificate",
        Severity.ERROR,
        f"{_owner_of(pair)}: {' and '.join(files)} cannot be served: {detail}",
        _where(pair.own),
        f"{_handshakes(pair.own.blocks)}; Dovecot starts and reloads without a complaint",
        _replaced(view, pair),
    )


def _replaced(view: _View, pair: _Pair) -> str:
    """What mends a pair that cannot be served: a block can go, the default certificate cannot."""
    if pair.own.file == view.dovecot.path:
        return "mailsni apply"
    outer = next((block for block in pair.own.blocks if block.kind in _FILTERS), None)
    if outer is not None:
        return view.without(outer)
    keys = f"{pair.certificate.key} and {pair.key.key}"
    return f"name a certificate that is valid, and its key, with {keys}; then `{view.reload}`"


def _handshakes(blocks: Sequence[Block]) -> str:
    """Whose handshakes fail when a certificate cannot be loaded (measured)."""
    names = [block.name for block in blocks if block.kind == "local_name"]
    if names:
        return f"clients that ask for {_names(names[-1].split())} are cut off, they do not get the default certificate"
    if blocks:
        return f"clients of {blocks[0].kind} {shown(blocks[0].name)} are cut off"
    return "every client is cut off, also those that ask for a name with a good block of its own"


def _open_keys(view: _View) -> Iterator[Finding]:
    keys = {view.named(key) for key in ("ssl_key", "ssl_alt_key")}
    told: set[str] = set()
    for setting in view.configuration.settings:
        path = view.names_file(setting) if _key(setting) in keys else None
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in told:
            continue
        told.add(real)
        if (who := _who_may_read(Path(real))) is not None:
            yield Finding(
                "dovecot_key_open",
                Severity.ERROR,
                f"the private key {_text(real)} can be {who} by every user of this host",
                _where(setting),
                "whoever has it can pass for this server; to be read by root is enough for Dovecot",
                f"chmod o-rwx {_word(real)}",
            )


def _who_may_read(path: Path) -> str | None:
    """What everybody may do with a file: "read" or "replaced"; None when nothing."""
    try:
        mode = path.stat().st_mode
        reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not reachable:
        return None
    if mode & stat.S_IROTH:
        return "read"
    return "replaced" if mode & stat.S_IWOTH else None


def _archived(view: _View) -> Iterator[Finding]:
    places: dict[tuple[Path, Block | None], list[tuple[Setting, re.Match[str]]]] = defaultdict(list)
    for setting in view.configuration.settings:
        path = view.names_file(setting)
        found = _ARCHIVED.fullmatch(str(path)) if path is not None else None
        if found is not None and not _why_dead(Path(str(path))):
            places[setting.file, setting.blocks[-1] if setting.blocks else None].append((setting, found))
    for (file, _), settings in places.items():
        first = settings[0][0]
        script = "; ".join(
            f"{setting.line}s|/archive/{_literally(found['lineage'])}/{found['kind']}[0-9]*|"
            f"/live/{found['lineage']}/{found['kind']}|"
            for setting, found in settings
        )
        yield Finding(
            "dovecot_archive_path",
            Severity.WARNING,
            f"{_owner(first.blocks)}: names a file of certbot's archive: {_shown_path(first.value)}",
            _where(first),
            "that is one version: it is not renewed, and certbot deletes it five renewals later; then Dovecot does not "
            "start",
            view.edit(file, script),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Blocks that stand in each other's way


def _conflicts(view: _View) -> Iterator[Finding]:
    by_outer: dict[Scope, list[LocalName]] = defaultdict(list)
    seen: set[tuple[Path, int]] = set()
    for one in view.local_names:
        if (place := (one.block.file, one.block.line)) not in seen:  # a file that is included twice
            seen.add(place)
            by_outer[one.outer].append(one)
    for blocks in by_outer.values():
        told: dict[tuple[Block, Block], list[Conflict]] = defaultdict(list)
        for conflict in Precedence(blocks, view.dovecot.version).conflicts():
            if not (conflict.loser.ours and conflict.winner.ours):
                told[conflict.loser.block, conflict.winner.block].append(conflict)
        for found in told.values():
            yield _conflict(view, found)


def _conflict(view: _View, found: Sequence[Conflict]) -> Finding:
    first = found[0]
    loser, winner = first.loser, first.winner
    names = _names([conflict.name for conflict in found])
    rule = _rule(view, first)
    if not loser.ours and not winner.ours:
        return Finding(
            "dovecot_duplicate_block",
            Severity.WARNING,
            f"two blocks for {names}: the one at {_where(winner.block)} is taken, this one is not",
            _where(loser.block),
            f"{rule}; whoever changes or renews this one wonders why nothing changes",
            _without_names(view, loser, found),
        )
    foreign = winner if loser.ours else loser
    return Finding(
        "dovecot_foreign_block",
        Severity.ERROR if loser.ours else Severity.WARNING,
        f"a block for {names} beside that of mailsni: "
        + ("this one is taken" if loser.ours else "that of mailsni is taken"),
        _where(foreign.block),
        f"{rule}; "
        + (
            "clients do not get the certificate that mailsni deploys"
            if loser.ours
            else "this one does nothing today, and is taken as soon as mailsni's goes or the order changes"
        ),
        _without_names(view, foreign, found),
    )


def _rule(view: _View, conflict: Conflict) -> str:
    if conflict.same:
        return "blocks of the same name are one to Dovecot, and the later value holds"
    order = "first" if view.old else "last"
    return f"Dovecot {view.dovecot.version} takes the {order} block that matches, however exactly"


def _without_names(view: _View, block: LocalName, found: Sequence[Conflict]) -> str:
    names = {conflict.name for conflict in found}
    others = [name for name in block.names if name not in names]
    wildcard = any("*" in name for name in block.names) and not names & set(block.names)
    if wildcard:
        move = "after" if view.old else "before"
        return f"move the block at {_where(block.block)} {move} those for single names; then `{view.reload}`"
    if others and not found[0].same:
        place = f"line {block.block.line} of {_text(block.block.file)}"
        return f"take {_names(sorted(names))} out of {place}; then `{view.reload}`"
    return view.without(block.block)


# ---------------------------------------------------------------------------------------------------------------------
# Our include


def _not_included(view: _View) -> Iterator[Finding]:
    path = view.dovecot.path
    if path in view.configuration.files or any(one.why.startswith(f"{path}: ") for one in view.configuration.unread):
        return
    if view.configuration.unread or view.dovecot.why_unwired("") is None:
        return
    main = view.settings.config_file
    there = path.exists()
    yield Finding(
        "dovecot_include_not_read",
        Severity.ERROR if there else Severity.WARNING,
        f"{_text(main)} does not include {_text(path)}",
        _text(main),
        "Dovecot knows none of the names: every client gets the default certificate"
        if there
        else "what `mailsni apply` will write there, Dovecot does not read",
        f"printf '\\n%s\\n' '!include_try {path}' >> {_word(main)} && {view.reload}",
    )


def _global_after_blocks(view: _View) -> Iterator[Finding]:
    """2.3 warns of it (``config_parser_check_warnings``); 2.4.1 does not (measured)."""
    if not view.old:
        return
    first: dict[str, Setting] = {}
    for setting in view.configuration.settings:
        if not setting.key.startswith("ssl"):
            continue
        if setting.blocks:
            if all(block.kind in _FILTERS for block in setting.blocks):
                first.setdefault(setting.key, setting)
        elif (earlier := first.get(setting.key)) is not None:
            yield Finding(
                "dovecot_global_setting_after_blocks",
                Severity.WARNING,
                f"{setting.key} outside of blocks comes after a block that sets it ({_where(earlier)})",
                _where(setting),
                "Dovecot warns of it at every start and reload: the blocks before it keep their own value",
                f"move line {setting.line} of {_text(setting.file)} before {_where(earlier)}; then `{view.reload}`",
            )


def _leftovers(view: _View) -> Iterator[Finding]:
    files = {one.block.file for one in view.local_names if not one.ours}
    for file in sorted(files):
        hestia = file.parent.name == "domains" and file.parent.parent.name == "conf.d"
        whose = "HestiaCP's" if hestia else _LEFTOVERS.get(file.name)
        if whose is not None:
            yield Finding(
                "dovecot_leftover",
                Severity.NOTE,
                f"{_text(file)} has local_name blocks, and is probably {whose}",
                _text(file),
                "two programs that write blocks get in each other's way; for names of mailsni's own that is a finding "
                "of its own",
                "leave it if that program is in use; otherwise move the file away, then "
                f"`doveconf -n -x > /dev/null && {view.reload}`",
            )


# ---------------------------------------------------------------------------------------------------------------------
# The memory of 2.3


def _many_blocks(view: _View) -> Iterator[Finding]:
    filters = {scope for path in view.configuration.blocks if (scope := _scope(path)) and scope[-1][0] in _FILTERS}
    if not view.old:
        return
    own = view.last("vsz_limit", (("service", "config"),))
    setting = own or view.last("default_vsz_limit")
    limit = _bytes(setting.value) if setting is not None else _NORMAL
    needed = len(filters) * BLOCK_BYTES + _named_bytes(view)
    if not limit or needed < NEAR * limit:  # 0 is no limit
        return
    proposed = max(_NORMAL, -(-needed * SPARE // _STEP) * _STEP) >> 20
    over = needed >= limit
    main = view.settings.config_file
    # A reload asks the config process that is there for the new limit: it must not have died (measured).
    then = view.restart if over else view.reload
    yield Finding(
        "dovecot_too_many_blocks",
        Severity.ERROR if over else Severity.WARNING,
        f"{len(filters)} blocks; with its limit of {limit >> 20}M Dovecot's config process can hold about "
        f"{int(limit / (needed / len(filters)))}",
        _text(main) if setting is None else _where(setting),
        'beyond that the process dies ("Out of memory") and no client can log in, nor even shake hands: '
        + ("so it is now, or will be with the next few names" if over else "there is not much room for more names"),
        view.edit(own.file, f"{own.line}s/=.*/= {proposed}M/", then=then)
        if own is not None
        else f"printf '\\nservice config {{\\n  vsz_limit = {proposed}M\\n}}\\n' >> {_word(main)} && {then}",
    )


_NORMAL = 256 << 20
"""What ``default_vsz_limit`` is where nobody says otherwise."""
_STEP = 64 << 20
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _bytes(text: str) -> int | None:
    """A size as Dovecot writes it: ``256M``, ``256 MB``; None for what it refuses itself."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _UNITS[found[2].lower()] if found is not None else None


def _named_bytes(view: _View) -> int:
    """Bytes of the files that blocks name: each is kept as often as it is named."""
    sizes: dict[Path, int] = {}
    total = 0
    for setting in view.configuration.settings:
        path = view.names_file(setting) if setting.blocks else None
        if path is not None:
            if path not in sizes:
                try:
                    sizes[path] = path.stat().st_size
                except OSError:
                    sizes[path] = 0
            total += sizes[path]
    return total


# ---------------------------------------------------------------------------------------------------------------------
# What Dovecot says itself


def _refused(view: _View) -> Iterator[Finding]:
    main = view.settings.config_file
    if not view.askable:
        return
    try:
        complaint = complaint_of(main)
    except HostError as error:
        complaint = error.message
    if complaint is None or (os.geteuid() != 0 and "Permission denied" in complaint):
        return
    said = _text(complaint.splitlines()[0]) if complaint else ""
    position = _POSITION.search(said)
    if position is not None and (Path(position["file"]), int(position["line"])) in view.told:
        return
    yield Finding(
        "dovecot_configuration_refused",
        Severity.ERROR,
        f"Dovecot refuses its configuration: {said}",
        f"{position['file']}:{position['line']}" if position is not None else _text(main),
        "it does not start again once it is stopped, and no reload takes anything up, although `doveadm reload` says "
        "nothing",
        f"mend what Dovecot complains of, until `doveconf -c {_word(main)} -n -x > /dev/null` is silent; "
        f"then `{view.reload}`",
    )


_LOOKS: tuple[_Look, ...] = (
    *(_unread, _tls_off, _no_default, _other_syntax, _several_names, _marks, _misplaced, _dead_paths, _bad_pairs),
    *(_open_keys, _not_included, _conflicts, _useless_names, _exact_case, _many_blocks, _global_after_blocks),
    *(_archived, _leftovers, _refused),
)
"""In the order of the output; the last one leaves out what the others have told."""


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _scope(blocks: Sequence[Block]) -> Scope:
    return tuple((block.kind, block.name.lower()) for block in blocks if block.kind != "ssl_server")


def _key(setting: Setting) -> str:
    """The full name of a setting: 2.4 writes ``ssl_server { cert_file = … }`` too."""
    inside = bool(setting.blocks) and setting.blocks[-1].kind == "ssl_server"
    return f"ssl_server_{setting.key}" if inside and not setting.key.startswith("ssl_") else setting.key


def _text(path: str | Path) -> str:
    """A path or another program's talk in one line."""
    return printable(str(path)).replace("\n", "?")


def _word(path: str | Path) -> str:
    """A path as a word of a command."""
    return shlex.quote(_text(path))


def _where(place: Block | Setting) -> str:
    return f"{_text(place.file)}:{place.line}"


def _shown_path(value: str) -> str:
    return shown(value)


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _names(names: Iterable[str]) -> str:
    return _listed([shown(name) for name in names])


def _owner(blocks: Sequence[Block]) -> str:
    """The innermost block with a name that says for whom a setting is."""
    for block in reversed(blocks):
        if block.kind in _FILTERS:
            return f"{block.kind} {_names(block.name.split())}"
    return "the default certificate" if not blocks else f"{shown(blocks[-1].kind)} {shown(blocks[-1].name)}".strip()


def _owner_of(pair: _Pair) -> str:
    return _owner(pair.own.blocks) + (" (second algorithm)" if pair.alternative else "")


def _path_of(view: _View, pair: _Pair) -> Path:
    return view.names_file(pair.certificate) or pair.certificate.file


_ROOT = os.sep


def _content(path: str) -> bytes | ReadRefusedError:
    """A certificate or a key, wherever it lies: bounded, and only from a regular file."""
    directory = os.open(_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Containment(("",)).read(path, directory, missing=Reason.CHAIN_MISSING).content
    except ReadRefusedError as error:
        return error
    finally:
        os.close(directory)
