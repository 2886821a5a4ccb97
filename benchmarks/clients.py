"""What clients notice of a renewal: today's practice beside ``mailsni apply``, on private Postfix and Dovecot.

    tests/lab/lab.py run bookworm -- python -m benchmarks.clients --names 300

Clients in a loop (SMTP with STARTTLS, SMTP over TLS, IMAP with STARTTLS, IMAP over TLS) come and go while one
certificate after the other is renewed and deployed. tests/e2e/test_clients.py lets the same crowd judge every apply.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

from tests.support.authority import Authority
from tests.support.clients import REFUSED, SERVERS, Visit, crowd
from tests.support.mail_host import DEFAULT_NAME, MailHost

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.servers import workspace


def lineages(host: MailHost) -> list[str]:
    """Their names: that of the lineage and that in the certificate are the same."""
    return sorted(path.name for path in host.store.live.iterdir() if path.is_dir())


def write_map_in_place(host: MailHost) -> None:
    """What everybody's deploy hook does: a line for each name, and postmap over the live map."""
    store = host.store
    rows = [f"{name} {store.path(name, 'privkey')} {store.path(name, 'fullchain')}\n" for name in lineages(host)]
    host.map.touch(mode=0o600)
    host.map.write_text("".join(rows))
    done = run([require_tool("postmap"), "-c", host.postfix.config_directory, "-F", host.table], timeout=120)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(done.argv)}: {done.stderr}")


def write_blocks_in_place(host: MailHost) -> None:
    """A block for each name that points into certbot's directory."""
    modern = host.dovecot.version == "2.4"
    certificate, key = (
        ("ssl_server_cert_file = ", "ssl_server_key_file = ") if modern else ("ssl_cert = <", "ssl_key = <")
    )
    blocks = [
        f"local_name {name} {{\n  {certificate}{host.store.path(name, 'fullchain')}\n"
        f"  {key}{host.store.path(name, 'privkey')}\n}}\n"
        for name in lineages(host)
    ]
    host.include_file.write_text("".join(blocks))


def by_restart(host: MailHost) -> None:
    """The map in place, then stop and start of both servers, by the servers' own commands."""
    write_map_in_place(host)
    write_blocks_in_place(host)
    host.postfix.restart()
    host.dovecot.restart()


def by_reload(host: MailHost) -> None:
    """The map in place, then a reload of both servers."""
    write_map_in_place(host)
    write_blocks_in_place(host)
    host.postfix.reload()
    host.dovecot.reload()


def by_mailsni(host: MailHost) -> None:
    """This program, in a process of its own, as a hook runs it."""
    host.mailsni("apply", "--quiet").check_returncode()


PRACTICES: Mapping[str, Callable[[MailHost], None]] = {
    "postmap in place, stop and start": by_restart,
    "postmap in place, reload": by_reload,
    "mailsni apply": by_mailsni,
}


def measure(
    host: MailHost, practice: Callable[[MailHost], None], rounds: int, pause: float
) -> tuple[list[Visit], float]:
    """The visits while one certificate after the other is renewed and deployed, and the seconds for all of it."""
    names = lineages(host)
    practice(host)
    asked = names[:: max(1, len(names) // 20)]
    chosen = {service: host.endpoints[service] for services in SERVERS.values() for service in services}
    with crowd(host.directory, chosen, asked, host.authority.root_pem) as leave:
        begin = time.monotonic()
        for number in range(rounds):
            name = asked[number % len(asked)]
            host.store.renew(name, host.authority.issue([name]))
            practice(host)
            time.sleep(pause)
        seconds = time.monotonic() - begin
        visits = [one for one in leave() if begin <= one.begun]
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
        with workspace() as room:
            host = MailHost.build(
                room,
                room,
                authority,
                authority.issue([DEFAULT_NAME]),
                map_type=arguments.map_type,
                lasting_logins=arguments.lasting_logins,
            )
            for number in range(arguments.names):
                host.issue(f"mail.d{number}.test")
            with host.postfix, host.dovecot:
                table(practice, *measure(host, deploy, arguments.rounds, arguments.pause))


if __name__ == "__main__":
    main()
