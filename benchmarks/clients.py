"""What clients notice of a renewal: today's practice beside ``mailsni apply``, on private Postfix and Dovecot.

    tests/lab/lab.py run bookworm -- python -m benchmarks.clients --names 300

Clients in a loop (SMTP with STARTTLS, SMTP over TLS, IMAP with STARTTLS, IMAP over TLS) come and go while one
certificate after the other is renewed and deployed. tests/e2e/test_clients.py lets the same crowd judge every apply.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.authority import Authority
from tests.support.clients import REFUSED, SERVERS, Crowd, Visit
from tests.support.lineages import CertbotDirectory
from tests.support.servers import PrivateDovecot, PrivatePostfix

from mailsni.host.commands import environment, require_tool, run
from mailsni.sandbox.servers import LOOPBACK, workspace


@dataclass(frozen=True, slots=True)
class Host:
    """Both servers, with a map and an include for many names, and the certbot directory that they come from."""

    directory: Path
    authority: Authority
    store: CertbotDirectory
    postfix: PrivatePostfix
    dovecot: PrivateDovecot
    map_type: str

    @property
    def map(self) -> Path:
        """The source of the Postfix map."""
        return self.postfix.config_directory / "mailsni"

    @property
    def include(self) -> Path:
        """The file with the blocks."""
        return self.dovecot.include_directory / "99-mailsni.conf"

    def lineages(self) -> list[str]:
        """Their names: that of the lineage and that in the certificate are the same."""
        return sorted(path.name for path in self.store.live.iterdir() if path.is_dir())

    def write_map_in_place(self) -> None:
        """What everybody's deploy hook does: a line for each name, and postmap over the live map."""
        rows = [f"{name} {self._file(name, 'privkey')} {self._file(name, 'fullchain')}\n" for name in self.lineages()]
        self.map.touch(mode=0o600)
        self.map.write_text("".join(rows))
        _must([require_tool("postmap"), "-c", self.postfix.config_directory, "-F", f"{self.map_type}:{self.map}"])

    def write_blocks_in_place(self) -> None:
        """A block for each name that points into certbot's directory."""
        modern = self.dovecot.version == "2.4"
        certificate, key = (
            ("ssl_server_cert_file = ", "ssl_server_key_file = ") if modern else ("ssl_cert = <", "ssl_key = <")
        )
        blocks = [
            f"local_name {name} {{\n  {certificate}{self._file(name, 'fullchain')}\n"
            f"  {key}{self._file(name, 'privkey')}\n}}\n"
            for name in self.lineages()
        ]
        self.include.write_text("".join(blocks))

    def _file(self, name: str, kind: str) -> Path:
        return self.store.path(name, kind)

    def write_configuration(self) -> Path:
        """A configuration of mailsni for these servers."""
        schemes = {"submission": "smtp"}
        ports = {**self.postfix.endpoints, **self.dovecot.endpoints}
        endpoints = [f"{schemes.get(service, service)}://{LOOPBACK}:{port}" for service, port in ports.items()]
        tables: dict[str, dict[str, object]] = {
            "postfix": {"config_directory": str(self.postfix.config_directory), "map": str(self.map)},
            "dovecot": {
                "config_file": str(self.dovecot.config_file),
                "include_file": str(self.include),
                "pin_directory": str(self.dovecot.config_directory / "mailsni"),
            },
            "state": {"directory": str(self.directory / "state"), "lock": str(self.directory / "lock")},
            "verify": {"endpoints": endpoints},
        }
        lines = ["[[sources]]", f"path = {json.dumps(str(self.store.live))}"]
        for table, values in tables.items():
            lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        config = self.directory / "config.toml"
        config.write_text("\n".join([*lines, ""]))
        return config


def _must(words: Sequence[str | Path]) -> None:
    done = run(words, timeout=120)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(done.argv)}: {done.stderr}")


def by_restart(host: Host) -> None:
    """The map in place, then stop and start of both servers, by the servers' own commands."""
    host.write_map_in_place()
    host.write_blocks_in_place()
    host.postfix.restart()
    host.dovecot.restart()


