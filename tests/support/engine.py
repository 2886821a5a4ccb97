"""A container engine of the tests' own, and mail stacks in its containers.

dockerd runs with a data directory and a socket of its own, without a network of its own; images are made of the root
that the lab runs in. Only in the lab: there the file systems that it mounts, and what it starts, end with the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.host.commands import environment, find_tool, run
from mailsni.host.templates import render
from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import LOOPBACK
from tests.support.processes import running, until
from tests.support.servers import free_ports

CGROUPS = Path("/sys/fs/cgroup")
LEFT_OUT_OF_IMAGES = (
    *("./dev", "./opt", "./output", "./proc", "./src", "./sys", "./tmp", "./run", "./var/cache", "./var/lib/dpkg"),
    *("./usr/include", "./usr/share", "./usr/lib/gcc", "./usr/lib/python3*", "./usr/lib/systemd", "*.a", "*lto-dump*"),
    *("./usr/bin/docker*", "./usr/bin/containerd*", "./usr/bin/ctr", "./usr/sbin/runc", "./usr/sbin/dockerd"),
    *("./usr/bin/prom*", "./usr/bin/caddy", "./usr/bin/lego", "./usr/bin/pebble*", "./usr/libexec/docker"),
)
STACK = "stack"
"""The image of every mail stack."""
_START = """\
set -e
mkdir -p /mail/postfix/queue /mail/postfix/data /mail/dovecot
chown postfix /mail/postfix/data
rm -f /mail/dovecot/run/master.pid /mail/postfix/queue/pid/master.pid
trap 'exit 0' TERM
postfix start
dovecot
touch /mail/started
sleep infinity & wait
"""
_OVERRIDE = """\
cp -a /image/postfix/. /etc/postfix/
rm -rf /etc/dovecot/conf.d
cp -a /image/dovecot/. /etc/dovecot/
if [ -f /tmp/docker-mailserver/postfix-main.cf ]; then
  cat /tmp/docker-mailserver/postfix-main.cf >>/etc/postfix/main.cf
  touch -d "1 minute ago" /etc/postfix/main.cf
  postconf -n >/tmp/main.cf 2>/dev/null
  mv /tmp/main.cf /etc/postfix/main.cf
  touch -d "1 minute ago" /etc/postfix/main.cf
