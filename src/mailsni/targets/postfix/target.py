"""Postfix: the source of ``tls_server_sni_maps``, the map compiled from it, and the proof that it holds what it should.

``postmap -F`` cannot be believed: it exits 0 after it dropped entries, stores an empty value for an empty file, and
(lmdb, full disk) writes nothing at all (all measured). So the map is compiled in a private directory, every line of
its talk that is not known to be harmless is a failure, and every entry is read back and compared with the bytes that
were meant. What the live map becomes by rename(2) is only ever such a proven one; smtpd(8) notices by itself.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import io
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from mailsni.config.settings import MapType, PostfixSettings
from mailsni.core import file_identity
from mailsni.core.deployment import Record
from mailsni.core.names import shown
from mailsni.core.selection import Selection
from mailsni.errors import HostError
from mailsni.host import files, permissions
from mailsni.host.commands import Completed, find_tool, require_tool, run
from mailsni.probes.endpoint import Endpoint
from mailsni.targets import reload, rendering
from mailsni.targets.base import MapEntry, Stage, Staged
from mailsni.targets.postfix.endpoints import postfix_endpoints
from mailsni.targets.reload import Signalled
from mailsni.targets.rendering import Paths

SUFFIXES = (".db", ".lmdb", ".cdb")
"""What postmap(1) appends to the name of a map; texthash has none."""
_DEFAULT_TYPES: tuple[MapType, ...] = ("lmdb", "cdb", "hash", "btree")
_TIMEOUT = 300.0
_BATCH = 500
"""Keys asked for in one run of postmap -q: their values are held in memory."""
_LISTED = 64 << 20
"""Bytes of a map that postmap -s may list: its output is held in memory."""
_CDB_HEAD = 2048
_TRIAL = 15.0
_HARMLESS = re.compile(r"\bdeprecated\b|\bmain\.cf\b|\bcompatibility_level\b")
"""Warnings about the configuration, or about Berkeley DB's age (Debian forky), which say nothing of the entries."""


def stored_value(entry: MapEntry) -> bytes:
    """What ``postmap -F`` stores: the files with a newline between them, as base64 (measured)."""
    return base64.b64encode(b"\n".join(files.read_own(pin) or b"" for pin in entry.pins))


def holds(value: bytes, entry: MapEntry) -> bool:
    """Whether a stored value is that of an entry. The known digests of its files decide: they are not read again."""
    try:
        found = _digests(base64.b64decode(value, validate=True), len(entry.digests))
    except binascii.Error:
        return False
    return len(found) == len(entry.digests) and all(
        one.startswith(wanted) for one, wanted in zip(found, entry.digests, strict=True)
    )


def _digests(content: bytes, number: int) -> list[str]:
    """SHA-256 of each of so many pinned files: none has an empty line, and there is one newline between them."""
    parts = content.split(b"\n\n") if number > 1 else [content]
    whole = [*(part + b"\n" for part in parts[:-1]), parts[-1]]
    return [hashlib.sha256(part).hexdigest() for part in whole]


