"""A mail host in order, to plant faults on that `mailsni doctor` knows; and what such a fault is."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from tests.support.mail_host import DEFAULT_NAME, Certbot, MailHost

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
INCLUDE = ("mail.*", "imap.*", DEFAULT_NAME)
_PLACES = ("/etc/cron.d", "/etc/systemd/system", "/var/lib/letsencrypt", "/var/log/letsencrypt")
"""The directories outside of a doctor's host that commands of fixes write to."""
_PATH = re.compile(r"(?<![\w./~])/[\w.@+-][\w./@+-]*(?<!\.)")
NOT_RUNNING = "Fatal: Dovecot is not running"
"""What doveadm says of a reload then; every command before it has done its work."""
_FRESH = 5.0
"""Seconds; every program of Postfix waits until main.cf is more than one second old."""


@dataclass
class DoctorHost:
    """The mail host with a system's root of its own, and copies of everything a fault may be planted in.

    Attributes:
        root: where cron's tables and units are looked for.
        acme: a certbot that works on the store, once there is one.
        spare: a second store, with what a fault may need: expired, self-signed and competing certificates.
    """

    mail_host: MailHost
    directory: Path
    root: Path
    spare: CertbotDirectory
    acme: Certbot | None = None
    _kept: Path = field(init=False)

    def __post_init__(self) -> None:
        self._kept = self.directory / "kept"
        self.keep()

    def keep(self) -> None:
        """From now on this is how it is when everything is in order."""
        shutil.rmtree(self._kept, ignore_errors=True)
        self._kept.mkdir()
        for name, path in self._places().items():
            shutil.copytree(path, self._kept / name, symlinks=True)
        self._configuration = self.mail_host.config.read_bytes()

    def fill_by(self, acme: Certbot) -> None:
        """Let a real certbot add a lineage to the store, which it can renew, and apply that."""
        self.acme = replace(acme, directory=self.mail_host.store.root.parent)
        self.acme.issue("mail.acme.test", lineage="acme.test")
        self.mail_host.apply(MAILSNI_STARTED_BY="cron")
        self.keep()

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
            "DOVECOT_CONF": lab.dovecot.config_file,
            "PINS": lab.pin_directory,
            "PIN": min(lab.pin_directory.iterdir()),
            "STATE": lab.directory / "state",
            "ROOT": self.root,
            "SPARE": self.spare.root,
            "KEPT": self._kept,
            "MAILSNI_CONFIG": lab.config,
            "TEMPLATES": lab.config.with_name("templates"),
            "REPOSITORY": REPOSITORY,
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
        self._settle()

    def run_fix(self, command: str) -> None:
        """Run the command of a fix as a person at a terminal who says yes to every question.

        What it writes below /etc and /var lies below :attr:`root` of this host. Only a reload of Dovecot may fail: here
        it does not run.

        Raises:
            AssertionError: it fails.
        """
        self._settle()
        code, output = run_at_terminal(command, self._trust(), self._mounts())
        assert code in (0, 4) or NOT_RUNNING in output, f"{command}: {output}"
        self._settle()

    def _trust(self) -> dict[str, str]:
        """What lets certbot trust its ACME server."""
        trusted = {"REQUESTS_CA_BUNDLE": str(self.acme.trusted)} if self.acme is not None else {}
        return {"PYTHONWARNINGS": "ignore", **trusted}

    def _mounts(self) -> dict[Path, Path]:
        places = map(Path, _PLACES)
        return {place: self.root / place.relative_to("/") for place in places if place.is_dir()}

    def _settle(self) -> None:
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


def run_at_terminal(
    command: str, variables: Mapping[str, str], mounts: Mapping[Path, Path] | None = None
) -> tuple[int, str]:
    """Run a command line with a terminal for its input, at which somebody says yes to every question.

    Args:
        command: for a POSIX shell.
        variables: of its environment, besides the usual ones.
        mounts: the directories that stand in the place of others, for the command alone.

    Returns:
        Its exit code and what it printed.
    """
    binds = "".join(f"mount --bind {shlex.join(map(str, (own, place)))} && " for place, own in (mounts or {}).items())
    words = ["/bin/sh", "-c", command]
    if mounts:
        words = ["unshare", "--mount", "--", "/bin/sh", "-c", f'{binds}exec /bin/sh -c "$0"', command]
    search = {"PATH": f"{PROGRAMS}:{environment()['PATH']}", "MAILSNI_STARTED_BY": "cron"}
    master, slave = pty.openpty()
    try:
        os.write(master, b"y\n" * 5)
        with tempfile.TemporaryFile("w+") as output:  # a server that it starts would hold a pipe open
            done = subprocess.run(
                words,
                env={**environment(), **variables, **search},
                stdin=slave,
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
            )
            output.seek(0)
            return done.returncode, output.read()
    finally:
        os.close(master)
        os.close(slave)


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
            for place in _PLACES:
                (root / place[1:]).mkdir(parents=True)
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
    store.add("past.test", authority.issue(["mail.past.test"], not_before=long_ago))
    store.add("future.test", authority.issue(["mail.future.test"], not_before=datetime.now(UTC) + timedelta(days=1)))
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

    def run_fix(self, command: str) -> None:
        """Run the command of a fix as it stands."""


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
    edit: str = ""
    """A script that edits what the fix says: ``$EDIT`` is its text, ``$FILE`` the path. Only where it says something:
    its command is run besides, as it stands."""
    after: str = ""
    """What a client gets after the fix."""
    also: Sequence[str] = ()
    """Codes of what is rightly found besides."""
    left: Sequence[str] = ()
    """Codes of what is rightly found after the fix."""
    only: str = ""
    """The release of Dovecot that has it; empty for both."""
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
        """Follow the fix: edit what it says, run its command as it stands, and see that nothing is found any more.

        A file that the edit names exists, unless it is the edit that makes it.
        """
        fix = finding.fix
        assert fix.edit or fix.command or finding.severity == "note", finding
        assert bool(self.edit) is bool(fix.edit), finding
        if fix.edit:
            host.shell(self.edit, EDIT=fix.edit, FILE=str(self._path(host)))
            missing = [path for path in map(Path, _PATH.findall(fix.edit)) if not os.path.lexists(path)]
            assert not missing, finding
        if fix.command:
            host.run_fix(fix.command)
        found = self._find(host)
        assert set(found) == set(self.left), found

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