fi
rm -f /etc/dovecot/local.conf
[ -f /tmp/docker-mailserver/dovecot.cf ] && cp /tmp/docker-mailserver/dovecot.cf /etc/dovecot/local.conf
"""
"""What the start scripts of docker-mailserver do with the override files."""
_FOLDERS = """\
for d in /etc/ssl/mail/*/; do
  [ -f "${d}domains" ] && [ -f "${d}cert.pem" ] && [ -f "${d}key.pem" ] || continue
  set -f; for name in $(cat "${d}domains"); do set +f
"""
_MAILCOW_POSTFIX = (
    ": >/opt/postfix/conf/sni.map\n"
    + _FOLDERS
    + """\
  echo "$name ${d}key.pem ${d}cert.pem" >>/opt/postfix/conf/sni.map
done; done
postmap -F hash:/opt/postfix/conf/sni.map
mkdir -p /mail/postfix/queue /mail/postfix/data
chown postfix /mail/postfix/data
rm -f /mail/postfix/queue/pid/master.pid
postfix -c /opt/postfix/conf start || exit 1
touch /mail/started
sleep infinity & wait
"""
)
_MAILCOW_DOVECOT = (
    "echo >/etc/dovecot/sni.conf\n"
    + _FOLDERS
    + """\
  printf 'local_name %s {\\n  ssl_cert = <%scert.pem\\n' "$name" "$d" >>/etc/dovecot/sni.conf
  printf '  ssl_key = <%skey.pem\\n}\\n' "$d" >>/etc/dovecot/sni.conf
done; done
mkdir -p /mail/dovecot
rm -f /mail/dovecot/run/master.pid
dovecot || exit 1
touch /mail/started
sleep infinity & wait
"""
)
"""What mailcow's start scripts do with the folders."""
SERVICES = ("smtp", "submission", "smtps", "imap", "imaps", "pop3", "pop3s")


def engine_unavailable() -> str | None:
    """Why no container engine can run here; None when one can."""
    if "MAILSNI_LAB_RELEASE" not in os.environ:
        return "a container engine is started only in the lab"
    missing = [name for name in ("dockerd", "docker", "containerd", "runc") if find_tool(name) is None]
    return f"{', '.join(missing)}: not installed (Debian 13 has docker in a package of its own)" if missing else None


@dataclass(frozen=True)
class Engine:
    """A running dockerd."""

    directory: Path

    @property
    def program(self) -> Path:
        """The engine's command line, for the configuration: docker(1), which finds this dockerd."""
        return self.directory / "docker"

    @property
    def socket(self) -> str:
        """Where it listens, as docker(1) takes it."""
        return f"unix://{self.directory}/socket"

    def run(self, *words: str) -> str:
        """Run docker(1) to its end; returns its output.

        Raises:
            AssertionError: it failed.
        """
        done = run([self.program, *words])
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
        return done.text.strip()

    def import_root(self, image: str) -> None:
        """Make an image of the root that the tests run in, without what a mail stack does not need."""
        excluded = [f"--exclude={pattern}" for pattern in LEFT_OUT_OF_IMAGES]
        words = ["tar", "--one-file-system", "--create", "--directory=/", *excluded, "."]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as archive:
            subprocess.run(
                [self.program, "import", "-", image], stdin=archive.stdout, capture_output=True, check=True, timeout=120
            )

    def started_at(self, container: str) -> str:
        """When the container's first process began."""
        return self.run("inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", container)


@contextlib.contextmanager
def container_engine(directory: Path) -> Iterator[Engine]:
    """Start dockerd in a directory with a short path; it ends with everything in it."""
    engine = Engine(directory)
    data = directory / "data"
    data.mkdir()
    parent = f"/mailsni-{os.getpid()}"
    _mount("-t", "tmpfs", "-o", "size=4g", "images", str(data))
    if not (CGROUPS / "cgroup.procs").exists():
        _mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
    engine.program.write_text(f'#!/bin/sh\nexec {find_tool("docker")} --host {engine.socket} "$@"\n')
    engine.program.chmod(0o755)
    words = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--host", engine.socket]
    words += ["--data-root", f"{data}/images", "--exec-root", f"{data}/run", "--pidfile", str(directory / "pid")]
    words += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", parent]
    log = directory / "dockerd.log"
    try:
        with running([str(find_tool(words[0])), *words[1:]], log) as daemon:
            until(lambda: run([engine.program, "version"]).returncode == 0, log.read_text, beside=daemon)
            try:
                yield engine
            finally:
                containers = engine.run("ps", "--all", "--quiet").split()
                if containers:
                    engine.run("rm", "--force", *containers)
                daemon.terminate()  # it ends containerd, which it started
                daemon.wait(30)
    finally:
        with contextlib.suppress(OSError):
            (CGROUPS / parent.lstrip("/")).rmdir()
        run([find_tool("umount") or "umount", "--recursive", "--lazy", data])


def _mount(*words: str) -> None:
    done = run([find_tool("mount") or "mount", *words])
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Stack:
    """A mail stack: Postfix and Dovecot in one container, with configuration directories on this host."""

    engine: Engine
    name: str
    directory: Path
    ports: Mapping[str, int]

    @property
    def postfix(self) -> Path:
        """What ``/etc/postfix`` is inside."""
        return self.directory / "postfix"

    @property
    def dovecot(self) -> Path:
        """What ``/etc/dovecot`` is inside."""
        return self.directory / "dovecot"

    @property
    def paths(self) -> dict[str, str]:
        """``[container] paths``."""
        return {str(self.postfix): "/etc/postfix", str(self.dovecot): "/etc/dovecot"}

    @property
    def _mark(self) -> Path:
        return self.directory / "mail/started"

    def urls(self, *services: str) -> list[str]:
        """``[verify] endpoints``, of all services where none is named."""
        protocols = {"submission": "smtp"}
        chosen = services or tuple(self.ports)
        return [f"{protocols.get(each, each)}://{LOOPBACK}:{self.ports[each]}" for each in chosen]

    def masters(self) -> list[str]:
        """The process ids of both master processes, as they are inside."""
        files = ("postfix/queue/pid/master.pid", "dovecot/run/master.pid")
        return [(self.directory / "mail" / file).read_text().strip() for file in files]

    def start(self) -> None:
        """Start the container, and wait until both servers run."""
        self._mark.unlink(missing_ok=True)
        self.engine.run("start", self.name)
        self.wait()

    def wait(self) -> None:
        """Wait until both servers run."""
        until(self._mark.exists, lambda: run([self.engine.program, "logs", self.name]), limit=60)

    def remove(self) -> None:
        """Stop the container, and forget it."""
        self.engine.run("rm", "--force", self.name)

    def restarting_engine(self, words: str) -> Path:
        """A command line like the engine's, which restarts the container once, when a call matches a shell pattern.

        The call goes on while the container is being restarted; ``restarted`` in the stack's directory tells of it.
        """
        program = self.directory / "restarting"
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *{words}*) if mkdir {self.directory}/restarted 2>/dev/null; then\n'
            f"rm {self._mark}; {self.engine.program} kill {self.name} >/dev/null\n"
            f"({self.engine.program} start {self.name} >/dev/null 2>&1 &)\nfi;; esac\n"
            f'exec {self.engine.program} "$@"\n'
        )
        program.chmod(0o755)
        return program

    def stop(self) -> None:
        """Stop the container at once."""
        self.engine.run("kill", self.name)
        until(lambda: self.engine.run("inspect", "--format", "{{.State.Running}}", self.name) == "false", "it runs on")

    def restart(self) -> None:
        """Stop the container and start it again."""
        self.stop()
        self.start()


def new_stack(engine: Engine, name: str, directory: Path, default: Issued, map_type: str = "cdb") -> Stack:
    """A mail stack in a container that is not started yet; its configuration directories are mounted.

    Args:
        engine: it has the image :data:`STACK`.
        name: of the container.
        directory: an empty one that everyone can pass through.
        default: the certificate for clients that ask for no name they know.
        map_type: of the map that main.cf names; there is none yet.
    """
    stack = Stack(engine, name, directory, dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))
    _configure(stack, default, sni_map=f"{map_type}:/etc/postfix/mailsni")
    _create(stack, stack.paths, _START)
    return stack


def new_docker_mailserver(engine: Engine, name: str, directory: Path, default: Issued) -> Stack:
    """The same in docker-mailserver's layout: the configuration is in the image, and one directory is mounted.

    What its start scripts do with the override files is done by the same steps (setup.d/postfix.sh and dovecot.sh).
    """
    stack = Stack(engine, name, directory, dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))
    _configure(stack, default, sni_map=None)
    with (stack.dovecot / "dovecot.conf").open("a") as file:
        file.write("!include_try local.conf\n")
    config = directory / "docker-data/dms/config"
    config.mkdir(parents=True)
    image = {str(stack.postfix): "/image/postfix", str(stack.dovecot): "/image/dovecot"}
    _create(stack, {**image, str(config): "/tmp/docker-mailserver"}, _OVERRIDE + _START)
    return stack


def new_mailcow(engine: Engine, project: str, directory: Path, default: Issued) -> dict[str, Stack]:
    """Mailcow's layout and its containers by their services, not started: Postfix, Dovecot, a nginx that only notes.

    They make ``sni.map`` and ``sni.conf`` when they start, by the steps of postfix.sh and docker-entrypoint.sh.
    """
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    source = Stack(engine, "", directory / "made", ports)
    (directory / "made").mkdir()
    _configure(source, default, sni_map="hash:/opt/postfix/conf/sni.map")
    data = directory / "data"
    (data / "conf").mkdir(parents=True)
    source.postfix.rename(data / "conf/postfix")
    source.dovecot.rename(data / "conf/dovecot")
    for file in (data / "conf/postfix/main.cf", data / "conf/dovecot/dovecot.conf"):
        text = file.read_text().replace("/etc/postfix/default.pem", "/etc/ssl/mail/key.pem, /etc/ssl/mail/cert.pem")
        text = text.replace("ssl_cert = </etc/dovecot/default.pem", "ssl_cert = </etc/ssl/mail/cert.pem")
        file.write_text(text.replace("ssl_key = </etc/dovecot/default.pem", "ssl_key = </etc/ssl/mail/key.pem"))
    os.utime(data / "conf/postfix/main.cf", (0, 0))
    with (data / "conf/dovecot/dovecot.conf").open("a") as main:
        main.write("!include_try /etc/dovecot/sni.conf\n")
    (data / "assets/ssl").mkdir(parents=True)
    (data / "assets/ssl/cert.pem").write_bytes(default.fullchain_pem)
    (data / "assets/ssl/key.pem").write_bytes(default.key_pem)
    (directory / "mailcow.conf").write_text(f"MAILCOW_HOSTNAME=mail.a.test\nCOMPOSE_PROJECT_NAME={project}\n")
    (directory / "nginx").write_text('#!/bin/sh\necho "$@" >>/mail/calls\n')
    (directory / "nginx").chmod(0o755)
    own = {
        "postfix-mailcow": ({str(data / "conf/postfix"): "/opt/postfix/conf"}, _MAILCOW_POSTFIX),
        "dovecot-mailcow": ({str(data / "conf/dovecot"): "/etc/dovecot"}, _MAILCOW_DOVECOT),
        "nginx-mailcow": ({str(directory / "nginx"): "/usr/sbin/nginx"}, "touch /mail/started; sleep infinity & wait"),
    }
    stacks = {}
    for service, (paths, script) in own.items():
        stack = Stack(engine, f"{project}-{service}-1", directory / service, ports)
        (stack.directory / "mail").mkdir(parents=True)
        names = {"project": project, "service": service}
        labels = [word for key, value in names.items() for word in ("--label", f"com.docker.compose.{key}={value}")]
        _create(stack, {**paths, str(data / "assets/ssl"): "/etc/ssl/mail"}, script, labels)
        stacks[service] = stack
    return stacks


def _configure(stack: Stack, default: Issued, *, sni_map: str | None) -> None:
    """Write the configuration of both servers as it is to be inside."""
    shutil.copytree("/etc/postfix", stack.postfix, symlinks=True)
    (stack.dovecot / "conf.d").mkdir(parents=True)
    (stack.directory / "mail").mkdir()
    common = {"address": LOOPBACK, "ports": stack.ports}
    for server, file, own in (
        ("postfix", "main.cf", {"sni_map": sni_map}),
        ("postfix", "master.cf", {}),
        ("dovecot", "dovecot.conf", {"version": "2.3", "implicit": ("imaps", "pop3s")}),
    ):
        at = {"directory": Path("/mail", server), "default": f"/etc/{server}/default.pem"}
        text = render(f"sandbox/{file}.j2", None, **common, **at, **own).decode()
        (stack.directory / server / file).write_text(text)
    for server in ("postfix", "dovecot"):
        (stack.directory / server / "default.pem").touch(mode=0o600)
        (stack.directory / server / "default.pem").write_bytes(default.key_pem + default.fullchain_pem)
    os.utime(stack.postfix / "main.cf", (0, 0))


def _create(stack: Stack, paths: Mapping[str, str], script: str, labels: Sequence[str] = ()) -> None:
    mounts = {**paths, str(stack.directory / "mail"): "/mail"}
    volumes = [word for outside, inside in mounts.items() for word in ("--volume", f"{outside}:{inside}")]
    options = ["--name", stack.name, "--network", "host", "--init", *labels, *volumes]
    stack.engine.run("create", *options, STACK, "/bin/sh", "-c", script)


def write_configuration(path: Path, tables: Mapping[str, Mapping[str, object]], stores: Sequence[Path]) -> Path:
    """Write a configuration file with certbot's stores and tables; gives its path."""
    lines = [line for store in stores for line in ("[[sources]]", 'type = "certbot"', f"path = {_toml(store)}", "")]
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines))
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(str(value) if isinstance(value, Path) else value)