@dataclass(frozen=True, slots=True)
class Postfix:
    """The Postfix of this host, as far as this program needs to know it."""

    settings: PostfixSettings
    installed: bool
    map_types: tuple[MapType, ...]
    """The types to compile to, in the order in which to try them; more than one only when nothing decides it."""
    wired: bool
    """Whether the running configuration names the map."""

    @property
    def name(self) -> Literal["postfix"]:
        """See :class:`mailsni.targets.base.Target`."""
        return "postfix"

    @property
    def path(self) -> Path:
        """The source of the map; the compiled one has a suffix more."""
        return self.settings.map

    def render(self, selection: Selection, paths: Paths, templates: Path | None) -> bytes:
        """The source of the map."""
        return rendering.render_postfix(rendering.entries(selection, paths), templates)

    def why_publish(self, record: Record, text: bytes) -> str | None:
        """Why the live map is not what it should be; None when it is.

        The source names files by what they hold, so an equal source means an equal map, if it is still the one that
        was compiled from it: then it has not been touched since it was published.
        """
        live = files.read_own(self.path)
        if live is None:
            return "there is none yet"
        if not record.trusted:
            return record.why_untrusted
        if live != text:
            return "its source changes"
        if record.deployment.map_type not in self.map_types:
            return f"the map is to be of type {self.map_types[0]}"
        published = [one for one in map_files(self.path) if str(one) in record.deployment.files]
        reasons = (_why_changed(one, record.deployment.files) for one in (self.path, *published))
        return next((why for why in reasons if why is not None), None)

    def stage(self, staging: Path, text: bytes, entries: Sequence[MapEntry]) -> Stage:
        """Compile the map, prove it entry by entry, and copy what it replaces."""
        source = staging / self.path.name
        files.write_new(source, text)
        compiled = compile_map(self, source, entries)
        live = self.path.with_name(self.path.name + compiled.suffix)
        previous = staging / "previous"
        if file_identity.Identity.of(live) is not None:
            files.copy_new(live, previous)
        else:
            previous = _empty_map(self, compiled.map_type, staging)
        staged = [Staged(compiled.path, live, previous)]
        if compiled.suffix:
            old_text = staging / "previous-source"
            if file_identity.Identity.of(self.path) is not None:
                files.copy_new(self.path, old_text)
            staged.append(Staged(source, self.path, old_text if old_text.exists() else None))
        return Stage(tuple(staged), compiled.map_type)

    def why_unwired(self, map_type: str) -> str | None:
        """Why the running Postfix does not read the map, and what to do; None when it does."""
        if self.wired:
            return None
        table = f"{map_type}:{self.path}"
        return (
            f"postfix: tls_server_sni_maps does not name {table}, so nothing is served from it yet: "
            f"`mailsni setup` wires it in, or postconf -e tls_server_sni_maps={table}"
        )

    def signal(self) -> Signalled:
        """Reload, or what the configuration says."""
        return reload.signal_postfix(self.settings)

    def endpoints(self, *, every_family: bool = False) -> tuple[Endpoint, ...]:
        """The services with TLS in master.cf."""
        return postfix_endpoints(self.settings.config_directory, every_family=every_family)


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
        raise HostError(f"{config_directory}/master.cf: postconf cannot read it: {done.stderr or 'no answer'}")
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
        raise HostError(f"{config_directory}/main.cf: postconf cannot read the configuration: {done.stderr}")
    pairs = (line.split(" =", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if " =" in line)
    return {name: value.strip() for name, value in pairs}


def supported_types() -> frozenset[str]:
    """The map types of this host's Postfix (``postconf -m``)."""
    done = run([require_tool("postconf"), "-m"])
    return frozenset(done.stdout.decode("ascii", "replace").split())


def map_files(source: Path) -> tuple[Path, ...]:
    """The names that a map compiled from a source may have."""
    return tuple(source.with_name(source.name + suffix) for suffix in SUFFIXES)


def _why_changed(path: Path, published: Mapping[str, file_identity.Identity]) -> str | None:
    why = permissions.why_loose(path, files.PRIVATE)
    if why is None and file_identity.Identity.of(path) != published.get(str(path)):
        why = f"{path} is not as it was published"
    return why


@dataclass(frozen=True, slots=True)
class Table:
    """A table of files as main.cf names it."""

    map_type: MapType
    source: Path
    """What stands behind the type."""

    def __str__(self) -> str:
        return f"{self.map_type}:{self.source}"

    @property
    def file(self) -> Path:
        """What a server opens for it, unless its Berkeley DB is redirected to another type."""
        return self.source.with_name(self.source.name + SUFFIX_OF[self.map_type])


SUFFIX_OF: Mapping[MapType, str] = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}
"""What the file of a table is called beside its name (DATABASE_README)."""
_MAGIC: tuple[tuple[int, int, MapType], ...] = (
    (12, 0x061561, "hash"),
    (12, 0x053162, "btree"),
    (16, 0xBEEFC0DE, "lmdb"),
)
"""Where which number stands in a table (magic(5)), in the byte order of the host that made it."""


