"""What the tests of faults stand on: a host to break things on, strace(1) to break them with, an oracle.

A fault host is a certbot directory, a Postfix and a Dovecot with an old deployment on them, and renewals that are
waiting to be published. It is put back to that moment for each fault. The servers need not run: then ``apply`` neither
reloads nor asks, and a fault costs a third of a second.

strace counts the calls of each process for itself: ``when=N`` is the Nth call of *every* process that it follows. So
there are two ways to aim. At the program itself: its children are not followed. At a child: by the files that it
touches before the program does (``-f -P FILE``; calls that touch none of the files are not counted). It cannot be told
to use seccomp (``--seccomp-bpf``): signals on entry of a call are lost then (strace 6.1, measured).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from mailsni.config import parser
from mailsni.deploy import transaction
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import Exit, MailsniError
from mailsni.host.commands import environment, find_tool, require_tool, run
from mailsni.host.files import PRIVATE, PUBLIC, STAGING_NAME
from mailsni.sandbox.authority import Issued
from tests.support.authority import Authority
from tests.support.mail_host import DEFAULT_NAME, MailHost

ALL = os.environ.get("MAILSNI_FAULTS") == "all"
"""Every error at every call: thousands of faults, hours."""

MUTATING = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "syncfs", "sync_file_range", "msync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("truncate", "ftruncate", "fallocate", "utimensat"),
)
"""Calls that change a file system, by whatever name this machine and this libc have for them."""
OPENING = ("open", "openat", "creat")
OTHERS = ("close", "flock", "fcntl", "pipe2", "vfork", "clone", "clone3")
"""Calls that change nothing on a disk, and whose failure must be survived all the same."""
ERRORS = ("EIO", "ENOSPC", "EROFS", "EMFILE", "EACCES", "EDQUOT")
TOLD_TO_STOP = frozenset(128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
CONTRACT = (frozenset(int(code) for code in Exit) | TOLD_TO_STOP) - {Exit.PENDING, Exit.USAGE}
"""What ``apply`` may exit with when nobody made a mistake in the command line."""
UNTOUCHED = frozenset({Exit.FAILED, Exit.ROLLED_BACK, Exit.LOCKED, Exit.NOT_PERMITTED, Exit.CONFIGURATION})
"""Exit codes that say that the previous deployment is live."""
_OF_DOVECOT = "dovecot.conf.binary"
"""Where a Dovecot 2.4 that runs keeps its configuration, with the keys, mode 0600: its own business."""
_SIGNALLED = re.compile(r"killed by SIG|--- SIG(?!CHLD)")
_LOCK_LIMIT = 20.0
_LOST_OUTPUT = 120
"""What Python exits with when it cannot get rid of its output."""
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+(.+?)\s+-----END \1-----", re.DOTALL)
_BLOCK = re.compile(r"^local_name\s+\"?([^\"{]+?)\"?\s*\{(.*?)^\}", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"=\s*<?\s*(/\S+)")
_CALL = re.compile(r"^(?P<call>\w+)\((?P<what>.*)$")
_NO_FILE = re.compile(r"^\d+<(?:pipe|socket|anon_inode|UNIX|TCP)|^[012]<")
_WRITABLE = re.compile(r"\bO_(?:CREAT|WRONLY|RDWR|TRUNC)\b")

Serving = Mapping[str, tuple[str, ...]]
"""Each name with what clients are served for it: for each certificate its key, leaf and chain, without white space."""

SERVICES = ("smtp", "imaps")
Answers = Mapping[str, Mapping[str, str]]
"""The fingerprints that clients get, by service, then by name."""


def materials(pem: str) -> tuple[str, ...]:
    """The keys in a text, each with the certificates that follow it; in a fixed order."""
    found: list[str] = []
    for kind, body in _PEM.findall(pem):
        text = f"{kind}:{''.join(body.split())};"
        if "PRIVATE" in kind:
            found.append(text)
        else:
            assert found, "a certificate comes before any key"
            found[-1] += text
    return tuple(sorted(found))


@dataclass(frozen=True)
class FaultCertificates:
    """The certificates of a fault host; hosts with the same certificates make the same calls in the same order."""

    authority: Authority
    default: Issued
    before: Mapping[str, Issued]
    """What is deployed, by lineage."""
    after: Mapping[str, Issued]
    """What lies in the store when a fault happens."""

    @classmethod
    def of(cls, authority: Authority) -> FaultCertificates:
        """A name for everything that can happen: it stays, is renewed, goes, comes; RSA, ECDSA, both."""
        before = {
            "stays": authority.issue(["mail.stays.test", "imap.stays.test"]),
            "rsa": authority.issue(["mail.rsa.test"], algorithm="rsa"),
            "both": authority.issue(["mail.both.test"]),
            "both-rsa": authority.issue(["mail.both.test"], algorithm="rsa"),
            "renewed": authority.issue(["mail.renewed.test"]),
            "gone": authority.issue(["mail.gone.test"]),
        }
        after = {lineage: issued for lineage, issued in before.items() if lineage != "gone"}
        after["renewed"] = authority.issue(["mail.renewed.test"])
        after["both"] = authority.issue(["mail.both.test"])
        after["added"] = authority.issue(["mail.added.test", "smtp.added.test"])
        return cls(authority, authority.issue([DEFAULT_NAME]), before, after)

    @property
    def old(self) -> Serving:
        """What is served before."""
        return _by_name(self.before)

    @property
    def new(self) -> Serving:
        """What is served afterwards."""
        return _by_name(self.after)

    @property
    def names(self) -> tuple[str, ...]:
        """All the names that are served before or afterwards."""
        return tuple(sorted({*self.old, *self.new}))

    def allows(self, served: Serving) -> bool:
        """Whether each name has the old or the new, as when a store cannot be read and what it had is kept."""
        return all(served.get(name) in (self.old.get(name), self.new.get(name)) for name in self.names)

    def answers(self, *, new: bool) -> Answers:
        """What clients of running servers get: of two certificates the ECDSA one, the default one where there is none.

        Args:
            new: afterwards instead of before.
        """
        lineages = list((self.after if new else self.before).values())
        shown = {name: issued.fingerprint for issued in reversed(lineages) for name in issued.names}
        names = {name: shown.get(name, self.default.fingerprint) for name in self.names}
        return dict.fromkeys(SERVICES, names)

    def needles(self) -> tuple[bytes, ...]:
        """What tells that a file holds one of the keys: lines of it, and those as they are in a base64 of it."""
        found = []
        for issued in {id(one): one for one in (*self.before.values(), *self.after.values())}.values():
            lines = [line for line in issued.key_pem.splitlines() if len(line) == 64]
            for line in (lines[0], lines[-1]):
                found.append(line)
                for shift in range(3):
                    found.append(base64.b64encode(b"\0" * shift + line)[4:-4])
        return tuple(found)


def _by_name(lineages: Mapping[str, Issued]) -> Serving:
    names: dict[str, str] = {}
    for issued in lineages.values():
        for name in issued.names:
            names[name] = names.get(name, "") + (issued.key_pem + issued.fullchain_pem).decode()
    return {name: materials(pem) for name, pem in names.items()}


@dataclass
class FaultHost:
    """A deployment with renewals waiting, which can be put back to that moment.

    Attributes:
        directory: everything of it, and nothing else, lies below.
        finished: what must lie below once everything has been published: the modes, by relative path.
    """

    directory: Path
    certificates: FaultCertificates
    mail_host: MailHost
    finished: dict[str, int] = field(default_factory=dict)

    @classmethod
    def build(cls, directory: Path, certificates: FaultCertificates, map_type: str = "cdb") -> FaultHost:
        """Deploy what is to be old, then renew, add and delete in the store, and keep a copy of that moment.

        Args:
            directory: is made.
            certificates: what there is to deploy.
            map_type: of Postfix's map.
        """
        (directory / "own").mkdir(mode=0o755, parents=True)
        directory.chmod(0o755)
        # A reload of Dovecot's default login processes cuts off who connects at that moment: no fault of a run.
        mail_host = MailHost.build(
            directory / "own",
            directory,
            certificates.authority,
            certificates.default,
            map_type=map_type,
            lasting_logins=True,
        )
        host = cls(directory, certificates, mail_host)
        for lineage, issued in certificates.before.items():
            mail_host.store.add(lineage, issued)
        host.apply()
        assert host.served() == (certificates.old, certificates.old)
        for lineage in {*certificates.before, *certificates.after}:
            if lineage not in certificates.after:
                mail_host.store.delete(lineage)
            elif lineage not in certificates.before:
                mail_host.store.add(lineage, certificates.after[lineage])
            elif certificates.before[lineage] is not certificates.after[lineage]:
                mail_host.store.renew(lineage, certificates.after[lineage])
        host._keep()
        host.apply()
        assert host.served() == (certificates.new, certificates.new)
        host.finished = host.listing()
        host.restore()
        return host

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.mail_host.directory / "state"

    @property
    def _places(self) -> dict[str, Path]:
        """The directories that ``apply`` writes in, and what their copies are called."""
        return {
            "postfix": self.mail_host.postfix.config_directory,
            "dovecot": self.mail_host.dovecot.config_directory,
            "state": self.state,
        }

    @property
    def _copies(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.copies")

    def _keep(self) -> None:
        self._copies.mkdir(mode=0o700)
        for name, place in self._places.items():
            shutil.copytree(place, self._copies / name, symlinks=True)

    def restore(self) -> None:
        """Put everything that ``apply`` writes back to the moment before it."""
        for name, place in self._places.items():
            shutil.rmtree(place)
            shutil.copytree(self._copies / name, place, symlinks=True)

    def apply(self) -> ApplyResult:
        """A run without a fault, in this process: most of the time of a run of its own would be its start.

        It may have to wait for the lock: a child that another thread is just starting has inherited it for a moment.
        """
        settings = parser.load(self.mail_host.config, required=True)
        return transaction.run(settings, Options(), wait=_LOCK_LIMIT)

    def listing(self) -> dict[str, int]:
        """The modes of all that lies in the places that ``apply`` writes in, by relative path.

        But for the record of the last run, which nothing depends on.
        """
        found = (path for place in self._places.values() for path in (place, *place.rglob("*")))
        found = (path for path in found if path.name not in ("runs.json", ".runs.json.new"))
        return {str(path.relative_to(self.directory)): path.lstat().st_mode for path in found}

    # ── what is served ───────────────────────────────────────────────────────────────────────────────────────────

    def served(self) -> tuple[Serving, Serving]:
        """What Postfix and Dovecot would serve if they were started now.

        Raises:
            AssertionError: one of them could not.
        """
        return self.served_by_postfix(), self.served_by_dovecot()

    def answers(self) -> Answers:
        """What clients of the running servers get, as openssl(1) sees it."""
        pairs = [(service, name) for service in SERVICES for name in self.certificates.names]
        with ThreadPoolExecutor(4) as pool:
            shown = dict(zip(pairs, pool.map(lambda pair: self.mail_host.served(*pair), pairs), strict=True))
        return {service: {name: shown[service, name] for name in self.certificates.names} for service in SERVICES}

    def served_by_postfix(self) -> Serving:
        """What the live map holds, as postmap(1) reads it.

        Raises:
            AssertionError: it cannot be read.
        """
        done = run(
            [require_tool("postmap"), "-c", self.mail_host.postfix.config_directory, "-q", "-", self.mail_host.table],
            stdin="".join(f"{name}\n" for name in self.certificates.names).encode(),
        )
        assert done.returncode == 0, f"postmap -q exited {done.returncode}: {done.stderr}"
        lines = (line.partition(b"\t") for line in done.stdout.splitlines())
        texts = {name.decode(): value for name, _, value in lines}
        if self.mail_host.map_type == "texthash":
            return {name: _content(value.decode().replace(",", " ").split()) for name, value in texts.items()}
        return {name: materials(base64.b64decode(value).decode()) for name, value in texts.items()}

    def served_by_dovecot(self) -> Serving:
        """What the files hold that the live include names; Dovecot reads its whole configuration.

        Raises:
            AssertionError: Dovecot would not start with it.
        """
        main = self.mail_host.dovecot.config_file
        done = run([require_tool("doveconf"), "-c", main, "-n", "-x"], discard=True)
        assert done.returncode == 0, f"doveconf exited {done.returncode}: {done.stderr}"
        text = self.mail_host.include_file.read_text()
        blocks = {names: _content(dict.fromkeys(_FILE.findall(body))) for names, body in _BLOCK.findall(text)}
        return {name: content for names, content in blocks.items() for name in names.split()}

    # ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────

    def complaints(self, ended: Ended) -> list[str]:
        """What is wrong after a run that was hit by a fault."""
        found = [*ended.complaints(self.certificates), *self._misplaced_keys(), *self._wrong_modes()]
        live = {}
        for server, look in (("postfix", self.served_by_postfix), ("dovecot", self.served_by_dovecot)):
            try:
                live[server] = look()
            except (AssertionError, OSError, ValueError) as error:
                found.append(f"{server} could not be started: {error}")
                continue
            skipped = ended.status == Exit.SKIPPED
            whole = live[server] in (self.certificates.old, self.certificates.new)
            if not (self.certificates.allows(live[server]) if skipped else whole):
                found.append(
                    f"{server} would serve neither old nor new: {_difference(self.certificates, live[server])}"
                )
            if ended.status == Exit.DONE and live[server] != self.certificates.new:
                found.append(f"exit {ended.status}, and {server} would not serve the new")
            if ended.status in UNTOUCHED and live[server] != self.certificates.old:
                found.append(f"exit {ended.status} says that the old is live, and {server} would not serve it")
        return found + self._wrong_record(live, ended)

    def _wrong_record(self, live: Mapping[str, Serving], ended: Ended) -> list[str]:
        """The record must be true, unless a journal says that it may not be."""
        if (self.state / "journal.json").exists():
            settled = ended.status in UNTOUCHED and ended.may_write
            return [f"exit {ended.status}, and the journal is still there"] if settled else []
        try:
            names = json.loads((self.state / "deployment.json").read_bytes())["content"]["names"]
        except (OSError, ValueError, KeyError) as error:
            return [f"neither a journal nor a record of what is live: {error}"]
        recorded = {
            name: tuple(sorted(text for ident in idents for text in self._pinned(ident)))
            for name, idents in names.items()
        }
        return [
            f"the record does not tell what {server} would serve, and no journal says so"
            for server, served in live.items()
            # A server that would not start is left out, which the exit code says: it keeps what it has.
            if served != recorded and not (ended.status == Exit.SKIPPED and served == self.certificates.old)
        ]

    def _pinned(self, ident: str) -> tuple[str, ...]:
        path = self.mail_host.pin_directory / f"{ident}.pem"
        return materials(path.read_text()) if path.exists() else (f"{path.name} is not there",)

    def _misplaced_keys(self, *, settled: bool = False) -> list[str]:
        needles = self.certificates.needles()
        return [
            f"a key lies in {path.relative_to(self.directory)}, mode {stat.S_IMODE(path.stat().st_mode):04o}"
            for path in _regular_files(self.directory)
            if not path.is_relative_to(self.mail_host.store.archive)
            and path.name != _OF_DOVECOT
            and any(needle in content for content in [path.read_bytes()] for needle in needles)
            and not self._may_hold_keys(path, settled=settled)
        ]

    def _may_hold_keys(self, path: Path, *, settled: bool) -> bool:
        status, above = path.stat(), path.parent.stat()
        private = stat.S_IMODE(status.st_mode) == PRIVATE and status.st_uid == os.geteuid()
        if path.parent.name.startswith(STAGING_NAME):
            return private and not settled and stat.S_IMODE(above.st_mode) == 0o700 and above.st_uid == os.geteuid()
        compiled = path.parent == self.mail_host.map.parent and path.stem == self.mail_host.map.name
        pinned = path.parent == self.mail_host.pin_directory and stat.S_IMODE(above.st_mode) == 0o700
        return private and (compiled or pinned)

    def _wrong_modes(self) -> list[str]:
        wanted = {self.mail_host.map: PRIVATE, self.mail_host.include_file: PUBLIC}
        if self.mail_host.map_type != "texthash":
            wanted |= dict.fromkeys(self.mail_host.map.parent.glob("mailsni.*"), PRIVATE)
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in wanted if path.exists()}
        return [f"{path.name} has mode {mode:04o}" for path, mode in modes.items() if mode != wanted[path]]

    def convergence(self) -> list[str]:
        """What is wrong after a run without a fault, and after one more. Both are made here."""
        try:
            self.apply()
            again = self.apply()
            live = self.served()
        except (MailsniError, OSError, AssertionError) as error:
            return [f"the next run failed: {error!r}"]
        found = [f"a key stays: {one}" for one in self._misplaced_keys(settled=True)]
        if live != (self.certificates.new, self.certificates.new):
            found.append("the next run did not make both servers serve the new")
        if again.reloads is not None or again.published:
            found.append("the run after the next did not find everything as it should be")
        lying, finished = self.listing().items(), self.finished.items()
        found += [f"the next run leaves {path}, mode {mode:o}" for path, mode in sorted(lying - finished)]
        found += [f"the next run lacks {path}, mode {mode:o}" for path, mode in sorted(finished - lying)]
        return found


def _content(paths: Iterable[str]) -> tuple[str, ...]:
    return materials("\n".join(Path(path).read_text() for path in paths))


def _regular_files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if stat.S_ISREG(path.lstat().st_mode))


def _difference(certificates: FaultCertificates, served: Serving) -> str:
    words = []
    for name in certificates.names:
        states = [
            word
            for word, side in (("old", certificates.old), ("new", certificates.new))
            if side.get(name) == served.get(name)
        ]
        words.append(f"{name}: {'='.join(states) or ('missing' if name not in served else 'something else')}")
    return ", ".join(words)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: its exit status; None when it was killed.
        talk: all that it said.
        killed: the signal that killed it.
        may_write: whether it still could write and remove files at its end.
        hit: whether the fault happened.
        mute: whether it could write nothing from some moment on, not even to /dev/null.
    """

    status: int | None
    talk: str
    killed: int | None = None
    may_write: bool = True
    hit: bool = True
    mute: bool = False

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Ended:
        """How a run ended that was not traced."""
        return cls(done.returncode if done.returncode >= 0 else None, done.stdout + done.stderr)

    def complaints(self, certificates: FaultCertificates) -> list[str]:
        """What is wrong with that alone."""
        found = []
        unheard = self.mute and self.status == _LOST_OUTPUT
        if self.status is not None and self.status not in CONTRACT and not unheard:
            found.append(f"exit {self.status} is none of the contract's")
        if "Traceback" in self.talk:
            found.append(f"a traceback: {self.talk.strip().splitlines()[-1]}")
        if "PRIVATE KEY" in self.talk or any(needle in self.talk.encode() for needle in certificates.needles()):
            found.append("a key in what it said")
        return found


