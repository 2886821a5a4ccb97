"""Dovecot: the include with the ``local_name`` blocks, and the check that the server would start with it.

``doveconf -n`` opens none of the files that a block names; ``-x`` does, and is what decides here. One file that is
missing stops the whole server at its next start, while ``doveadm reload`` exits 0 and keeps the old configuration
(all measured), so nothing is published that has not been checked in place of what is live.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mailsni.config.settings import DovecotSettings
from mailsni.core import file_identity
from mailsni.core.deployment import DeploymentRecord
from mailsni.core.selection import Selection
from mailsni.errors import HostError
from mailsni.host import files, permissions
from mailsni.host.commands import LOCAL, Executor, require_tool
from mailsni.probes.endpoint import Endpoint
from mailsni.targets import reload, rendering
from mailsni.targets.base import MapEntry, Stage, Staged
from mailsni.targets.dovecot.endpoints import dovecot_endpoints
from mailsni.targets.reload import ReloadResult
from mailsni.targets.rendering import DovecotVersion, Paths

_TIMEOUT = 300.0
_DEPTH = 10
"""Includes within includes that are followed; Dovecot itself stops at a loop."""
_INCLUDE = re.compile(r"^(?P<verb>\s*!include(?:_try)?\s+)(?P<pattern>\S.*?)\s*$")
_LOCAL_NAME = re.compile(r'\s*local_name\s+("[^"]*"|\S+)\s*\{\s*$')
_CERTIFICATE_FILE = re.compile(r"\s*ssl_\w*(?:cert|key)(?:_file)?\s*=\s*<?\s*(/\S+)\s*$")
_VALID_UNTIL = re.compile(r"# \S+: [A-Z]+, valid until (\d{4}-\d\d-\d\d \d\d:\d\d) UTC")
_FINGERPRINT = re.compile(r"# SHA-256 ([0-9a-f]{64})$")
_RELATIVE_FILE = re.compile(r"^(?P<setting>\s*\w+\s*=\s*<\s*)(?P<path>[^/\s].*?)\s*$")


@dataclass(frozen=True, slots=True)
class Dovecot:
    """The Dovecot of this host, as far as this program needs to know it."""

    settings: DovecotSettings
    installed: bool
    version: DovecotVersion
    executor: Executor = LOCAL

    @property
    def name(self) -> Literal["dovecot"]:
        """See :class:`mailsni.targets.base.Target`."""
        return "dovecot"

    @property
    def path(self) -> Path:
        """The include."""
        return self.settings.include_file

    def render(self, selection: Selection, paths: Paths, templates: Path | None) -> bytes:
        """The include."""
        return rendering.render_dovecot(rendering.blocks(selection, paths, self.version), self.version, templates)

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        """Why the live include is not what it should be; None when it is."""
        live = files.read_private(self.path)
        if live is None:
            return "there is none yet"
        if record.interrupted:
            return record.why_untrusted
        if live != text:
            return "its content changes"
        return permissions.mode_problem(self.path, files.PUBLIC)

    def stage(self, staging: Path, text: bytes, entries: Sequence[MapEntry]) -> Stage:
        """Write the include, let Dovecot read it in the place of the live one, and copy what it replaces."""
        del entries
        path = staging / self.path.name
        files.create(path, text, files.PUBLIC)
        previous = None
        if file_identity.Identity.of(self.path) is not None:
            previous = staging / "previous-include"
            files.copy_new(self.path, previous)
        self._validate(path)
        return Stage((Staged(path, self.path, previous),))

    def _validate(self, staged: Path) -> None:
        """Let Dovecot read its configuration with a staged include in the place of the live one."""
        if not self.installed:
            return
        main = self.settings.config_file
        lines = [line for line, _ in _staged_lines(main, self.path, staged)]
        if self.not_configured_reason("") is not None:
            lines.append(f"!include {staged}")
        trial = staged.with_name("dovecot.conf")
        files.create(trial, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        complaint = complaint_of(trial, self.executor)
        if complaint is None:
            return
        if (own := complaint_of(main, self.executor)) is not None:
            raise HostError(
                f"{main}: Dovecot's configuration is broken already, so nothing new can be loaded: {own}",
                hint="mend that first: with it Dovecot does not start again once it is stopped",
            )
        raise HostError(f"{self.path}: Dovecot refuses the new include: {complaint}")

    def not_configured_reason(self, map_type: str) -> str | None:
        """Why the running Dovecot does not read the include, and what to do; None when it does."""
        del map_type
        main = self.settings.config_file
        if any(part is not None for _, part in _staged_lines(main, self.path, self.path)):
            return None
        return (
            f"dovecot: {main} does not include {self.path}, so nothing is served from it yet: "
            f"`mailsni setup` wires it in, or the line `!include_try {self.path}` at its end"
        )

    def signal(self) -> ReloadResult:
        """Reload, or what the configuration says."""
        return reload.reload_dovecot(self.settings, self.executor)

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The listeners with TLS."""
        return dovecot_endpoints(self.settings.config_file, every_family=every_family)


