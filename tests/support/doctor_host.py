"""A mail host in order, to plant mistakes on that `mailsni doctor` knows; and what such a mistake is."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mailsni.config import parser
from mailsni.doctor.finding import Finding, Severity
from mailsni.doctor.runner import CHECKS, examine
from mailsni.host.commands import environment
from mailsni.sandbox.servers import workspace
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import DEFAULT_NAME, MailHost

PROGRAMS = Path(sys.executable).parent
NAME, OTHER = "mail.one.test", "mail.two.test"
INCLUDE = ("mail.*", "imap.*", DEFAULT_NAME)
LONG_AGO = 1_000_000_000


@dataclass
class DoctorHost:
    """The mail host with a system's root of its own, and copies of everything a mistake may be planted in.

    Attributes:
        root: where cron's tables and units are looked for.
    """

    mail_host: MailHost
    directory: Path
    root: Path
    _kept: Path = field(init=False)

    def __post_init__(self) -> None:
        self._kept = self.directory / "kept"
        self._kept.mkdir()
        for name, path in self._places().items():
            shutil.copytree(path, self._kept / name, symlinks=True)
        self._configuration = self.mail_host.config.read_bytes()

    def _places(self) -> dict[str, Path]:
        lab = self.mail_host
        return {
            "postfix": lab.postfix.config_directory,
            "dovecot": lab.dovecot.config_directory,
            "letsencrypt": lab.store.root,
            "state": lab.directory / "state",
            "root": self.root,
        }

    def put_back(self) -> None:
        """As it was when everything was in order."""
        for name, path in self._places().items():
            shutil.rmtree(path)
            shutil.copytree(self._kept / name, path, symlinks=True)
        self.mail_host.config.write_bytes(self._configuration)

    @property
    def etc(self) -> Path:
        """Postfix's directory."""
        return self.mail_host.postfix.config_directory

    @property
    def main_cf(self) -> Path:
        """Postfix's main.cf."""
        return self.etc / "main.cf"

    @property
    def master_cf(self) -> Path:
        """Postfix's master.cf."""
        return self.etc / "master.cf"

    @property
    def live(self) -> Path:
        """The store."""
        return self.mail_host.store.live

    @property
    def archive(self) -> Path:
        """Where the store's files lie."""
        return self.mail_host.store.archive

    @property
    def hooks(self) -> Path:
        """The directories of certbot's hooks."""
        return self.mail_host.store.root / "renewal-hooks"

    def find(self) -> dict[str, Finding]:
        """What the doctor finds, by its code. Dovecot's checks have tests of their own, and take most of the time."""
        checks = [(about, check) for about, check in CHECKS if about != "Dovecot"]
        settings = parser.load(self.mail_host.config, required=True)
        found = examine(settings, datetime.now(UTC), root=self.root, checks=checks)
        return {one.code: one for one in found}

    def shell(self, line: str) -> str:
        """Run a line as an administrator would type it.

        Raises:
            AssertionError: it fails.
        """
        path = f"{PROGRAMS}:{environment()['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env={
                **environment(),
                "PATH": path,
                "MAILSNI_CONFIG": str(self.mail_host.config),
                "MAILSNI_STARTED_BY": "cron",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 4), f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def postconf(self, *words: str) -> None:
        """Change this main.cf with Postfix's own tool; without words only have it looked at without waiting."""
        if words:
            self.shell(shlex.join(["postconf", "-c", str(self.etc), *words]))
        earlier = time.time() - 5  # every program of Postfix waits until main.cf is more than a second old
        os.utime(self.main_cf, (earlier, earlier))

    def line(self, path: Path, text: str) -> str:
        """``path:LINE`` of the first line with a text."""
        number = next(at for at, line in enumerate(path.read_text().splitlines(), 1) if text in line)
        return f"{path}:{number}"

    def option(self, service: int, option: str) -> str:
        """Give one of the three services of master.cf an option; tells its line."""
        port = list(self.mail_host.postfix.endpoints.values())[service]
        text = self.master_cf.read_text().split("\n")
        at = next(number for number, line in enumerate(text) if line.startswith(f"127.0.0.1:{port} "))
        text.insert(at + 1, f"  -o {option}")
        self.master_cf.write_text("\n".join(text))
        return f"{self.master_cf}:{at + 2}"

    def table(self, *lines: str, kind: str = "hash", compiled: str = "-F", mode: int = 0o600) -> Path:
        """A table of somebody else's besides mailsni's; compiled unless that is empty."""
        source = self.etc / "theirs"
        source.write_text("\n".join(("# made by hand", *lines, "")))
        source.chmod(mode)
        if compiled:
            self.shell(f"postmap -c {self.etc} {compiled if compiled != 'plain' else ''} {kind}:{source}")
        self.postconf("-e", f"tls_server_sni_maps={kind}:{source}, cdb:{self.mail_host.map}")
        return source

    def pair(self, lineage: str) -> str:
        """The right-hand side for a lineage, as it should be."""
        return f"{self.live}/{lineage}/privkey.pem {self.live}/{lineage}/fullchain.pem"

    def entry(self, name: str, lineage: str = "one.test") -> str:
        """A line of a table's source."""
        return f"{name} {self.pair(lineage)}"

    def hook(self, text: str, *, kind: str = "deploy", name: str = "theirs", mode: int = 0o755) -> Path:
        """A hook of somebody else's."""
        path = self.hooks / kind / name
        path.write_text(f"#!/bin/sh\n# a tutorial's\n{text}\n")
        path.chmod(mode)
        return path


