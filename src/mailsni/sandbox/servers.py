"""A Postfix and a Dovecot of one's own: in a directory of the caller's, on free loopback ports.

Both are the programs that the host has installed, with a configuration that exists only here: ``postfix -c DIRECTORY``
and ``dovecot -c FILE``. The host's own instances, /etc/postfix and /etc/dovecot are neither read nor written. They are
started and stopped by their own commands, with output into files (a daemon keeps the descriptors it inherits, so a
pipe would never end), and answer for TLS only: no mail is delivered and no mailbox exists.

The daemons run as users of their own and have to reach their sockets, and a socket's path is limited to 107 bytes:
:func:`workspace` makes a directory that is short and open enough.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from mailsni.errors import HostError
from mailsni.host.commands import environment, find_tool, require_tool, run
from mailsni.host.templates import render
from mailsni.sandbox.authority import Issued
from mailsni.targets.dovecot.doveconf import full_version
from mailsni.targets.dovecot.rendering import DovecotVersion
from mailsni.targets.postfix.map_types import PostfixMap

LOOPBACK = "127.0.0.1"
START_LIMIT = 20.0
"""Seconds until a server that was started has to accept connections on all its ports."""
STOP_LIMIT = 20.0
"""Seconds until a server that was told to stop has to be gone; then its master process is killed."""
_OPEN_DIRECTORIES = ("/tmp", "/var/tmp")  # noqa: S108 - only mkdtemp makes something there
_PAUSE = 0.02
_IMPLICIT = ("smtps", "imaps", "pop3s")
_SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET = len("/run/dovecot/login/managesieve-login-and-some")
_LOG_LINES = 15


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory for private servers: a short path that their users can pass through; removed afterwards."""
    usual = Path(tempfile.gettempdir())
    parents = [usual, *(Path(path) for path in _OPEN_DIRECTORIES)]
    # A temporary directory of the user's own (pam_tmpdir) is closed to the users of the servers.
    chosen = next((path for path in parents if path.is_dir() and _obstacle(path) is None), usual)
    directory = Path(tempfile.mkdtemp(prefix="mailsni-", dir=chosen))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class PrivateServer(ABC):
    """What both have in common. Use as a context manager: started on entry, stopped on exit.

    Args:
        directory: an existing directory to live in, passable by everyone (:func:`workspace`).
        default: the certificate for clients that ask for no name or an unknown one.

    Attributes:
        endpoints: the port on 127.0.0.1 of each service, such as ``{"smtp": 34127}``.
        log: the file the server logs to.
        default_file: key, then chain of the default certificate in one file.

    Raises:
        HostError: the software is not installed, or the directory will not do.
    """

    services: Sequence[str] = ()

    def __init__(self, directory: Path, default: Issued) -> None:
        reason = self.unavailable()
        if reason:
            raise HostError(reason)
        _require_suitable(directory)
        self.directory = directory
        self.endpoints: Mapping[str, int] = dict(zip(self.services, self.free_ports(len(self.services)), strict=True))
        self.log = directory / "log"
        self.default_file = directory / "default.pem"
        self._output = directory / "output"
        self.default_file.touch(mode=0o600)
        self.default_file.write_bytes(default.key_pem + default.fullchain_pem)

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be started here; None when it can."""

    @abstractmethod
    def _start_command(self) -> list[str | Path]: ...

    @abstractmethod
    def _ask_to_stop(self, pid: int) -> None: ...

    @abstractmethod
    def _pid_file(self) -> Path: ...

    def _configure(self, file: Path, **values: object) -> None:
        """Write a configuration file from the template of its name."""
        common = {
            "directory": self.directory,
            "address": LOOPBACK,
            "ports": self.endpoints,
            "default": self.default_file,
        }
        _write(file, render(f"sandbox/{file.name}.j2", None, **common, **values).decode())

    @staticmethod
    def free_ports(count: int) -> Sequence[int]:
        """Distinct ports of the loopback address that nobody listens on."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
            return [each.getsockname()[1] for each in sockets]

    def pid(self) -> int | None:
        """The process id of the running master, None when it does not run."""
        try:
            number = int(self._pid_file().read_text())
            process = Path(f"/proc/{number}")
            # The name in parentheses may contain anything; the state comes after it. A zombie does not run.
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            words = (process / "cmdline").read_bytes()
            place = (process / "cwd").readlink()
        except (OSError, ValueError):
            return None
        # The file of a master that was killed stays, and its number may have become another process's.
        ours = os.fsencode(self.directory) in words or place.is_relative_to(self.directory)
        return number if ours and state not in "ZX" else None

    def start(self) -> None:
        """Start, and wait until every clear-text service has greeted a client. A running server is left as it is.

        (The master listens on all ports before its start command ends. A greeting shows that the processes behind it
        are up, too: a Dovecot that is stopped before takes six seconds, because they miss the signal.)

        Raises:
            HostError: it does not start, or not within :data:`START_LIMIT`; the message ends with its last log lines.
        """
        if self.pid() is not None:
            return
        with self._output.open("ab") as output:
            try:
                status = subprocess.run(
                    [str(word) for word in self._start_command()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment(),
                    cwd="/",
                    start_new_session=True,
                    timeout=START_LIMIT,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise HostError(self._story("did not start in time")) from error
        if status != 0:
            raise HostError(self._story(f"start exited {status}"))
        deadline = time.monotonic() + START_LIMIT
        for service, port in self.endpoints.items():
            while service not in _IMPLICIT and not _greets(port):
                if time.monotonic() > deadline:
                    self.stop()
                    raise HostError(self._story(f"{service}: no greeting on port {port}"))
                time.sleep(_PAUSE)

    def stop(self) -> None:
        """Stop, and wait until the master process is gone. A server that does not run is left as it is."""
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(HostError, ProcessLookupError):
            self._ask_to_stop(pid)
        deadline = time.monotonic() + STOP_LIMIT
        while self.pid() == pid:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(_PAUSE)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _story(self, what: str) -> str:
        lines: list[str] = []
        for path in (self._output, self.log):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n  ".join([f"{type(self).__name__}: {what}", *lines])


class PrivatePostfix(PrivateServer):
    """A private Postfix: smtp (STARTTLS), submission (STARTTLS) and smtps (TLS from the first byte).

    Needs root and the users that Postfix's package makes. ``sni_map`` is the value of ``tls_server_sni_maps``, such as
    ``cdb:/directory/mailsni``. Where the compiled table is absent an empty one is made, because smtpd cuts off every
    client that sends a name while the table it was told of does not exist.
    """

    services = ("smtp", "submission", "smtps")

    def __init__(self, directory: Path, default: Issued, *, sni_map: str | None = None) -> None:
        super().__init__(directory, default)
        self.config_directory = directory / "etc"
        self.config_file = self.config_directory / "main.cf"
        self._queue = directory / "queue"
        for path in (self.config_directory, self._queue):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        owner = pwd.getpwnam("postfix")
        data = directory / "data"
        data.mkdir(exist_ok=True)
        data.chmod(0o700)
        os.chown(data, owner.pw_uid, owner.pw_gid)
        self._configure(self.config_file, sni_map=sni_map)
        if sni_map:
            _require_map(sni_map, self.config_directory)
        self._configure(self.config_directory / "master.cf")

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be started here; None when it can."""
        if find_tool("postfix") is None or find_tool("postmap") is None:
            return "postfix: not installed"
        if os.geteuid() != 0:
            return "postfix: only root can start it"
        try:
            pwd.getpwnam("postfix")
        except KeyError:
            return "postfix: there is no user postfix"
        return None

    def _start_command(self) -> list[str | Path]:
        return [require_tool("postfix"), "-c", self.config_directory, "start"]

    def _ask_to_stop(self, pid: int) -> None:
        del pid
        run([require_tool("postfix"), "-c", self.config_directory, "stop"], timeout=STOP_LIMIT)

    def _pid_file(self) -> Path:
        return self._queue / "pid/master.pid"


class PrivateDovecot(PrivateServer):
    """A private Dovecot, 2.3 or 2.4: imap and pop3 (STARTTLS), imaps and pop3s, and sieve where Pigeonhole has it.

    Started by root it runs as the users that Dovecot's package makes; started by another user, as that user alone.
    Nobody can log in. Every ``*.conf`` in ``include_directory`` is part of the configuration.
    """

    services: Sequence[str] = ("imap", "imaps", "pop3", "pop3s")

    def __init__(self, directory: Path, default: Issued) -> None:
        if _is_service_installed("managesieve-login"):
            self.services = (*self.services, "sieve")
        super().__init__(directory, default)
        self.config_directory = directory / "etc"
        self.config_file = self.config_directory / "dovecot.conf"
        self.include_directory = self.config_directory / "conf.d"
        self.version: DovecotVersion = "2.3" if full_version().startswith("2.3") else "2.4"
        self._run = directory / "run"
        for path in (self.config_directory, self.include_directory):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        user = {}
        if os.geteuid() != 0:
            user = {"user": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
        self._configure(self.config_file, version=self.version, implicit=_IMPLICIT, **user)

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be started here; None when it can."""
        if find_tool("dovecot") is None or find_tool("doveadm") is None:
            return "dovecot: not installed"
        for name in ("imap-login", "pop3-login"):
            if not _is_service_installed(name):
                return f"dovecot: {name} is not installed"
        return None

    def _start_command(self) -> list[str | Path]:
        return [require_tool("dovecot"), "-c", self.config_file]

    def _ask_to_stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)  # as doveadm stop does, which then looks once a second

    def _pid_file(self) -> Path:
        return self._run / "master.pid"


def _is_service_installed(name: str) -> bool:
    """Whether Dovecot has one of its service programs."""
    directories = ("/usr/lib/dovecot", "/usr/libexec/dovecot", "/usr/local/libexec/dovecot")
    return any(Path(directory, name).exists() for directory in directories)


def _require_suitable(directory: Path) -> None:
    if not directory.is_absolute() or not re.fullmatch(r"[A-Za-z0-9_./-]+", str(directory)):
        raise HostError(f"{directory}: not a plain absolute path: servers cannot be run from there")
    if len(os.fsencode(directory)) + _LONGEST_SOCKET > _SOCKET_PATH_LIMIT:
        raise HostError(f"{directory}: too long: the path of a socket in it would pass the limit of the system")
    obstacle = _obstacle(directory)
    if obstacle is not None:
        raise HostError(f"{directory}: the users of the servers cannot pass through {obstacle}")


def _obstacle(directory: Path) -> Path | None:
    """The directory on the way that the servers' users cannot pass through, None when there is none."""
    if os.geteuid() != 0:
        return None
    return next((passed for passed in (directory, *directory.parents) if not passed.stat().st_mode & 0o001), None)


def _require_map(sni_map: str, config_directory: Path) -> None:
    """Make an empty table where none is; the source text is left to the one who owns the map.

    postmap(1) reads main.cf of the configuration directory.
    """
    kind, _, path = sni_map.partition(":")
    table = PostfixMap(kind, Path(path)).file
    if kind == "texthash" or table.exists():
        return
    empty = PostfixMap(kind, table.with_name(".empty"))
    empty.source.touch(mode=0o600)
    done = run([require_tool("postmap"), "-c", config_directory, "-F", str(empty)])
    if done.returncode != 0 or not empty.file.exists():
        raise HostError(f"{sni_map}: postmap cannot make an empty table: {done.stderr}")
    empty.source.unlink()
    empty.file.replace(table)
    for lock in table.parent.glob(".empty*"):
        lock.unlink()


def _greets(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5) as client:
            return client.recv(1) != b""
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
    # Every program of Postfix waits until main.cf is more than a second old (dict_load_file_xt), so date it back.
    earlier = time.time() - 5
    os.utime(path, (earlier, earlier))