def tables(config_directory: Path) -> tuple[Table, ...]:
    """The tables of ``tls_server_sni_maps`` in main.cf that are files, in their order.

    Raises:
        HostError: postconf(1) fails.
    """
    value = parameters(config_directory, "tls_server_sni_maps").get("tls_server_sni_maps", "")
    words = (word.partition(":") for word in re.split(r"[,\s]+", value))
    return tuple(
        Table(cast("MapType", kind), Path(path))
        for kind, _, path in words
        if kind in SUFFIX_OF and path.startswith("/")
    )


def complaint_of(table: Table, config_directory: Path) -> str | None:
    """Why Postfix cannot open a table, in its own words; None when it can.

    Raises:
        HostError: postmap(1) is not there, or does not end.
    """
    done = run(
        [require_tool("postmap"), "-c", config_directory, "-q", "-", str(table)],
        stdin=b"mailsni.invalid\n",
        timeout=_TRIAL,
    )
    talk = _talk(done)
    if done.returncode in (0, 1) and not talk:
        return None
    return talk[-1] if talk else f"postmap: exit status {done.returncode}"


def type_of(path: Path) -> MapType | None:
    """The type that a compiled table says it is; None for one that does not say.

    Raises:
        HostError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror}") from None
    numbers = ((head[at : at + 4], number.to_bytes(4, sys.byteorder), kind) for at, number, kind in _MAGIC)
    return next((kind for found, number, kind in numbers if found == number), None)


def is_wanted(settings: PostfixSettings) -> bool:
    """Whether this host's Postfix is to be served: switched on, or to be found by itself and installed."""
    return settings.enabled is True or (settings.enabled == "auto" and find_tool("postconf") is not None)


def find(settings: PostfixSettings) -> Postfix | None:
    """Look at the Postfix of this host.

    Returns:
        None when it is not wanted.

    Raises:
        HostError: postconf(1) fails, for example because main.cf cannot be parsed.
    """
    if not is_wanted(settings):
        return None
    postconf = find_tool("postconf")
    asked = settings.map_type
    if postconf is None:
        return Postfix(settings, installed=False, map_types=("hash",) if asked == "auto" else (asked,), wired=False)
    values = _parameters(postconf, settings.config_directory)
    tables = re.split(r"[,\s]+", values["tls_server_sni_maps"])
    named = [table.partition(":") for table in tables if table.rpartition(":")[2] == str(settings.map)]
    if asked != "auto":
        types: tuple[MapType, ...] = (asked,)
    elif named and named[0][0] in get_args(MapType):
        types = (cast("MapType", named[0][0]),)
    else:
        default = values["default_database_type"]
        first = (default,) if default in _DEFAULT_TYPES else ()
        types = tuple(dict.fromkeys((*first, *_DEFAULT_TYPES)))
    return Postfix(settings, installed=True, map_types=types, wired=bool(named))


