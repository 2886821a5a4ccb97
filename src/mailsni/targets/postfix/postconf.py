"""Postfix's configuration as its own tools print it, and where in main.cf and master.cf each parameter stands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mailsni.errors import PermissionMissingError, ServerConfigurationError
from mailsni.host import files
from mailsni.host.commands import LOCAL, Completed, Executor, require_tool
from mailsni.targets.postfix import lines
from mailsni.targets.postfix.lines import Entry
from mailsni.targets.postfix.map_types import PostfixMap, TableReference, parse_tables

SNI_MAPS = "tls_server_sni_maps"
SECURITY_LEVEL = "smtpd_tls_security_level"
AUTHORITY_FILE, AUTHORITY_DIRECTORY = "smtpd_tls_CAfile", "smtpd_tls_CApath"
DEFAULT_CERTIFICATES = ("smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file")
"""Any of them is a default certificate; the first one overrides the others (postconf(5))."""
DEFAULT_KEYS = ("smtpd_tls_key_file", "smtpd_tls_eckey_file", "smtpd_tls_dkey_file")
"""The keys of all default certificates but the first."""
_READ = (
    SNI_MAPS,
    *DEFAULT_CERTIFICATES,
    *DEFAULT_KEYS,
    SECURITY_LEVEL,
    AUTHORITY_FILE,
    AUTHORITY_DIRECTORY,
    "smtpd_use_tls",
    "smtpd_enforce_tls",
    "smtpd_tls_wrappermode",
    "default_database_type",
    "non_bdb_migration_level",
)
_UNUSED = re.compile(r"warning: (/.*?): unused parameter: ([^=\s]+)=(.*)")
_OVERRIDE = re.compile(r"^(\S+/\S+)/(\w+) = ?(.*)$", re.MULTILINE)
_BLAMED_LINE = re.compile(r"(/[^\s,:]+)[,:] line (\d+):")
_FATAL = re.compile(r"^\S+: fatal: (.*)", re.MULTILINE)
_BROKEN_OPTION = re.compile(r"warning: (master\.cf: .*)")
"""What postconf(1) only warns of, and master(8) refuses: a brace that is not closed (measured)."""


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
class MasterService:
    """Any service of master.cf, by the columns that decide whether master(8) can listen for it (master(5))."""

    name: str
    type: str
    private: str
    """``y``, ``n`` or ``-``."""


@dataclass(frozen=True, slots=True)
class Override:
    """A parameter that a service has for itself in master.cf (``-o name=value``), whatever main.cf says."""

    service: str
    """As postconf(1) writes it: ``submission/inet``."""
    parameter: str
    value: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One of several Postfix instances on a host (postmulti(1))."""

    name: str
    """Empty for one that has none."""
    config_directory: Path


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

    @property
    def tables(self) -> tuple[TableReference, ...]:
        """The tables that main.cf names, in order."""
        return parse_tables(self.value(SNI_MAPS))

    def named_tables(self) -> dict[TableReference, str]:
        """Every table that main.cf or a service names, each once, with the line that names it."""
        places = {table: self.where(SNI_MAPS, table.written) for table in self.tables}
        for override in self.overrides_of(SNI_MAPS):
            for table in parse_tables(override.value):
                places.setdefault(table, self.where_service(override.service, SNI_MAPS))
        return places

    def values_of(self, service: Service | None) -> Mapping[str, str]:
        """All values for a service, or of main.cf."""
        return values_of(service, self.overrides, self.values) if service is not None else self.values

    def value(self, parameter: str, service: Service | None = None) -> str:
        """What a parameter is for a service, or in main.cf; empty when it is not known."""
        return self.values_of(service).get(parameter, "")

    def overrides_of(self, *parameters: str) -> tuple[Override, ...]:
        """What services have for themselves of some parameters."""
        return tuple(override for override in self.overrides if override.parameter in parameters)

    def offers_tls(self, service: Service | None = None) -> bool:
        """Whether a service, or every one that does not say otherwise, offers TLS."""
        return offers_tls(self.values_of(service), "smtpd")

    def certificates(self, service: Service | None = None) -> list[tuple[str, tuple[Path, ...]]]:
        """The parameters with a default certificate, and the files of each: one for each algorithm, or all in one."""
        words = ((parameter, lines.split_words(self.value(parameter, service))) for parameter in DEFAULT_CERTIFICATES)
        named = [(parameter, tuple(Path(word) for word in each if word.startswith("/"))) for parameter, each in words]
        in_force = [(parameter, paths) for parameter, paths in named if paths]
        return in_force[:1] if in_force and in_force[0][0] == DEFAULT_CERTIFICATES[0] else in_force

    def certificate(self, service: Service | None = None) -> tuple[str, tuple[Path, ...]]:
        """The first parameter with a default certificate, and its files; an empty name when there is none."""
        return next(iter(self.certificates(service)), ("", ()))

    def key_file(self, certificate: str, service: Service | None = None) -> Path | None:
        """The file with the key of a default certificate, by its parameter: its own file, where nothing names one."""
        key = DEFAULT_KEYS[DEFAULT_CERTIFICATES.index(certificate) - 1]
        own = service is not None and any(each.service == service.title for each in self.overrides_of(key))
        value = self.value(key if own or self.lines_of(key) else certificate, service)
        return Path(value) if value.startswith("/") else None

    def where(self, parameter: str, word: str = "") -> str:
        """The line of main.cf where a parameter, or a word of its value, stands; main.cf when it is not there."""
        entries = self._entries_of(parameter)
        if not entries:
            return str(self.main_cf)
        number = entries[-1].line_with(re.escape(word)) if word else entries[-1].number
        return f"{self.main_cf}:{number}"

    def lines_of(self, parameter: str) -> list[int]:
        """The lines of main.cf where a parameter stands; the last one is in force."""
        return [entry.number for entry in self._entries_of(parameter)]

    def _entries_of(self, parameter: str) -> list[Entry]:
        pattern = re.compile(rf"{re.escape(parameter)}\s*=")
        return [entry for entry in self.main if pattern.match(entry.lines[0][1])]

    def where_service(self, service: str, parameter: str = "") -> str:
        """The line of master.cf where a service (``NAME/TYPE``), or its ``-o`` option for a parameter, stands."""
        name, _, kind = service.rpartition("/")
        for entry in self.master:
            if entry.text.split(maxsplit=2)[:2] == [name, kind]:
                option = rf"(?<![\w]){re.escape(parameter)}\s*=" if parameter else ""
                return f"{self.directory / 'master.cf'}:{entry.line_with(option) if option else entry.number}"
        return str(self.directory / "master.cf")


