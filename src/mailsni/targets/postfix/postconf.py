"""Postfix's configuration as its own tools tell it, and where in main.cf and master.cf each thing stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.errors import HostError
from mailsni.host import text_files
from mailsni.host.commands import Completed, find_tool, require_tool, run
from mailsni.targets.postfix import lines
from mailsni.targets.postfix.lines import Entry

PARAMETER = "tls_server_sni_maps"
CERTIFICATES = ("smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file")
"""Any of them is a default certificate; the first one overrides the others (postconf(5))."""
KEYS = ("smtpd_tls_key_file", "smtpd_tls_eckey_file", "smtpd_tls_dkey_file")
_SWITCHES = ("smtpd_tls_security_level", "smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_wrappermode")
_ASKED = (PARAMETER, *CERTIFICATES, *KEYS, *_SWITCHES, "default_database_type", "non_bdb_migration_level")
_UNUSED = re.compile(r"warning: (/.*?): unused parameter: ([^=\s]+)=(.*)")
_WORD = re.compile(r"(?:[^\s,{}]|\{[^{}]*\})+")


@dataclass(frozen=True, slots=True)
class Service:
    """A service of master.cf that takes mail by SMTP."""

    name: str
    """As master.cf has it: ``submission``, ``127.0.0.1:10025``."""
    type: str
    command: str
    """``smtpd``, ``postscreen`` or ``tlsproxy``."""

    @property
    def title(self) -> str:
        """As postconf(1) names it."""
        return f"{self.name}/{self.type}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a Postfix is configured to do with TLS."""

    directory: Path
    values: Mapping[str, str]
    """Of main.cf and the defaults, with ``$name`` replaced."""
    services: tuple[Service, ...]
    overrides: tuple[Override, ...]
    """What services have for themselves."""
    types: frozenset[str]
    """The kinds of tables that this build knows."""
    unused: tuple[tuple[Path, str, str], ...]
    """Parameters that nothing uses: the file, the name, the value."""
    main: tuple[Entry, ...]
    master: tuple[Entry, ...]

    @property
    def main_cf(self) -> Path:
        """Where main.cf lies."""
        return self.directory / "main.cf"

    def value(self, parameter: str, service: Service | None = None) -> str:
        """What a parameter is for a service, or in main.cf; empty when it is not known."""
        override = self.override(service, parameter) if service is not None else None
        return override.value if override is not None else self.values.get(parameter, "")

    def override(self, service: Service, parameter: str) -> Override | None:
        """What a service has for itself."""
        found = (one for one in self.overrides if (one.service, one.parameter) == (service.title, parameter))
        return next(found, None)

    def offers_tls(self, service: Service | None = None) -> bool:
        """Whether TLS is switched on: the level, or the older switches where there is none (postconf(5))."""
        if service is not None and self.value("smtpd_tls_wrappermode", service).lower() == "yes":
            return True
        level = self.value("smtpd_tls_security_level", service).lower()
        older = (self.value(name, service).lower() for name in ("smtpd_use_tls", "smtpd_enforce_tls"))
        return level != "none" if level else "yes" in older

    def certificate(self, service: Service | None = None) -> tuple[str, tuple[Path, ...]]:
        """The parameter with the default certificate, and its files; an empty name when there is none."""
        for parameter in CERTIFICATES:
            found = [Path(word) for word in re.split(r"[,\s]+", self.value(parameter, service)) if word.startswith("/")]
            if found:
                return parameter, tuple(found)
        return "", ()

    def where(self, parameter: str, word: str = "") -> str:
        """The line of main.cf where a parameter, or a word of its value, stands; main.cf when it is not there."""
        found = self._entries_of(parameter)
        if not found:
            return str(self.main_cf)
        number = found[-1].line_with(re.escape(word)) if word else found[-1].number
        return f"{self.main_cf}:{number}"

    def lines_of(self, parameter: str) -> list[int]:
        """The lines of main.cf where a parameter stands; the last one is in force."""
        return [entry.number for entry in self._entries_of(parameter)]

    def _entries_of(self, parameter: str) -> list[Entry]:
        pattern = re.compile(rf"{re.escape(parameter)}\s*=")
        return [entry for entry in self.main if pattern.match(entry.lines[0][1])]

    def where_service(self, service: str, parameter: str = "") -> str:
        """The line of master.cf where a service, or a parameter of its own, stands.

        Args:
            service: ``NAME/TYPE``.
            parameter: the name of one of its ``-o`` options.
        """
        name, _, kind = service.rpartition("/")
        for entry in self.master:
            if entry.text.split(maxsplit=2)[:2] == [name, kind]:
                option = rf"(?<![\w]){re.escape(parameter)}\s*=" if parameter else ""
                return f"{self.directory / 'master.cf'}:{entry.line_with(option) if option else entry.number}"
        return str(self.directory / "master.cf")