def by_reload(host: Host) -> None:
    """The map in place, then a reload of both servers."""
    host.write_map_in_place()
    host.write_blocks_in_place()
    host.postfix.reload()
    host.dovecot.reload()


def by_mailsni(host: Host) -> None:
    """This program, in a process of its own, as a hook runs it."""
    words = [sys.executable, "-m", "mailsni", "--config", str(host.write_configuration()), "apply", "--quiet"]
    subprocess.run(words, env=environment(), stdin=subprocess.DEVNULL, check=True)


PRACTICES: Mapping[str, Callable[[Host], None]] = {
    "postmap in place, stop and start": by_restart,
    "postmap in place, reload": by_reload,
    "mailsni apply": by_mailsni,
}


def measure(host: Host, practice: Callable[[Host], None], rounds: int, pause: float) -> tuple[list[Visit], float]:
    """The visits while one certificate after the other is renewed and deployed, and the seconds for all of it."""
    lineages = host.lineages()
    practice(host)
    asked = lineages[:: max(1, len(lineages) // 20)]
    ports = {name: port for server in (host.postfix, host.dovecot) for name, port in server.endpoints.items()}
    chosen = {service: ports[service] for services in SERVERS.values() for service in services}
    with Crowd(host.directory, chosen, asked, host.authority.root_pem) as crowd:
        begin = time.monotonic()
        for number in range(rounds):
            name = asked[number % len(asked)]
            host.store.renew(name, host.authority.issue([name]))
            practice(host)
            time.sleep(pause)
        seconds = time.monotonic() - begin
        visits = [one for one in crowd.leave() if begin <= one.begun]
    return visits, seconds


def table(practice: str, visits: Sequence[Visit], seconds: float) -> None:
    """Print a line for each server."""
    for server, services in SERVERS.items():
        own = [one for one in visits if one.service in services]
        done = sum(one.fingerprint is not None for one in own)
        refused = sum(one.problem == REFUSED for one in own)
        failed = len(own) - done - refused
        longest = max((one.seconds for one in own), default=0.0)
        print(f"{practice:34} {server:8} {seconds:6.1f} {done:10} {failed:7} {refused:8} {longest:9.2f} s", flush=True)
        for problem in sorted({one.problem for one in own if one.problem not in ("", REFUSED)})[:3]:
            print(f"{'':34} {'':8} {problem}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two rounds")
    parser.add_argument("--map-type", default="hash")
    parser.add_argument("--lasting-logins", action="store_true", help="Dovecot's login processes serve many clients")
    arguments = parser.parse_args()
    authority = Authority()
    print(f"{arguments.names} names, map type {arguments.map_type}, {arguments.rounds} renewals, one at a time")
    print(f"{'':34} {'':8} {'s':>6} {'handshakes':>10} {'failed':>7} {'refused':>8} {'longest':>11}")
    for practice, deploy in PRACTICES.items():
        with workspace() as room, tempfile.TemporaryDirectory() as own:
            store = CertbotDirectory(Path(own) / "letsencrypt")
            for number in range(arguments.names):
                store.add(f"mail.d{number}.test", authority.issue([f"mail.d{number}.test"]))
            default = authority.issue(["default.test"])
            places = [room / "postfix", room / "dovecot"]
            for place in places:
                place.mkdir(mode=0o755)
                place.chmod(0o755)
            sni_map = f"{arguments.map_type}:{places[0]}/etc/mailsni"
            new_dovecot = PrivateDovecot.with_lasting_logins if arguments.lasting_logins else PrivateDovecot
            with (
                PrivatePostfix(places[0], default, sni_map=sni_map) as postfix,
                new_dovecot(places[1], default) as dovecot,
            ):
                host = Host(Path(own), authority, store, postfix, dovecot, arguments.map_type)
                table(practice, *measure(host, deploy, arguments.rounds, arguments.pause))


if __name__ == "__main__":
    main()