# ---------------------------------------------------------------------------------------------------------------------
# strace


@dataclass(frozen=True)
class Call:
    """A system call of a run without a fault.

    Attributes:
        name: of the call.
        number: it is the how manieth of its name in its process, from 1.
        process: 0 for the program itself, 1 for its first child, and so on.
        what: its arguments, as strace shows them, with paths relative to the fault host.
    """

    name: str
    number: int
    process: int
    what: str

    @property
    def mutating(self) -> bool:
        """Whether it changes a file system."""
        if self.name in OPENING:
            return _WRITABLE.search(self.what) is not None
        return self.name in MUTATING and _NO_FILE.match(self.what) is None

    def __str__(self) -> str:
        shown = re.sub(r"[0-9a-f]{56}-[0-9a-f]{16}", "…", self.what)
        return f"{self.name} #{self.number} ({shown[:150]})"


@dataclass(frozen=True)
class Fault:
    """What is done to a run.

    Attributes:
        call: at which call.
        action: what strace does there, in its words: ``signal=SIGKILL``, ``error=EIO``.
        persistent: that call and every later one of its name.
        only: files, relative to the fault host; calls that touch none of them are not counted.
    """

    call: Call
    action: str
    persistent: bool = False
    only: tuple[str, ...] = ()

    @property
    def deadly(self) -> bool:
        """Whether it kills the process that it hits."""
        return self.action == "signal=SIGKILL"

    def options(self, host: FaultHost) -> list[str]:
        """What strace is told."""
        when = f"{self.call.number}{'+' if self.persistent else ''}"
        return [*_aimed(host, self.only), *traced(self.call.name, self.action, when)]

    def __str__(self) -> str:
        return f"{self.action}{' from then on' if self.persistent else ''} at {self.call}"