def _is_installed(executor: Executor) -> bool:
    return executor.find_tool("dovecot") is not None and executor.find_tool("doveconf") is not None


def is_wanted(settings: DovecotSettings, executor: Executor = LOCAL) -> bool:
    """Whether this host's Dovecot is to be served: switched on, or to be found by itself and installed."""
    return settings.enabled is True or (settings.enabled == "auto" and _is_installed(executor))


def find(settings: DovecotSettings, executor: Executor = LOCAL) -> Dovecot | None:
    """Look at the Dovecot of this host.

    Returns:
        None when it is not wanted.

    Raises:
        HostError: its version is unknown to this program, or cannot be asked for.
    """
    if not is_wanted(settings, executor):
        return None
    if settings.version != "auto":
        return Dovecot(settings, _is_installed(executor), settings.version, executor)
    program = executor.find_tool("dovecot")
    if program is None:
        raise HostError(
            "dovecot: not installed, so its version is unknown",
            hint='[dovecot] version = "2.3" or "2.4" in the configuration says it',
        )
    done = executor.run([program, "--version"])
    text = done.stdout.decode("ascii", "replace").strip()
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if done.returncode != 0 or numbers is None or (int(numbers[1]), int(numbers[2])) < (2, 3):
        raise HostError(
            f"dovecot: version {text or 'unknown'}: only 2.3 and later are known",
            hint="[dovecot] version in the configuration says which syntax to write, enabled = false leaves it out",
        )
    version: DovecotVersion = "2.3" if (int(numbers[1]), int(numbers[2])) == (2, 3) else "2.4"
    return Dovecot(settings, _is_installed(executor), version, executor)


def complaint_of(config_file: Path, executor: Executor = LOCAL) -> str | None:
    """Why Dovecot would not start with a configuration, in its own words; None when it would."""
    # The output holds the contents of the files, keys among them.
    doveconf = require_tool("doveconf", executor)
    done = executor.run([doveconf, "-c", config_file, "-n", "-x"], timeout=_TIMEOUT, discard=True)
    return None if done.returncode == 0 else done.stderr or f"doveconf: exit status {done.returncode}"


def _staged_lines(config_file: Path, live: Path, staged: Path, depth: int = 0) -> Iterator[tuple[str, Path | None]]:
    """The lines of a configuration that can be read from any place, with one include replaced by another.

    Relative names are made absolute. A pattern that takes the live include in is written out file by file, in the
    order of glob(7), and so is a file that includes it in turn.

    Yields:
        A line; beside it the live include, where the line stands for that.
    """
    text = _text(config_file)
    for line in text.splitlines():
        if (relative := _RELATIVE_FILE.match(line)) is not None:
            yield f"{relative['setting']}{config_file.parent / relative['path']}", None
            continue
        include = _INCLUDE.match(line)
        if include is None:
            yield line, None
            continue
        pattern = str(config_file.parent / include["pattern"])
        matches = {Path(found) for found in glob.glob(pattern)}  # noqa: PTH207  # as Dovecot does it
        if _would_match(live, pattern):
            matches.add(live)
        parts = {path: _nested(path, live, staged, depth) for path in sorted(matches)}
        if live not in parts and not any(parts.values()):
            yield f"{include['verb']}{pattern}", None
            continue
        for path, nested in parts.items():
            if path == live:
                yield f"!include {staged}", live
            elif nested:
                yield from nested
            else:
                yield f"{include['verb']}{path}", None


