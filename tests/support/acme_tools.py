"""Real ACME clients beside certbot, against an ACME server that takes every challenge for met.

Each issues a certificate for one name, and renews it at once when it is told to. Every method raises AssertionError
when its tool fails.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from mailsni.host.commands import environment, find_tool
from mailsni.sandbox.servers import LOOPBACK
from tests.support.mail_host import Certbot, require
from tests.support.processes import run_command, running, until
from tests.support.servers import free_ports

_CONTACT = "root@mail.example.test"


class AcmeTool(ABC):
    """A tool with a store of its own.

    Args:
        server: what it gets its certificates from.
        directory: for everything that it keeps.
        name: the host name of its certificate.
    """

    kind: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, server: Certbot, directory: Path, name: str) -> None:
        require(None if find_tool(self.program) else f"{self.program}: not installed")
        self.server = server
        self.directory = directory
        self.name = name
        self.started = ExitStack()
        """What runs until the end."""
        directory.mkdir(mode=0o755)

    @property
    def path(self) -> Path:
        """What the store's ``[[sources]]`` table names."""
        return self.directory

    @abstractmethod
    def issue(self) -> None:
        """Get the certificate."""

    @abstractmethod
    def renew(self) -> None:
        """Renew it now."""

    def run(self, *arguments: str | Path, **variables: str) -> None:
        """Run the tool to its end."""
        done = run_command([str(find_tool(self.program)), *arguments], env=environment() | variables)
        assert done.returncode == 0, done.stdout + done.stderr


def root_of(server: Certbot) -> bytes:
    """The root certificate of an ACME server's authority, which is a new one in each run."""
    settings = json.loads((server.directory / "pebble.json").read_text())["pebble"]
    port = settings["managementListenAddress"].rpartition(":")[2]
    trusted = ssl.create_default_context(cafile=str(server.trusted))
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Pebble's own certificate names no authority's key
    with urllib.request.urlopen(f"https://localhost:{port}/roots/0", context=trusted) as answer:
        return bytes(answer.read())


class _Certbot(AcmeTool):
    kind, program = "certbot", "certbot"

    @property
    def path(self) -> Path:
        return self.server.config_directory / "live"

    def issue(self) -> None:
        self.server.issue(self.name)

    def renew(self) -> None:
        self.server.renew()


class _Lego(AcmeTool):
    kind, program = "lego", "lego"

    def issue(self) -> None:
        self._run("run")

    def renew(self) -> None:
        self._run("renew", "--days", "99999", "--no-random-sleep")

    def _run(self, *command: str) -> None:
        (port,) = free_ports(1)
        place = ("--server", self.server.server, "--path", self.directory)
        challenge = ("--http", "--http.port", f"{LOOPBACK}:{port}")
        account = ("--accept-tos", "--email", _CONTACT, "--domains", self.name)
        self.run(*place, *challenge, *account, *command, LEGO_CA_CERTIFICATES=str(self.server.trusted))


class _Dehydrated(AcmeTool):
    kind, program = "dehydrated", "dehydrated"

    def issue(self) -> None:
        settings = {
            "CA": self.server.server,
            "BASEDIR": self.directory,
            "WELLKNOWN": self.directory,
            "KEY_ALGO": "prime256v1",
            "ACCOUNT_KEY_ALGO": "prime256v1",
            "CURL_OPTS": f"--cacert {self.server.trusted}",
        }
        (self.directory / "config").write_text("".join(f'{key}="{value}"\n' for key, value in settings.items()))
        self._run("--register", "--accept-terms")
        self._run("--cron", "--domain", self.name)

    def renew(self) -> None:
        self._run("--cron", "--force", "--domain", self.name)

    def _run(self, *command: str) -> None:
        self.run("--config", self.directory / "config", *command)


class _AcmeSh(AcmeTool):
    """With a new key for each certificate, which lies beside the old chain until the order is done."""

    kind, program = "acme.sh", "acme.sh"

    def issue(self) -> None:
        server = ("--server", self.server.server, "--ca-bundle", self.server.trusted)
        account = ("--accountemail", _CONTACT, "--always-force-new-domain-key")
        self._run("--issue", *server, *account, "--webroot", self.directory)
        files = ("--key-file", self.directory / "installed.key", "--fullchain-file", self.directory / "installed.pem")
        self._run("--install-cert", *files)

    def renew(self) -> None:
        self._run("--renew", "--force")

    def _run(self, *command: str | Path) -> None:
        home = self.directory / "home"
        self.run(*command, "--home", home, "--domain", self.name, "--ecc")

    @property
    def path(self) -> Path:
        return self.directory / "home"


