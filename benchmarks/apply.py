"""How long whole runs take, as a ratio to ``postmap -F`` over the same entries in the same minutes.

    tests/lab/lab.py run bookworm -- python -m benchmarks.apply --lineages 10000

Needs Postfix (the lab has it). Dovecot's include is rendered too, but with ``--dovecot`` only is it checked by
doveconf, whose own time with so many blocks is then printed beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence

from tests.support.authority import Authority
from tests.support.mail_host import DEFAULT_NAME, MailHost
from tests.support.processes import mailsni_command

from mailsni.host.commands import environment, require_tool
from mailsni.sandbox.servers import workspace

RUNS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lineages", type=int, default=10_000)
    parser.add_argument("--map-type", default="hash")
    parser.add_argument("--dovecot", action="store_true")
    arguments = parser.parse_args()
    authority = Authority()
    with workspace() as directory:
        host = MailHost.build(
            directory, directory, authority, authority.issue([DEFAULT_NAME]), map_type=arguments.map_type
        )
        host.configure(dovecot={"enabled": arguments.dovecot})
        measure(host, arguments.lineages)


def measure(host: MailHost, lineages: int) -> None:
    """Fill the store, run the program over it in its three situations, and print the ratios."""
    for number in range(lineages):
        host.issue(f"mail.d{number}.test", lineage=f"d{number}.test")
    postmap = [str(require_tool("postmap")), "-c", str(host.map.parent), "-F", host.table]
    program = mailsni_command(host.config, "apply", "--quiet", "--no-reload")

    first, memory = [], 0
    for _ in range(RUNS):
        for path in (host.directory / "state", host.pin_directory):
            shutil.rmtree(path, ignore_errors=True)
        seconds, peak = timed(program)
        first.append(seconds)
        memory = max(memory, peak)
    floor = [timed(postmap)[0] for _ in range(RUNS)]
    timed(program)
    nothing = [timed(program)[0] for _ in range(RUNS)]
    one = []
    for number in range(RUNS):
        host.store.renew(f"d{number}.test", host.authority.issue([f"mail.d{number}.test"]))
        seconds, peak = timed(program)
        one.append(seconds)
        memory = max(memory, peak)
    print(f"{lineages} lineages, map type {host.map_type}, medians of {RUNS} runs, {os.cpu_count()} processors")
    unit = statistics.median(floor)
    print(f"{'postmap -F':24} {unit:7.2f} s   1.00 x")
    for what, times in (("first apply", first), ("apply, nothing changed", nothing), ("apply, one renewed", one)):
        print(f"{what:24} {statistics.median(times):7.2f} s  {statistics.median(times) / unit:5.2f} x")
    print(f"{'peak memory of apply':24} {memory / 1024:7.0f} MiB")


def timed(command: Sequence[str]) -> tuple[float, int]:
    """Wall seconds and peak memory (KiB) of a whole process and its children."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: exit {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begin, usage.ru_maxrss


if __name__ == "__main__":
    main()
