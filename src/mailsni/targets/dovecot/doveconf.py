"""What Dovecot's own programs say: ``doveconf`` of a configuration, ``dovecot`` of its version."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mailsni.errors import PermissionMissingError
from mailsni.host.commands import LOCAL, Completed, Executor, require_tool
from mailsni.targets.dovecot.parser import settings_in
from mailsni.targets.dovecot.rendering import DovecotVersion

_TIMEOUT = 300.0
_POSITION = re.compile(r"configuration file (?P<file>/.*?) line (?P<line>\d+)")


def run(config_file: Path, *words: str, executor: Executor, timeout: float = 60.0, discard: bool = False) -> Completed:
    """Run ``doveconf`` for a configuration; see :class:`mailsni.host.commands.Executor`."""
    program = require_tool("doveconf", executor)
    return executor.run([program, "-c", executor.inside(config_file), *words], timeout=timeout, discard=discard)


def startup_error(config_file: Path, executor: Executor = LOCAL) -> str | None:
    """Why Dovecot would not start with a configuration, in one line of its own words; None when it would.

    ``doveconf -n`` opens none of the files that a block names; ``-x`` does (measured).

    Raises:
        HostError: there is no doveconf, or it does not end.
        PermissionMissingError: this user may not read a file that the configuration names.
    """
    # The output holds the contents of the files, keys among them.
    done = run(config_file, "-n", "-x", executor=executor, timeout=_TIMEOUT, discard=True)
    if _is_denied(done):
        done = run(config_file, "-n", executor=executor, timeout=_TIMEOUT, discard=True)
        if done.returncode == 0 or _is_denied(done):
            raise PermissionMissingError(f"{config_file}: {_complaint(done)}", hint="run it as root", path=config_file)
    return None if done.returncode == 0 else _complaint(done)


def _is_denied(done: Completed) -> bool:
    return done.returncode != 0 and os.geteuid() != 0 and "Permission denied" in done.stderr


def _complaint(done: Completed) -> str:
    """The line that says what is wrong: warnings come first."""
    lines = done.stderr.splitlines() or [f"doveconf: exit status {done.returncode}"]
    return next((line for line in lines if "Fatal: " in line or "Error: " in line), lines[0])


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
