"""What Dovecot's own programs say: ``doveconf`` of a configuration, ``dovecot`` of its version."""

from __future__ import annotations

import re
from pathlib import Path

from mailsni.host.commands import LOCAL, Completed, Executor, require_tool
from mailsni.targets.dovecot.parser import settings_in
from mailsni.targets.dovecot.rendering import DovecotVersion

_TIMEOUT = 300.0
_POSITION = re.compile(r"configuration file (?P<file>/.*?) line (?P<line>\d+)")


def run(config_file: Path, *words: str, executor: Executor, timeout: float = 60.0, discard: bool = False) -> Completed:
    """Run ``doveconf`` for a configuration; see :class:`mailsni.host.commands.Executor`."""
    program = require_tool("doveconf", executor)
    return executor.run([program, "-c", config_file, *words], timeout=timeout, discard=discard)


def startup_error(config_file: Path, executor: Executor = LOCAL) -> str | None:
    """Why Dovecot would not start with a configuration, in its own words; None when it would.

    ``doveconf -n`` opens none of the files that a block names; ``-x`` does (measured).

    Raises:
        HostError: there is no doveconf, or it does not end.
    """
    # The output holds the contents of the files, keys among them.
    done = run(config_file, "-n", "-x", executor=executor, timeout=_TIMEOUT, discard=True)
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
    done = run(config_file, setting, executor=executor, timeout=_TIMEOUT)
    for scope, printed in settings_in(done.text):
        kinds = [kind for kind, _ in scope]
        if "/".join([*kinds, printed.key]) == setting and printed.value.startswith("/"):
            return Path(printed.value)
    return None


def full_version(executor: Executor = LOCAL) -> str:
    """What ``dovecot --version`` prints: ``2.4.1-4 (7d8c0e5759)``; empty when it fails.

    Raises:
        HostError: there is no dovecot.
    """
    done = executor.run([require_tool("dovecot", executor), "--version"])
    return done.text.strip() if done.returncode == 0 else ""