@contextmanager
def new_doctor_host(authority: Authority, directory: Path) -> Iterator[DoctorHost]:
    """The mail host in order, applied by what would apply it on a host."""
    default = authority.issue([DEFAULT_NAME])
    with workspace() as shared_tmp:
        store = CertbotDirectory(shared_tmp / "letsencrypt")
        for kind in ("pre", "deploy", "post"):
            (store.root / "renewal-hooks" / kind).mkdir(parents=True)
        store.add(DEFAULT_NAME, default)
        for name in ("one.test", "two.test"):
            store.add(name, authority.issue([f"mail.{name}", f"imap.{name}"]))
        mail_host = MailHost.build(directory, shared_tmp, authority, default, store)
        with mail_host.postfix:  # Dovecot is asked by its tools only
            mail_host.configure(names={"include": list(INCLUDE)})
            done = mail_host.mailsni("apply", MAILSNI_STARTED_BY="cron")
            assert done.returncode == 0, done.stdout + done.stderr
            root = shared_tmp / "root"
            (root / "etc/cron.d").mkdir(parents=True)
            yield DoctorHost(mail_host, directory, root)


Plant = Callable[[DoctorHost], str]
Mend = Callable[[DoctorHost, Finding], None]


@dataclass(frozen=True)
class Mistake:
    """How it is made (which tells where it must be found), and how its fix is followed."""

    code: str
    severity: Severity
    plant: Plant
    mend: Mend
    also: tuple[str, ...] = ()
    """What else is found besides, and rightly."""

    def try_on(self, host: DoctorHost) -> None:
        """Plant it, see it named and placed, follow the fix, see nothing any more."""
        where = self.plant(host)
        found = host.find()
        assert set(found) == {self.code, *self.also}, found
        finding = found[self.code]
        assert (finding.where, finding.severity) == (where, self.severity), finding
        self.mend(host, finding)
        assert host.find() == {}


def run_fix(host: DoctorHost, finding: Finding) -> None:
    """Run the command of a fix."""
    assert finding.fix.command is not None, finding
    host.shell(finding.fix.command)
    if host.main_cf.stat().st_mtime > time.time() - 5:
        host.postconf()


def edit_of(finding: Finding) -> str:
    """What the fix tells a person to change."""
    assert finding.fix.edit is not None, finding
    return finding.fix.edit


def edited(old: str, new: str) -> Mend:
    """The fix is an edit of the other table's source, then a command line."""

    def mend(host: DoctorHost, finding: Finding) -> None:
        source = host.etc / "theirs"
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new.format(live=host.live)))
        run_fix(host, finding)

    return mend


ERROR, WARNING, NOTE = Severity
