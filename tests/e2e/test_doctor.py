"""Each mistake that `mailsni doctor` knows, planted on a real Postfix and a certbot directory: named, placed, mended.

One mail host is made and applied for all of them, and put back as it was after each. Its parts that the doctor reads
lie where everybody can pass through, because who can read what is among the questions.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.doctor.runner import CHECKS, examine
from mailsni.host.commands import environment, find_tool
from mailsni.sandbox.authority import Authority, Issued
from mailsni.sandbox.lineages import CertbotDirectory
from mailsni.sandbox.servers import PrivateDovecot, PrivatePostfix, workspace
from tests.support.mail_host import DEFAULT_NAME, MailHost, require

PROGRAMS = Path(sys.executable).parent
NAME, OTHER = "mail.one.test", "mail.two.test"
INCLUDE = ("mail.*", "imap.*", DEFAULT_NAME)
_LONG_AGO = 1_000_000_000


@dataclass
class Host:
    """The mail_host with a system's root of its own, and copies of everything a mistake may be planted in.

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


@pytest.fixture(scope="module")
def made(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The mail_host in order, applied by what would apply it on a host."""
    require(PrivatePostfix.unavailable())
    require(PrivateDovecot.unavailable())
    default = authority.issue([DEFAULT_NAME])
    directory = tmp_path_factory.mktemp("doctor")
    with workspace() as shared_tmp:
        for name in ("postfix", "dovecot"):
            (shared_tmp / name).mkdir(mode=0o755)
        store = CertbotDirectory(shared_tmp / "letsencrypt")
        for kind in ("pre", "deploy", "post"):
            (store.root / "renewal-hooks" / kind).mkdir(parents=True)
        store.add(DEFAULT_NAME, default)
        for name in ("one.test", "two.test"):
            store.add(name, authority.issue([f"mail.{name}", f"imap.{name}"]))
        dovecot = PrivateDovecot(shared_tmp / "dovecot", default)  # asked by its tools only
        etc = shared_tmp / "postfix" / "etc"
        with PrivatePostfix(shared_tmp / "postfix", default, sni_map=f"cdb:{etc}/mailsni") as postfix:
            mail_host = MailHost(directory, authority, store, postfix, dovecot, default)
            mail_host.configure(names={"include": list(INCLUDE)})
            done = subprocess.run(
                [sys.executable, "-m", "mailsni", "--config", str(mail_host.config), "apply"],
                env={**environment(), "MAILSNI_STARTED_BY": "cron"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            root = shared_tmp / "root"
            (root / "etc/cron.d").mkdir(parents=True)
            yield Host(mail_host, directory, root)


@pytest.fixture
def host(made: Host) -> Iterator[Host]:
    yield made
    made.put_back()


# ── in order ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_everything_is_in_order_nothing_is_found(host: Host) -> None:
    said = host.mail_host.mailsni("doctor")
    assert (said.returncode, said.stdout, said.stderr) == (0, "nothing found\n", "")


# ── the tool for planting ────────────────────────────────────────────────────────────────────────────────────────────

Plant = Callable[[Host], str]
Mend = Callable[[Host, Finding], None]


@dataclass(frozen=True)
class Case:
    """A mistake: how it is made (which tells where it must be found), and how its fix is followed."""

    code: str
    severity: Severity
    plant: Plant
    mend: Mend
    also: tuple[str, ...] = ()
    """What else is found besides, and rightly."""

    def try_on(self, host: Host) -> None:
        """Plant it, see it named and placed, follow the fix, see nothing any more."""
        where = self.plant(host)
        found = host.find()
        assert set(found) == {self.code, *self.also}, found
        finding = found[self.code]
        assert (finding.where, finding.severity) == (where, self.severity), finding
        self.mend(host, finding)
        assert host.find() == {}


def run_fix(host: Host, finding: Finding) -> None:
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

    def mend(host: Host, finding: Finding) -> None:
        source = host.etc / "theirs"
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new.format(live=host.live)))
        run_fix(host, finding)

    return mend


ERROR, WARNING, NOTE = Severity

# ── Postfix ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _no_default(host: Host) -> str:
    host.postconf("-X", "smtpd_tls_chain_files")
    return str(host.main_cf)


def _empty_default(host: Host) -> str:
    host.postconf("-e", "smtpd_tls_chain_files=")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _vanished_default(host: Host) -> str:
    host.postconf("-e", "smtpd_tls_chain_files=/nowhere/chain.pem")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _put_aside(host: Host, finding: Finding) -> None:
    run_fix(host, finding)


def _back_again(host: Host, finding: Finding) -> None:
    assert str(host.live) in finding.what
    host.live.with_name("elsewhere").rename(host.live)


def _renamed(host: Host, finding: Finding) -> None:
    assert "name files that exist" in edit_of(finding)
    host.postconf("-e", f"smtpd_tls_chain_files={host.mail_host.postfix.default_file}")


def _name_left_out(host: Host) -> str:
    host.mail_host.configure(names={"include": ["mail.*", "imap.*"]})
    host.shell("mailsni apply --no-reload")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _included(host: Host, finding: Finding) -> None:
    include = edit_of(finding).partition("include = ")[2]
    host.mail_host.configure(names={"include": json.loads(include)})
    run_fix(host, finding)


def _default_set(host: Host, finding: Finding) -> None:
    """The lineage of the edit is a placeholder."""
    parameter, _, value = edit_of(finding).removeprefix("in main.cf: ").partition(" = ")
    value = value.replace("/etc/letsencrypt/live/NAME", f"{host.live}/{DEFAULT_NAME}")
    host.postconf("-e", f"{parameter}={value}")
    run_fix(host, finding)


def _tls_off(host: Host) -> str:
    host.postconf("-e", "smtpd_tls_security_level=none")
    return host.line(host.main_cf, "smtpd_tls_security_level")


def _type_not_built(host: Host) -> str:
    host.postconf("-e", f"tls_server_sni_maps = gdbm:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _others_type_not_built(host: Host) -> str:
    host.table(host.entry("extra.test"))
    text = host.main_cf.read_text()
    written = f"hash:{host.etc}/theirs, cdb:{host.mail_host.map}"
    host.main_cf.write_text(
        text.replace(written, f"\n  gdbm:{host.etc}/theirs\n# a comment\n  cdb:{host.mail_host.map}")
    )
    host.postconf()
    return host.line(host.main_cf, "gdbm:")


def _own_map_gone(host: Host) -> str:
    host.mail_host.map.with_name("mailsni.cdb").unlink()
    return host.line(host.main_cf, "tls_server_sni_maps")


def _never_compiled(host: Host) -> str:
    host.table(host.entry("extra.test"), compiled="")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _compiled_without_f(host: Host) -> str:
    return f"{host.table(host.entry('extra.test'), compiled='plain')}.db"


def _cdb_without_f(host: Host) -> str:
    return f"{host.table(host.entry('extra.test'), kind='cdb', compiled='plain')}.cdb"


def _garbage(host: Host) -> str:
    compiled = Path(f"{host.table(host.entry('extra.test'))}.db")
    compiled.write_bytes(b"\xff\x00\x1b[31m" * 1000)
    return str(compiled)


def _source_newer(host: Host) -> str:
    source = host.table(host.entry("extra.test"))
    os.utime(f"{source}.db", (time.time() - 60, time.time() - 60))
    for pem in host.archive.rglob("*.pem"):
        os.utime(pem, (_LONG_AGO, _LONG_AGO))
    return str(source)


def _renewed_since(host: Host) -> str:
    source = host.table("# none", f"extra.test {host.pair('one.test')}", f"more.test {host.pair('two.test')}")
    for path in (source, Path(f"{source}.db")):
        os.utime(path, (_LONG_AGO + 60, _LONG_AGO + 60))
    for pem in (host.archive / "one.test").iterdir():
        os.utime(pem, (_LONG_AGO, _LONG_AGO))
    return f"{source}:4"


def _star(host: Host) -> str:
    return f"{host.table('', host.entry('*.extra.test'))}:3"


def _twice(host: Host) -> str:
    pair = host.pair("one.test")
    return f"{host.table(f'extra.test {pair}', f'EXTRA.test  {pair}')}:3"


def _backwards(host: Host) -> str:
    key, chain = host.pair("one.test").split()
    return f"{host.table(f'good.test {key},{chain}', 'extra.test', f'  {chain}', f'  {key}')}:3"


def _turned_round(host: Host, finding: Finding) -> None:
    key, chain = host.pair("one.test").split()
    edited(f"  {chain}\n  {key}", f"  {key}\n  {chain}")(host, finding)


def _without_key(host: Host) -> str:
    return f"{host.table(f'extra.test {host.live}/one.test/fullchain.pem')}:2"


def _dead_file(host: Host) -> str:
    return f"{host.table(host.entry('extra.test', 'gone.test'), host.entry('more.test'))}:2"


def _old_copy(host: Host) -> str:
    old = host.mail_host.authority.issue(["extra.test"], not_before=datetime.now(UTC) - timedelta(days=100))
    pem = host.etc / "old.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(old.key_pem + old.fullchain_pem)
    return f"{host.table(f'extra.test {pem}')}:2"


def _renewed_copy(host: Host, finding: Finding) -> None:
    new = host.mail_host.authority.issue(["extra.test"])
    (host.etc / "old.pem").write_bytes(new.key_pem + new.fullchain_pem)
    run_fix(host, finding)


def _other_has_our_name(host: Host) -> str:
    return f"{host.table(host.entry('extra.test'), host.entry(NAME))}:3"


def _taken_out(host: Host, finding: Finding) -> None:
    assert finding.fix == Fix("mailsni setup --take-over", note="or remove these lines and compile the table again")
    host.table(host.entry("extra.test"))


def _not_named(host: Host) -> str:
    host.postconf("-X", "tls_server_sni_maps")
    return str(host.main_cf)


def _named(host: Host, finding: Finding) -> None:
    assert finding.fix == Fix("mailsni setup")
    host.postconf("-e", f"tls_server_sni_maps=cdb:{host.mail_host.map}")


def _misspelt(host: Host) -> str:
    host.postconf("-X", "tls_server_sni_maps")
    host.postconf("-e", f"tls_server_chain_sni_maps=cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_chain_sni_maps")


def _readable(host: Host) -> str:
    path = host.mail_host.map.with_name("mailsni.cdb")
    path.chmod(0o644)
    return str(path)


def _source_readable(host: Host) -> str:
    source = host.table(host.entry("extra.test"))
    source.chmod(0o644)
    return str(source)


def _directory_writable(host: Host) -> str:
    host.etc.chmod(0o777)
    return str(host.etc)


def _somebodys(host: Host) -> str:
    source = host.table(host.entry("extra.test"))
    os.chown(source, 65534, 0)
    return str(source)


def _typeless(host: Host) -> str:
    host.table(host.entry("extra.test"))
    host.postconf("-e", f"tls_server_sni_maps={host.etc}/theirs, cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _proxied(host: Host) -> str:
    host.table(host.entry("extra.test"))
    host.postconf("-e", f"tls_server_sni_maps=proxy:hash:{host.etc}/theirs, cdb:{host.mail_host.map}")
    return host.line(host.main_cf, "tls_server_sni_maps")


def _with_type(host: Host, finding: Finding) -> None:
    assert f"hash:{host.etc}/theirs" in edit_of(finding)
    host.postconf("-e", f"tls_server_sni_maps=hash:{host.etc}/theirs, cdb:{host.mail_host.map}")


def _open_service(host: Host) -> str:
    """One that is not on loopback, where a content filter may do without."""
    text = host.master_cf.read_text()
    host.master_cf.write_text(f"{text}2525 inet n - n - - smtpd\n  -o smtpd_tls_security_level=none\n")
    return host.line(host.master_cf, "smtpd_tls_security_level=none")


def _corrected(host: Host, finding: Finding) -> None:
    assert "tls_server_sni_maps" in edit_of(finding)
    host.master_cf.write_text(
        host.master_cf.read_text().replace("  -o tls_server_sni_map=", "  -o tls_server_sni_maps=")
    )


def _own_without_f(host: Host) -> str:
    host.shell(f"postmap -c {host.etc} cdb:{host.mail_host.map}")
    return f"{host.mail_host.map}.cdb"


def _other_kind(host: Host) -> str:
    """A btree table under the name of a hash one: both are called .db."""
    source = host.table(host.entry("extra.test"), kind="btree")
    host.postconf("-e", f"tls_server_sni_maps=hash:{source}, cdb:{host.mail_host.map}")
    return f"{source}.db"


def _said_twice(host: Host) -> str:
    first = f"tls_server_sni_maps = hash:{host.etc}/forgotten\n"
    host.main_cf.write_text(first + host.main_cf.read_text())
    host.postconf()
    return f"{host.main_cf}:1"


def _backward_default(host: Host) -> str:
    key, chain = host.pair("one.test").split()
    host.postconf("-e", f"smtpd_tls_chain_files={chain}, {key}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _forward_default(host: Host, finding: Finding) -> None:
    assert "name the key first: smtpd_tls_chain_files = " in edit_of(finding)
    host.postconf("-e", f"smtpd_tls_chain_files={host.pair(DEFAULT_NAME)}")


def _legacy_key_gone(host: Host) -> str:
    host.postconf("-X", "smtpd_tls_chain_files")
    host.postconf(
        "-e", f"smtpd_tls_cert_file={host.live}/{DEFAULT_NAME}/fullchain.pem", "smtpd_tls_key_file=/nowhere/k"
    )
    return host.line(host.main_cf, "smtpd_tls_cert_file")


def _default_of(host: Host, issued: Issued) -> str:
    pem = host.etc / "default.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(issued.key_pem + issued.fullchain_pem)
    host.postconf("-e", f"smtpd_tls_chain_files={pem}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _expired_default(host: Host) -> str:
    old = datetime.now(UTC) - timedelta(days=100)
    return _default_of(host, host.mail_host.authority.issue([DEFAULT_NAME], not_before=old))


def _new_default(host: Host, finding: Finding) -> None:
    assert (finding.fix.command or "").startswith("certbot renew && ")
    (host.etc / "default.pem").write_bytes(host.mail_host.default.key_pem + host.mail_host.default.fullchain_pem)


def _snake_oil(host: Host) -> str:
    return _default_of(host, host.mail_host.authority.issue([DEFAULT_NAME], self_signed=True))


def _once(host: Host, finding: Finding) -> None:
    assert edit_of(finding) == "remove the line"
    host.table(host.entry("a.test"), kind="texthash", compiled="")


def _texthash_twice(host: Host) -> str:
    return f"{host.table(host.entry('a.test'), host.entry('a.test'), kind='texthash', compiled='')}:3"


POSTFIX = [
    Case("default_key_not_first", ERROR, _backward_default, _forward_default),
    Case("default_certificate_unreadable", ERROR, _legacy_key_gone, _renamed),
    Case("map_compiled_without_f", ERROR, _own_without_f, run_fix),
    Case("map_unusable", ERROR, _other_kind, run_fix),
    Case("map_duplicate_key", ERROR, _texthash_twice, _once),
    Case("parameter_duplicated", WARNING, _said_twice, run_fix),
    Case("default_certificate_expired", ERROR, _expired_default, _new_default),
    Case("default_certificate_self_signed", NOTE, _snake_oil, _default_set),
    Case("default_certificate_missing", ERROR, _no_default, _default_set),
    Case("default_certificate_missing", ERROR, _empty_default, _default_set),
    Case("default_certificate_missing", ERROR, lambda host: host.option(1, "smtpd_tls_chain_files="), run_fix),
    Case("default_certificate_unreadable", ERROR, _vanished_default, _renamed),
    Case("default_name_not_in_map", NOTE, _name_left_out, _included),
    Case("tls_off", WARNING, _tls_off, run_fix),
    Case("service_without_tls", WARNING, _open_service, run_fix),
    Case("service_bypasses_map", WARNING, lambda host: host.option(2, "tls_server_sni_maps="), run_fix),
    Case(
        "service_certificate",
        NOTE,
        lambda host: host.option(0, f"{{ smtpd_tls_chain_files = {host.pair('one.test')} }}"),
        run_fix,
    ),
    Case("map_type_unsupported", ERROR, _type_not_built, run_fix),
    Case("map_type_unsupported", ERROR, _others_type_not_built, run_fix),
    Case("map_type_missing", ERROR, _typeless, _with_type),
    Case("map_proxied", WARNING, _proxied, _with_type),
    Case("map_missing", ERROR, _own_map_gone, run_fix),
    Case("map_missing", ERROR, _never_compiled, run_fix),
    Case("map_compiled_without_f", ERROR, _compiled_without_f, run_fix),
    Case("map_compiled_without_f", ERROR, _cdb_without_f, run_fix),
    Case("map_unusable", ERROR, _garbage, run_fix),
    Case("map_older_than_source", WARNING, _source_newer, run_fix),
    Case("map_older_than_certificates", ERROR, _renewed_since, run_fix),
    Case("map_literal_wildcard", WARNING, _star, edited("*.extra", ".extra")),
    Case("map_duplicate_key", WARNING, _twice, edited("EXTRA.test", "further.test")),
    Case(
        "map_certificate_first",
        ERROR,
        _backwards,
        _turned_round,
    ),
    Case("map_key_missing", ERROR, _without_key, edited("test ", "test {live}/one.test/privkey.pem,")),
    Case("map_file_missing", WARNING, _dead_file, edited("gone.test", "two.test")),
    Case("map_expired", ERROR, _old_copy, _renewed_copy),
    Case("name_in_earlier_map", WARNING, _other_has_our_name, _taken_out),
    Case("map_not_configured", WARNING, _not_named, _named),
    Case("parameter_misspelt", ERROR, _misspelt, run_fix, ("map_not_configured",)),
    Case(
        "parameter_misspelt",
        WARNING,
        lambda host: host.option(1, f"tls_server_sni_map=cdb:{host.mail_host.map}"),
        _corrected,
    ),
    Case("map_world_readable", ERROR, _readable, run_fix),
    Case("map_source_world_readable", WARNING, _source_readable, run_fix),
    Case("map_writable", ERROR, _directory_writable, run_fix),
    Case("map_wrong_owner", ERROR, _somebodys, run_fix),
]


@pytest.mark.shared("trixie")
@pytest.mark.parametrize("case", POSTFIX, ids=[f"{one.code}-{at}" for at, one in enumerate(POSTFIX)])
def test_a_mistake_in_postfix_is_named_and_its_fix_mends_it(host: Host, case: Case) -> None:
    case.try_on(host)


# ── the stores ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_key(host: Host) -> str:
    key = host.archive / "one.test" / "privkey1.pem"
    key.chmod(0o644)
    host.archive.chmod(0o755)
    return str(key)


def _loose_key(host: Host) -> str:
    key = host.archive / "two.test" / "privkey1.pem"
    key.chmod(0o644)
    return str(key)


def _open_pin(host: Host) -> str:
    pins = host.mail_host.pin_directory
    pins.chmod(0o755)
    pin = min(pins.iterdir())
    pin.chmod(0o644)
    return str(pin)


def _open_archive(host: Host) -> str:
    path = host.archive / "one.test"
    path.chmod(0o777)
    return str(path)


def _leaf_alone(host: Host) -> str:
    issued = host.mail_host.authority.issue(["mail.alone.test"])
    alone = Issued(issued.key_pem, issued.leaf_pem, b"", issued.leaf_pem, issued.fingerprint, *_rest(issued))
    host.mail_host.store.add("alone.test", alone)
    return str(host.live / "alone.test" / "fullchain.pem")


def _rest(issued: Issued) -> tuple[tuple[str, ...], datetime, datetime]:
    return issued.names, issued.not_before, issued.not_after


def _completed(host: Host, finding: Finding) -> None:
    assert "--cert-name alone.test" in (finding.fix.command or "")
    host.mail_host.store.renew("alone.test", host.mail_host.authority.issue(["mail.alone.test"]))


def _default_alone(host: Host) -> str:
    pem = host.etc / "alone.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(host.mail_host.default.key_pem + host.mail_host.default.leaf_pem)
    host.postconf("-e", f"smtpd_tls_chain_files={pem}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _issuer_added(host: Host, finding: Finding) -> None:
    assert "append the issuer's certificate" in (finding.fix.note or "")
    with (host.etc / "alone.pem").open("ab") as pem:
        pem.write(host.mail_host.default.chain_pem)


def _two_for_a_name(host: Host) -> str:
    issued = host.mail_host.authority.issue([NAME, "imap.one.test"], not_before=datetime.now(UTC) - timedelta(days=9))
    host.mail_host.store.add("one.test-0001", issued)
    return str(host.mail_host.store.renewal / "one.test-0001.conf")


def _deleted(host: Host, finding: Finding) -> None:
    assert finding.fix.command == "certbot delete --cert-name one.test-0001"
    host.mail_host.store.delete("one.test-0001")


def _forgotten(host: Host) -> str:
    (host.mail_host.store.renewal / "one.test.conf").unlink()
    return str(host.live / "one.test")


def _remembered(host: Host, finding: Finding) -> None:
    assert str(host.mail_host.store.renewal / "one.test.conf") in edit_of(finding)
    host.mail_host.store._write_renewal("one.test")


def _dead_lineage(host: Host) -> str:
    old = host.mail_host.authority.issue(["www.old.test"], not_before=datetime.now(UTC) - timedelta(days=100))
    host.mail_host.store.add("old.test", old)
    (host.mail_host.store.renewal / "old.test.conf").unlink()
    return str(host.live / "old.test")


def _torn(host: Host) -> str:
    key = host.archive / "one.test" / "privkey1.pem"
    key.write_bytes(host.mail_host.authority.issue(["x.test"]).key_pem)
    os.utime(key, (_LONG_AGO, _LONG_AGO))
    return str(host.live / "one.test")


def _renewed(host: Host, finding: Finding) -> None:
    assert "certbot renew --cert-name one.test" in (finding.fix.command or "")
    host.mail_host.store.renew("one.test", host.mail_host.authority.issue([NAME, "imap.one.test"]))


def _no_store(host: Host) -> str:
    host.live.rename(host.live.with_name("elsewhere"))
    return str(host.live)


STORES = [
    Case("key_world_readable", ERROR, _open_key, run_fix),
    Case("key_mode_too_open", WARNING, _loose_key, run_fix),
    Case("pin_world_readable", ERROR, _open_pin, run_fix),
    Case("store_writable", ERROR, _open_archive, run_fix),
    Case("chain_incomplete", WARNING, _leaf_alone, _completed),
    Case("chain_incomplete", WARNING, _default_alone, _issuer_added),
    Case("lineages_compete", WARNING, _two_for_a_name, _deleted),
    Case("lineage_not_renewed", WARNING, _forgotten, _remembered),
    Case(
        "lineage_expired_not_renewed",
        WARNING,
        _dead_lineage,
        _put_aside,
    ),
    Case("lineage_key_mismatch", WARNING, _torn, _renewed),
    Case(
        "store_missing",
        ERROR,
        _no_store,
        _back_again,
    ),
]


@pytest.mark.shared
@pytest.mark.parametrize("case", STORES, ids=[f"{one.code}-{at}" for at, one in enumerate(STORES)])
def test_a_mistake_in_a_store_is_named_and_its_fix_mends_it(host: Host, case: Case) -> None:
    case.try_on(host)


# ── hooks, cron, what is left ────────────────────────────────────────────────────────────────────────────────────────


def at_line(path: Path, number: int = 3) -> str:
    return f"{path}:{number}"


def _gone(_: Host, finding: Finding) -> None:
    """The fix is to remove the line, or to write another one there."""
    assert "remove the " in edit_of(finding)
    Path(finding.where.rpartition(":")[0]).write_text("#!/bin/sh\n")


def _link(host: Host) -> str:
    path = host.hooks / "post" / "link"
    path.symlink_to("/nowhere")
    return str(path)


def _in_cli_ini(host: Host) -> str:
    path = host.mail_host.store.root / "cli.ini"
    path.write_text("# certbot's\nmax-log-backups = 0\ndeploy-hook = systemctl restart dovecot.service\n")
    return at_line(path)


def _fifo(host: Host) -> str:
    path = host.hooks / "pre" / "fifo"
    os.mkfifo(path, 0o700)
    return str(path)


def _in_renewal(host: Host) -> str:
    path = host.mail_host.store.renewal / "one.test.conf"
    path.write_text(path.read_text() + "renew_hook = systemctl restart postfix dovecot\n")
    return host.line(path, "renew_hook")


def _renewal_hook_gone(host: Host, finding: Finding) -> None:
    assert "reload" in edit_of(finding)
    host.mail_host.store._write_renewal("one.test")


def _cron(text: str) -> Plant:
    def plant(host: Host) -> str:
        path = host.root / "etc/cron.d/sni"
        path.write_text(f"SHELL=/bin/sh\n\n{text}\n")
        return at_line(path)

    return plant


def _cron_script(host: Host) -> str:
    script = host.root / "root/update-sni"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\nset -e\npostmap -F hash:/etc/postfix/sni\n")
    (host.root / "var/spool/cron/crontabs").mkdir(parents=True)
    (host.root / "var/spool/cron/crontabs/root").write_text("@daily /root/update-sni >/dev/null\n")
    return at_line(script)


def _nothing_starts(host: Host) -> str:
    record = host.mail_host.directory / "state/runs.json"
    record.write_text(record.read_text().replace('"cron"', '"terminal"'))
    return str(host.hooks / "post")


def _timer(host: Host, finding: Finding) -> None:
    assert finding.fix.command == "mailsni setup"
    wanted = host.root / "etc/systemd/system/timers.target.wants"
    wanted.mkdir(parents=True)
    (wanted / "mailsni.timer").symlink_to("/etc/systemd/system/mailsni.timer")


def _deploy_hook_alone(host: Host) -> str:
    _nothing_starts(host)
    return str(host.hook("exec mailsni apply --quiet", name="mailsni"))


def _panel_map(host: Host) -> str:
    source = host.etc / "vmail_ssl.map"
    source.write_text(f"extra.test {host.pair('one.test')}\n")
    source.chmod(0o644)
    host.shell(f"postmap -c {host.etc} -F hash:{source}")
    return str(source)


HOOKS = [
    Case("hook_not_executable", WARNING, lambda host: str(host.hook("true", mode=0o644)), run_fix),
    Case("hook_ignored", NOTE, lambda host: str(host.hook("true", name="theirs~")), run_fix),
    Case("hook_backup_executable", WARNING, lambda host: str(host.hook("true", name="theirs.sh.bak")), run_fix),
    Case("hook_writable", ERROR, lambda host: str(host.hook("true", mode=0o777)), run_fix),
    Case("hook_dangling_link", WARNING, _link, run_fix),
    Case("hook_not_regular_file", WARNING, _fifo, run_fix),
    Case("hook_calls_certbot", WARNING, lambda host: at_line(host.hook("sleep 1; /usr/bin/certbot -q renew")), _gone),
    Case("hook_restarts_server", WARNING, lambda host: at_line(host.hook("systemctl restart nginx dovecot")), _gone),
    Case("hook_restarts_server", WARNING, lambda host: at_line(host.hook("service postfix restart")), _gone),
    Case("hook_restarts_server", WARNING, _in_cli_ini, _gone),
    Case("hook_restarts_server", WARNING, _in_renewal, _renewal_hook_gone),
    Case("hook_compiles_in_place", WARNING, lambda host: at_line(host.hook("postmap -F hash:/etc/postfix/sni")), _gone),
    Case("hook_compiles_without_f", ERROR, lambda host: at_line(host.hook("postmap /etc/postfix/sni_map")), _gone),
    Case("cron_compiles_in_place", WARNING, _cron("0 4 * * * root postmap -F lmdb:/etc/postfix/vmail_ssl.map"), _gone),
    Case("cron_compiles_in_place", WARNING, _cron_script, _gone),
    Case("cron_restarts_server", WARNING, _cron("0 4 * * * root systemctl restart postfix"), _gone),
    Case(
        "cron_panel_script",
        WARNING,
        _cron("0 4 * * * root /usr/local/CyberCP/bin/python /usr/local/CyberCP/plogical/renew.py"),
        _gone,
    ),
    Case("mailsni_not_scheduled", WARNING, _nothing_starts, _timer),
    Case("first_issuance_missed", WARNING, _deploy_hook_alone, _timer),
    Case("leftover_map", ERROR, _panel_map, run_fix),
]


@pytest.mark.shared
@pytest.mark.parametrize("case", HOOKS, ids=[f"{one.code}-{at}" for at, one in enumerate(HOOKS)])
def test_a_mistake_in_what_is_started_is_named_and_its_fix_mends_it(host: Host, case: Case) -> None:
    require(None if find_tool("certbot") else "certbot: not installed")
    case.try_on(host)


# ── what cannot be looked at, and bad input ──────────────────────────────────────────────────────────────────────────


def test_a_main_cf_that_does_not_parse_is_a_finding_and_the_stores_are_looked_at_all_the_same(host: Host) -> None:
    _loose_key(host)
    host.main_cf.write_bytes(host.main_cf.read_bytes() + b"smtpd_tls\xff\x1b[31m thing\n")
    broken = f"{host.main_cf}:{len(host.main_cf.read_bytes().splitlines())}"
    said = host.mail_host.mailsni("doctor", "--json")
    assert said.returncode == 4
    document = json.loads(said.stdout)
    found = {one["code"]: one for one in document["findings"]}
    assert set(found) == {"postfix_unreadable", "key_mode_too_open"}
    assert (found["postfix_unreadable"]["where"], found["postfix_unreadable"]["severity"]) == (broken, "error")
    assert document["counts"] == {"error": 1, "warning": 1, "note": 0}
    assert "\x1b" not in said.stdout
    assert "Traceback" not in said.stderr


def test_text_that_is_no_utf_8_does_no_harm(host: Host) -> None:
    host.main_cf.write_bytes(host.main_cf.read_bytes() + b"# \xff\xfe\nmail_name = \xff\xfeostfix\nsni_\xff = x\n")
    host.postconf()
    found = host.find()
    assert all(one.what.isprintable() and one.where.isprintable() for one in found.values())
    assert "postfix_unreadable" not in found


@pytest.mark.shared
def test_hostile_sources_hooks_and_tables_end_in_findings(host: Host) -> None:
    source = host.table(host.entry("extra.test"))
    source.write_bytes(
        os.urandom(2 << 20).replace(b"\n", b"\n\x1b[2J") + b"\nx.test " + b"/a" * 100_000 + b"\ny" + b" /a" * 3_000_000
    )
    os.mkfifo(host.hooks / "post" / "fifo", 0o755)
    (host.hooks / "pre" / "big").write_bytes(b"postmap " * (10 << 17))
    (host.hooks / "pre" / "big").chmod(0o755)
    (host.hooks / "pre" / "huge").write_bytes(b"x" * (17 << 20))
    (host.hooks / "pre" / "huge").chmod(0o755)
    (host.hooks / "deploy" / "garbage").write_bytes(b"#!\xff\x00\x1b]0;x\x07" * 1000)
    (host.hooks / "deploy" / "garbage").chmod(0o755)
    strange = os.fsencode(host.hooks / "deploy") + b"/a\x1b[2J\n\xff"
    Path(os.fsdecode(strange)).touch(mode=0o600)
    said = host.mail_host.mailsni("doctor")
    assert said.returncode == 4
    assert "\x1b" not in said.stdout
    assert said.stderr == ""
    assert f"{host.hooks}/post/fifo is no regular file" in said.stdout
    assert "huge" in said.stdout
    assert max(map(len, said.stdout.splitlines())) < 3000


def test_no_key_is_in_any_output(host: Host) -> None:
    host.table(host.entry("extra.test"), compiled="plain", mode=0o644)
    _open_key(host)
    said = host.mail_host.mailsni("doctor", "--json")
    lines = [line for key in host.archive.rglob("privkey*.pem") for line in key.read_text().splitlines()[1:-1]]
    assert lines
    assert not any(line in said.stdout + said.stderr for line in lines)


def test_an_unprivileged_user_is_told_what_was_not_seen(host: Host) -> None:
    host.mail_host.config.chmod(0o644)
    copy = host.root / "config.toml"
    copy.write_bytes(host.mail_host.config.read_bytes())
    copy.chmod(0o644)
    command = [sys.executable, "-m", "mailsni", "--config", str(copy), "doctor"]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert f"note: cannot check the store {host.live}" in done.stdout
    assert "run it as root" in done.stdout
    assert "error: " not in done.stdout


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_said_and_the_exit_code(host: Host) -> None:
    _never_compiled(host)
    _forgotten(host)
    said = host.mail_host.mailsni("doctor")
    assert said.returncode == 4
    assert said.stdout.startswith(
        f"error: hash:{host.etc}/theirs: {host.etc}/theirs.db does not exist\n  where: {host.etc}"
    )
    assert said.stdout.endswith("1 error, 1 warning\n")
    quiet = host.mail_host.mailsni("doctor", "-q")
    assert quiet.returncode == 4
    assert "warning" not in quiet.stdout
    assert quiet.stdout.startswith("error: ")


def test_notes_alone_leave_the_exit_code_0(host: Host) -> None:
    host.hook("true", name="theirs~")
    said = host.mail_host.mailsni("doctor")
    assert (said.returncode, said.stdout.splitlines()[-1]) == (0, "1 note")
    assert host.mail_host.mailsni("doctor", "-q").stdout == ""
