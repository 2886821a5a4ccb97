"""Whether anybody but root can change what this program obeys, or where it publishes.

The owner and the mode of a file do not tell alone: whoever can write to a directory on the way to it can put another
file in its place. So every directory and every link on the way counts, as path_resolution(7) follows them.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.errors import ConfigurationError

_MOST_LINKS = 40
"""As many as Linux follows (path_resolution(7))."""
_SHARED = frozenset(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))  # noqa: S108  # their modes are judged, nothing else
"""Directories that everybody must be able to write to."""


@dataclass(frozen=True, slots=True)
class Weakness:
    """A directory, a link or a file that lets another user change what lies at a path."""

    path: Path
    reason: str
    """``belongs to user 1000``, ``has mode 0777``."""
    command: str | None
    """Ends it, for a shell; None where only another place helps."""

    def __str__(self) -> str:
        """``/srv belongs to user 1000``."""
        return f"{self.path} {self.reason}"


@dataclass(frozen=True, slots=True)
class _Station:
    """A directory or a link on a way, or what lies at its end."""

    path: Path
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def others_can_write(self) -> bool:
        return not self.is_link and others_can_write(self.status)

    @property
    def is_sticky(self) -> bool:
        """Whether only the owner of an entry of this directory can remove or replace it (inode(7))."""
        return self.is_directory and bool(self.status.st_mode & stat.S_ISVTX)


def others_can_write(status: os.stat_result) -> bool:
    """Whether other users than the owner can write to a file or a directory."""
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def weaknesses(path: Path, owners: Collection[int] = ()) -> tuple[Weakness, ...]:
    """What lets others than root, the user who runs the program, and owners change what lies at a path or below it.

    A directory with the sticky bit, such as /tmp, may lie above a directory of root's; it may neither be the directory
    itself nor hold the file. Where nothing lies at the path, only the way to it counts. What this user cannot see ends
    the way.
    """
    way, is_whole = _way(path.absolute())
    holder = next(station for station in reversed(way) if station.is_directory)
    shared = False
    found: dict[Weakness, None] = {}
    for station in way:
        if station.status.st_uid not in {*_owners(), *owners} and (shared or not station.is_link):
            found[_of_another(station)] = None
        elif station.others_can_write and (not station.is_sticky or (is_whole and station is holder)):
            found[_writable(station)] = None
        if station.is_directory:
            shared = station.others_can_write
    return tuple(found)


def _owners() -> tuple[int, int]:
    return (0, os.geteuid())


def _way(path: Path) -> tuple[list[_Station], bool]:
    """Every directory and link on the way to an absolute path, then what lies there; and whether anything does."""
    at = Path("/")
    way = [_Station(at, at.lstat())]
    ahead = _parts_reversed(str(path))
    links = 0
    while ahead:
        part = ahead.pop()
        entry = at.parent if part == ".." else at / part
        try:
            station = _Station(entry, entry.lstat())
            target = str(entry.readlink()) if station.is_link else None
        except OSError:
            return way, False
        way.append(station)
        if target is None:
            at = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            return way, False
        if target.startswith("/"):
            at = Path("/")
            way.append(way[0])
        ahead += _parts_reversed(target)
    return way, True


def _parts_reversed(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _of_another(station: _Station) -> Weakness:
    number = station.status.st_uid
    reason = f"belongs to user {number}"
    if station.is_link:
        return Weakness(station.path, reason, _shell("chown", "-h", _own_name(), station.path))
    if station.path == _home_of(number):
        return Weakness(station.path, reason, None)
    chown = _shell("chown", _own_name(), station.path)
    if station.others_can_write:
        chown += f" && {_shell('chmod', 'go-w', station.path)}"
    return Weakness(station.path, reason, chown)


def _writable(station: _Station) -> Weakness:
    reason = f"has mode {stat.S_IMODE(station.status.st_mode):04o}"
    if station.path not in _SHARED:
        return Weakness(station.path, reason, _shell("chmod", "go-w", station.path))
    return Weakness(station.path, reason, None if station.is_sticky else _shell("chmod", "+t", station.path))


def _own_name() -> str:
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def _home_of(number: int) -> Path | None:
    import pwd  # hardly any run needs it

    try:
        return Path(pwd.getpwuid(number).pw_dir)
    except KeyError:
        return None


def _shell(*words: str | Path) -> str:
    return shlex.join(map(str, words))


def require(path: Path) -> None:
    """Make sure that nobody but root, or the user who runs the program, can change what lies at a path.

    Raises:
        ConfigurationError: somebody can; the hint is the command that ends it.
    """
    if found := weaknesses(path):
        raise _error(path, found)


def _error(path: Path, found: Sequence[Weakness]) -> ConfigurationError:
    where = "; ".join(f"it {weakness.reason}" if weakness.path == path else str(weakness) for weakness in found)
    return ConfigurationError(
        f"{path}: others can change it: {where}", hint=f"look at it, then: {remedy(path, found)}", path=path
    )


def remedy(path: Path, found: Sequence[Weakness]) -> str:
    """What ends all weaknesses of a path: a command for a shell, or where to move it."""
    commands = [weakness.command for weakness in found if weakness.command is not None]
    if len(commands) < len(found):
        return f"move {path} to a directory that only root can write to, such as /etc/mailsni"
    return " && ".join(commands)


def read(path: Path) -> bytes:
    """The content of a file that this program obeys.

    Raises:
        OSError: it is missing, or cannot be read.
        ConfigurationError: others can change it, or it is no regular file.
    """
    require(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        opened = _Station(path, os.fstat(descriptor))
        if not stat.S_ISREG(opened.status.st_mode) and not opened.is_directory:
            raise ConfigurationError(f"{path}: is no regular file", path=path)
        if opened.status.st_uid not in _owners():
            raise _error(path, [_of_another(opened)])
        if opened.others_can_write:
            raise _error(path, [_writable(opened)])
        return b"".join(_chunks(descriptor))
    finally:
        os.close(descriptor)


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, 1 << 16):
        yield chunk