def _nested(path: Path, live: Path, staged: Path, depth: int) -> list[tuple[str, Path | None]]:
    """The lines of an included file that includes the live include in turn; nothing when it does not."""
    if path == live or depth >= _DEPTH or "!include" not in _text(path):
        return []
    lines = list(_staged_lines(path, live, staged, depth + 1))
    return lines if any(part is not None for _, part in lines) else []


def required_by(config_file: Path, live: Path, depth: int = 0) -> str | None:
    """The line of a configuration without which a file cannot go: an ``!include`` that would match nothing else.

    (``!include`` without a match is fatal, measured on 2.3.19; ``!include_try`` is not.)
    """
    for number, line in enumerate(_text(config_file).splitlines(), 1):
        include = _INCLUDE.match(line)
        if include is None:
            continue
        found = {Path(one) for one in glob.glob(str(config_file.parent / include["pattern"]))}  # noqa: PTH207
        if found == {live} and include["verb"].split() == ["!include"]:
            return f"{config_file}: line {number}: {line.strip()}"
        below = (required_by(path, live, depth + 1) for path in sorted(found - {live}) if depth < _DEPTH)
        if (needed := next((one for one in below if one is not None), None)) is not None:
            return needed
    return None


def default_certificate(config_file: Path, version: DovecotVersion, executor: Executor = LOCAL) -> Path | None:
    """The file with the certificate for clients that send no name; None when none is configured."""
    setting = "ssl_cert" if version == "2.3" else "ssl_server/cert_file"
    done = executor.run([require_tool("doveconf", executor), "-c", config_file, setting], timeout=_TIMEOUT)
    text = done.stdout.decode("utf-8", "replace")
    # "ssl_cert = </path" of 2.3; "cert_file = /path" within "ssl_server {" of 2.4. Those of blocks are indented deeper.
    found = re.search(r"^(?:ssl_cert = <\s*|  cert_file = )(/\S.*)$", text, re.MULTILINE)
    return Path(found[1].strip()) if found is not None else None


def _would_match(path: Path, pattern: str) -> bool:
    """Whether glob(7) would find a file by a pattern, were it there."""
    steps, wanted = path.parts, Path(pattern).parts
    return len(steps) == len(wanted) and all(
        fnmatch.fnmatchcase(step, want) and (not step.startswith(".") or want.startswith("."))
        for step, want in zip(steps, wanted, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Stated:
    """What a comment of the include says of a certificate."""

    fingerprint: str
    """SHA-256 of the leaf in DER, hexadecimal."""
    not_after: datetime
    """To the minute."""


@dataclass(frozen=True, slots=True)
class LiveBlock:
    """A ``local_name`` block of a live include."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    """The files that it names, certificates and keys."""
    stated: tuple[Stated, ...]
    """Nothing with a template of the administrator's that says nothing."""


def blocks_of(text: str) -> tuple[LiveBlock, ...]:
    """The blocks of an include, as far as they are written as the templates write them.

    Args:
        text: of the include, whoever wrote it.
    """
    found: list[LiveBlock] = []
    names: tuple[str, ...] = ()
    paths: list[Path] = []
    stated: list[Stated] = []
    until: datetime | None = None
    for line in text.splitlines():
        if (comment := _VALID_UNTIL.match(line)) is not None:
            until = _moment(comment[1])
        elif (comment := _FINGERPRINT.match(line)) is not None and until is not None:
            stated.append(Stated(comment[1], until))
            until = None
        elif (opening := _LOCAL_NAME.match(line)) is not None:
            names, paths = tuple(opening[1].strip('"').split()), []
        elif (setting := _CERTIFICATE_FILE.match(line)) is not None:
            paths.append(Path(setting[1]))
        elif line.strip() == "}" and names:
            found.append(LiveBlock(names, tuple(paths), tuple(stated)))
            names, stated = (), []
    return tuple(found)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A configuration file as far as it can be read; what cannot, Dovecot itself will complain about."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""
