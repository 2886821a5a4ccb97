"""What Dovecot's own programs say: ``doveconf`` of a configuration, ``dovecot`` of its version."""

from __future__ import annotations

import re
from pathlib import Path

from mailsni.host.commands import LOCAL, Executor, require_tool
from mailsni.targets.dovecot.parser import Assignment, BlockEnd, BlockStart, statements
from mailsni.targets.rendering import DovecotVersion

_TIMEOUT = 300.0
_POSITION = re.compile(r"configuration file (?P<file>/.*?) line (?P<line>\d+)")


def startup_error(config_file: Path, executor: Executor = LOCAL) -> str | None:
    """Why Dovecot would not start with a configuration, in its own words; None when it would.

    ``doveconf -n`` opens none of the files that a block names; ``-x`` does (measured).

    Raises:
        HostError: there is no doveconf, or it does not end.
    """
    # The output holds the contents of the files, keys among them.
    doveconf = require_tool("doveconf", executor)
    done = executor.run([doveconf, "-c", config_file, "-n", "-x"], timeout=_TIMEOUT, discard=True)
    return None if done.returncode == 0 else done.stderr or f"doveconf: exit status {done.returncode}"


def position_in(message: str) -> tuple[Path, int] | None:
    """The file and the line that a message of Dovecot's is about."""
    match = _POSITION.search(message)
    return (Path(match["file"]), int(match["line"])) if match is not None else None


def default_certificate(config_file: Path, version: DovecotVersion, executor: Executor = LOCAL) -> Path | None:
    """The file with the certificate for clients that send no name; None when none is configured.

    Raises:
        HostError: there is no doveconf, or it does not end.
    """
    # 2.3 prints "ssl_cert = </path", 2.4 "ssl_server {", "cert_file = /path"; blocks of names may follow.
    setting = "ssl_cert" if version == "2.3" else "ssl_server/cert_file"
    done = executor.run([require_tool("doveconf", executor), "-c", config_file, setting], timeout=_TIMEOUT)
    around: list[str] = []
    for statement in statements(done.stdout.decode("utf-8", "replace")):
        match statement:
            case BlockStart(kind=kind):
                around.append(kind)
            case BlockEnd():
                del around[-1:]
            case Assignment(key=key, value=value) if "/".join([*around, key]) == setting and value.startswith("/"):
                return Path(value)
    return None


def full_version(executor: Executor = LOCAL) -> str:
    """What ``dovecot --version`` prints: ``2.4.1-4 (7d8c0e5759)``; empty when it fails.

    Raises:
        HostError: there is no dovecot.
    """
    done = executor.run([require_tool("dovecot", executor), "--version"])
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""