def values_of(service: Service, overrides: Iterable[Override], main: Mapping[str, str]) -> Mapping[str, str]:
    """All values for a service: what it has for itself, else those of main.cf."""
    own = {override.parameter: override.value for override in overrides if override.service == service.title}
    return {**main, **own}


def offers_tls(values: Mapping[str, str], program: str) -> bool:
    """Whether the parameters of a service, ``smtpd`` or ``postscreen``, switch TLS on (postconf(5)).

    The level decides, or the older switches where there is none.
    """
    if program == "smtpd" and values.get("smtpd_tls_wrappermode", "").lower() == "yes":
        return True
    level = values.get(f"{program}_tls_security_level", "").lower()
    if level:
        return level != "none"
    return any(values.get(f"{program}_{switch}", "").lower() == "yes" for switch in ("use_tls", "enforce_tls"))


def redirects_berkeley_db(values: Mapping[str, str]) -> bool:
    """Whether a Postfix opens another type in place of Berkeley DB (3.11 and later, NON_BERKELEYDB_README)."""
    return values.get("non_bdb_migration_level", "") in ("enable-redirect", "enable-reindex")


@dataclass(frozen=True, slots=True)
class Installation:
    """A Postfix: a configuration directory, and where its programs run.

    Every method raises HostError: a program is not installed, does not end, or cannot read the configuration.
    """

    config_directory: Path
    executor: Executor = LOCAL

    @property
    def installed(self) -> bool:
        """Whether there are programs at all."""
        return self.executor.find_tool("postconf") is not None

    def run(self, tool: str, *words: str | Path, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run one of Postfix's programs for the configuration directory."""
        argv = [require_tool(tool, self.executor), "-c", self.executor.inside(self.config_directory), *words]
        return self.executor.run(argv, stdin=stdin, timeout=timeout)

    def name_of(self, table: PostfixMap) -> str:
        """What the programs call a table of this host."""
        return f"{table.map_type}:{self.executor.inside(table.source)}"

    def read(self) -> Configuration:
        """Everything about TLS, from postconf(1) and both files.

        Raises:
            PermissionMissingError: this user may not read a file.
        """
        main = self._postconf("-x", *_READ)
        return Configuration(
            directory=self.config_directory,
            values=parse_parameters(main.text),
            services=self.services(),
            overrides=self.overrides(),
            types=self.supported_types(),
            unused=tuple(
                (Path(path), name, value) for path, name, value in dict.fromkeys(_UNUSED.findall(main.stderr))
            ),
            main=tuple(lines.entries(files.read_text(self.config_directory / "main.cf") or "")),
            master=tuple(lines.entries(files.read_text(self.config_directory / "master.cf") or "")),
        )

    def parameters(self, *names: str, expanded: bool = True, own: Iterable[Override] = ()) -> dict[str, str]:
        """The values of parameters in main.cf, with ``$name`` replaced (``expanded``) or as they are written.

        A parameter that this Postfix does not know is not among them. ``own`` are parameters of a service, which take
        the places of those in main.cf.
        """
        options = [word for override in own for word in ("-o", f"{override.parameter}={override.value}")]
        return parse_parameters(self._postconf(*options, *(["-x"] if expanded else []), *names).text)

    def sni_tables(self, *, expanded: bool = True) -> tuple[TableReference, ...]:
        """The tables of ``tls_server_sni_maps`` in main.cf, in order; see :meth:`parameters`.

        Their sources are paths of this host; None where only a container has them.
        """
        tables = parse_tables(self.parameters(SNI_MAPS, expanded=expanded).get(SNI_MAPS, ""))
        outside = self.executor.outside
        return tuple(replace(table, source=outside(table.source)) if table.source else table for table in tables)

    def services(self) -> tuple[Service, ...]:
        """The services of master.cf that take mail by SMTP, in order."""
        return tuple(parse_services(self._postconf("-M", file="master.cf").text))

    def master_services(self) -> tuple[MasterService, ...]:
        """All services of master.cf, in order."""
        done = self._postconf("-M", file="master.cf")
        if (broken := _BROKEN_OPTION.search(done.stderr)) is not None:
            raise ServerConfigurationError(f"{self.config_directory}/{broken[1]}")
        rows = (line.split() for line in done.text.splitlines())
        return tuple(MasterService(*row[:3]) for row in rows if len(row) > 3)

    def overrides(self, *names: str) -> tuple[Override, ...]:
        """The parameters that services have for themselves, in the order of postconf(1); all where none is named."""
        patterns = [f"*/*/{name}" for name in names]
        return parse_overrides(self._postconf("-Px", *patterns, file="master.cf").text)

    def instances(self) -> tuple[Instance, ...]:
        """All instances that ``postmulti -l`` lists; none when the configuration directory is not one of them."""
        program = self.executor.find_tool("postmulti")
        if program is None:
            return ()
        done = self.executor.run([program, "-l"])
        rows = (line.split() for line in done.text.splitlines())
        named = (
            ("" if row[0] == "-" else row[0], self.executor.outside(Path(row[3]))) for row in rows if len(row) == 4
        )
        listed = tuple(Instance(name, directory) for name, directory in named if directory is not None)
        # A private Postfix of another directory is none of the host's family.
        is_listed = any(instance.config_directory == self.config_directory for instance in listed)
        return listed if done.returncode == 0 and is_listed else ()

    def supported_types(self) -> frozenset[str]:
        """The map types of this Postfix (``postconf -m``)."""
        return frozenset(self.executor.run([require_tool("postconf", self.executor), "-m"]).text.split())

    def _postconf(self, *words: str, file: str = "main.cf") -> Completed:
        """Run postconf(1); the file is the one to blame when it fails without a place."""
        done = self.run("postconf", *words)
        if done.returncode == 0:
            return done
        blamed = _BLAMED_LINE.search(done.stderr)
        path = (self.executor.outside(Path(blamed[1])) if blamed else None) or self.config_directory / file
        if os.geteuid() != 0 and "Permission denied" in done.stderr:
            raise PermissionMissingError(f"{path}: cannot be read by this user", path=path)
        raise ServerConfigurationError(
            f"{path}: postconf cannot read it: {fatal_line(done)}",
            hint="correct it, or set [postfix] enabled = false",
            path=path,
            line=int(blamed[2]) if blamed else None,
        )


def fatal_line(done: Completed) -> str:
    """What made one of Postfix's programs fail: warnings come before it."""
    fatal = _FATAL.search(done.stderr)
    return fatal[1] if fatal is not None else done.complaint


def parse_parameters(text: str) -> dict[str, str]:
    """The values of parameters from ``name = value`` lines, as postconf(1) prints them."""
    pairs = (line.split(" =", 1) for line in text.splitlines() if " =" in line)
    return {name: value.strip() for name, value in pairs}


def parse_overrides(text: str) -> tuple[Override, ...]:
    """What services have for themselves, from the output of ``postconf -Px``."""
    return tuple(Override(service, name, value.strip()) for service, name, value in _OVERRIDE.findall(text))


def parse_services(text: str) -> Iterator[Service]:
    """The services that take mail by SMTP, from the output of ``postconf -M``: one a line, in columns (master(5))."""
    for line in text.splitlines():
        columns = line.split(maxsplit=8)
        if len(columns) >= 8 and (command := columns[7].rpartition("/")[2]) in {"smtpd", "postscreen", "tlsproxy"}:
            yield Service(columns[0], columns[1], command)
