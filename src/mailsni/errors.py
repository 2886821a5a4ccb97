"""The errors of the program, one class per blame, each with its exit code.

A bad certificate is never an exception: it is data (:mod:`mailsni.core.model`). What is raised ends the run, and says
in ``object: what: why`` form who has to act: the person who typed the command, the one who wrote the configuration,
the host, or we.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Self


class Exit(enum.IntEnum):
    """Exit codes of every command but ``check``: a contract, each with its meaning for docs/commands.md."""

    meaning: str

    def __new__(cls, code: int, meaning: str = "") -> Self:
        """A code that equals its number; ``Exit(4)`` finds the member of a number."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done, or nothing to do"
    FAILED = (
        1,
        "failed; the previous deployment is still live (`apply`: or one store cannot be read, and the others were \
deployed; `verify`: or the time limit left out probes)",
    )
    USAGE = 2, "wrong command line"
    PENDING = 3, "changes are pending (`plan --detailed-exitcode`)"
    SKIPPED = (
        4,
        "done, but a person should look: a certificate was skipped, or a name gets another certificate, or a \
server would not start again or was left out; \
`doctor` found more than notes; `setup` has a warning",
    )
    ROLLED_BACK = (
        5,
        "wrong certificates were served after the apply, and it was rolled back; `verify`: a wrong \
certificate is served, and nothing was changed",
    )
    SERVED_WRONG = ROLLED_BACK
    """The same code for ``verify``, which changes nothing."""
    ROLLBACK_FAILED = 6, "the rollback failed too: a person must look now"
    LOCKED = 75, "another run holds the lock (`--wait SECONDS`)"
    NOT_PERMITTED = 77, "not permitted: run it as root; nothing was changed"
    CONFIGURATION = (
        78,
        "the configuration, or one of your templates, is wrong; or others can change it, or a directory that is \
published into",
    )


class MailsniError(Exception):
    """Something that ends the run.

    Args:
        message: ``object: what: why``, lower case, no full stop, never with key material in it.
        hint: what the reader can do about it.
        path: the file or directory that the error is about; programs read this, never the message.
        line: in that file, from 1.
    """

    exit_code = Exit.FAILED

    def __init__(
        self, message: str, *, hint: str | None = None, path: Path | None = None, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.line = line


class UsageError(MailsniError):
    """The command line asks for something that does not exist."""

    exit_code = Exit.USAGE


class ConfigurationError(MailsniError):
    """The configuration file, or a template of the administrator's, is wrong."""

    exit_code = Exit.CONFIGURATION


class HostError(MailsniError):
    """A program, a file or a server of this host did not do what it should; the old deployment is still live."""

    @classmethod
    def of(cls, error: OSError) -> HostError:
        """For a system call that fails where nobody expects it."""
        path = Path(error.filename) if isinstance(error.filename, str | Path) else None
        return cls(f"{error.filename or 'a system call'}: {error.strerror or error}", path=path)


class ServerConfigurationError(HostError):
    """A server's configuration is one with which the server does not start."""


class RefusedError(MailsniError):
    """Going on would hurt: an empty result over a living deployment, a trap at a staging name."""


class PermissionMissingError(MailsniError):
    """The user may not read or write what the command needs."""

    exit_code = Exit.NOT_PERMITTED


class LockedError(MailsniError):
    """Another run holds the lock."""

    exit_code = Exit.LOCKED


class RolledBackError(MailsniError):
    """The servers did not serve what was published; the previous deployment is live again."""

    exit_code = Exit.ROLLED_BACK


class RollbackFailedError(MailsniError):
    """The servers did not serve what was published, and the way back failed too: a person must look."""

    exit_code = Exit.ROLLBACK_FAILED
