"""docker-mailserver: the certificate that its container would serve, found on the host as the container finds it.

``helpers/ssl.sh`` of v15 decides by ``SSL_TYPE``: a directory in ``/etc/letsencrypt/live`` (of ``SSL_DOMAIN`` without
``*.``, else the host's name, else its domain, the first with a ``fullchain.pem``; ``key.pem`` where there is no
``privkey.pem``), files that the environment names, or files of the host's name in its configuration. Paths inside the
container are those of the volumes of the compose file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mailsni.core.model import Reason
from mailsni.sources import compose_file
from mailsni.sources.compose_file import Service
from mailsni.sources.directory import DirectoryStore
from mailsni.sources.layout import Files, Place
from mailsni.sources.layouts import CERTBOT_IN_PROGRESS
from mailsni.sources.safe_read import ReadRefusedError, StoreBoundary

_COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_OVERRIDES = tuple(name.replace(".y", ".override.y") for name in _COMPOSE_FILES)
_ENVIRONMENT = "mailserver.env"
_CONFIG, _LETSENCRYPT = "/tmp/docker-mailserver", "/etc/letsencrypt"  # noqa: S108  # inside the container
_USUAL_MOUNTS = {
    _CONFIG: ("docker-data/dms/config", "config"),
    _LETSENCRYPT: ("docker-data/certbot/certs", "letsencrypt", _LETSENCRYPT),
    "/tmp/dms/custom-certs": ("docker-data/dms/custom-certs",),  # noqa: S108
}
"""Where the documentation has what the compose file does not mention; the first that is there."""
_FILES = Files("", (), in_progress=CERTBOT_IN_PROGRESS)


class _SetupError(OSError):
    """What the configuration of the container says cannot be followed."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EINVAL, why)


def docker_mailserver_store(path: Path, hostname: str) -> DirectoryStore:
    """The store of the compose file in a directory.

    Args:
        path: the directory.
        hostname: of the container; empty: as the compose file says.
    """
    return DockerMailserver(path, ContainerLayout(hostname))


@dataclass(frozen=True, slots=True)
class DockerMailserver(DirectoryStore):
    """Its directory holds much else: of the origins in it only its own belong to it."""

    def owns(self, origin: str) -> bool:
        """Whether an origin is ``PATH#certificate`` or ``PATH#alternate``."""
        return origin.startswith(f"{self.path}#")


@dataclass(frozen=True, slots=True)
class ContainerLayout:
    """See :class:`mailsni.sources.layout.Layout`. The directory holds all mail too, and is not watched as a tree."""

    hostname: str = ""
    beyond: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    def places(self, root: Path) -> Iterator[Place]:
        """The certificate, and the alternate one. Where none of their files are there, nothing is mounted."""
        setup = _read_setup(root, self.hostname)
        places = list(_places(setup))
        if places and not any(os.path.lexists(path) for place in places for path in (place.key, *place.chain)):
            raise _SetupError(f"SSL_TYPE is {setup.variables['SSL_TYPE']}, and none of its files are there")
        yield from places

    def elsewhere(self, root: Path) -> tuple[Path, ...]:
        """The configuration, and the files of the certificates."""
        try:
            files = [path for place in self.places(root) for path in dict.fromkeys((place.key, *place.chain))]
        except OSError:
            files = []
        return (root / _ENVIRONMENT, *(root / name for name in (*_COMPOSE_FILES, *_OVERRIDES)), *map(Path, files))


@dataclass(frozen=True, slots=True)
class _Setup:
    root: Path
    variables: Mapping[str, str]
    mounts: Mapping[str, str]
    """The host's directories or files by those of the container."""
    name: str
    """The container's fully qualified host name; empty: not known."""

    @property
    def hostname(self) -> str:
        if not self.name:
            raise _SetupError("hostname is not in the compose file: set hostname in [[sources]]")
        return self.name

    @property
    def domain(self) -> str:
        """As ``helpers/dns.sh`` has it."""
        if self.name.count(".") > 1:
            return self.name.partition(".")[2]
        return self.variables.get("DOMAINNAME", "") or self.name

    def mount(self, inside: str) -> tuple[str, str]:
        """Where a path of the container is on the host, and the mount that it is in."""
        path = PurePosixPath(os.path.normpath(inside))
        for parent in (path, *path.parents):
            if (source := self.mounts.get(str(parent))) is not None:
                return os.path.normpath(f"{source}/{path.relative_to(parent)}"), source
        raise _SetupError(f"no volume of the compose file holds {inside}")

    def place(self, what: str, key: str, chain: str) -> Place:
        """Of files that lie inside the container."""
        (key_path, key_mount), (chain_path, chain_mount) = self.mount(key), self.mount(chain)
        return Place(f"{self.root}#{what}", key_path, (chain_path,), _FILES, roots=(key_mount, chain_mount))


