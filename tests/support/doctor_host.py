"""A mail host in order, to plant faults on that `mailsni doctor` knows; and what such a fault is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Protocol

import pytest

from mailsni.config import parser
from mailsni.doctor.finding import Finding
from mailsni.doctor.runner import CHECKS, examine
from mailsni.host.commands import environment
from mailsni.sandbox.servers import workspace
from tests.support import data
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import DEFAULT_NAME, MailHost

PROGRAMS = Path(sys.executable).parent
INCLUDE = ("mail.*", "imap.*", DEFAULT_NAME)
_FRESH = 5.0
"""Seconds; every program of Postfix waits until main.cf is more than one second old."""


@dataclass
class DoctorHost:
    """The mail host with a system's root of its own, and copies of everything a fault may be planted in.

    Attributes:
        root: where cron's tables and units are looked for.
        spare: a second store, with what a fault may need: expired, self-signed and competing certificates.
    """

    mail_host: MailHost
    directory: Path
    root: Path
    spare: CertbotDirectory
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
    def main_cf(self) -> Path:
        """Postfix's main.cf."""
        return self.mail_host.postfix.config_file

    @property
    def archive(self) -> Path:
        """Where the store's files lie."""
        return self.mail_host.store.archive

    @property
    def hooks(self) -> Path:
        """The directories of certbot's hooks."""
        return self.mail_host.store.root / "renewal-hooks"

    def find(self, *, with_dovecot: bool = False) -> dict[str, Finding]:
        """What the doctor finds, by its code. Dovecot's checks have tests of their own, and take most of the time."""
        checks = [(about, check) for about, check in CHECKS if with_dovecot or about != "Dovecot"]
        settings = parser.load(self.mail_host.config, required=True)
        return {each.code: each for each in examine(settings, datetime.now(UTC), root=self.root, checks=checks)}

    def variables(self) -> dict[str, str]:
        """What the scripts and the expected places of faults may name."""
        lab, live = self.mail_host, self.mail_host.store.live
        paths = {
            "ETC": lab.postfix.config_directory,
            "MAP": lab.map,
            "THEIRS": lab.postfix.config_directory / "theirs",
            "STORE": lab.store.root,
            "LIVE": live,
            "ARCHIVE": self.archive,
            "RENEWAL": lab.store.renewal,
            "HOOKS": self.hooks,
            "INCLUDE": lab.include_file,
            "PINS": lab.pin_directory,
            "PIN": min(lab.pin_directory.iterdir()),
            "STATE": lab.directory / "state",
            "ROOT": self.root,
            "SPARE": self.spare.root,
            "KEPT": self._kept,
            "MAILSNI_CONFIG": lab.config,
        }
        pairs = {"ONE": "one.test", "TWO": "two.test", "DEFAULT_PAIR": DEFAULT_NAME}
        return {
            **{name: str(path) for name, path in paths.items()},
            **{name: f"{live}/{lineage}/privkey.pem {live}/{lineage}/fullchain.pem" for name, lineage in pairs.items()},
            "EXTRA": f"{self.spare.live}/theirs/privkey.pem {self.spare.live}/theirs/fullchain.pem",
            **{service.upper(): str(port) for service, port in lab.postfix.endpoints.items()},
        }

    def shell(self, script: str, **variables: str) -> None:
        """Run a script as an administrator would type it, with the functions of tests/data/doctor/functions.sh.

        Raises:
            AssertionError: it fails.
        """
        code, output = run_script(script, {**self.variables(), **variables})
        assert code in (0, 4), f"{script}: {output}"
        earlier = time.time() - _FRESH
        if self.main_cf.stat().st_mtime > earlier:
            os.utime(self.main_cf, (earlier, earlier))


