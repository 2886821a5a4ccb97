"""Looks at the stores and the pinned files: keys that others can read, chains that end early, lineages that fight."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailsni.core.model import Certificate, Reason
from mailsni.core.text import counted, summarize
from mailsni.core.x509 import InvalidPair, Leaf, describe
from mailsni.doctor import helpers
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.doctor.helpers import KEYS_EXPOSED, quoted
from mailsni.errors import MailsniError
from mailsni.host import files, text_files
from mailsni.targets.postfix.postconf import Configuration

_LARGEST_PEM = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS = stat.S_IROTH
_PIN = re.compile(r".*\.pem")
_NEW = ("--force-renewal",)
_RENEWALS = {
    Reason.KEY_MISMATCH: _NEW,
    Reason.KEY_MISSING: _NEW,
    Reason.CHAIN_MISSING: _NEW,
    Reason.BAD_PEM: _NEW,
    Reason.ENCRYPTED_KEY: _NEW,
    Reason.UNSUPPORTED_KEY: (*_NEW, "--key-type", "ecdsa"),
    Reason.EXPIRED: ("--dry-run",),
}
"""What certbot renews a lineage with, by what is wrong with it."""


def findings(facts: Facts, configuration: Configuration | None) -> Iterator[Finding]:
    """Everything that is wrong with the stores, and with the chain of Postfix's default certificate."""
    yield from helpers.each(
        ("the modes of the keys in the stores", lambda: _keys(facts)),
        ("the modes of the pinned files", lambda: _pins(facts)),
        ("lineages that are broken", lambda: _broken(facts)),
        ("chains without intermediates", lambda: _chains(facts)),
        ("Postfix's default certificate", lambda: _postfix_default(configuration)),
        ("lineages that fight for a name", lambda: _fights(facts)),
        ("lineages that nobody renews", lambda: _not_renewed(facts)),
    )


def _keys(facts: Facts) -> Iterator[Finding]:
    for source in facts.settings.sources:
        try:
            store = source.open().files()
        except MailsniError:
            continue  # the runner reports a store that cannot be read
        loose = [path for path in store.keys if _mode(path) & _READABLE_BY_OTHERS]
        open_ones = [path for path, _ in helpers.exposed(loose)]
        shielded = [path for path in loose if path not in set(open_ones)]
        if open_ones:
            yield Finding(
                "key_readable",
                Severity.ERROR,
                f"{counted(len(open_ones), 'private key')} can be read by every user of this host: "
                f"{summarize([str(one) for one in open_ones])}",
                str(open_ones[0]),
                "whoever has the key can pass for the server, until the certificate is revoked or expires",
                _with_mode("o-rwx", open_ones, f"certbot copies the mode to the next key; {KEYS_EXPOSED}"),
            )
        if shielded:
            yield Finding(
                "key_mode_loose",
                Severity.WARNING,
                f"{counted(len(shielded), 'private key')} with a mode for everybody: "
                f"{summarize([str(one) for one in shielded])}",
                str(shielded[0]),
                "only the mode of a directory above keeps others from reading it; certbot copies the mode to the "
                "next key",
                _with_mode("o-rwx", shielded),
            )
        yield from _writable(store.directories, "put another key and certificate there, which is then served")