def _parameters(postconf: Path, directory: Path) -> dict[str, str]:
    names = ("tls_server_sni_maps", "default_database_type")
    done = run([postconf, "-c", directory, "-x", *names])
    values = dict(line.split(" =", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if " =" in line)
    if done.returncode != 0 or not all(name in values for name in names):
        raise HostError(
            f"{directory}/main.cf: postconf cannot read the configuration: {done.stderr or 'no answer'}",
            hint="mend it, or set [postfix] enabled = false",
        )
    return {name: value.strip() for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A proven map, still in the staging directory."""

    map_type: MapType
    path: Path
    """The file that the server will read: the compiled map, or for texthash the source itself."""
    suffix: str
    """What its name has more than that of the source."""


def compile_map(postfix: Postfix, source: Path, entries: Sequence[MapEntry]) -> Compiled:
    """Compile a staged source beside itself, and prove that the result holds exactly the entries.

    Args:
        postfix: the Postfix to compile for.
        source: the text, in a private directory; the files it names must be in their places.
        entries: what the map must hold.

    Raises:
        HostError: it cannot be compiled, or does not hold the entries.
    """
    if not postfix.installed:
        return _write_with_berkeleydb(postfix, source, entries)
    failures = []
    for map_type in postfix.map_types:
        try:
            compiled = _postmap(postfix, map_type, source)
        except _UnsupportedTypeError as error:
            failures.append(f"{map_type}: {error}")
            continue
        prove(compiled, entries, postfix.settings.config_directory)
        return compiled
    raise HostError(
        f"postmap: no map type works here: {'; '.join(failures)}",
        hint="[postfix] map_type in the configuration says which one to use; `postconf -m` lists them",
    )


class _UnsupportedTypeError(Exception):
    """The Postfix of this host cannot make tables of a type."""


def _postmap(postfix: Postfix, map_type: MapType, source: Path) -> Compiled:
    if map_type == "texthash":
        return Compiled(map_type, source, "")
    done = run(
        [require_tool("postmap"), "-c", postfix.settings.config_directory, "-F", f"{map_type}:{source}"],
        timeout=_TIMEOUT,
    )
    if done.returncode != 0 and re.search(r"unsupported (dictionary|map) type|is not available", done.stderr):
        raise _UnsupportedTypeError(done.stderr.splitlines()[-1])
    talk = _talk(done)
    if done.returncode != 0 or talk:
        what = "\n".join(talk) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {map_type}:{source}: {what}")
    # A build with Berkeley DB redirected to another type writes another suffix (NON_BERKELEYDB_README).
    for compiled in map_files(source):
        if compiled.is_file():
            files.set_mode(compiled, files.PRIVATE)
            return Compiled(map_type, compiled, compiled.suffix)
    raise HostError(f"postmap: {map_type}:{source}: no map was written, and nothing was said about it")


def _talk(done: Completed) -> list[str]:
    """What postmap said that matters."""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return [line for line in said if "fatal:" in line or not _HARMLESS.search(line)]


def _write_with_berkeleydb(postfix: Postfix, source: Path, entries: Iterable[MapEntry]) -> Compiled:
    map_type = postfix.map_types[0]
    if map_type not in ("hash", "btree"):
        raise HostError(f"{map_type}:{source}: only Postfix itself can make this type, and it is not installed")
    try:
        from berkeleydb import db
    except ImportError:
        raise HostError(
            f"{map_type}:{source}: cannot be made: neither Postfix nor the berkeleydb package is installed",
            hint="pip install 'mailsni[berkeleydb]' (it needs the headers of Berkeley DB: libdb-dev on Debian)",
        ) from None
    path = source.with_name(source.name + ".db")
    files.write_new(path, b"")
    try:
        with closing(db.DB()) as table:
            kind = db.DB_HASH if map_type == "hash" else db.DB_BTREE
            table.open(str(path), None, kind, db.DB_CREATE | db.DB_TRUNCATE, files.PRIVATE)
            for entry in entries:
                table.put(entry.key.encode() + b"\0", stored_value(entry) + b"\0")
    except db.DBError as error:
        raise HostError(f"{map_type}:{source}: cannot be written: {error}") from None
    compiled = Compiled(map_type, path, ".db")
    prove(compiled, entries, postfix.settings.config_directory)
    return compiled


def prove(compiled: Compiled, entries: Iterable[MapEntry], config_directory: Path) -> None:
    """Read a map back, entry by entry.

    Raises:
        HostError: it lacks an entry, has one too many, or holds other bytes than were meant.
    """
    where = f"{compiled.map_type}:{compiled.path}"
    missing = {entry.key.encode(): entry for entry in entries}
    for key, value in _stored(compiled, list(missing), config_directory):
        entry = missing.pop(key, None)
        if entry is None:
            raise HostError(f"{where}: holds an entry that was not asked for")
        if compiled.map_type != "texthash" and not holds(value, entry):
            raise HostError(f"{where}: {entry.key}: does not hold the key and the chain that were meant")
    if missing:
        first = next(iter(missing.values())).key
        raise HostError(f"{where}: lacks {len(missing)} of the entries, the first of them {first}")


def _stored(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    """What a map holds, by the quickest way there is; asking postmap for every key always works."""
    readers: Mapping[str, Callable[[Path], Iterator[tuple[bytes, bytes]] | None]] = {
        ".db": _read_berkeleydb,
        ".lmdb": _read_lmdb,
    }
    reader = readers.get(compiled.suffix)
    direct = reader(compiled.path) if reader else None
    return direct if direct is not None else _ask_postmap(compiled, keys, config_directory)


class Difference(enum.StrEnum):
    """How an entry of a map is not what it should be."""

    MISSING = "missing"
    ADDITIONAL = "additional"
    OTHER = "other"
    """It holds another certificate, key or chain."""
    UNUSABLE = "unusable"
    """It holds no PEM, as without ``postmap -F``: Postfix aborts the handshake of a client that asks for it."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An entry of a live map that is not what it should be."""

    key: str
    difference: Difference
    leaf: bytes | None = None
    """The first certificate that it holds, in DER."""
    digests: tuple[str, ...] = ()
    """SHA-256 of what it holds, as one file, and as two where it may be two."""


def discrepancies(
    table: Table, file: Path, entries: Iterable[MapEntry], config_directory: Path
) -> Iterator[Discrepancy]:
    """Hold a live map against what it should hold, entry by entry. Its values are not kept in memory.

    Args:
        table: the map.
        file: what a server opens for it.
        entries: what it should hold.
        config_directory: of Postfix, where it is installed.

    Raises:
        HostError: the map cannot be read.
    """
    missing = {entry.key.encode(): entry for entry in entries}
    compiled = Compiled(table.map_type, file, file.name.removeprefix(table.source.name))
    for key, value in _everything(compiled, list(missing), config_directory):
        entry = missing.pop(key, None)
        found = _discrepancy(shown(key), value, entry, of_paths=table.map_type == "texthash")
        if found is not None:
            yield found
    yield from (Discrepancy(entry.key, Difference.MISSING) for entry in missing.values())


def _discrepancy(key: str, value: bytes, entry: MapEntry | None, *, of_paths: bool) -> Discrepancy | None:
    if of_paths:
        named = [word for word in re.split(rb"[,\s]+", value) if word]
        if entry is None:
            return Discrepancy(key, Difference.ADDITIONAL)
        same = named == [str(pin).encode() for pin in entry.pins]
        return None if same else Discrepancy(key, Difference.OTHER)
    if entry is not None and holds(value, entry):
        return None
    try:
        content = base64.b64decode(value, validate=True)
    except binascii.Error:
        content = b""
    if entry is None:
        return Discrepancy(key, Difference.ADDITIONAL)
    if b"-----BEGIN " not in content:
        return Discrepancy(key, Difference.UNUSABLE)
    digests = dict.fromkeys((*_digests(content, 1), *_digests(content, 2)))
    return Discrepancy(key, Difference.OTHER, _first_leaf(content), tuple(digests))


def _first_leaf(content: bytes) -> bytes | None:
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", content, re.DOTALL)
    try:
        return base64.b64decode(found[1]) if found is not None else None
    except binascii.Error:
        return None


def _everything(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    """All that a map holds; only the keys asked for where nothing but postmap reads it, and it is large."""
    if compiled.suffix == ".cdb":
        return _read_cdb(compiled.path)
    readers = {".db": _read_berkeleydb, ".lmdb": _read_lmdb}
    direct = readers[compiled.suffix](compiled.path) if compiled.suffix in readers else None
    if direct is not None:
        return direct
    if compiled.path.stat().st_size > _LISTED:
        return _ask_postmap(compiled, keys, config_directory)
    return _list_with_postmap(compiled, config_directory)


def _list_with_postmap(compiled: Compiled, config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    table = f"{compiled.map_type}:{str(compiled.path).removesuffix(compiled.suffix)}"
    done = run([require_tool("postmap"), "-c", config_directory, "-s", table], timeout=_TRIAL)
    if done.returncode != 0:
        why = "\n".join(_talk(done)) or f"exit status {done.returncode}"
        raise HostError(f"postmap: {table}: cannot be listed: {why}")
    for line in io.BytesIO(done.stdout):
        key, _, value = line.rstrip(b"\n").partition(b"\t")
        yield key, value


def _read_cdb(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The records of a constant database (cdb(5)): they lie one after the other between its two indices."""
    damaged = HostError(f"{path}: cannot be read back: it is no constant database, or a damaged one")
    try:
        with path.open("rb") as file:
            head = file.read(_CDB_HEAD)
            if len(head) != _CDB_HEAD:
                raise damaged
            end, at = min(struct.unpack("<512I", head)[::2]), _CDB_HEAD
            while at < end:
                sizes = file.read(8)
                key_size, size = struct.unpack("<2I", sizes) if len(sizes) == 8 else (end, end)
                at += 8 + key_size + size
                if at > end:
                    raise damaged
                key, value = file.read(key_size), file.read(size)
                if len(key) != key_size or len(value) != size:
                    raise damaged
                yield _without_nul(key), _without_nul(value)
    except OSError as error:
        raise HostError(f"{path}: cannot be read back: {error.strerror}") from None


def served_by_map(map_type: MapType, source: Path, keys: Sequence[str], config_directory: Path) -> dict[str, str]:
    """Which certificate a live map holds for each key: SHA-256 of the first leaf's DER, hexadecimal.

    Args:
        map_type: of the map.
        source: its name without the suffix.
        keys: as Postfix looks them up; those that are not in the map are not in the result.
        config_directory: of Postfix, where it is installed.

    Raises:
        HostError: the map cannot be read.
    """
    path = next((one for one in map_files(source) if one.is_file()), source)
    compiled = Compiled(map_type, path, path.name.removeprefix(source.name))
    found = {}
    for key, value in _stored(compiled, [key.encode() for key in keys], config_directory):
        leaf = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", base64.b64decode(value), re.DOTALL)
        if leaf is not None:
            found[key.decode()] = hashlib.sha256(base64.b64decode(leaf[1])).hexdigest()
    return found


def _read_berkeleydb(path: Path) -> Iterator[tuple[bytes, bytes]] | None:
    try:
        from berkeleydb import db
    except ImportError:
        return None

    def read() -> Iterator[tuple[bytes, bytes]]:
        try:
            with closing(db.DB()) as table:
                table.open(str(path), None, db.DB_UNKNOWN, db.DB_RDONLY)
                with closing(table.cursor()) as cursor:
                    record = cursor.first()
                    while record is not None:
                        yield _without_nul(record[0]), _without_nul(record[1])
                        record = cursor.next()
        except db.DBError as error:
            raise HostError(f"{path}: cannot be read back: {error}") from None

    return read()


def _read_lmdb(path: Path) -> Iterator[tuple[bytes, bytes]] | None:
    try:
        import lmdb
    except ImportError:
        return None

    def read() -> Iterator[tuple[bytes, bytes]]:
        try:
            with (
                closing(lmdb.open(str(path), subdir=False, readonly=True, lock=False)) as environment,
                environment.begin() as transaction,
                transaction.cursor() as cursor,
            ):
                for key, value in cursor:
                    yield _without_nul(key), _without_nul(value)
        except lmdb.Error as error:
            raise HostError(f"{path}: cannot be read back: {error}") from None

    return read()


def _without_nul(data: bytes) -> bytes:
    """Postfix ends keys and values of Berkeley DB tables with NUL."""
    return data[:-1] if data.endswith(b"\0") else data


def _ask_postmap(compiled: Compiled, keys: Sequence[bytes], config_directory: Path) -> Iterator[tuple[bytes, bytes]]:
    source = str(compiled.path).removesuffix(compiled.suffix)
    postmap = require_tool("postmap")
    for at in range(0, len(keys), _BATCH):
        batch = b"".join(key + b"\n" for key in keys[at : at + _BATCH])
        table = f"{compiled.map_type}:{source}"
        done = run([postmap, "-c", config_directory, "-q", "-", table], stdin=batch, timeout=_TIMEOUT)
        # Status 1 without a word means that none of the keys was found, with one that it could not look.
        if done.returncode not in (0, 1) or (done.returncode == 1 and _talk(done)):
            why = "\n".join(_talk(done)) or f"exit status {done.returncode}"
            raise HostError(f"postmap: {table}: cannot be read back: {why}")
        for line in done.stdout.splitlines():
            key, _, value = line.partition(b"\t")
            yield key, value


def _empty_map(postfix: Postfix, map_type: MapType, directory: Path) -> Path:
    """A map without entries, to go back to when there was none before: a missing one cuts off clients that send SNI."""
    source = directory / "empty"
    files.write_new(source, b"# no names\n")
    if map_type == "texthash":
        return source
    return compile_map(replace(postfix, map_types=(map_type,)), source, ()).path
