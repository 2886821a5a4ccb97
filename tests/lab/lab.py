#!/usr/bin/env python3
"""Real Debian systems for the tests, with nothing changed on the host.

    lab.py prepare RELEASE…             make the root file systems (once; minutes)
    lab.py run [--output DIRECTORY] RELEASE -- COMMAND…     run a command in one of them (about a second to start)

Roots are kept in ``${MAILSNI_LAB:-${XDG_CACHE_HOME:-~/.cache}/mailsni-lab}``: one directory with Debian's packages,
made by debootstrap and apt, and one with the Python environment on top, each named by a hash of what went into it,
built under another name and renamed when complete. ``run`` lays a throw-away layer over both and starts the command in
mount, process, network, host-name and IPC name spaces of its own: what the command writes is gone when it ends, its
daemons die with it, and the only network it sees is its own loopback. The repository is at /src, read-only; mailsni is
installed in /opt/venv from a wheel built from it. A directory given as ``--output`` is /output, and outlives the run.
The kept directories may be deleted whenever no test runs.

Needs root and, for ``prepare``, debootstrap (installed by apt-get where that is there) and a Debian mirror: the host's
own if it has one, else deb.debian.org; ``MAILSNI_LAB_MIRROR`` names another. pip is used as the host has it set up.
Only the standard library: this file runs before anything is installed. Exit code: the command's; 125 for a failure of
the lab itself.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONSTRAINTS = REPOSITORY / "constraints.txt"
"""Pins the versions of what the requirements bring in."""
RELEASES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    *("ca-certificates", "openssl", "procps", "iproute2", "strace"),
    *("postfix", "postfix-cdb", "postfix-lmdb"),
    *("dovecot-core", "dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd", "dovecot-managesieved"),
    *("certbot", "pebble", "dehydrated", "lego", "caddy", "apache2"),
    *("docker.io",),
    *("systemd", "cron", "runit", "s6", "prometheus"),
    *("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "libdb-dev"),
)
ONLY_IN = {"trixie": ("acme.sh",)}
"""Packages that an older release does not have."""
SLIM = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
"""
RECIPE = 1
"""Part of the names of the roots: count up when the way they are made changes."""

LINTERS = ("grimp", "import-linter", "mypy", "ruff", "types-")
"""Beginnings of the names of packages that only the host's checks need."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = (
    *("TERM", "COLUMNS", "CI", "NO_COLOR", "FORCE_COLOR", "PYTEST_ADDOPTS"),
    *("MAILSNI_FAULTS", "MAILSNI_SHARED", "MAILSNI_STORIES"),
)
LAB_FAILED = 125
_MNT_DETACH = 2


class LabError(Exception):
    """The lab cannot be made or entered; the message says why."""


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"lab: {text}\n")
    sys.stderr.flush()


# ---------------------------------------------------------------------------------------------------------------------
# What there is to build, and where


def cache() -> Path:
    """The directory that keeps the roots."""
    named = os.environ.get("MAILSNI_LAB")
    if named:
        return Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home).absolute() / "mailsni-lab"


def requirements() -> list[str]:
    """What the Python environment of a root needs, as pyproject.toml states it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted: list[str] = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    wanted += [item for item in project["dependency-groups"]["dev"] if isinstance(item, str)]
    return sorted({item for item in wanted if not item.startswith(LINTERS)})


def pinned() -> list[str]:
    """The lines of :data:`CONSTRAINTS` that matter in a root."""
    return [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith(("#", *LINTERS))]


def digest(*parts: object) -> str:
    """A short name for what something is made of."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def base_of(release: str) -> Path:
    """The directory with Debian's packages of a release."""
    return cache() / f"{release}-{digest(RECIPE, packages(release), SLIM)}"


def packages(release: str) -> tuple[str, ...]:
    """What is installed in a release."""
    return (*PACKAGES, *ONLY_IN.get(release, ()))


def layer_of(release: str) -> Path:
    """The directory with /opt/venv of a release, to be laid over its packages."""
    base = base_of(release)
    return base.with_name(f"{base.name}-venv-{digest(requirements(), pinned())}")


