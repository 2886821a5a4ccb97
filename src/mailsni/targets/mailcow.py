"""mailcow: the folders in ``data/assets/ssl`` from which its containers make their configuration when they start.

Its start scripts look into each folder there for ``cert.pem`` (the whole chain), ``key.pem`` and ``domains``, names
with blanks between them, and write ``sni.map``, ``sni.conf`` and nginx's sites from it
(``data/Dockerfiles/{postfix/postfix.sh,dovecot/docker-entrypoint.sh}``, ``data/conf/nginx``). What they write goes word
by word into three servers: Postfix knows a wildcard as ``.example.com`` only, Dovecot and nginx as ``*.example.com``
(mailcow-dockerized, pull request 2509), so ``domains`` has both forms.

A reload makes none of them read the folders again. So Postfix and Dovecot are targets of their own, in their containers
(:func:`mailsni.config.settings.in_mailcow`), and nginx, which reads the files by their names, is reloaded here.

A folder is replaced as a whole, by one exchange of two directories: no reader finds a key beside another one's chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mailsni.core.deployment import DeploymentRecord
from mailsni.core.model import Certificate
from mailsni.core.names import is_wildcard
from mailsni.core.selection import Selection, Winner
from mailsni.errors import HostError
from mailsni.host import files, permissions
from mailsni.host.commands import Executor, require_tool
from mailsni.host.containers import ContainerError, ContainerExecutor, container_of
from mailsni.probes.endpoint import Endpoint
from mailsni.targets.base import Stage, StagedFile, copy_of_live
from mailsni.targets.pinned import PinDirectory
from mailsni.targets.reload import ReloadResult

PREFIX = "mailsni-"
"""Of the folders that are ours; the kind ``mailcow`` of the stores passes over them."""
DEFAULT = "."
"""The folder of the default pair, in the text."""
_HEAD = "# Written by mailsni: its folders here, the certificate in each, and the names.\n"
_KEY_MODE, _CHAIN_MODE = files.PRIVATE, files.PUBLIC
_CHAIN_BEGINS = b"-----BEGIN CERTIFICATE-----"
_HOST_NAME = re.compile(r"^MAILCOW_HOSTNAME=[\"']?([A-Za-z0-9.-]+)", re.MULTILINE)
_PROJECT = re.compile(r"^COMPOSE_PROJECT_NAME=[\"']?([A-Za-z0-9_-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it should be, as the text has it."""

    name: str
    ident: str
    """Of the certificate."""
    domains: tuple[str, ...]

    @property
    def line(self) -> str:
        """As the text has it."""
        return " ".join((self.name, self.ident, *self.domains))


def folders_in(text: bytes) -> Iterator[Folder]:
    """The folders that a text of ours has."""
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) >= 2 and not line.startswith("#"):
            yield Folder(words[0], words[1], tuple(words[2:]))


def folders_of(selection: Selection, host_name: str) -> Iterator[Folder]:
    """The folders for a selection: one for each certificate, and the default pair where the host's name has one.

    A name with an RSA and an ECDSA certificate gets the RSA one: mailcow has no form for two.
    """
    names: dict[str, list[str]] = {}
    for winner in selection.winners:
        names.setdefault(_chosen(winner).ident, []).append(winner.name)
    for ident, served in names.items():
        yield Folder(f"{PREFIX}{served[0].replace('*', '_')}", ident, tuple(dict.fromkeys(_forms(served))))
    above = f"*.{host_name.partition('.')[2]}"
    default = {winner.name: winner for winner in selection.winners if winner.name in (host_name, above)}
    if default:
        yield Folder(DEFAULT, _chosen(default.get(host_name) or default[above]).ident, ())


def _chosen(winner: Winner) -> Certificate:
    return next((each for each in winner.certificates if each.algorithm == "rsa"), winner.certificates[0])


def _forms(names: list[str]) -> Iterator[str]:
    for name in names:
        yield name
        if is_wildcard(name):
            yield name[1:]


def project_in(directory: Path) -> str:
    """The compose project of a mailcow: as mailcow.conf names it, else as compose makes it of the directory's name.

    Raises:
        HostError: mailcow.conf cannot be read.
    """
    return project_of(directory, files.read_text(directory / "mailcow.conf") or "")


def project_of(directory: Path, configuration: str) -> str:
    """The same, from the text of mailcow.conf."""
    named = _PROJECT.search(configuration)
    return named[1].lower() if named is not None else re.sub(r"[^a-z0-9_-]", "", directory.name.lower())


