"""How long whole runs take, as a ratio to ``postmap -F`` over the same entries in the same minutes.

    tests/lab/lab.py run bookworm -- python -m benchmarks.apply --lineages 10000

Needs Postfix (the lab has it). Dovecot's include is rendered too, but with ``--dovecot`` only is it checked by
doveconf, whose own time with so many blocks is then printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory

from mailsni.host.commands import environment, require_tool

RUNS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lineages", type=int, default=10_000)
    parser.add_argument("--map-type", default="hash")
    parser.add_argument("--dovecot", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), arguments.lineages, arguments.map_type, with_dovecot=arguments.dovecot)


def measure(directory: Path, lineages: int, map_type: str, *, with_dovecot: bool) -> None:
    """Make a store, run the program over it in its three situations, and print the ratios."""
    authority, store = Authority(), CertbotDirectory(directory / "letsencrypt")
    for number in range(lineages):
        store.add(f"d{number}.test", authority.issue([f"mail.d{number}.test"]))
    config = configuration(directory, map_type, with_dovecot=with_dovecot)
    source = directory / "postfix" / "mailsni"
    postmap = [str(require_tool("postmap")), "-c", str(source.parent), "-F", f"{map_type}:{source}"]
    program = [sys.executable, "-m", "mailsni", "--config", str(config), "apply", "--quiet", "--no-reload"]

    first, memory = [], 0
    for _ in range(RUNS):
        for path in (directory / "state", directory / "pins"):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        seconds, peak = timed(program)
        first.append(seconds)
        memory = max(memory, peak)
    floor = [timed(postmap)[0] for _ in range(RUNS)]
    subprocess.run(program, check=True)
    nothing = [timed(program)[0] for _ in range(RUNS)]
    one = []
    for number in range(RUNS):
        store.renew(f"d{number}.test", authority.issue([f"mail.d{number}.test"]))
        seconds, peak = timed(program)
        one.append(seconds)
        memory = max(memory, peak)
    print(f"{lineages} lineages, map type {map_type}, medians of {RUNS} runs, {os.cpu_count()} processors")
    unit = statistics.median(floor)
    print(f"{'postmap -F':24} {unit:7.2f} s   1.00 x")
    for what, times in (("first apply", first), ("apply, nothing changed", nothing), ("apply, one renewed", one)):
        print(f"{what:24} {statistics.median(times):7.2f} s  {statistics.median(times) / unit:5.2f} x")
    print(f"{'peak memory of apply':24} {memory / 1024:7.0f} MiB")


def configuration(directory: Path, map_type: str, *, with_dovecot: bool) -> Path:
    """A configuration of the program for a Postfix that does not run."""
    (directory / "postfix").mkdir()
    main_cf = directory / "postfix" / "main.cf"
    main_cf.write_text(f"compatibility_level = 3.6\ntls_server_sni_maps = {map_type}:{directory}/postfix/mailsni\n")
    earlier = time.time() - 60
    os.utime(main_cf, (earlier, earlier))
    (directory / "dovecot.conf").write_text("!include_try 99-mailsni.conf\n")
    tables: dict[str, dict[str, object]] = {
        "postfix": {"config_directory": str(main_cf.parent), "map": str(main_cf.parent / "mailsni")},
        "dovecot": {
            "enabled": with_dovecot,
            "config_file": str(directory / "dovecot.conf"),
            "include_file": str(directory / "99-mailsni.conf"),
            "pin_directory": str(directory / "pins"),
        },
        "state": {"directory": str(directory / "state"), "lock": str(directory / "lock")},
    }
    lines = ["[[sources]]", f"path = {json.dumps(str(directory / 'letsencrypt' / 'live'))}"]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    config = directory / "config.toml"
    config.write_text("\n".join([*lines, ""]))
    return config


def timed(command: Sequence[str]) -> tuple[float, int]:
    """Wall seconds and peak memory (KiB) of a whole process and its children."""
    return _in_child(lambda: subprocess.run(command, env=environment(), check=True))


def _in_child(work: Callable[[], object]) -> tuple[float, int]:
    """Run in a child of its own, so that the memory of earlier runs is not counted."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        os.write(writer, json.dumps([seconds, peak]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        seconds, peak = json.loads(answer.read())
    os.waitpid(child, 0)
    return float(seconds), int(peak)


if __name__ == "__main__":
    main()
