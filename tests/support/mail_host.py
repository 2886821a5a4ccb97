"""What the end-to-end tests stand on: an oracle for what is served, a mail host, an ACME authority.

The oracle is ``openssl s_client`` and nothing of mailsni's, so that a mistake in mailsni's own probes cannot hide one
in what it deployed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mailsni.host.commands import environment, find_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import LOOPBACK
from tests.support import records
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.processes import LIMIT, run_command, run_mailsni, running, until
from tests.support.servers import PrivateDovecot, PrivatePostfix, free_ports

DEFAULT_NAME = "default.test"
"""The name in the servers' default certificate."""
ABORTED = "handshake aborted"
"""What :func:`served` says where others get a fingerprint."""
STARTTLS = {"smtp": "smtp", "submission": "smtp", "imap": "imap", "pop3": "pop3", "sieve": "sieve"}
"""Services that begin in clear text, and openssl's word for them."""
ONE_EACH = ("smtp", "imaps")
"""A service of each server: STARTTLS, and TLS from the first byte."""
Version = Literal["tls1_2", "tls1_3"]
SIGNATURES = {"rsa": "rsa_pss_rsae_sha256", "ecdsa": "ecdsa_secp256r1_sha256"}
_PROBE_LIMIT = 15


def require(reason: str | None) -> None:
    """Leave the test out for a reason, if there is one; in the lab, where everything is installed, fail instead."""
    if reason is None:
        return
    if os.environ.get("MAILSNI_LAB_REQUIRED"):
        pytest.fail(f"the lab lacks something: {reason}")
    pytest.skip(reason)


def served(
    port: int,
    name: str | None,
    protocol: str,
    *,
    algorithm: Literal["rsa", "ecdsa"] | None = None,
    version: Version | None = None,
) -> str:
    """The fingerprint of the certificate that a client gets.

    Args:
        port: on 127.0.0.1.
        name: what the client sends as SNI; None sends none.
        protocol: one of :data:`STARTTLS`, or anything else for TLS from the first byte.
        algorithm: the only kind of signature that the client takes.
        version: the only version of TLS that the client speaks.

    Returns:
        SHA-256 of the leaf's DER, lower-case hexadecimal; :data:`ABORTED` when the handshake was not completed.

    Raises:
        ConnectionRefusedError: nobody listens.
    """
    tool = find_tool("openssl")
    require(None if tool else "openssl: not installed")
    words = [str(tool), "s_client", "-connect", f"{LOOPBACK}:{port}"]
    words += ["-noservername"] if name is None else ["-servername", name]
    words += ["-starttls", STARTTLS[protocol]] if protocol in STARTTLS else []
    words += ["-sigalgs", SIGNATURES[algorithm]] if algorithm else []
    words += [f"-{version}"] if version else []
    done = run(words, timeout=_PROBE_LIMIT)
    if re.search(r"Connection refused|connect:errno=111", done.stderr):
        raise ConnectionRefusedError(f"{LOOPBACK}:{port}")
    found = re.search(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)
    if done.returncode != 0 or found is None:
        return ABORTED
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0].decode())).hexdigest()


def write_config(path: Path, store: CertbotDirectory, tables: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a configuration file with certbot's store and further tables; gives its path."""
    lines = ["[[sources]]", 'type = "certbot"', f"path = {json.dumps(str(store.live))}"]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join([*lines, ""]))
    return path


