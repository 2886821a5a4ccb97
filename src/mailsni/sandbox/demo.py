"""``mailsni demo``: the whole job in a sandbox, with real servers where this host has them.

Everything happens in one temporary directory: a throw-away authority, a certbot directory with good, renewed, broken
and wildcard lineages, and private instances of Postfix and Dovecot on free loopback ports. The host's own mail
configuration is neither read nor written. The commands it shows are the program itself, run as a person would.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import cast, get_args

from mailsni.config.settings import MapType
from mailsni.errors import HostError
from mailsni.host.commands import find_tool
from mailsni.host.commands import run as run_tool
from mailsni.host.templates import render
from mailsni.output import console
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.model import Probe
from mailsni.probes.tls_client import run_probes
from mailsni.sandbox.authority import Authority, Issued
from mailsni.sandbox.lineages import CertbotDirectory
from mailsni.sandbox.servers import LOOPBACK, PrivateDovecot, PrivatePostfix, PrivateServer, workspace
from mailsni.targets.postfix import map_read
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.postconf import Installation

_TIMEOUT = 10.0
_DEFAULT = "default certificate"
_UNKNOWN_NAME = "mail.unknown.test"
_BROKEN_NAME = "mail.delta.test"
_Answer = tuple[str | None, str]
"""The fingerprint of a certificate; and what to show where that is unknown."""
_SHOWN_SERVICES = ("smtp", "smtps", "imap", "imaps")
_LINEAGES = """\
  alpha.test        ECDSA, for mail., imap. and www.
  beta.test-0001    RSA, for mail.
  gamma.test        a wildcard, *.gamma.test
  delta.test        broken: the key of another certificate
  www.epsilon.test  for a web site, without a mail name"""


@dataclass
class _Sandbox:
    """The temporary directory and what was put into it."""

    directory: Path
    authority: Authority
    store: CertbotDirectory
    default: Issued
    postfix: PrivatePostfix | None = None
    dovecot: PrivateDovecot | None = None
    lineages: dict[str, str] = field(default_factory=dict)
    """Whose certificate has which fingerprint."""
    expected: dict[str, str] = field(default_factory=dict)
    """The fingerprint that each name must be served."""

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def map(self) -> Path:
        return self.directory / "postfix" / "etc" / "mailsni"

    def add(self, lineage: str, issued: Issued, *served: str) -> None:
        self.lineages[issued.fingerprint] = lineage
        self.store.save(lineage, issued)
        self.expected |= dict.fromkeys(served, issued.fingerprint)


def run() -> bool:
    """Show the whole job on standard output.

    Returns:
        Whether every name got the right certificate, from the servers or from the map.

    Raises:
        HostError: neither Postfix nor the berkeleydb package is there, so that no map can be made.
    """
    _require_map_maker()
    with workspace() as directory, ExitStack() as stack:
        authority = Authority()
        default = authority.issue(["mx.host.test"])
        sandbox = _Sandbox(directory, authority, CertbotDirectory(directory / "letsencrypt"), default)
        sandbox.lineages[default.fingerprint] = _DEFAULT
        _heading("The sandbox: this host is not touched")
        _start_servers(sandbox, stack)
        _write_configuration(sandbox)
        _issue(sandbox)
        return _show(sandbox)


def _show(sandbox: _Sandbox) -> bool:
    _heading("The plan, and the first apply")
    _mailsni(sandbox, "plan")
    _mailsni(sandbox, "apply")
    _heading("Every name, and every certificate that is not served")
    _mailsni(sandbox, "status", "--skipped")
    right = _what_is_served(sandbox)
    _heading("certbot renews alpha.test: the plan, and the second apply")
    renewed = sandbox.authority.issue(["mail.alpha.test", "imap.alpha.test"])
    sandbox.lineages[renewed.fingerprint] = "alpha.test, renewed"
    sandbox.store.save("alpha.test", renewed, version=2)
    sandbox.expected |= dict.fromkeys(renewed.names, renewed.fingerprint)
    _mailsni(sandbox, "plan")
    _mailsni(sandbox, "apply")
    right = _what_is_served(sandbox) and right
    _heading("A third apply changes nothing, and why a name gets its certificate")
    _mailsni(sandbox, "apply", "--quiet")
    _mailsni(sandbox, "plan")
    _mailsni(sandbox, "explain", "mail.gamma.test")
    console.print_line()
    console.print_line(f"{'Every name gets' if right else 'NOT every name gets'} the right certificate.")
    console.print_line("The sandbox is gone; the host's mail configuration was not touched.")
    return right


def _heading(line: str) -> None:
    console.print_line()
    console.print_line(f"== {line}")
    console.print_line()


def _start_servers(sandbox: _Sandbox, stack: ExitStack) -> None:
    for kind in ("postfix", "dovecot"):
        (sandbox.directory / kind / "etc" / "conf.d").mkdir(parents=True)
        for directory in (sandbox.directory / kind, sandbox.directory / kind / "etc"):
            directory.chmod(0o755)
    if (reason := PrivatePostfix.unavailable()) is None:
        directory = sandbox.directory / "postfix"
        sandbox.postfix = stack.enter_context(
            PrivatePostfix(directory, sandbox.default, sni_map=f"{_map_type()}:{sandbox.map}")
        )
        _introduce("Postfix", sandbox.postfix)
    else:
        console.print_line(f"Postfix: not started ({reason}); the map is read back instead")
        # postmap and postconf, where they are installed, want a configuration to read.
        (sandbox.map.parent / "main.cf").write_text("compatibility_level = 3.6\n")
    if (reason := PrivateDovecot.unavailable()) is None:
        sandbox.dovecot = stack.enter_context(PrivateDovecot(sandbox.directory / "dovecot", sandbox.default))
        _introduce("Dovecot", sandbox.dovecot)
    else:
        console.print_line(f"Dovecot: not started ({reason}); its include is written, but no server reads it")


def _introduce(name: str, server: PrivateServer) -> None:
    ports = ", ".join(f"{service} {port}" for service, port in server.endpoints.items())
    console.print_line(f"{name}: a private instance on {LOOPBACK}: {ports}")


def _map_type() -> MapType:
    """The type that the installed Postfix makes by default, for hash is going away; hash where there is none."""
    postconf = find_tool("postconf")
    if postconf is None:
        return "hash"
    default = run_tool([postconf, "-dh", "default_database_type"]).stdout.decode("ascii", "replace").strip()
    return cast("MapType", default) if default in get_args(MapType) else "lmdb"


def _write_configuration(sandbox: _Sandbox) -> None:
    if sandbox.dovecot is None:
        (sandbox.directory / "dovecot/etc/dovecot.conf").write_text("!include_try conf.d/*.conf\n")
    installed = find_tool("dovecot") is not None
    values = {"directory": sandbox.directory, "map_type": _map_type(), "dovecot_is_installed": installed}
    sandbox.config.write_bytes(render("sandbox/config.toml.j2", None, **values))


def _issue(sandbox: _Sandbox) -> None:
    issue = sandbox.authority.issue
    names = ("mail.alpha.test", "imap.alpha.test")
    two_months_ago = datetime.now(UTC) - timedelta(days=60)
    sandbox.add("alpha.test", issue([*names, "www.alpha.test"], not_before=two_months_ago), *names)
    sandbox.add("beta.test-0001", issue(["mail.beta.test"], algorithm="rsa"), "mail.beta.test")
    wildcard = issue(["*.gamma.test", "gamma.test"])
    sandbox.add("gamma.test", wildcard, "mail.gamma.test", "smtp.gamma.test")
    broken = issue([_BROKEN_NAME])
    sandbox.store.save("delta.test", broken)
    # The key of another certificate beside the chain: what a renewal that was cut off leaves.
    sandbox.store.path("delta.test", "privkey").resolve().write_bytes(wildcard.key_pem)
    sandbox.expected |= dict.fromkeys((_BROKEN_NAME, _UNKNOWN_NAME), sandbox.default.fingerprint)
    sandbox.add("www.epsilon.test", issue(["www.epsilon.test"]))
    console.print_line(f"certbot directory: {sandbox.store.live}")
    console.print_line(_LINEAGES)


def _mailsni(sandbox: _Sandbox, *arguments: str) -> None:
    console.print_line(f"$ mailsni {' '.join(arguments)}")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "mailsni", "--config", str(sandbox.config), *arguments], check=False)
    console.print_line(f"(exit code {done.returncode})")
    console.print_line()


def _what_is_served(sandbox: _Sandbox) -> bool:
    """Show which certificate every name gets, and return whether all are right."""
    right = True
    if endpoints := list(_endpoints(sandbox)):
        columns = [endpoint.protocol.upper() for endpoint in endpoints]
        names = [*sorted(sandbox.expected), ""]
        probes = [Probe(endpoint, name or None) for name in names for endpoint in endpoints]
        results = iter(run_probes(probes, timeout=_TIMEOUT))
        answers = {
            name: [(each.fingerprint, each.detail) for each in islice(results, len(endpoints))] for name in names
        }
        right = _table(sandbox, "probed as a mail client does", columns, answers)
    if sandbox.postfix is None:
        right = _table(sandbox, "read back from the compiled Postfix map", ["IN THE MAP"], _map(sandbox)) and right
    return right


def _endpoints(sandbox: _Sandbox) -> Iterator[Endpoint]:
    for server in (sandbox.postfix, sandbox.dovecot):
        for service, port in server.endpoints.items() if server else ():
            if service in _SHOWN_SERVICES:
                yield Endpoint.parse(f"{service}://{LOOPBACK}:{port}")


def _map(sandbox: _Sandbox) -> dict[str, list[_Answer]]:
    table = PostfixMap(_map_type(), sandbox.map)
    file = table.existing_file(redirected=True) or table.file
    keys = [name.encode() for name in sandbox.expected]
    records = map_read.records(Installation(sandbox.map.parent), table, file, keys)
    leaves = {key.decode(): map_read.first_leaf(map_read.decoded(value)) for key, value in records}
    found = {name: hashlib.sha256(leaf).hexdigest() for name, leaf in leaves.items() if leaf is not None}
    default = (sandbox.default.fingerprint, "")
    return {
        name: [(found[name], "another certificate") if name in found else default] for name in sorted(sandbox.expected)
    }


def _table(sandbox: _Sandbox, how: str, columns: Sequence[str], answers: Mapping[str, Sequence[_Answer]]) -> bool:
    console.print_line(f"Every name, {how}:")
    console.print_line()
    rows, all_right = [], True
    for name, served in answers.items():
        expected = sandbox.expected.get(name, sandbox.default.fingerprint)
        right = all(fingerprint == expected for fingerprint, _ in served)
        all_right = all_right and right
        shown = [sandbox.lineages.get(fingerprint or "", otherwise) for fingerprint, otherwise in served]
        rows.append((name or "(no SNI)", *shown, "yes" if right else "NO"))
    console.table(("NAME", *columns, "RIGHT"), rows)
    return all_right


def _require_map_maker() -> None:
    """Make sure that a map can be made at all.

    Raises:
        HostError: neither Postfix nor the berkeleydb package is there.
    """
    if find_tool("postmap") is not None:
        return
    try:
        import berkeleydb  # noqa: F401
    except ImportError:
        raise HostError(
            "demo: neither Postfix nor the berkeleydb package is installed, so no map can be made",
            hint="pip install 'mailsni[berkeleydb]' (on Debian it needs libdb-dev, gcc and python3-dev)",
        ) from None
