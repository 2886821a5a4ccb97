"""The settings: every key of the configuration file with its default, what it takes, and what the reference says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

from mailsni.core import values
from mailsni.core.mounts import Mounts
from mailsni.core.names import NamePatterns
from mailsni.core.values import Action as Action
from mailsni.core.values import Switch
from mailsni.probes.endpoint import Endpoint
from mailsni.sources.kinds import DEFAULT_SOURCES, SourceSettings

DEFAULT_PATH = Path("/etc/mailsni/config.toml")

FROM_STDIN = "MAILSNI_CONFIG_ON_STDIN"
"""Set in the environment of a run that ``watch`` starts: it reads the configuration from standard input, as the file
was when ``watch`` last read it."""

MAIL_NAMES = ("mail.*", "imap.*", "smtp.*", "pop.*", "pop3.*", "mx.*")

MapType = Literal["hash", "btree", "lmdb", "cdb", "texthash"]

_T = TypeVar("_T")


def key(default: _T, parse: Callable[[object], _T], comment: str = "") -> _T:
    """A key of a table: ``parse`` gives the setting for a TOML value; the reference shows the comment."""
    return field(default=default, metadata={"parse": parse, "comment": comment})


def endpoints(value: object) -> Literal["auto"] | tuple[Endpoint, ...]:
    """``"auto"``, or a list of URLs; parses like the functions of :mod:`mailsni.core.values`."""
    if value == "auto":
        return "auto"
    return tuple(Endpoint.parse(text) for text in values.strings(value))


@dataclass(frozen=True, slots=True)
class NameSettings:
    """``[names]``."""

    include: tuple[str, ...] = key(MAIL_NAMES, values.some_patterns)
    exclude: tuple[str, ...] = key((), values.patterns)

    def patterns(self) -> NamePatterns:
        """Both lists together."""
        return NamePatterns(self.include, self.exclude)


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """``[container]``: what servers in containers have in common."""

    engine: str = key("docker", values.engine, 'or "podman", or an absolute path')
    paths: Mounts = key(Mounts(), values.mounts, 'directory on the host = the same directory inside: { "/a" = "/b" }')


@dataclass(frozen=True, slots=True)
class PostfixSettings:
    """``[postfix]``. The paths are those on this host, wherever the server runs."""

    enabled: Switch = key("auto", values.switch, 'true, false, or "auto": when postconf is installed')
    config_directory: Path = key(Path("/etc/postfix"), values.path)
    map: Path = key(Path("/etc/postfix/mailsni"), values.path, "the source text; the compiled map lies beside it")
    map_type: Literal["auto"] | MapType = key(
        "auto",
        values.choice("auto", *get_args(MapType)),
        f"{', '.join(get_args(MapType))}; auto: those that Postfix's configuration names",
    )
    action: Action = key("auto", values.action, "auto, reload, restart, none, or a command as a list")
    container: str = key("", values.container, "the container that it runs in; empty: this host")

    @property
    def main_cf(self) -> Path:
        """Postfix's configuration file."""
        return self.config_directory / "main.cf"


@dataclass(frozen=True, slots=True)
class DovecotSettings:
    """``[dovecot]``. The paths are those on this host, wherever the server runs."""

    enabled: Switch = key("auto", values.switch)
    config_file: Path = key(Path("/etc/dovecot/dovecot.conf"), values.path)
    include_file: Path = key(Path("/etc/dovecot/conf.d/99-mailsni.conf"), values.path)
    version: Literal["auto", "2.3", "2.4"] = key("auto", values.choice("auto", "2.3", "2.4"), '"2.3", "2.4"')
    certificates: Literal["pinned", "live"] = key(
        "pinned",
        values.choice("pinned", "live"),
        "or live: the store's own files; Dovecot cannot start while they change",
    )
    pin_directory: Path = key(Path("/etc/dovecot/mailsni"), values.path)
    action: Action = key("auto", values.action)
    container: str = key("", values.container)


@dataclass(frozen=True, slots=True)
class DockerMailserverSettings:
    """``[docker-mailserver]``."""

    enabled: bool = key(
        default=False, parse=values.boolean, comment="deploy to docker-mailserver's Postfix and Dovecot"
    )
    directory: Path = key(Path("/opt/docker-mailserver"), values.path, "of compose.yaml; writes docker-data/dms/config")
    container: str = key("mailserver", values.some_container)

    @property
    def config(self) -> Path:
        """What ``/tmp/docker-mailserver`` is inside (docker-mailserver's documentation, "Volumes: config")."""
        return self.directory / "docker-data/dms/config"


@dataclass(frozen=True, slots=True)
class MailcowSettings:
    """``[mailcow]``."""

    enabled: bool = key(default=False, parse=values.boolean, comment="deploy to mailcow's Postfix, Dovecot and nginx")
    directory: Path = key(Path("/opt/mailcow-dockerized"), values.path, "of mailcow.conf; writes data/assets/ssl")


