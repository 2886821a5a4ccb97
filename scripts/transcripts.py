#!/usr/bin/env python3
"""Record the transcripts of docs/ on a real Debian host, where everything that is written is thrown away.

    tests/lab/lab.py run --output DIRECTORY bookworm -- python -m scripts.transcripts

It leaves one text file for each transcript in DIRECTORY; scripts/docs.py puts them into the pages. `make
transcripts` runs both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory

OUTPUT = Path("/output")
PROGRAM = Path(sys.executable).with_name("mailsni")
ENVIRONMENT = {"PATH": f"/usr/local/bin:{os.environ['PATH']}", "LANG": "C.UTF-8", "COLUMNS": "120", "HOME": "/root"}
TUTORIAL_MAP = """\
mail.alpha.test /etc/letsencrypt/live/alpha.test/privkey.pem /etc/letsencrypt/live/alpha.test/fullchain.pem
*.beta.test /etc/letsencrypt/live/beta.test/privkey.pem /etc/letsencrypt/live/beta.test/fullchain.pem
"""
TUTORIAL_BLOCK = """\
local_name mail.gone.test {
  ssl_cert = </etc/letsencrypt/live/gone.test/fullchain.pem
  ssl_key = </etc/letsencrypt/live/gone.test/privkey.pem
}
"""


def shell(command: str) -> str:
    """Run a command line as root's shell would; what it says on both streams."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def record(name: str, *commands: str) -> None:
    """Write what these command lines print to the file of a transcript."""
    text = "\n".join(f"# {command}\n{shell(command).strip()}\n" for command in commands)
    (OUTPUT / f"{name}.txt").write_text(text)


def demo() -> None:
    """The demo's own transcript, with a shorter name for its directory."""
    text = shell("mailsni demo")
    (OUTPUT / "demo.txt").write_text(re.sub(r"/tmp/mailsni-\w+", "/tmp/sandbox", text).strip() + "\n")


def doctor() -> None:
    """A host that was set up from a tutorial, before its servers start."""
    table, block = Path("/etc/postfix/sni"), Path("/etc/dovecot/conf.d/20-sni.conf")
    table.write_text(TUTORIAL_MAP)
    block.write_text(TUTORIAL_BLOCK)
    shell(f"postmap -F hash:{table}; chmod 644 {table} {table}.db; postconf -e tls_server_sni_maps=hash:{table}")
    record("doctor", "mailsni doctor")
    shell("postconf -X tls_server_sni_maps")
    for path in (table, table.with_name("sni.db"), block):
        path.unlink()


def main() -> None:
    """Record all of them."""
    demo()
    authority = Authority()
    Path("/usr/local/share/ca-certificates/sandbox.crt").write_bytes(authority.root_pem)
    shell("update-ca-certificates")
    store = CertbotDirectory(Path("/etc/letsencrypt"))
    for domain in ("alpha.test", "beta.test"):
        store.add(domain, authority.issue([f"mail.{domain}", f"imap.{domain}"]))
    doctor()
    shutil.copyfile(PROGRAM, "/usr/local/bin/mailsni")
    shutil.copymode(PROGRAM, "/usr/local/bin/mailsni")
    shell("postfix start; dovecot >/dev/null 2>&1")
    time.sleep(2)
    record("setup", "mailsni setup --yes")
    record("status", "mailsni status", "mailsni verify")
    record("check", "mailsni check", "postmap hash:/etc/postfix/mailsni; mailsni check")
    wrong = "s|^mail.alpha.test .*|mail.alpha.test /etc/letsencrypt/live/beta.test/privkey.pem \
/etc/letsencrypt/live/beta.test/fullchain.pem|"
    shell(f"sed -i '{wrong}' /etc/postfix/mailsni; postmap -F hash:/etc/postfix/mailsni; postfix reload")
    time.sleep(2)
    record("verify", "mailsni verify")
    shell("postfix stop; doveadm stop")


if __name__ == "__main__":
    main()
