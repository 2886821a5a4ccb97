"""Keeps all tests, and whatever they start, off the directories of the host that they run on.

mailsni writes as root, and by default it writes where a mail host keeps what it serves. So tests that run as root run
in a mount namespace of their own, in which /etc and /var are read-only, /run is empty, and the host has neither Postfix
nor Dovecot, and nothing of certbot and mailsni configured. A plain user cannot write there anyway, and in the root file
systems of tests/lab/lab.py everything is thrown away.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mailsni.host.commands import SEARCH_PATH
from tests.support import mounts

REPOSITORY = Path(__file__).resolve().parents[2]
READ_ONLY = (Path("/etc"), Path("/var"))
EMPTY = tuple(
    Path(path)
    for path in ("/etc/postfix", "/etc/dovecot", "/etc/letsencrypt", "/etc/mailsni", "/var/lib/mailsni", "/run")
)
"""Empty and read-only: no configuration, no state, no socket or process number of a server is to be found."""
HIDDEN_TOOLS = ("postfix", "postconf", "postmap", "postmulti", "dovecot", "doveconf", "doveadm")
"""Not to be found: what a test promises must not depend on whether its host has servers."""
_SOURCE = "mailsni-tests"
_LAB = "lab"
"""What tests/lab/lab.py calls the layer that it lays over everything."""


class UnprotectedHostError(Exception):
    """The tests run as root and cannot be kept off the host; the message says why and what to do."""


def protect_host() -> None:
    """Put this process where neither it nor anything that it starts can change the host's /etc, /var and /run.

    Does nothing for a plain user, in the lab, and in a process that was started by a protected one.

    Raises:
        UnprotectedHostError: root may not mount here, as in most containers.
    """
    if os.geteuid() != 0 or _is_protected():
        return
    try:
        mounts.enter_private_namespace()
        _close_directories()
    except OSError as error:
        raise UnprotectedHostError(
            f"root's tests could write to this host's own /etc, /var and /run, and they cannot be closed "
            f"({error}): run the tests as a plain user, or where root may mount (docker run --cap-add SYS_ADMIN)"
        ) from error


def _is_protected() -> bool:
    points = mounts.mount_points()
    return points.get(Path("/run")) == _SOURCE or points.get(Path("/")) == _LAB


def _close_directories() -> None:
    in_use = (REPOSITORY, Path(tempfile.gettempdir()).resolve())
    writable = [path for path in in_use if _lies_in(path, READ_ONLY)]
    for path in (*READ_ONLY, *writable):
        mounts.mount(path, path, mounts.BIND | mounts.RECURSIVE)
    for point in mounts.mount_points():
        if _lies_in(point, READ_ONLY) and not _lies_in(point, writable):
            mounts.make_read_only(point)
    for path in EMPTY:
        if path.is_dir():
            mounts.mount(_SOURCE, path, mounts.READ_ONLY, "tmpfs", "mode=0755")
    for tool in (Path(directory, name) for directory in SEARCH_PATH for name in HIDDEN_TOOLS):
        if tool.is_file():  # not twice where /sbin is a link to /usr/sbin: a hidden one is no file
            mounts.mount(os.devnull, tool, mounts.BIND)


def _lies_in(path: Path, directories: tuple[Path, ...] | list[Path]) -> bool:
    return any(path.is_relative_to(directory) for directory in directories)