def run_script(script: str, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a script with the functions of tests/data/doctor/functions.sh; returns its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as output:  # a server that it starts would hold a pipe open
        code = subprocess.run(
            ["/bin/sh", "-c", f"{data.read('doctor/functions.sh')}\n{script}"],
            env={
                **environment(),
                **variables,
                "PATH": f"{PROGRAMS}:{environment()['PATH']}",
                "MAILSNI_STARTED_BY": "cron",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=60,
            check=False,
        ).returncode
        output.seek(0)
        return code, output.read()


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
            mail_host.apply(MAILSNI_STARTED_BY="cron")
            root = shared_tmp / "root"
            (root / "etc/cron.d").mkdir(parents=True)
            yield DoctorHost(mail_host, directory, root, _spare_store(authority, shared_tmp / "spare"))


def _spare_store(authority: Authority, root: Path) -> CertbotDirectory:
    store = CertbotDirectory(root)
    long_ago, recently = (datetime.now(UTC) - timedelta(days=days) for days in (100, 9))
    of_one = ["mail.one.test", "imap.one.test"]
    store.add("extra.test", authority.issue(["mail.extra.test"]))
    of_theirs = ["extra.test", "*.extra.test", "more.test", "further.test", "a.test", "www.old.test"]
    store.add("theirs", authority.issue(of_theirs))
    due = datetime.now(UTC) + timedelta(days=3, hours=1)
    store.add("due", authority.issue(["extra.test"], not_before=due - timedelta(days=90), not_after=due))
    store.add("renewed", authority.issue(of_one))
    store.add("one.test-0001", authority.issue(of_one, not_before=recently))
    store.add("old.test", authority.issue(["www.old.test"], not_before=long_ago))
    store.add("expired", authority.issue([DEFAULT_NAME], not_before=long_ago))
    store.add("self-signed", authority.issue([DEFAULT_NAME], self_signed=True))
    return store


class Host(Protocol):
    """Where a fault is planted."""

    def find(self, *, with_dovecot: bool = False) -> Mapping[str, Finding]:
        """What the doctor finds, by its code."""

    def variables(self) -> Mapping[str, str]:
        """What the scripts and the expected texts of faults may name."""

    def shell(self, script: str, **variables: str) -> None:
        """Run a script with these and further variables."""


@dataclass(frozen=True)
class Fault:
    """How a fault is made, where it must be found, and how its fix is followed: a table of tests/data/doctor/*.toml."""

    code: str
    severity: str
    plant: str
    """A script."""
    where: str
    """The path that the finding must name."""
    line: str | int = 0
    """The line in it, by its number or a text; 0 when the finding must name none."""
    what: str = "*"
    """A pattern (fnmatch(3)), as the next two are."""
    why: str = "*"
    fix: Mapping[str, str] = field(default_factory=dict)
    """By the parts of a fix."""
    before: str = ""
    """What a client gets while the fault is there; empty when no client is asked."""
    mend: str = 'sh -c "$RUN"'
    """A script that does what the fix says: ``$RUN`` is its command, ``$EDIT`` its edit, ``$FILE`` the path."""
    after: str = ""
    """What a client gets after the fix."""
    also: Sequence[str] = ()
    """Codes of what is rightly found besides."""
    left: Sequence[str] = ()
    """Codes of what is rightly found after the fix."""
    on_both: bool = False
    """Whether both releases must be tried."""

    def try_on(self, host: Host) -> None:
        """Plant it, see it named and placed, follow the fix, see nothing any more."""
        self.mend_on(host, self.plant_on(host))

    def plant_on(self, host: Host) -> Finding:
        """Plant it, and see it named and placed."""
        host.shell(self.plant)
        findings = self._find(host)
        assert set(findings) == {self.code, *self.also}, findings
        finding = findings[self.code]
        variables = host.variables()
        path = self._path(host)
        assert (finding.where, finding.severity) == (self._place(path), self.severity), finding
        fix = [(getattr(finding.fix, part) or "", pattern) for part, pattern in self.fix.items()]
        for text, pattern in ((finding.what, self.what), (finding.why, self.why), *fix):
            assert fnmatchcase(text, Template(pattern).substitute(variables)), finding
        return finding

    def mend_on(self, host: Host, finding: Finding) -> None:
        """Follow the fix, and see that nothing is found any more."""
        parts = {"RUN": finding.fix.command or "false", "EDIT": finding.fix.edit or "", "FILE": str(self._path(host))}
        host.shell(self.mend, **parts)
        assert set(self._find(host)) == set(self.left)

    def _find(self, host: Host) -> Mapping[str, Finding]:
        return host.find(with_dovecot=self.code.startswith("dovecot_"))

    def _path(self, host: Host) -> Path:
        return Path(Template(self.where).substitute(host.variables()))

    def _place(self, path: Path) -> str:
        if isinstance(self.line, int):
            return f"{path}:{self.line}" if self.line else str(path)
        number = next(at for at, line in enumerate(path.read_text().splitlines(), 1) if self.line in line)
        return f"{path}:{number}"


def load_faults(name: str) -> list[object]:
    """The faults of a file of tests/data/doctor, as the values of ``pytest.mark.parametrize``."""
    faults = {
        f"{code}-{case}": Fault(code, **table)
        for code, cases in tomllib.loads(data.read(f"doctor/{name}.toml")).items()
        for case, table in cases.items()
    }
    return [
        pytest.param(fault, id=name, marks=[pytest.mark.on_both] if fault.on_both else [])
        for name, fault in faults.items()
    ]