def snapshot(*roots: Path, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything in some directories, so that two snapshots differ after any write to a file.

    But for the record of the last run, which every run replaces, the cache of what the store holds, which a run writes
    once the files are old enough, and so the times of their directory.

    Args:
        roots: the directories; they need not exist.
        times: whether two differ after a change that was undone, too. Without times they do not: a staging directory
            may have come and gone.
    """
    left_out = ("runs.json", "readings.json")
    entries: dict[str, tuple[object, ...]] = {}
    for path in (path for root in roots if root.exists() for path in (root, *root.rglob("*"))):
        if path.name not in left_out:
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            changed = status.st_ctime_ns if times and path.name != "state" else 0
            entries[str(path)] = (status.st_ino, status.st_mode, content, changed)
    return entries


@dataclass
class MailHost:
    """A certbot directory, both servers, and a configuration of mailsni that ties them together.

    Attributes:
        directory: of the test's own; everything mailsni keeps for itself lies in it.
        default: the certificate both servers were started with.
        config: mailsni's configuration file, written by :meth:`configure`.
        settings: what it says.
    """

    directory: Path
    authority: Authority
    store: CertbotDirectory
    postfix: PrivatePostfix
    dovecot: PrivateDovecot
    default: Issued
    map_type: str = "cdb"
    config: Path = field(init=False)
    settings: dict[str, dict[str, object]] = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.directory / "config.toml"
        self.settings = {
            "postfix": {
                "enabled": True,
                "config_directory": str(self.postfix.config_directory),
                "map": str(self.map),
            },
            "dovecot": {
                "enabled": True,
                "config_file": str(self.dovecot.config_file),
                "include_file": str(self.include_file),
                "pin_directory": str(self.pin_directory),
            },
            "state": {"directory": str(self.directory / "state"), "lock": str(self.directory / "mailsni.lock")},
            "verify": {"endpoints": self.urls()},
        }
        self.configure()

    @classmethod
    def build(
        cls,
        directory: Path,
        rooms: Path,
        authority: Authority,
        default: Issued,
        store: CertbotDirectory | None = None,
        *,
        map_type: str = "cdb",
        lasting_logins: bool = False,
    ) -> MailHost:
        """Install and configure both servers, which are not started.

        Args:
            directory: see the class.
            rooms: a directory for the servers, which their users can pass through.
            authority: see the class.
            default: see the class.
            store: an empty one in ``directory`` when None.
            map_type: of Postfix's map, which is empty.
            lasting_logins: see :meth:`PrivateDovecot.with_lasting_logins`.
        """
        require(PrivatePostfix.unavailable())
        require(PrivateDovecot.unavailable())
        for name in ("postfix", "dovecot"):
            (rooms / name).mkdir(mode=0o755)
        postfix = PrivatePostfix(rooms / "postfix", default, sni_map=f"{map_type}:{rooms}/postfix/etc/mailsni")
        new_dovecot = PrivateDovecot.with_lasting_logins if lasting_logins else PrivateDovecot
        dovecot = new_dovecot(rooms / "dovecot", default)
        store = store or CertbotDirectory(directory / "letsencrypt")
        return cls(directory, authority, store, postfix, dovecot, default, map_type)

    @property
    def map(self) -> Path:
        """The source text of Postfix's map."""
        return self.postfix.config_directory / "mailsni"

    @property
    def table(self) -> str:
        """The map as Postfix's configuration names it."""
        return f"{self.map_type}:{self.map}"

    @property
    def include_file(self) -> Path:
        """The file of Dovecot's configuration that mailsni writes."""
        return self.dovecot.include_directory / "99-mailsni.conf"

    @property
    def pin_directory(self) -> Path:
        """Where mailsni keeps its copies of the certificates."""
        return self.dovecot.config_directory / "mailsni"

    @property
    def endpoints(self) -> Mapping[str, int]:
        """The ports of both servers by service."""
        return {**self.postfix.endpoints, **self.dovecot.endpoints}

    def urls(self) -> list[str]:
        """The endpoints as mailsni's configuration names them."""
        schemes = {"submission": "smtp"}
        return [f"{schemes.get(name, name)}://{LOOPBACK}:{port}" for name, port in self.endpoints.items()]

    def configure(self, **tables: Mapping[str, object]) -> None:
        """Write the configuration file, with further keys: ``configure(names={"include": ["*"]})``."""
        for table, values in tables.items():
            self.settings[table] = {**self.settings.get(table, {}), **values}
        write_config(self.config, self.store, self.settings)

    def put_template(self, text: str, name: str = "postfix-sni.j2") -> Path:
        """Put a template of the administrator's beside the configuration file; gives its directory."""
        templates = self.directory / "templates"
        templates.mkdir(exist_ok=True)
        (templates / name).write_text(text)
        return templates

    def issue(self, *names: str, lineage: str | None = None) -> Issued:
        """Issue a certificate and put it into the store, under its first name if no other is given."""
        issued = self.authority.issue(names)
        self.store.add(lineage or names[0].removeprefix("*."), issued)
        return issued

    def renew(self, name: str) -> Issued:
        """Issue another certificate for a name, and put it into the lineage that is called so; a new one if need be."""
        issued = self.authority.issue([name])
        self.store.put(name, issued)
        return issued

    def mailsni(self, *arguments: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the program with this mail host's configuration: see :func:`tests.support.processes.run_mailsni`."""
        return run_mailsni(self.config, *arguments, timeout=timeout, **variables)

    def apply(
        self, *arguments: str, code: int = 0, timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mailsni apply``, which must end with this exit code."""
        done = self.mailsni("apply", *arguments, timeout=timeout, **variables)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def age_retired_files(self) -> None:
        """Have all files that nothing names any more be retired since before the host was started."""
        record = self.directory / "state/retired.json"
        if record.exists():
            records.rewrite(record, lambda retired: {path: {"boot": "another", "seconds": 1} for path in retired})

    def reloads(self) -> int:
        """How often Dovecot was told to read its configuration: once for each publish."""
        return self.dovecot.log.read_text().count("SIGHUP received")

    @property
    def places(self) -> tuple[Path, ...]:
        """Every directory that the program writes into, but for that of its lock."""
        return self.postfix.config_directory, self.dovecot.config_directory, self.directory / "state"

    def snapshot(self, *, times: bool = True) -> dict[str, tuple[object, ...]]:
        """Every file that the program may write: see :func:`snapshot`."""
        return snapshot(*self.places, times=times)

    def served(self, service: str, name: str | None, *, algorithm: Literal["rsa", "ecdsa"] | None = None) -> str:
        """What a client of a service gets: see :func:`served`."""
        return served(self.endpoints[service], name, service, algorithm=algorithm)

    def served_everywhere(self, name: str | None) -> dict[str, str]:
        """What a client gets from each service."""
        return {service: self.served(service, name) for service in self.endpoints}

    def assert_served(self, name: str | None, issued: Issued, services: Collection[str] | None = None) -> None:
        """These services, or all, show a certificate for a name."""
        shown = {service: self.served(service, name) for service in services or self.endpoints}
        assert shown == dict.fromkeys(shown, issued.fingerprint), name

    def assert_all_served(self, wanted: Mapping[str, Issued]) -> None:
        """A service of each server shows these certificates for these names."""
        for name, issued in wanted.items():
            self.assert_served(name, issued, ONE_EACH)


class Gate:
    """Holds the runs of a mail host, which have published, where they tell Dovecot; it is told when the gate opens."""

    def __init__(self, mail_host: MailHost) -> None:
        self._entered, self._open = mail_host.directory / "entered", mail_host.directory / "open"
        reload = f"{find_tool('doveadm')} -c {mail_host.dovecot.config_file} reload"
        # Not for ever, should the test end early.
        turns = int(LIMIT * 20)
        script = (
            f"echo $$ >> {self._entered}; n=0; "
            f"while [ ! -e {self._open} ] && [ $n -lt {turns} ]; do sleep 0.05; n=$((n+1)); done; exec {reload}"
        )
        mail_host.configure(dovecot={"action": ["/bin/sh", "-c", script]})

    def reached(self) -> bool:
        """Whether a run stands there."""
        return self._entered.exists() and self._entered.read_text().endswith("\n")

    def child(self) -> int:
        """The process id of the command that the first run has started."""
        return int(self._entered.read_text().split()[0])

    def open(self) -> None:
        """Let everybody through from now on."""
        self._open.touch()


@dataclass(frozen=True)
class Certbot:
    """The real certbot in a directory of its own, against an ACME server that takes every challenge for met.

    Every method raises AssertionError when certbot fails.
    """

    directory: Path
    server: str
    trusted: Path

    @property
    def config_directory(self) -> Path:
        """What ``/etc/letsencrypt`` is to a host."""
        return self.directory / "letsencrypt"

    @staticmethod
    def unavailable() -> str | None:
        """Why it cannot be used here; None when it can."""
        missing = [name for name in ("certbot", "pebble") if find_tool(name) is None]
        return f"{', '.join(missing)}: not installed" if missing else None

    def issue(self, *names: str, lineage: str | None = None, options: Sequence[str] = ()) -> Path:
        """Get a certificate; returns its directory in live/."""
        chosen = lineage or names[0].removeprefix("*.")
        words = ["certonly", "--cert-name", chosen, *(word for name in names for word in ("-d", name))]
        words += ["--manual", "--manual-auth-hook", "/bin/true", "--preferred-challenges", "dns"]
        self.run(*words, "--agree-tos", "--register-unsafely-without-email", *options)
        return self.config_directory / "live" / chosen

    def renew(self, hook_environment: Mapping[str, str] | None = None) -> str:
        """Renew everything now; returns what was said.

        Args:
            hook_environment: what certbot's hooks see besides.
        """
        return self.run("renew", "--force-renewal", "--no-random-sleep-on-renew", hook_environment=hook_environment)

    @staticmethod
    def fingerprint(lineage: Path) -> str:
        """Of the certificate that lies in a directory in live/."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert((lineage / "cert.pem").read_text())).hexdigest()

    def delete(self, lineage: str) -> None:
        """Delete a lineage."""
        self.run("delete", "--cert-name", lineage)

    def run(self, *arguments: str, hook_environment: Mapping[str, str] | None = None) -> str:
        """Run certbot to its end and return what it said."""
        own = {"config-dir": self.config_directory, "work-dir": self.directory / "w", "logs-dir": self.directory / "l"}
        options = [word for key, path in own.items() for word in (f"--{key}", str(path))]
        trust = {"REQUESTS_CA_BUNDLE": str(self.trusted), "PYTHONWARNINGS": "ignore"}
        done = run_command(
            [str(find_tool("certbot")), *arguments, *options, "--server", self.server, "--non-interactive"],
            env={**environment(), **trust, **(hook_environment or {})},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@contextlib.contextmanager
def acme_server(directory: Path, authority: Authority) -> Iterator[Certbot]:
    """Start pebble in a directory, and give a certbot that talks to it; pebble is ended afterwards.

    Raises:
        AssertionError: pebble does not start.
    """
    listen, management, http, tls = free_ports(4)
    own = authority.issue(["localhost"])
    files = {"pebble.pem": own.fullchain_pem, "pebble.key": own.key_pem, "trusted.pem": authority.root_pem}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    settings = {
        "listenAddress": f"{LOOPBACK}:{listen}",
        "managementListenAddress": f"{LOOPBACK}:{management}",
        "certificate": str(directory / "pebble.pem"),
        "privateKey": str(directory / "pebble.key"),
        "httpPort": http,
        "tlsPort": tls,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    configuration = directory / "pebble.json"
    configuration.write_text(json.dumps({"pebble": settings}))
    always = {"PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    log = directory / "pebble.log"
    with running([str(find_tool("pebble")), "-config", str(configuration)], log, always) as pebble:
        until(lambda: _accepts(listen), log.read_text, beside=pebble)
        yield Certbot(directory, f"https://localhost:{listen}/dir", directory / "trusted.pem")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