def _pins(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    for directory in dict.fromkeys((settings.dovecot.pin_directory, settings.state.directory / "pinned")):
        found = [directory / name for name in text_files.names_in(directory) if _PIN.fullmatch(name)]
        open_ones = [path for path, _ in helpers.exposed(found)]
        if open_ones:
            yield Finding(
                "pin_readable",
                Severity.ERROR,
                f"{counted(len(open_ones), 'pinned file')} can be read by every user of this host: "
                f"{summarize([path.name for path in open_ones])}",
                str(open_ones[0]),
                "it holds a private key: whoever has it can pass for the server",
                _with_mode("600", open_ones, KEYS_EXPOSED),
            )
        yield from _writable((directory,), "put another key and certificate there, which is then served")


def _with_mode(mode: str, paths: list[Path], note: str = "") -> Fix:
    more = len(paths) - helpers.SHOWN
    notes = [f"repeat it for the other {more}" if more > 0 else "", note]
    return Fix(quoted("chmod", mode, *paths[: helpers.SHOWN]), note="; ".join(filter(None, notes)) or None)


def _writable(directories: Iterable[Path], what: str) -> Iterator[Finding]:
    for path in directories:
        if not path.is_dir():
            continue
        status = path.stat()
        loose = status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX
        if loose or status.st_uid not in (0, os.geteuid()):
            why = f"mode {stat.S_IMODE(status.st_mode):04o}" if loose else f"it belongs to user {status.st_uid}"
            yield Finding(
                "store_writable",
                Severity.ERROR,
                f"{path} can be written by others than root ({why})",
                str(path),
                f"they can {what}",
                Fix(quoted("chmod", "go-w", path) if loose else quoted("chown", "root", path)),
            )


def _broken(facts: Facts) -> Iterator[Finding]:
    if facts.snapshot is None:
        return
    for one in facts.snapshot.selection.problems:
        name = one.source.rpartition("/")[2]
        kept = one.reason is Reason.KEPT_LAST_GOOD
        if kept:
            continue  # its lineage is there with its own reason
        yield Finding(
            f"lineage_{one.reason}",
            Severity.WARNING,
            f"{one.source}: {one.detail}",
            one.source,
            f"{summarize(one.names) or 'no name'} is not served from it: the last good certificate is, then the "
            f"default one",
            _renewal_fix(one.reason, name),
        )


def _renewal_fix(reason: Reason, name: str) -> Fix:
    if reason is Reason.RENEWAL_IN_PROGRESS:
        return Fix("certbot certificates", note="it completes the interrupted renewal")
    options = _RENEWALS.get(reason)
    if options is None:
        return Fix("mailsni status --skipped", note="shows what lies there")
    note = "it says why the certificate is not renewed" if reason is Reason.EXPIRED else None
    return Fix(quoted("certbot", "renew", "--cert-name", name, *options), note=note)


def _chains(facts: Facts) -> Iterator[Finding]:
    if facts.snapshot is None:
        return
    for one in facts.snapshot.selection.certificates:
        if not one.chain_path:
            continue
        path = Path(one.chain_path)
        content = files.read_untrusted(path, _LARGEST_PEM)
        if content is None:
            continue
        described = describe(content)
        if not isinstance(described, InvalidPair) and described.alone:
            yield _alone(str(path), path, described.leaf)


def _postfix_default(configuration: Configuration | None) -> Iterator[Finding]:
    parameter, paths = configuration.certificate() if configuration is not None else ("", ())
    if configuration is not None and parameter:
        yield from _default_alone(paths, configuration.where(parameter))


def _default_alone(paths: Iterable[Path], where: str) -> Iterator[Finding]:
    """Postfix's default certificate, where it ends with the leaf. One that is not there is another look's."""
    contents = [(path, files.read_untrusted(path, _LARGEST_PEM) or b"") for path in paths]
    with_certificates = [(path, content) for path, content in contents if b"-----BEGIN CERTIFICATE" in content]
    for path, content in with_certificates:
        described = describe(content)
        # smtpd_tls_chain_files may have the intermediates in a file of their own, after the leaf's.
        whole = describe(b"\n".join(content for _, content in with_certificates))
        ends = not isinstance(whole, InvalidPair) and whole.alone
        if not isinstance(described, InvalidPair) and described.alone and ends:
            yield _alone(where, path, described.leaf, "the default certificate ")


def _alone(where: str, path: Path, leaf: Leaf, title: str = "") -> Finding:
    if path.name == "cert.pem":
        fix = Fix(edit=f"name {path.with_name('fullchain.pem')} instead of {path}")
    else:
        fix = Fix(
            quoted("certbot", "renew", "--cert-name", path.parent.name, "--force-renewal"),
            note="or append the issuer's certificate to it",
        )
    # A public authority says where its intermediate is; a private one may well sign with its root.
    public = leaf.has_issuer_address
    return Finding(
        "leaf_alone",
        Severity.WARNING if public else Severity.NOTE,
        f"{title}{path} has the leaf ({summarize(leaf.names)}) without its issuer ({leaf.issuer})",
        where,
        "clients that do not happen to know the intermediate (Apple Mail, Android, other servers) refuse it"
        if public
        else "only clients that have the issuer in their trust store take it",
        fix,
    )


def _fights(facts: Facts) -> Iterator[Finding]:
    if facts.snapshot is None:
        return
    seen = facts.snapshot
    winning = {winner.name: winner.certificates for winner in seen.selection.winners}
    for one in seen.inventory.certificates:
        if one.kept or one.staging or one.self_signed or not one.valid_at(facts.now):
            continue
        lost: dict[str, list[str]] = defaultdict(list)
        for name in one.names:
            for winner in winning.get(name, ()):
                # An exact name beats a wildcard, and one of another algorithm is served besides: neither is a fight.
                if winner.algorithm == one.algorithm and winner.source != one.source and name in winner.names:
                    lost[winner.source].append(name)
        for source, names in sorted(lost.items()):
            if not any(winner is one for winners in winning.values() for winner in winners):
                fix = quoted("certbot", "delete", "--cert-name", one.source.rpartition("/")[2])
            else:
                left = [word for name in one.names if name not in names for word in ("-d", name)]
                fix = quoted("certbot", "certonly", "--cert-name", one.source.rpartition("/")[2], *left)
            yield Finding(
                "lineages_fight",
                Severity.WARNING,
                f"{summarize(names)}: two lineages have it, {source} is served, {one.source} lost",
                _place(one),
                "the one that was issued later wins, so the two take turns at each renewal (which breaks TLSA records "
                "of the key), and both are renewed for nothing",
                Fix(fix, note=f"check first what else uses it: mailsni explain {names[0]}"),
            )


def _place(one: Certificate) -> str:
    """The renewal configuration of a lineage, where it has one."""
    path = _renewal(Path(one.source))
    return str(path) if path.is_file() else one.source


def _renewal(source: Path) -> Path:
    return source.parent.parent / "renewal" / f"{source.name}.conf"


def _not_renewed(facts: Facts) -> Iterator[Finding]:
    if facts.snapshot is None:
        return
    serving = {one.source for one in facts.snapshot.selection.certificates}
    for one in facts.snapshot.inventory.certificates:
        path = _renewal(Path(one.source))
        if one.kept or not path.parent.is_dir() or os.path.lexists(path):
            continue  # what has no directory of renewals is no certbot's
        expired = one.not_after <= facts.now
        if not expired and one.source not in serving:
            continue
        names = [word for name in one.names for word in ("-d", name)]
        again = quoted("certbot", "certonly", "--cert-name", Path(one.source).name, *names)
        archive = Path(one.source).parent.parent / "archive" / Path(one.source).name
        away = quoted("rm", "-r", one.source, archive)
        yield Finding(
            "lineage_expired_not_renewed" if expired else "lineage_not_renewed",
            Severity.WARNING,
            f"{one.source}: certbot does not renew it: there is no {path}"
            + (f", and it expired on {one.not_after:%Y-%m-%d}" if expired else ""),
            one.source,
            "its names are not served from it any more"
            if expired
            else f"it expires on {one.not_after:%Y-%m-%d}, and {summarize(one.names)} with it",
            Fix(away, note=f"only when nothing needs it; otherwise move it away and get a new one: {again}")
            if expired
            else Fix(edit=f"restore {path}, or move {one.source} away and get a new one: {again}"),
        )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0
