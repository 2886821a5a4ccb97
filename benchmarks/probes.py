"""How long it takes to probe many names at many endpoints, beside a client that does nothing but handshakes.

    tests/lab/lab.py run bookworm -- python -m benchmarks.probes --names 1000

The plain client makes the same connections, as many at a time, and looks at nothing. Then Dovecot's master process is
frozen, so that new clients get no answer, and stopped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.support.authority import Authority
from tests.support.mail_host import DEFAULT_NAME, MailHost
from tests.support.processes import run_mailsni

from mailsni.probes.endpoint import Endpoint
from mailsni.probes.starttls import Deadline, start_tls
from mailsni.probes.tls_client import CONCURRENCY
from mailsni.sandbox.servers import workspace

LIMIT = 900
_OWN = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
COMMANDS = (("verify", "--quiet"), ("check", "--wire"), ("metrics",))


def handshake(context: ssl.SSLContext, name: str, endpoint: Endpoint) -> None:
    """Connect, start TLS, leave."""
    with socket.create_connection((endpoint.host, endpoint.port), timeout=10) as connection:
        start_tls(endpoint.protocol, connection, Deadline(10))
        with context.wrap_socket(connection, server_hostname=name):
            pass


def plain_client(names: Sequence[str], endpoints: Sequence[Endpoint]) -> None:
    """The same handshakes, without mailsni."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for done in [pool.submit(handshake, context, *pair) for pair in itertools.product(names, endpoints)]:
            done.result()


def timed(what: str, work: Callable[[], object]) -> None:
    """Do it, and print how long it takes, and how much of a processor this side of the connections uses."""
    begin, used = time.perf_counter(), used_here()
    result = work()
    print(
        f"{what:34} {time.perf_counter() - begin:7.1f} s, {used_here() - used:6.1f} s of processor  {result or ''}",
        flush=True,
    )


def used_here() -> float:
    """Processor seconds of this process and of those that it waited for: the servers are none of them."""
    return sum(sum((usage.ru_utime, usage.ru_stime)) for usage in map(resource.getrusage, _OWN))


def run(host: MailHost, *words: str) -> str:
    """Run the program; gives its exit code and how many lines it prints."""
    done = run_mailsni(host.config, *words, timeout=2 * LIMIT)
    series = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    return f"exit code {done.returncode}, {len(series)} lines"


def measure_up(host: MailHost, names: Sequence[str], endpoints: Sequence[Endpoint]) -> None:
    """Print a line for each command while both servers run."""
    timed("plain client", lambda: plain_client(names, endpoints))
    for words in COMMANDS:
        timed(" ".join(words), lambda words=words: run(host, *words, "--max-time", str(LIMIT)))


def measure_down(host: MailHost) -> None:
    """Print a line for each command while Dovecot does not answer."""
    master = host.dovecot.pid() or 0
    os.kill(master, signal.SIGSTOP)
    for words in COMMANDS:
        timed(f"Dovecot frozen: {' '.join(words)}", lambda words=words: run(host, *words))
    os.kill(master, signal.SIGCONT)
    host.dovecot.stop()
    for words in COMMANDS:
        timed(f"Dovecot stopped: {' '.join(words)}", lambda words=words: run(host, *words))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--down", action="store_true", help="only while Dovecot does not answer")
    arguments = parser.parse_args()
    authority = Authority()
    names = [f"mail.d{number}.test" for number in range(arguments.names)]
    with workspace() as room:
        host = MailHost.build(room, room, authority, authority.issue([DEFAULT_NAME]))
        for name in names:
            host.issue(name)
        urls = host.urls()
        urls += [url.replace("127.0.0.1", "localhost") for url in urls][-(12 - len(urls)) :]
        host.configure(verify={"endpoints": urls})
        with host.postfix, host.dovecot:
            host.apply()
            print(
                f"{len(names)} names at {len(urls)} endpoints, {CONCURRENCY} connections, {os.cpu_count()} processors"
            )
            if not arguments.down:
                measure_up(host, names, [Endpoint.parse(url) for url in urls])
            measure_down(host)


if __name__ == "__main__":
    main()