@dataclass(frozen=True, slots=True)
class Mailcow:
    """The folders, and nginx."""

    name: ClassVar[Literal["mailcow"]] = "mailcow"
    installed: ClassVar[bool] = True
    is_configured: ClassVar[bool] = True
    reload_action: ClassVar[Literal["none"]] = "none"
    """The wire is not asked: the mail servers are targets of their own."""
    pin_directory: ClassVar[None] = None
    directory: Path
    """``data/assets/ssl``."""
    host_name: str
    """Whose certificate is the default pair; empty where that is mailcow's own business."""
    project: str
    engine: str
    executor: Executor
    reads_all: bool = False
    """Whether mailcow's own folders are a store of the configuration."""

    @property
    def path(self) -> Path:
        """The list of the folders."""
        return self.directory / ".mailsni-folders"

    @property
    def artifacts(self) -> tuple[Path, ...]:
        return (self.path, self.directory / "key.pem", self.directory / "cert.pem", *self._ours())

    @property
    def artifacts_in_use(self) -> tuple[Path, ...]:
        return self.artifacts

    @property
    def warnings(self) -> tuple[str, ...]:
        """The folders of mailcow's own whose names go when it is not a store too."""
        theirs = [path.parent.name for path in sorted(self.directory.glob("*/domains"))]
        foreign = [name for name in theirs if not name.startswith((PREFIX, "acme", "backups"))]
        if self.reads_all or not foreign:
            return ()
        what = f"mailcow: {self.directory}: has folders of its own ({', '.join(foreign)}), whose names are served only"
        return (f'{what} where a store has them: [[sources]] type = "mailcow" reads them too',)

    def render(self, selection: Selection, pins: PinDirectory, templates: Path | None) -> bytes:
        del pins, templates
        lines = sorted(folder.line for folder in folders_of(selection, self.host_name))
        return (_HEAD + "".join(f"{line}\n" for line in lines)).encode()

    def named_files(self, text: bytes) -> Mapping[str, tuple[Path, ...]]:
        del text
        return {}

    def change_reason(self, record: DeploymentRecord, text: bytes) -> str | None:
        live = files.read_private(self.path)
        if live is None:
            return "there is none yet"
        if record.interrupted:
            return record.distrust_reason
        if live != text:
            return "its content changes"
        wrong = next((folder for folder in folders_in(text) if not self._is_right(folder)), None)
        if wrong is not None:
            return f"{self.directory / wrong.name} is not as it should be"
        return permissions.mode_problem(self.path, files.PUBLIC)

    def stage(self, staging: Path, text: bytes, selection: Selection, pins: PinDirectory) -> Stage:
        """Make each folder that is not right, and an empty one for each that goes; the list goes last."""
        certificates = {each.ident: each for each in selection.certificates}
        wanted = tuple(folders_in(text))
        staged: list[StagedFile] = []
        for folder in wanted:
            if self._is_right(folder):
                continue
            pem = files.read_private(pins.path_of(certificates[folder.ident])) or b""
            made = staging / (folder.name if folder.name != DEFAULT else "default")
            _fill(made, pem, folder.domains)
            if folder.name != DEFAULT:
                staged.append(StagedFile(made, self.directory / folder.name, None))
                continue
            for name in ("key.pem", "cert.pem"):
                live = self.directory / name
                staged.append(StagedFile(made / name, live, copy_of_live(live, staging / f"previous-{name}")))
        for path in self._ours():
            if path.name not in {folder.name for folder in wanted}:
                (staging / path.name).mkdir(mode=0o700)
                staged.append(StagedFile(staging / path.name, path, None))
        listed = staging / self.path.name
        files.create(listed, text, files.PUBLIC)
        staged.append(StagedFile(listed, self.path, copy_of_live(self.path, staging / "previous-folders")))
        return Stage(tuple(staged))

    def not_configured_reason(self, memory: Mapping[str, str]) -> str | None:
        del memory
        return None

    def startup_problem(self) -> str | None:
        return None

    def reload(self) -> ReloadResult:
        """Reload nginx in its container, and remove the folders that are empty now."""
        for path in self._ours():
            files.remove_directory(path)
        try:
            container = container_of(self.engine, self.project, "nginx-mailcow", self.executor)
            nginx = ContainerExecutor(self.engine, container, host=self.executor)
            done = nginx.run([require_tool("nginx", nginx), "-s", "reload"])
        except ContainerError:
            return ReloadResult.NOT_RUNNING
        except HostError:
            return ReloadResult.REFUSED
        return ReloadResult.RELOADED if done.returncode == 0 else ReloadResult.REFUSED

    def failure(self) -> str | None:
        return None

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        del every_family
        return ()

    def _ours(self) -> tuple[Path, ...]:
        return tuple(sorted(path for path in self.directory.glob(f"{PREFIX}*") if path.is_dir()))

    def _is_right(self, folder: Folder) -> bool:
        """Whether a folder holds its certificate: the ident has the digest of the key and the chain together."""
        place = self.directory / folder.name
        key, chain = (files.read_private(place / name) or b"" for name in ("key.pem", "cert.pem"))
        digest = hashlib.sha256(key + chain).hexdigest()
        domains = files.read_private(place / "domains") if folder.domains else b""
        return (
            digest.startswith(folder.ident.partition("-")[2])
            and (not folder.domains or domains == " ".join(folder.domains).encode())
            and permissions.mode_problem(place / "key.pem", _KEY_MODE) is None
        )


def _fill(folder: Path, pem: bytes, domains: tuple[str, ...]) -> None:
    """Make a folder with the key, the chain and, if there are any, the names; all of it durable."""
    folder.mkdir(mode=0o700)
    at = pem.index(_CHAIN_BEGINS)
    files.create(folder / "key.pem", pem[:at], _KEY_MODE)
    files.create(folder / "cert.pem", pem[at:], _CHAIN_MODE)
    if domains:
        files.create(folder / "domains", " ".join(domains).encode(), _CHAIN_MODE)
    files.fsync_all(folder.iterdir())
    files.set_mode(folder, 0o755)


def find(directory: Path, engine: str, executor: Executor, *, is_store: bool) -> Mailcow:
    """The folders of a mailcow.

    Args:
        directory: of its docker-compose.yml.
        engine: of its containers.
        executor: runs the engine.
        is_store: whether the same mailcow is a store of the configuration; then the default pair is its own.

    Raises:
        HostError: mailcow.conf cannot be read.
    """
    text = files.read_text(directory / "mailcow.conf") or ""
    name = _HOST_NAME.search(text)
    return Mailcow(
        directory / "data/assets/ssl",
        name[1].lower() if name is not None and not is_store else "",
        project_of(directory, text),
        engine,
        executor,
        reads_all=is_store,
    )
