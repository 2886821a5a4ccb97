"""The certificates with which Postfix completes a chain that is a leaf alone.

OpenSSL looks for the issuers of a leaf with nothing behind it in ``smtpd_tls_CAfile`` and ``smtpd_tls_CApath``, for the
default certificate as for the entries of ``tls_server_sni_maps`` (measured, 3.7 and 3.10). The file is read before a
chroot, the directory at each handshake: a service in a chroot finds only its copy below ``queue_directory``, which
Debian's start of Postfix makes. That is not looked at here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files
from mailsni.targets.postfix.postconf import AUTHORITY_DIRECTORY, AUTHORITY_FILE, Configuration, Service

_LARGEST_FILE = 1 << 20
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+", re.ASCII)
"""What OpenSSL opens in a directory (openssl-rehash(1))."""


def authorities(configuration: Configuration, service: Service | None = None) -> bytes:
    """The certificates in PEM, of main.cf or of a service; without the files that this user cannot read."""
    file = configuration.value(AUTHORITY_FILE, service)
    directory = configuration.value(AUTHORITY_DIRECTORY, service)
    paths = [Path(file)] if file.startswith("/") else []
    if directory.startswith("/"):
        with suppress(OSError):
            paths += sorted(path for path in Path(directory).iterdir() if _HASHED.fullmatch(path.name))
    return b"\n".join(filter(None, map(_content, paths)))


def _content(path: Path) -> bytes | None:
    with suppress(OSError, HostError, PermissionMissingError):
        return files.read_untrusted(path, _LARGEST_FILE)
    return None