class _Daemon(AcmeTool):
    """A web server that gets its own certificates."""

    def __init__(self, server: Certbot, directory: Path, name: str) -> None:
        super().__init__(server, directory, name)
        self.log = directory / "log"
        self.ports = free_ports(3)

    @property
    @abstractmethod
    def chain(self) -> Path:
        """The file with the chain in use."""

    def start(self, *words: str | Path, **variables: str) -> None:
        """Start it; its workers end with it."""
        command = [str(find_tool(self.program)), *map(str, words)]
        process = self.started.enter_context(running(command, self.log, variables))
        self.started.callback(os.killpg, process.pid, signal.SIGKILL)

    def until_changed(self, before: bytes) -> None:
        """Wait until the chain in use is another one."""
        until(lambda: self.chain.is_file() and self.chain.read_bytes() != before, self._told)

    def _told(self) -> str:
        return self.log.read_text()


class _Caddy(_Daemon):
    kind, program = "caddy", "caddy"

    @property
    def path(self) -> Path:
        return self.directory / "data"

    @property
    def chain(self) -> Path:
        issuer = self.server.server.removeprefix("https://").replace("/", "-").replace(":", "-")
        return self.path / f"certificates/{issuer}/{self.name}/{self.name}.crt"

    def issue(self) -> None:
        self._start(renewal_window=0.3)
        self.until_changed(b"")

    def renew(self) -> None:
        """Another configuration, by which the certificate is due at once."""
        before = self.chain.read_bytes()
        self.started.close()
        self._start(renewal_window=2.0)
        self.until_changed(before)

    def _start(self, renewal_window: float) -> None:
        http, https, admin = self.ports
        issuer = {
            "module": "acme",
            "ca": self.server.server,
            "email": _CONTACT,
            "trusted_roots_pem_files": [str(self.server.trusted)],
        }
        policy = {"issuers": [issuer], "renewal_window_ratio": renewal_window}
        web = {
            "listen": [f"{LOOPBACK}:{https}"],
            "routes": [{"match": [{"host": [self.name]}], "handle": [{"handler": "static_response", "body": "ok"}]}],
        }
        settings = {
            "admin": {"listen": f"{LOOPBACK}:{admin}"},
            "storage": {"module": "file_system", "root": str(self.path)},
            "apps": {
                "http": {"http_port": http, "https_port": https, "servers": {"web": web}},
                "tls": {"automation": {"policies": [policy]}},
            },
        }
        configuration = self.directory / "caddy.json"
        configuration.write_text(json.dumps(settings))
        self.start("run", "--config", configuration, HOME=str(self.directory))


class _ModMd(_Daemon):
    kind, program = "mod_md", "apache2"

    _MODULES = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "socache_shmcb", "ssl", "md")
    )

    @property
    def path(self) -> Path:
        return self.directory / "md"

    @property
    def chain(self) -> Path:
        return self.path / f"domains/{self.name}/pubcert.pem"

    def issue(self) -> None:
        self._configure(window="33%")
        self.start("-f", self._file, "-D", "FOREGROUND")
        self._activate(b"")

    def renew(self) -> None:
        """Another configuration, by which the certificate is due at once."""
        before = self.chain.read_bytes()
        self._configure(window="36500d")
        self.run("-f", self._file, "-k", "graceful")
        self._activate(before)

    def _activate(self, before: bytes) -> None:
        """What was staged is used after a restart."""
        staged = self.path / f"staging/{self.name}/pubcert.pem"
        until(staged.is_file, self._told)
        self.run("-f", self._file, "-k", "graceful")
        self.until_changed(before)

    @property
    def _file(self) -> Path:
        return self.directory / "apache2.conf"

    def _configure(self, window: str) -> None:
        http, https, _ = self.ports
        trusted = self.directory / "trusted.pem"  # www-data reads it
        trusted.write_bytes(self.server.trusted.read_bytes())
        self._file.write_text(
            f"""\
ServerRoot {self.directory}
ServerName localhost
DefaultRuntimeDir {self.directory}
PidFile {self.directory}/apache2.pid
Mutex file:{self.directory} default
ErrorLog {self.log}
LogLevel warn md:debug
User www-data
Group www-data
{self._MODULES}Listen {LOOPBACK}:{http}
Listen {LOOPBACK}:{https}
MDStoreDir {self.path}
MDCertificateAuthority {self.server.server}
MDCACertificateFile {trusted}
MDCertificateAgreement accepted
MDContactEmail {_CONTACT}
MDCAChallenges http-01
MDPortMap http:{http} https:{https}
MDRenewWindow {window}
MDStapling off
MDomain {self.name}
<VirtualHost {LOOPBACK}:{https}>
ServerName {self.name}
SSLEngine on
</VirtualHost>
"""
        )


TOOLS: Mapping[str, type[AcmeTool]] = {
    tool.kind: tool for tool in (_AcmeSh, _Certbot, _Lego, _Dehydrated, _Caddy, _ModMd)
}


@contextmanager
def acme_tool(kind: str, server: Certbot, directory: Path, name: str) -> Iterator[AcmeTool]:
    """A tool; what it runs ends with the block."""
    tool = TOOLS[kind](server, directory, name)
    try:
        yield tool
    finally:
        tool.started.close()