def mirror() -> str:
    """The Debian mirror to install from."""
    named = os.environ.get("MAILSNI_LAB_MIRROR")
    if named:
        return named
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in path.read_text().splitlines():
                found = re.match(r"(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?(?:\s|$)", line)
                if found:
                    return found[1]
    return MIRROR


# ---------------------------------------------------------------------------------------------------------------------
# Prepare


def prepare(release: str) -> None:
    """Make the root of a release if it is not there.

    Raises:
        LabError: a step failed; the half-made directory is left to the next attempt, which removes it.
    """
    if base_of(release).is_dir() and layer_of(release).is_dir():
        return
    require_root()
    cache().mkdir(parents=True, exist_ok=True)
    log = cache() / f"{release}.log"
    with (cache() / f".{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache().glob(f".{release}-*.partial"):
            shutil.rmtree(stale)
        if not base_of(release).is_dir():
            make_base(release, log)
        if not layer_of(release).is_dir():
            make_layer(release, log)


def make_base(release: str, log: Path) -> None:
    """Debian's packages: debootstrap makes the minimum, apt in the root adds the rest (it knows virtual packages)."""
    require_debootstrap()
    root = partial(base_of(release))
    say(f"{release}: debootstrap from {mirror()} (log: {log})")
    options = ["--variant=minbase", "--include=ca-certificates"]
    logged([*apart(), "debootstrap", *options, release, str(root), mirror()], log)
    (root / "etc/dpkg/dpkg.cfg.d/lab").write_text(SLIM)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    trust(root)
    say(f"{release}: installing packages")
    install = (
        "apt-get update && apt-get install -y --no-install-recommends "
        + " ".join(packages(release))
        + " && apt-get clean"
    )
    logged([*inside(root), "sh", "-ec", install], log)
    (root / "opt/venv").mkdir(parents=True, exist_ok=True)
    (root / "src").mkdir()
    root.rename(base_of(release))


def require_debootstrap() -> None:
    """Have debootstrap installed; one process at a time, as apt-get refuses a second.

    Raises:
        LabError: it is not there and cannot be installed.
    """
    log = cache() / "debootstrap.log"
    with (cache() / ".debootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("debootstrap", path=SYSTEM_PATH) is not None:
            return
        if shutil.which("apt-get", path=SYSTEM_PATH) is None:
            raise LabError("debootstrap is not installed")
        say("installing debootstrap")
        logged(["apt-get", "update"], log)
        logged(["apt-get", "install", "-y", "--no-install-recommends", "debootstrap"], log)


def make_layer(release: str, log: Path) -> None:
    """The Python environment, made where it will be seen (/opt/venv), kept in a directory of its own."""
    root = base_of(release)
    layer = partial(layer_of(release))
    venv = layer / "opt/venv"
    venv.mkdir(parents=True)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    trust(root)
    say(f"{release}: installing the Python environment")
    binds = {venv: "/opt/venv", CONSTRAINTS: "/opt/constraints.txt"} | {path: str(path) for path in pip_paths()}
    install = "/opt/venv/bin/pip install --constraint /opt/constraints.txt"
    script = f'python3 -m venv /opt/venv && {install} --upgrade pip && {install} "$@"'
    logged([*inside(root, binds), "sh", "-ec", script, "sh", *requirements()], log, pip_environment())
    layer.rename(layer_of(release))


def partial(final: Path) -> Path:
    """The name under which a directory is built."""
    return final.with_name(f".{final.name}.partial")


def trust(root: Path) -> None:
    """The host's certificate authorities, so that a root reaches the mirrors that the host reaches."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")


def pip_configuration() -> list[Path]:
    """The configuration files that pip reads on this host."""
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE")
    candidates = [
        Path("/etc/pip.conf"),
        Path("/etc/xdg/pip/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        *([Path(named)] if named else []),
    ]
    return [path for path in candidates if path.is_file()]


def pip_environment() -> dict[str, str]:
    """The settings of pip in this process's environment."""
    proxies = {"http_proxy", "https_proxy", "no_proxy"}
    return {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower() in proxies}


def pip_paths() -> list[Path]:
    """What pip's configuration is and refers to on this host: files and directories to show inside a root."""
    configuration = pip_configuration()
    texts = [path.read_text() for path in configuration] + list(pip_environment().values())
    words = [word.removeprefix("file://") for text in texts for word in re.split(r"[\s,=]+", text)]
    shown = {Path(word) for word in words if word.startswith("/") and word != "/"}
    parents = {path.parent if path.name == "simple" else path for path in shown}  # an index lies beside its files
    return sorted(path for path in {*configuration, *parents} if path.exists() and path != Path(os.devnull))


def logged(argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a step; its output goes to the log, and its last lines to the reader when it fails."""
    env = {"PATH": SYSTEM_PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    env["PIP_NO_CACHE_DIR"] = "1"
    env |= pip_environment() | dict(environment or {})
    with log.open("ab") as output:
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise LabError(f"{argv[0]} … exited {done.returncode}\n{tail}\nsee {log}")


def apart() -> list[str]:
    """The words before a command that mounts things: its mounts end with it, and it ends with this process."""
    tied = ["setpriv", "--pdeathsig", "KILL"]
    return [*tied, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]


def inside(root: Path, binds: Mapping[Path, str] | None = None) -> list[str]:
    """The words before a command that is to run in a root, with the host's network."""
    pairs = [word for source, target in (binds or {}).items() for word in ("--bind", f"{source}={target}")]
    return [*apart(), sys.executable, str(Path(__file__).resolve()), "_inside", str(root), *pairs, "--"]


# ---------------------------------------------------------------------------------------------------------------------
# Run


def run(release: str, command: Sequence[str], output: Path | None = None) -> int:
    """Run a command in the root of a release and wait for it.

    An interrupt from the terminal reaches the command and is its business. When this process is terminated, or dies
    in whatever way, everything that it started dies too.

    Returns:
        The command's exit status.

    Raises:
        LabError: the root cannot be made, or this user is not root.
    """
    require_root()
    prepare(release)
    (cache() / "mnt").mkdir(exist_ok=True)
    words = [*apart(), "--net", "--uts", "--ipc"]
    words += [sys.executable, str(Path(__file__).resolve()), "_layered"]
    words += [*(("--output", str(output.resolve())) if output else ()), release, "--", *command]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(words, env=os.environ | {"PATH": SYSTEM_PATH})
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    return code_of(child.wait())


def layered(release: str, command: Sequence[str], output: Path | None) -> int:
    """In the new name spaces: lay the layers over each other, install mailsni, run the command."""
    stage = cache() / "mnt"
    mount("-t", "tmpfs", "-o", "mode=0755", "lab", str(stage))
    for name in ("upper", "work", "root"):
        (stage / name).mkdir()
    layers = f"lowerdir={layer_of(release)}:{base_of(release)},upperdir={stage}/upper,workdir={stage}/work"
    root = stage / "root"
    mount("-t", "overlay", "-o", layers, "lab", str(root))
    mount("--bind", "-o", "ro", str(REPOSITORY), str(root / "src"))
    if output is not None:
        (root / "output").mkdir()
        mount("--bind", str(output), str(root / "output"))
    furnish(root)
    (root / "etc/hosts").write_text("127.0.0.1 localhost lab.test\n")
    (root / "etc/resolv.conf").write_text("")
    subprocess.run(["hostname", "lab.test"], check=False)
    environment = {
        "PATH": f"/opt/venv/bin:{SYSTEM_PATH}",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        "MAILSNI_LAB_REQUIRED": "1",
        "MAILSNI_LAB_RELEASE": release,
    } | {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    pivot(root)
    root = Path("/")
    enter(root, ["ip", "link", "set", "lo", "up"], environment)
    flags = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-cache-dir"]
    flags += ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    if enter(root, ["/opt/venv/bin/pip", "install", *flags, "/src"], environment) != 0:
        raise LabError("mailsni cannot be built and installed from /src")
    return enter(root, command, environment)


def mount(*words: str) -> None:
    """Mount something in this process's name space."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"mount {' '.join(words)}: {done.stderr.strip()}")


def pivot(root: Path) -> None:
    """Make a mounted directory the root of this process's name space, and let go of the host's (pivot_root(2), NOTES).

    After chroot(2) alone the name space would still have the host's root, and so would all that joins it: a program
    that ``docker exec`` starts would run on the host (measured).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    if libc.pivot_root(b".", b".") != 0 or libc.umount2(b".", _MNT_DETACH) != 0:
        raise LabError(f"{root}: cannot become the root: {os.strerror(ctypes.get_errno())}")


def furnish(root: Path) -> None:
    """The file systems that programs expect: /proc, /sys, and a /dev with nothing of the host's hardware in it."""
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    dev = root / "dev"
    mount("-t", "tmpfs", "-o", "mode=0755", "dev", str(dev))
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", str(dev / name))
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(dev / "pts"))
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", str(dev / "shm"))
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def enter(root: Path, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in a root to its end, as process 1 should: burying every orphan on the way.

    An interrupt from the terminal is left to the command.

    Returns:
        Its exit status, 128 + N when signal N ended it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            os.chroot(root)
            os.chdir("/src" if Path("/src/pyproject.toml").exists() else "/")
            os.execvpe(command[0], list(command), dict(environment))  # noqa: S606
        except OSError as error:
            sys.stderr.write(f"lab: {command[0]}: {error.strerror}\n")
            sys.stderr.flush()
        os._exit(127)
    while True:
        ended, status = os.wait()
        if ended == child:
            return code_of(os.waitstatus_to_exitcode(status))


def code_of(status: int) -> int:
    """The exit status a shell would show: 128 + N when signal N ended the program."""
    return status if status >= 0 else 128 - status


def unlayered(root: Path, binds: Sequence[str], command: Sequence[str]) -> int:
    """In the name spaces of ``prepare``: run a command in the very root, with some of the host's files shown in it."""
    with contextlib.ExitStack() as made:
        furnish(root)
        for bind in binds:
            source, _, target = bind.partition("=")
            place = root / target.lstrip("/")
            if not place.exists():
                made.callback(remove_mount_point, place)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir() if Path(source).is_dir() else place.touch()
            read_only = () if target == "/opt/venv" else ("-o", "ro")
            mount("--bind", *read_only, source, str(place))
        return enter(root, command, os.environ)


def remove_mount_point(place: Path) -> None:
    """Take away what was made for one command."""
    subprocess.run(["umount", str(place)], capture_output=True, check=False)
    with contextlib.suppress(OSError):
        place.rmdir() if place.is_dir() else place.unlink()


def require_root() -> None:
    """The lab mounts and changes roots: only root may.

    Raises:
        LabError: this user is not root.
    """
    if os.geteuid() != 0:
        raise LabError("needs root (it mounts file systems and changes roots)")


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run tests in real Debian systems.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare", help="make the root file systems")
    verb.add_argument("releases", nargs="+", choices=RELEASES)
    verb = verbs.add_parser("run", help="run a command in a root file system")
    verb.add_argument("--output", type=Path, metavar="DIRECTORY", help="show this directory as /output, writable")
    verb.add_argument("release", choices=RELEASES)
    verb.add_argument("command", nargs="+")
    verb = verbs.add_parser("_layered")
    verb.add_argument("--output", type=Path)
    verb.add_argument("release", choices=RELEASES)
    verb.add_argument("command", nargs="+")
    verb = verbs.add_parser("_inside")
    verb.add_argument("root", type=Path)
    verb.add_argument("--bind", action="append", default=[])
    verb.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "run":
            return run(options.release, options.command, options.output)
        if options.verb == "_layered":
            return layered(options.release, options.command, options.output)
        if options.verb == "_inside":
            return unlayered(options.root, options.bind, options.command)
        with ThreadPoolExecutor() as side_by_side:  # most of the time goes into waiting for a mirror and for dpkg
            list(side_by_side.map(prepare, options.releases))
    except LabError as error:
        say(f"error: {error}")
        return LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
