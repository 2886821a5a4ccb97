"""What a configuration file can say, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mailsni.core.names import NamePatterns
from mailsni.probes.endpoint import Endpoint
from mailsni.sources.base import DEFAULT_SOURCES, SourceSettings

DEFAULT_PATH = Path("/etc/mailsni/config.toml")


FROM_STDIN = "MAILSNI_CONFIG_ON_STDIN"
"""Set in the environment of a run that `watch` starts: what the file held when it was last read comes on standard
input, and the file itself is not read."""


MAIL_NAMES = ("mail.*", "imap.*", "smtp.*", "pop.*", "pop3.*", "mx.*")


MapType = Literal["hash", "btree", "lmdb", "cdb", "texthash"]


Action = Literal["auto", "reload", "restart", "none"] | tuple[str, ...]


Switch = Literal["auto"] | bool


@dataclass(frozen=True, slots=True)
class PostfixSettings:
    """``[postfix]``."""

    enabled: Switch = "auto"
    config_directory: Path = Path("/etc/postfix")
    map: Path = Path("/etc/postfix/mailsni")
    map_type: Literal["auto"] | MapType = "auto"
    action: Action = "auto"


@dataclass(frozen=True, slots=True)
class DovecotSettings:
    """``[dovecot]``."""

    enabled: Switch = "auto"
    config_file: Path = Path("/etc/dovecot/dovecot.conf")
    include_file: Path = Path("/etc/dovecot/conf.d/99-mailsni.conf")
    version: Literal["auto", "2.3", "2.4"] = "auto"
    certificates: Literal["pinned", "live"] = "pinned"
    pin_directory: Path = Path("/etc/dovecot/mailsni")
    action: Action = "auto"


@dataclass(frozen=True, slots=True)
class StateSettings:
    """``[state]``."""

    directory: Path = Path("/var/lib/mailsni")
    lock: Path = Path("/run/mailsni.lock")


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """``[verify]``. The time limit is in seconds, for each probe."""

    after_apply: bool = True
    endpoints: Literal["auto"] | tuple[Endpoint, ...] = "auto"
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """``[alerts]``."""

    on_failure: tuple[str, ...] = ()
    """A command, its program an absolute path; empty: nobody is told."""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """``[watch]``: when ``mailsni watch`` applies. All in seconds."""

    quiet: float = 0.3
    """Without a change: a renewal is several files."""
    max_wait: float = 30.0
    """After the first change, though they go on."""
    scan: float = 60.0
    """Between two scans of the stores, events or not."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a configuration file can say."""

    names: NamePatterns = field(default_factory=lambda: NamePatterns(MAIL_NAMES))
    sources: tuple[SourceSettings, ...] = DEFAULT_SOURCES
    postfix: PostfixSettings = PostfixSettings()
    dovecot: DovecotSettings = DovecotSettings()
    state: StateSettings = StateSettings()
    verify: VerifySettings = VerifySettings()
    alerts: AlertSettings = AlertSettings()
    watch: WatchSettings = WatchSettings()
    templates: Path | None = None
    """The administrator's own templates: ``templates`` beside the configuration file, when that directory exists."""