def _places(setup: _Setup) -> Iterator[Place]:
    kind = setup.variables.get("SSL_TYPE")
    if kind is None:  # the file with it may just be written
        raise _SetupError("SSL_TYPE is not set")
    if kind == "letsencrypt":
        yield _letsencrypt(setup)
    elif kind == "manual":
        yield from _manual(setup)
    elif kind == "self-signed":
        ssl = f"{_CONFIG}/ssl/{setup.hostname}"
        yield setup.place("certificate", f"{ssl}-key.pem", f"{ssl}-cert.pem")
    elif kind == "custom":
        both = f"{_CONFIG}/ssl/{setup.hostname}-full.pem"
        yield setup.place("certificate", both, both)
    elif kind not in ("", "snakeoil"):
        raise _SetupError("SSL_TYPE is none of letsencrypt, manual, self-signed, custom")


def _letsencrypt(setup: _Setup) -> Place:
    domain = setup.variables.get("SSL_DOMAIN", "").removeprefix("*.")
    candidates = dict.fromkeys((domain, setup.name, setup.domain, setup.variables.get("DOMAINNAME", "")))
    names = [name for name in candidates if name and "/" not in name]
    for name in names:
        live = f"{_LETSENCRYPT}/live/{name}"
        directory, _ = setup.mount(live)
        # certbot removes the link for an instant, and must not be understood as having another lineage.
        if any(map(os.path.lexists, (f"{directory}/fullchain.pem", f"{directory}/previous_fullchain.pem"))):
            is_certbots = os.path.lexists(f"{directory}/privkey.pem") or not os.path.lexists(f"{directory}/key.pem")
            key = "privkey.pem" if is_certbots else "key.pem"
            place = setup.place("certificate", f"{live}/{key}", f"{live}/fullchain.pem")
            _, archive = setup.mount(f"{_LETSENCRYPT}/archive")
            return replace(place, roots=(*place.roots, archive))
    raise _SetupError(f"there is no fullchain.pem in {_LETSENCRYPT}/live/NAME for any NAME of {', '.join(names)}")


def _manual(setup: _Setup) -> Iterator[Place]:
    for what, prefix in (("certificate", "SSL_"), ("alternate", "SSL_ALT_")):
        key, chain = (setup.variables.get(f"{prefix}{part}_PATH", "") for part in ("KEY", "CERT"))
        if key and chain:
            yield setup.place(what, key, chain)
        elif what == "certificate":
            raise _SetupError("SSL_TYPE is manual, and SSL_KEY_PATH or SSL_CERT_PATH is not set")


def _read_setup(root: Path, hostname: str) -> _Setup:
    dotenv = compose_file.assignments(_text(root / ".env") or "")
    names = (next((name for name in group if (root / name).exists()), None) for group in (_COMPOSE_FILES, _OVERRIDES))
    texts = [_text(root / name) or "" for name in names if name is not None]
    service = _mail_service(compose_file.services(texts, dotenv)) if texts else Service("", {})
    env_files = service.items("env_file") or [table["path"] for table in service.tables("env_file") if "path" in table]
    variables: dict[str, str] = {}
    contents = [_text(root / name) for name in env_files or [_ENVIRONMENT]]
    if not texts and contents == [None]:
        raise _SetupError(f"there is no compose file and no {_ENVIRONMENT} in it")
    for content in contents:
        variables |= compose_file.assignments(content or "")
    variables |= service.assignments("environment")
    name = hostname or variables.get("OVERRIDE_HOSTNAME") or service.scalar("hostname") or variables.get("HOSTNAME", "")
    if name and "." not in name and (domain := service.scalar("domainname")):
        name = f"{name}.{domain}"
    return _Setup(root, variables, _usual_mounts(root) | _mounts(root, service), name)


def _mail_service(services: Sequence[Service]) -> Service:
    """That of docker-mailserver, by its image, by its name, or because there is no other."""
    by_image = [service for service in services if "docker-mailserver" in service.scalar("image")]
    by_name = [service for service in services if service.name in ("mailserver", "mail", "dms")]
    for candidates in (by_image, by_name, list(services)):
        if len(candidates) == 1:
            return candidates[0]
    raise _SetupError("no service of the compose file is docker-mailserver's, or several are")


def _mounts(root: Path, service: Service) -> dict[str, str]:
    mounts = {}
    pairs = [tuple(item.split(":")[:2]) for item in service.items("volumes") if ":" in item]
    pairs += [(table.get("source", ""), table.get("target", "")) for table in service.tables("volumes")]
    for source, target in pairs:
        if source.startswith((".", "/")) and target.startswith("/"):
            mounts[os.path.normpath(target)] = os.path.normpath(root / source)
    return mounts


def _usual_mounts(root: Path) -> dict[str, str]:
    usual = {target: [root / source for source in sources] for target, sources in _USUAL_MOUNTS.items()}
    return {target: str(next((path for path in paths if path.is_dir()), paths[0])) for target, paths in usual.items()}


def _text(path: Path) -> str | None:
    """A file's content; None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    if not os.path.lexists(path):
        return None
    try:
        content = StoreBoundary((os.path.realpath(path),)).read(str(path), missing=Reason.UNREADABLE).content
    except ReadRefusedError as error:
        raise _SetupError(error.detail) from None
    if b"\0" in content:
        raise _SetupError(f"{path.name} is no text")
    return content.decode("utf-8", "replace")
