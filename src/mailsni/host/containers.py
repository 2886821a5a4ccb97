"""Runs the programs of a server inside a container, by the command line of its engine: docker(1), podman(1).

The engine's own exit status says too little: ``docker exec`` ends with 1 when there is no such container, when it does
not run, and when the program itself ends with 1 (measured, Docker 20.10). So the engine is asked for the container's
state before the first program, and after each that failed.

A program that is started by ``exec`` lives on when ``exec`` is killed (measured). So it is started through timeout(1),
where the container has it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mailsni.core.mounts import Mounts
from mailsni.errors import HostError
from mailsni.host.commands import LOCAL, SEARCH_PATH, Completed, Executor

_ENGINE_VARIABLES = ("DOCKER_HOST", "CONTAINER_HOST")
"""Where the engine listens, for Docker and for Podman: the only variables of ours that it sees besides the usual."""
_IN_ENGLISH = ("--env", "LC_ALL=C", "--env", "LANG=C")
_STATE = "{{.State.Status}} {{.State.StartedAt}}"
_STATE_TIMEOUT = 20.0
_GRACE = 10.0
"""Seconds in which the engine has to come back after the time limit of a program inside."""
_KILLED = (124, 128 + signal.SIGKILL)
"""How timeout(1) ends when time is up: 124, or as killed itself when the signal is SIGKILL."""
_NO_MOUNTS = Mounts()
_LIST_PROGRAMS = 'for d; do for f in "$d"/*; do [ -f "$f" ] && [ -x "$f" ] && echo "$f"; done; done; true'


class ContainerError(HostError):
    """A container does not run, or not any more, or there is none of its name."""


@dataclass(frozen=True, slots=True)
class ContainerExecutor:
    """The programs of a container: see :class:`mailsni.host.commands.Executor`.

    Every method that runs something raises ContainerError.
    """

    engine: str
    """``docker``, ``podman``, or the absolute path of a program with the same command line."""
    container: str
    mounts: Mounts = _NO_MOUNTS
    host: Executor = LOCAL
    """What runs the engine."""
    own: tuple[Path, ...] = ()
    """Directories of the image that are named by their paths inside: this host does not have their files."""
    _programs: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)
    """By name, once they were listed."""
    _states: list[str] = field(default_factory=list, compare=False, repr=False)
    """The state in which the container was before the first program."""

    def find_tool(self, name: str) -> Path | None:
        """See :class:`mailsni.host.commands.Executor`."""
        if not self._programs:
            listed = self._run(["/bin/sh", "-c", _LIST_PROGRAMS, "sh", *SEARCH_PATH], timeout=60.0)
            if listed.returncode != 0:
                raise HostError(f"container {self.container}: its programs cannot be listed: {listed.complaint}")
            for path in map(Path, listed.text.splitlines()):
                self._programs.setdefault(path.name, path)
        return self._programs.get(name)

    def inside(self, path: Path) -> Path:
        """See :class:`mailsni.host.commands.Executor`."""
        found = path if any(map(path.is_relative_to, self.own)) else self.mounts.inside(path)
        if found is None:
            raise HostError(
                f"{path}: container {self.container} does not see it: it lies in none of the directories that "
                "[container] paths names",
                hint='paths = { "/directory/on/the/host" = "/the/same/inside" } in [container] says what is mounted',
                path=path,
            )
        return found

    def outside(self, path: Path) -> Path | None:
        """See :class:`mailsni.host.commands.Executor`."""
        return self.mounts.outside(path)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        discard: bool = False,
        detached: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """See :class:`mailsni.host.commands.Executor`."""
        limiter = self.find_tool("timeout")
        limit = [str(limiter), "-s", "KILL", str(math.ceil(timeout))] if limiter is not None else []
        given = [word for pair in (variables or {}).items() for word in ("--env", "=".join(pair))]
        begun = time.monotonic()
        done = self._run(
            [*limit, *argv], options=given, stdin=stdin, timeout=timeout, discard=discard, detached=detached
        )
        if done.returncode in _KILLED and time.monotonic() - begun >= timeout:
            raise HostError(f"{argv[0]}: did not end within {timeout:g} seconds and was killed")
        return replace(done, argv=(Path(self.engine).name, "exec", self.container, *map(str, argv)))

    def _run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        options: Sequence[str] = (),
        stdin: bytes | None = None,
        discard: bool = False,
        detached: bool = False,
    ) -> Completed:
        if not self._states:
            self._states.append(self._running_state())
        interactive = ("--interactive",) if stdin is not None else ()
        engine: list[str | Path] = [
            _program_of(self.engine, self.host),
            "exec",
            *interactive,
            *_IN_ENGLISH,
            *options,
            self.container,
        ]
        done = self.host.run(
            [*engine, *argv],
            stdin=stdin,
            timeout=timeout + _GRACE,
            discard=discard,
            detached=detached,
            variables=_engine_variables(),
        )
        if done.returncode != 0 and self._running_state() not in self._states:
            raise ContainerError(
                f"container {self.container}: it was started again while {argv[0]} ran in it",
                hint="`mailsni apply` goes on where this run ended",
            )
        return done

    def _running_state(self) -> str:
        """Since when the container runs, as the engine says it."""
        words = [str(_program_of(self.engine, self.host)), "container", "inspect", "--format", _STATE, self.container]
        done = self.host.run(words, timeout=_STATE_TIMEOUT, variables=_engine_variables())
        engine = Path(self.engine).name
        if done.returncode != 0:
            raise ContainerError(
                f"container {self.container}: {engine} does not know it: {done.complaint}",
                hint=f"`{engine} ps --all` lists the containers; `container` in [postfix] and [dovecot] names one",
            )
        status = done.text.split(maxsplit=1)[0] if done.text.strip() else "unknown"
        if status != "running":
            raise ContainerError(
                f"container {self.container}: it does not run, its state is {status}",
                hint=f"`{engine} start {self.container}`, then `mailsni apply`",
            )
        return done.text.strip()


def container_of(engine: str, project: str, service: str, host: Executor = LOCAL) -> str:
    """The name of a service's container in a compose project, running or not.

    Raises:
        ContainerError: there is none.
    """
    program = _program_of(engine, host)
    labels = {"project": project, "service": service}
    filters = [
        word for key, value in labels.items() for word in ("--filter", f"label=com.docker.compose.{key}={value}")
    ]
    words: list[str | Path] = [program, "ps", "--all", *filters, "--format", "{{.Names}}"]
    done = host.run(words, timeout=_STATE_TIMEOUT, variables=_engine_variables())
    if done.returncode != 0 or not done.text.strip():
        why = done.complaint if done.returncode != 0 else "there is none"
        raise ContainerError(
            f"compose project {project}: the container of its service {service} cannot be found: {why}",
            hint=f"`docker compose up -d` makes it; `{program.name} ps --all` lists all containers",
        )
    return done.text.split()[0]


def _program_of(engine: str, host: Executor) -> Path:
    found = Path(engine) if engine.startswith("/") else host.find_tool(engine)
    if found is None:
        raise ContainerError(
            f"{engine}: not found in {':'.join(SEARCH_PATH)}, so no container can be asked",
            hint="[container] engine names docker, podman, or the absolute path of such a program",
        )
    return found


def _engine_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in _ENGINE_VARIABLES if os.environ.get(name)}
