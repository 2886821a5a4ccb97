"""Runs a command on what looks like a mail host, and fails when the command changed that host.

    python -m tests.support.fake_mail_host COMMAND…

/etc, /var/lib, /run and /usr/sbin lie under throw-away layers in a mount namespace of the command's own. Planted in
them are the configuration of Postfix and Dovecot, a state directory of mailsni, and tools that answer as those of a
working host do, so that a mailsni that is started as root with default paths publishes there. The upper layer holds
exactly what was written through it (a file whose mode or time was changed is copied there, a removed one leaves a
whiteout): afterwards it must be empty. What other processes of the real host do is not in it, and nothing of the
command's reaches the real host.

A plain user runs the command as it is: it cannot write there. Exit code: the command's; 1 when the host was changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import mounts

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERED = tuple(Path(path) for path in ("/etc", "/var/lib", "/run", "/usr/sbin"))

PLANTED_FILES = {
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/postfix/main.cf": "tls_server_sni_maps = texthash:/etc/postfix/mailsni\n",
    "/etc/postfix/mailsni": "# planted\n",
    "/etc/dovecot/dovecot.conf": "!include conf.d/*.conf\n",
    "/etc/dovecot/conf.d/99-mailsni.conf": "# planted\n",
    "/etc/dovecot/mailsni/planted.pem": "no key\n",
    "/var/lib/mailsni/deployment.json": "{}\n",
    "/run/dovecot/master.pid": "1\n",
}
_POSTCONF = """\
#!/bin/sh
[ "$1" != -m ] || echo texthash
[ "$1" != -c ] || echo 'tls_server_sni_maps = texthash:/etc/postfix/mailsni'
[ "$1" != -c ] || echo 'default_database_type = texthash'
"""
_POSTMAP = r"""#!/bin/sh
entries() { sed -n 's/^\([^#[:space:]][^[:space:]]*\)[[:space:]]*/\1\t/p' "${1#*:}"; }
case "$3" in
-s) entries "$4" ;;
-q) while read -r key; do entries "$5" | grep "^$key[[:space:]]"; done ;;
esac
"""
_RELOADED = """\
#!/bin/sh
[ "$1" = --version ] && echo '2.3.19' && exit
echo "$0 $*" >> /run/server-commands
"""
PLANTED_TOOLS = {
    "/usr/sbin/postconf": _POSTCONF,
    "/usr/sbin/postmap": _POSTMAP,
    "/usr/sbin/doveconf": "#!/bin/sh\n",
    "/usr/sbin/postfix": _RELOADED,
    "/usr/sbin/dovecot": _RELOADED,
    "/usr/sbin/doveadm": _RELOADED,
}


def run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a command to its end.

    Returns:
        Its exit status, and the paths that it created, changed or removed, sorted.

    Raises:
        OSError: root may not mount here, or the command cannot be started.
    """
    mounts.enter_private_namespace()
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        mounts.mount("layers", stage, kind="tmpfs")
        try:
            layers = _layers(stage)
            status = subprocess.run(command, check=False).returncode
            changed = [
                str(directory / path.relative_to(upper))
                for directory, upper in layers.items()
                for path in upper.rglob("*")
            ]
        finally:
            mounts.unmount(stage)
    return status, sorted(path for path in changed if not Path(path).is_relative_to(REPOSITORY))


def _layers(stage: Path) -> Mapping[Path, Path]:
    """For each of :data:`LAYERED`, the directory that holds what is written through it from now on."""
    planted = stage / "planted"
    for path, text in (PLANTED_FILES | PLANTED_TOOLS).items():
        file = planted / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if path in PLANTED_TOOLS else 0o600)
    layers = {}
    for directory in LAYERED:
        layers[directory] = upper = stage / directory.name / "upper"
        work = upper.with_name("work")
        for made in (upper, work):
            made.mkdir(parents=True)
        upper.chmod(0o755)
        lower = f"{planted / directory.relative_to('/')}:{directory}"
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounts.mount("layer", directory, kind="overlay", options=options)
    return layers


def main(command: Sequence[str]) -> int:
    """The command line."""
    if os.geteuid() != 0:
        return subprocess.run(command, check=False).returncode
    try:
        status, changed = run(command)
    except OSError as error:
        sys.stderr.write(f"fake_mail_host: {error}\n")
        return 1
    if changed:
        sys.stderr.write("fake_mail_host: the command changed the host:\n" + "".join(f"  {path}\n" for path in changed))
    return status or int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
