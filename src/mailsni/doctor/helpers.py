"""What all checks share: a check that cannot run, texts that can be shown, and fixes that several checks give."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mailsni.core.names import covered_by
from mailsni.core.text import printable, summarize
from mailsni.core.x509 import ChainDescription, Leaf, describe
from mailsni.deploy.host_facts import HostFacts
from mailsni.doctor.finding import Finding, Fix, Severity, finding
from mailsni.errors import HostError, MailsniError, PermissionMissingError
from mailsni.host import permissions, trust
from mailsni.host.trust import Weakness
from mailsni.sources.kinds import renewal_of

FILES_IN_COMMAND = 4
"""Files that one command of a fix names."""
PEM_LIMIT = 1 << 20
"""Bytes of a PEM file that a check reads."""
KEYS_EXPOSED = "others may know the keys: replace them (certbot renew --force-renewal --new-key)"
"""Note of a fix, where keys could be read."""

_FAILURES = (MailsniError, OSError, ValueError, RecursionError)
"""What can keep a check from running, whatever lies on a host."""
_Facts = TypeVar("_Facts")
_Item = TypeVar("_Item")
Checks = Sequence[tuple[str, Callable[[_Facts], Iterable[Finding]]]]
"""What each check is about, for the finding that it cannot run, and the check."""


def run_each(checks: Checks[_Facts], facts: _Facts) -> Iterator[Finding]:
    """The findings of several checks; one that cannot run is a finding, and the next ones go on."""
    for about, check in checks:
        try:
            yield from check(facts)
        except _FAILURES as problem:
            yield check_failed(about, problem)


def attempt(problems: list[Finding], about: str, read: Callable[[], _Item]) -> _Item | None:
    """What can be read; None, and one problem more, where it cannot."""
    try:
        return read()
    except _FAILURES as problem:
        problems.append(check_failed(about, problem))
        return None


def check_failed(about: str, problem: Exception, where: str | Path | None = None) -> Finding:
    """The finding that a check could not run.

    Args:
        about: what it is about.
        problem: why.
        where: the place, when the problem carries none; what the check is about when None.
    """
    denied = isinstance(problem, PermissionMissingError | PermissionError)
    error = HostError.of(problem) if isinstance(problem, OSError) else problem
    why, hint = (error.message, error.hint) if isinstance(error, MailsniError) else (type(error).__name__, None)
    fix = Fix(edit=hint or ("run it as root" if denied else "correct what the message says"))
    severity = Severity.NOTE if denied else None
    place = place_of(error) or where or about
    return finding("check_failed", f"cannot check {about}", place, fix, severity=severity, why=why)


def place_of(problem: Exception) -> str | None:
    """What an error is about: ``/path:LINE`` or ``/path``; None when it does not carry that."""
    if isinstance(problem, OSError):
        problem = HostError.of(problem)
    if not isinstance(problem, MailsniError) or problem.path is None:
        return None
    return str(problem.path) if problem.line is None else f"{problem.path}:{problem.line}"


def sanitized(unsafe: Finding) -> Finding:
    """The same, printable and bounded: no text of it can do anything to a terminal, or hold a key."""
    command, edit, note = unsafe.fix.command, unsafe.fix.edit, unsafe.fix.note
    if command is not None and _one_line(command) != command:
        # A name that cannot be shown, or too long: nobody may run what is left of it.
        command, edit = None, "; ".join(filter(None, (edit, f"do what this stands for: {command}")))
    return replace(
        unsafe,
        what=_one_line(unsafe.what),
        where=_one_line(unsafe.where) or "?",
        why=_one_line(unsafe.why),
        fix=Fix(command, edit and _one_line(edit), note and _one_line(note)),
    )


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " / ")


def quoted(*words: str | Path) -> str:
    """Words of a command line, for a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def sed_literal(text: str) -> str:
    """Text that stands for itself in a ``s`` command of sed(1) without slashes."""
    return re.sub(r"([*.\[\]^$&\\])", r"\\\1", text)


def chmod(mode: str, paths: Sequence[Path], note: str | None = None) -> Fix:
    """The fix that changes the mode of files, however many there are."""
    more = len(paths) - FILES_IN_COMMAND
    repeat = f"repeat it for the other {more}" if more > 0 else None
    return Fix(quoted("chmod", mode, *paths[:FILES_IN_COMMAND]), note="; ".join(filter(None, (repeat, note))) or None)


def writable_by_others(code: str, paths: Iterable[Path], owners: Collection[int] = ()) -> Iterator[Finding]:
    """The findings that others than root, and these users, can change what lies at paths: one for each weakness."""
    endangered: dict[Weakness, list[str]] = defaultdict(list)
    for path in paths:
        for weakness in trust.weaknesses(path, owners):
            endangered[weakness].append(str(path))
    for weakness, names in endangered.items():
        places = summarize(names)
        move = None if weakness.command is not None else f"move {places} to a directory that only root can write to"
        what = f"others than root can change {places}: {weakness}"
        yield finding(code, what, weakness.path, Fix(weakness.command, move))


def world_readable(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """The files that every user of the host can read, with their modes."""
    reasons = ((path, permissions.world_readable(path)) for path in paths)
    return [(path, reason) for path, reason in reasons if reason is not None]


def grouped(items: Iterable[_Item], key: Callable[[_Item], object]) -> list[list[_Item]]:
    """Items with equal keys together, in the order of the first of each group."""
    groups: dict[object, list[_Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def lonely_leaf(pem: bytes) -> Leaf | None:
    """The leaf of a chain without its issuer; None when the chain is whole or cannot be parsed."""
    chain = describe(pem)
    return chain.leaf if isinstance(chain, ChainDescription) and chain.alone else None


def chain_severity(leaf: Leaf) -> Severity:
    """How bad a chain without its issuer is.

    A public authority's certificate says where its intermediate is; a private authority may well sign with its root.
    """
    return Severity.WARNING if leaf.has_issuer_address else Severity.NOTE


def stored_pair(host: HostFacts, own: str = "") -> tuple[Path, Path] | None:
    """The files of the key and the chain of a certificate of the stores, that for the host's own name if there is one.

    Returns:
        None where no store has one in files.
    """
    stored = host.snapshot.selection.certificates if host.snapshot is not None else ()
    in_files = [certificate for certificate in stored if certificate.chain_path and certificate.key_path]
    best = min(in_files, key=lambda certificate: not covered_by(own, certificate.names), default=None)
    return (Path(best.key_path), Path(best.chain_path)) if best is not None else None


def incomplete_chain(host: HostFacts, where: str | Path, path: Path, leaf: Leaf, title: str = "") -> Finding:
    """The finding that a file has a leaf without its issuer.

    Args:
        host: its stores may renew it.
        where: the line that names the file, or the file.
        path: the file.
        leaf: in the file.
        title: what the file is, with a space after it.
    """
    if path.name == "cert.pem" and path.with_name("fullchain.pem").exists():
        fix = Fix(edit=f"name {path.with_name('fullchain.pem')} instead of {path}")
    elif (renew := renewal_of(host.settings.sources, path)) is not None:
        fix = Fix(quoted(*renew), note="or append the issuer's certificate to the file")
    else:
        fix = Fix(edit=f"append the issuer's certificate to {path}")
    what = f"{title}{path} has the leaf ({summarize(leaf.names)}) without its issuer ({leaf.issuer})"
    severity = chain_severity(leaf)
    why = "only clients that have the issuer in their trust store accept it" if severity is Severity.NOTE else None
    return finding("chain_incomplete", what, where, fix, severity=severity, why=why)
