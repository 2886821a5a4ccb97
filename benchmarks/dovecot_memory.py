"""How many ``local_name`` blocks Dovecot 2.3's config process can hold, by its limit of memory.

    tests/lab/lab.py run bookworm -- python -m benchmarks.dovecot_memory 32 64 100 256

For each limit (MB, ``service config { vsz_limit }``) the greatest number of blocks is sought with which a private
Dovecot still greets and shows a block's certificate; VmPeak is the config process's then. `mailsni doctor` computes
with the figures (``doctor/dovecot.py``).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from tests.support.authority import Authority
from tests.support.mail_host import ABORTED, served
from tests.support.servers import PrivateDovecot

from mailsni.sandbox.servers import workspace


def _peak(master: int) -> int:
    """VmPeak of the config process of a Dovecot, in KB; 0 when there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "status").read_text()
        except OSError:
            continue
        if re.search(r"^Name:\tconfig$", status, re.MULTILINE) and f"\nPPid:\t{master}\n" in status:
            found = re.search(r"^VmPeak:\s+(\d+) kB", status, re.MULTILINE)
            return int(found[1]) if found else 0
    return 0


def _tried(directory: Path, blocks: int, megabytes: int, names: int, authority: Authority) -> tuple[bool, int]:
    """Whether a Dovecot with so many blocks serves, and what its config process takes, in KB."""
    directory.mkdir(mode=0o755)
    default = authority.issue(["default.test"])
    server = PrivateDovecot(directory, default)
    limit = f"service config {{\n  vsz_limit = {megabytes}M\n}}\n"
    (server.include_directory / "00-limit.conf").write_text(limit)
    pair = directory / "pair.pem"
    pair.write_bytes(default.key_pem + default.fullchain_pem)
    pair.chmod(0o600)
    text = "".join(
        f'local_name "{" ".join(f"n{at}x{one}.test" for one in range(names))}" {{\n'
        f"  ssl_cert = <{pair}\n  ssl_key = <{pair}\n}}\n"
        for at in range(blocks)
    )
    (server.include_directory / "99-many.conf").write_text(text)
    try:
        asked = (blocks - 1, *range(0, blocks, max(1, blocks // 20)))
        serves = server.greets_within_its_memory() and all(
            served(server.endpoints["imaps"], f"n{at}x0.test", "imaps") != ABORTED for at in asked
        )
        return serves, _peak(server.pid() or 0)
    finally:
        server.stop()


def main() -> int:
    """Seek the greatest number of blocks for each limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", type=int, nargs="+")
    parser.add_argument("--names", type=int, default=1, help="names of each block")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    authority = Authority()
    with workspace() as rooms:
        tries = 0
        for megabytes in options.megabytes:
            good, bad, peak = 1, megabytes * 10, 0
            while bad - good > max(2, good // 100):
                middle = (good + bad) // 2
                tries += 1
                serves, found = _tried(rooms / f"d{tries}", middle, megabytes, options.names, authority)
                if serves:
                    good, peak = middle, found
                else:
                    bad = middle
            print(f"{megabytes} MB: {good} blocks serve (VmPeak {peak} KB), {bad} do not", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