MOUNTED = {"postfix": ("config_directory", "map"), "dovecot": ("config_file", "include_file", "pin_directory")}
"""The paths of each server that its container has to see, if it runs in one."""


@dataclass(frozen=True, slots=True)
class StateSettings:
    """``[state]``."""

    directory: Path = key(Path("/var/lib/mailsni"), values.path)
    lock: Path = key(Path("/run/mailsni.lock"), values.path)


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """``[verify]``."""

    after_apply: bool = key(default=True, parse=values.boolean)
    endpoints: Literal["auto"] | tuple[Endpoint, ...] = key(
        "auto", endpoints, 'or ["smtp://127.0.0.1:25", "imaps://127.0.0.1:993", …]'
    )
    timeout: float = key(10.0, values.seconds, "seconds for each probe")


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """``[alerts]``."""

    on_failure: tuple[str, ...] = key(
        (), values.optional_command, """a command: ["/bin/sh", "-c", 'mail -s "$MAILSNI_SUMMARY" root']"""
    )


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """``[watch]``: when ``mailsni watch`` applies."""

    quiet: float = key(0.3, values.seconds, "seconds without a change before an apply: a renewal writes several files")
    max_wait: float = key(30.0, values.seconds, "seconds after the first change, even if changes continue")
    scan: float = key(60.0, values.seconds, "seconds between two scans of the stores, with or without file events")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a configuration file can set: one field for each of its tables, and the templates beside it."""

    names: NamePatterns = field(default_factory=lambda: NameSettings().patterns())
    sources: tuple[SourceSettings, ...] = DEFAULT_SOURCES
    container: ContainerSettings = ContainerSettings()
    postfix: PostfixSettings = PostfixSettings()
    dovecot: DovecotSettings = DovecotSettings()
    mailcow: MailcowSettings = MailcowSettings()
    docker_mailserver: DockerMailserverSettings = DockerMailserverSettings()
    state: StateSettings = StateSettings()
    verify: VerifySettings = VerifySettings()
    alerts: AlertSettings = AlertSettings()
    watch: WatchSettings = WatchSettings()
    templates: Path | None = None
    """The administrator's own templates: ``templates`` beside the configuration file, when that directory exists."""
    file: Path = DEFAULT_PATH
    """The configuration file, whether or not it exists."""

    @property
    def has_own_sources(self) -> bool:
        """Whether the configuration names its stores, be it the default one."""
        return self.sources is not DEFAULT_SOURCES


def table_of(field_name: str) -> str:
    """The table of the configuration file for a field of the settings."""
    return field_name.replace("_", "-")


def field_of(table: str) -> str:
    """The field of the settings for a table of the configuration file."""
    return table.replace("-", "_")


def in_docker_mailserver(settings: Settings) -> Settings:
    """The settings with which Postfix and Dovecot are those of docker-mailserver.

    Its container sees one directory of this host. Both servers' own configuration lies in the image.
    """
    own = settings.docker_mailserver
    return replace(
        settings,
        container=replace(settings.container, paths=Mounts(((own.config, Path("/tmp/docker-mailserver")),))),  # noqa: S108
        postfix=replace(
            settings.postfix,
            container=own.container,
            config_directory=PostfixSettings().config_directory,
            map=own.config / "mailsni",
        ),
        dovecot=replace(
            settings.dovecot,
            container=own.container,
            config_file=DovecotSettings().config_file,
            include_file=own.config / "mailsni-dovecot.conf",
            pin_directory=own.config / "mailsni-pins",
        ),
    )


def in_mailcow(settings: Settings) -> Settings:
    """The settings with which Postfix and Dovecot are those of mailcow: its compose file says what they see.

    Both include what their containers write when they start, ``sni.map`` and ``sni.conf``: these files are ours then.
    The containers are named by their services.
    """
    data = settings.mailcow.directory / "data"
    mounts = (
        (data / "conf/postfix", Path("/opt/postfix/conf")),
        (data / "conf/dovecot", Path("/etc/dovecot")),
        (data / "assets/ssl", Path("/etc/ssl/mail")),
    )
    return replace(
        settings,
        container=replace(settings.container, paths=Mounts(mounts)),
        postfix=replace(
            settings.postfix,
            container="postfix-mailcow",
            config_directory=data / "conf/postfix",
            map=data / "conf/postfix/sni.map",
        ),
        dovecot=replace(
            settings.dovecot,
            container="dovecot-mailcow",
            config_file=data / "conf/dovecot/dovecot.conf",
            include_file=data / "conf/dovecot/sni.conf",
            pin_directory=data / "assets/ssl/.mailsni",
        ),
    )