def read(directory: Path) -> Configuration:
    """Ask postconf(1), once for each kind of thing, and read both files.

    Raises:
        HostError: postconf fails, or a file cannot be read.
        PermissionMissingError: this user may not read a file.
    """
    postconf: list[str | Path] = [require_tool("postconf"), "-c", directory]
    asked = _succeeded(run([*postconf, "-x", *_ASKED]), "main.cf", directory)
    services = _succeeded(run([*postconf, "-M"]), "master.cf", directory)
    options = _succeeded(run([*postconf, "-Px"]), "master.cf", directory)
    types = run([require_tool("postconf"), "-m"])
    pairs = (line.split(" =", 1) for line in _text(asked).splitlines() if " =" in line)
    found = re.findall(r"^(\S+/\S+)/(\w+) = ?(.*)$", _text(options), re.MULTILINE)
    return Configuration(
        directory=directory,
        values={name: value.strip() for name, value in pairs},
        services=tuple(_services(_text(services))),
        overrides=tuple(Override(service, parameter, value.strip()) for service, parameter, value in found),
        types=frozenset(_text(types).split()),
        unused=tuple((Path(path), name, value) for path, name, value in dict.fromkeys(_UNUSED.findall(asked.stderr))),
        main=tuple(lines.entries(text_files.text_of(directory / "main.cf") or "")),
        master=tuple(lines.entries(text_files.text_of(directory / "master.cf") or "")),
    )


def tables(value: str) -> list[str]:
    """The tables in the value of a parameter; ``inline:{…}`` is one of them."""
    return _WORD.findall(value)


def _services(text: str) -> Iterator[Service]:
    for line in text.splitlines():
        columns = line.split(maxsplit=8)
        if len(columns) >= 8 and (command := columns[7].rpartition("/")[2]) in {"smtpd", "postscreen", "tlsproxy"}:
            yield Service(columns[0], columns[1], command)


def _succeeded(done: Completed, file: str, directory: Path) -> Completed:
    if done.returncode != 0:
        raise _unreadable(directory / file, done)
    return done


def _unreadable(file: Path, done: Completed, hint: str | None = None) -> HostError:
    """The error that postconf(1) refuses a file; it names the line as ``/etc/postfix/main.cf, line 10:``."""
    line = re.search(rf"{re.escape(str(file))}, line (\d+)", done.stderr)
    return HostError(
        f"{file}: postconf cannot read it: {done.stderr or 'no answer'}",
        hint=hint,
        path=file,
        line=int(line[1]) if line is not None else None,
    )


def _text(done: Completed) -> str:
    return done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Override:
    """A parameter that a service has for itself in master.cf (``-o name=value``), whatever main.cf says."""

    service: str
    """As postconf(1) writes it: ``submission/inet``."""
    parameter: str
    value: str


def overrides(config_directory: Path, parameters: Sequence[str]) -> tuple[Override, ...]:
    """The services that have some of these parameters for themselves, in the order of postconf(1).

    Raises:
        HostError: postconf(1) fails.
    """
    wanted = [f"*/*/{name}" for name in parameters]
    done = run([require_tool("postconf"), "-c", config_directory, "-Px", *wanted])
    if done.returncode != 0:
        raise _unreadable(config_directory / "master.cf", done)
    found = re.findall(r"^(\S+/\S+)/(\w+) = ?(.*)$", done.stdout.decode("utf-8", "replace"), re.MULTILINE)
    return tuple(Override(service, parameter, value.strip()) for service, parameter, value in found)


@dataclass(frozen=True, slots=True)
class Instance:
    """One of several Postfix instances on a host (postmulti(1))."""

    name: str
    """Empty for one that has none."""
    config_directory: Path


def instances(config_directory: Path) -> tuple[Instance, ...]:
    """All instances that ``postmulti -l`` tells of, the one of this directory included where it is one of them."""
    program = find_tool("postmulti")
    if program is None:
        return ()
    done = run([program, "-l"])
    rows = (line.split() for line in done.stdout.decode("utf-8", "replace").splitlines())
    found = (Instance("" if row[0] == "-" else row[0], Path(row[3])) for row in rows if len(row) == 4)
    listed = tuple(found) if done.returncode == 0 else ()
    # A private Postfix of another directory is none of the host's family.
    return listed if any(one.config_directory == config_directory for one in listed) else ()


def parameters(config_directory: Path, *names: str, expanded: bool = True) -> dict[str, str]:
    """The values of parameters in main.cf; one that this Postfix does not know is not among them.

    Args:
        config_directory: of main.cf.
        names: of the parameters.
        expanded: with ``$name`` replaced, else as they are written.

    Raises:
        HostError: postconf(1) fails, for example because main.cf cannot be parsed.
    """
    flags = ["-x"] if expanded else []
    done = run([require_tool("postconf"), "-c", config_directory, *flags, *names])
    if done.returncode != 0:
        raise _unreadable(config_directory / "main.cf", done)
    pairs = (line.split(" =", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if " =" in line)
    return {name: value.strip() for name, value in pairs}


def supported_types() -> frozenset[str]:
    """The map types of this host's Postfix (``postconf -m``)."""
    done = run([require_tool("postconf"), "-m"])
    return frozenset(done.stdout.decode("ascii", "replace").split())


def _parameters(postconf: Path, directory: Path) -> dict[str, str]:
    names = ("tls_server_sni_maps", "default_database_type")
    done = run([postconf, "-c", directory, "-x", *names])
    values = dict(line.split(" =", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if " =" in line)
    if done.returncode != 0 or not all(name in values for name in names):
        raise _unreadable(directory / "main.cf", done, "mend it, or set [postfix] enabled = false")
    return {name: value.strip() for name, value in values.items()}