def strace_unavailable() -> str | None:
    """Why it cannot be used here; None when it can."""
    return None if find_tool("strace") else "strace: not installed"


def traced(call: str, action: str, when: int | str) -> list[str]:
    """What strace is told to do something at a call, and to look at no other."""
    return ["-e", f"trace={call}", "-e", f"inject={call}:{action}:when={when}"]


def _aimed(host: FaultHost, only: Sequence[str]) -> list[str]:
    """How strace is told to follow children, where they touch these files. Without files: not to."""
    return ["-f", *(word for path in only for word in ("-P", str(host.directory / path)))] if only else []


class Runner:
    """A process that runs ``mailsni`` under strace: see fault_runner.py."""

    def __init__(self, host: FaultHost, *, umask: int = -1) -> None:
        self.host = host
        self.log = host.mail_host.directory / "strace.log"
        self._output = host.mail_host.directory / "output"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_runner"],
            env=environment() | {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "COLUMNS": "120"},
            cwd=Path(__file__).parents[2],
            umask=umask,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass  # it ends with its standard input

    def apply(self, strace: Sequence[str], *arguments: str) -> Ended:
        """Run ``mailsni apply`` with these options of strace around it; the calls are in the log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        argv = ["mailsni", "--config", str(self.host.mail_host.config), "apply", *arguments]
        order = {"argv": argv, "strace": list(strace), "output": str(self._output), "log": str(self.log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status, killed = json.loads(self._process.stdout.readline())
        return Ended(status, self._output.read_text(errors="replace"), killed=killed)

    def calls(self, names: Sequence[str], only: Sequence[str] = ()) -> list[Call]:
        """The system calls of these names that a run without a fault makes, in their order.

        Args:
            names: of the calls.
            only: files, relative to the fault host: the calls that touch one of them, of the children too.
        """
        self.host.restore()
        trace = "trace=" + ",".join(f"?{name}" for name in names)
        ended = self.apply([*_aimed(self.host, only), "-e", trace])
        assert ended.status == 0, ended.talk
        found = parse(self.log.read_text(errors="replace"), self.host, followed=bool(only))
        self.host.restore()
        return found

    def hit(self, fault: Fault, *, restored: bool = False) -> Ended:
        """Restore the fault host, if that has not been done, and run ``apply`` into a fault."""
        if not restored:
            self.host.restore()
        ended = self.apply(fault.options(self.host))
        log = self.log.read_text(errors="replace")
        happened = "INJECTED" in log or _SIGNALLED.search(log) is not None
        mute = fault.persistent and fault.call.name == "write"
        return replace(ended, may_write=not fault.persistent, hit=happened, mute=mute)


def parse(text: str, host: FaultHost, *, followed: bool) -> list[Call]:
    """The calls in a log of strace; one that is cut in two by another process counts where it begins.

    Args:
        text: the log.
        host: whose paths are shortened.
        followed: each line begins with the number of a process.
    """
    processes: dict[str, int] = {}
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in text.splitlines():
        pid, rest = line.split(maxsplit=1) if followed else ("", line)
        processes.setdefault(pid, len(processes))
        match = _CALL.match(rest)
        if match is None:
            continue
        name = match["call"]
        counts[pid, name] = counts.get((pid, name), 0) + 1
        what = match["what"].replace(f"{host.directory}/", "").replace(str(host.directory), ".")
        found.append(Call(name, counts[pid, name], processes[pid], what))
    return found
