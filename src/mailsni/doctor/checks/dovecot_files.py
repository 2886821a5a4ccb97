"""The files that Dovecot's blocks name: gone, broken, of another name, open to everybody, or about to go."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mailsni.core.model import Reason
from mailsni.core.names import covered_by
from mailsni.core.text import printable_name, summarize, summarize_names
from mailsni.core.x509 import ChainDescription, InvalidPair, describe, validate_pair
from mailsni.doctor.dovecot_view import (
    FILTERS,
    Pair,
    View,
    cut_off,
    key_of,
    owner,
    owner_of,
    path_of,
    place_of,
    printed,
    sed_literally,
    word,
)
from mailsni.doctor.finding import Finding, Fix, Severity
from mailsni.sources.safe_read import ReadRefusedError
from mailsni.targets.dovecot.parser import Block, Setting
from mailsni.targets.dovecot.precedence import can_match

_ARCHIVED = re.compile(
    r"(?P<root>/.+)/archive/(?P<lineage>[A-Za-z0-9._@+-]+)/(?P<kind>cert|privkey|chain|fullchain)\d+\.pem"
)
_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]*)-----END ")
_UNEXAMINED = frozenset({Reason.BAD_NAME, Reason.UNSUPPORTED_KEY})
"""Reasons for which this program leaves a certificate out, and Dovecot may serve it all the same."""


def dead_paths(view: View) -> Iterator[Finding]:
    """Files that are not there: the trap that closes at the next start."""
    dead: dict[tuple[Path, Block | None], list[tuple[Setting, str]]] = defaultdict(list)
    for setting in view.configuration.settings:
        path = view.names_file(setting)
        if path is not None and (why := _why_dead(path)) is not None:
            # Those of our own include are mended at once.
            block = setting.blocks[-1] if setting.blocks and setting.file != view.dovecot.path else None
            dead[setting.file, block].append((setting, f"{printed(path)} {why}"))
    for (file, block), found in dead.items():
        view.told.update((setting.file, setting.line) for setting, _ in found)
        first = found[0][0]
        keys = " and ".join(dict.fromkeys(key_of(setting) for setting, _ in found))
        outer = next((one for one in first.blocks if one.kind in FILTERS), None)
        if file == view.dovecot.path:
            fix = Fix("mailsni apply")
        elif outer is not None and block is not None:
            fix = view.without(outer)
        else:
            fix = view.by_hand(f"name a file that exists in line {first.line} of {printed(file)}")
        yield Finding(
            "dovecot_dead_path",
            Severity.ERROR,
            f"{owner(first.blocks)}: {keys}: {summarize(list(dict.fromkeys(text for _, text in found)))}",
            place_of(first),
            "Dovecot does not start again once it is stopped: all of IMAP, POP3 and authentication will be down; until "
            "then every reload fails without a word, and no renewed certificate is taken up",
            fix,
        )


def _why_dead(path: Path) -> str | None:
    try:
        status = path.stat()
    except PermissionError:
        return "cannot be reached, not even by root" if os.geteuid() == 0 else None
    except OSError:
        return "is a link to nothing" if os.path.lexists(path) else "is not there"
    if stat.S_ISDIR(status.st_mode):
        return "is a directory"
    return "cannot be read, not even by root" if os.geteuid() == 0 and not os.access(path, os.R_OK) else None


def bad_pairs(view: View) -> Iterator[Finding]:
    """Certificates and keys that are there, and cannot be served or should not be."""
    unseen: Setting | None = None
    for pair in view.pairs:
        certificate, key = view.names_file(pair.certificate), view.names_file(pair.key)
        if certificate is None or key is None or _why_dead(certificate) or _why_dead(key):
            continue
        chain_pem, key_pem = view.content(certificate), view.content(key)
        refused = next((one for one in (chain_pem, key_pem) if isinstance(one, ReadRefusedError)), None)
        if refused is not None and refused.reason is Reason.UNREADABLE and os.geteuid() != 0:
            unseen = unseen or pair.own
        elif refused is not None:
            yield _bad_pair(view, pair, refused.detail)
        if isinstance(chain_pem, bytes) and isinstance(key_pem, bytes):
            yield from _judged(view, pair, chain_pem, key_pem)
    if unseen is not None:
        yield Finding(
            "dovecot_keys_not_examined",
            Severity.NOTE,
            "the certificates and keys that blocks name were not looked at",
            place_of(unseen),
            "only root may read them, so that a key that belongs to another certificate is not found",
            Fix("sudo mailsni doctor"),
        )


def _judged(view: View, pair: Pair, chain_pem: bytes, key_pem: bytes) -> Iterator[Finding]:
    outcome = validate_pair(str(pair.certificate.file), chain_pem, key_pem)
    if isinstance(outcome, InvalidPair):
        encrypted = outcome.reason is Reason.ENCRYPTED_KEY and _has_password(view)
        if outcome.reason not in _UNEXAMINED and not encrypted:
            yield _bad_pair(view, pair, outcome.detail)
        return
    certificate = outcome.certificate
    # Dovecot takes the first certificate of the file, whichever it is; what is proven begins with the key's.
    if _first_certificate(chain_pem) != _first_certificate(certificate.material.pem or b""):
        yield _bad_pair(view, pair, "the certificate of the key is not the first in its file")
        return
    if not certificate.valid_at(view.now):
        expired = certificate.not_after <= view.now
        when = f"expired on {certificate.not_after:%Y-%m-%d}" if expired else "is not valid yet"
        yield Finding(
            "dovecot_certificate_expired" if expired else "dovecot_certificate_not_yet_valid",
            Severity.ERROR,
            f"{owner_of(pair)}: the certificate in {printed(path_of(view, pair))} {when}",
            place_of(pair.own),
            "clients warn of it or refuse it",
            _replaced(view, pair),
        )
    described = describe(chain_pem)
    # What lies in the stores, and is pinned from there, is another look's.
    if isinstance(described, ChainDescription) and described.alone and pair.certificate.file != view.dovecot.path:
        yield Finding(
            "dovecot_chain_incomplete",
            # A public authority says where its intermediate is; a private one may well sign with its root.
            Severity.WARNING if described.leaf.has_issuer_address else Severity.NOTE,
            f"{owner_of(pair)}: {printed(path_of(view, pair))} has the certificate alone, without its intermediates",
            place_of(pair.own),
            "clients that have not met the intermediate before refuse it: mail programs and phones, seldom browsers",
            view.edit(pair.certificate.file, f"{pair.certificate.line}s/cert\\.pem/fullchain.pem/")
            if pair.certificate.value.endswith("/cert.pem")
            and os.access(path_of(view, pair).with_name("fullchain.pem"), os.F_OK)
            else view.by_hand("name the file with the whole chain (certbot: fullchain.pem)"),
        )
    names = [name for kind, name in pair.scope if kind == "local_name"]
    asked = [name for text in names for name in text.lower().split() if can_match(name)]
    strange = [name for name in asked if not covered_by(name, certificate.names)]
    if strange and certificate.names:
        yield Finding(
            "dovecot_certificate_of_other_name",
            Severity.ERROR,
            f"the certificate for {summarize_names(strange)} is one for {summarize_names(certificate.names)}",
            place_of(pair.own),
            "clients warn that it belongs to somebody else",
            _replaced(view, pair)
            if len(strange) == len(asked)
            else view.by_hand(f"remove {summarize_names(strange)} from the names of the block"),
        )


def _first_certificate(pem: bytes) -> bytes:
    found = _CERTIFICATE.search(pem)
    return b"".join(found[1].split()) if found is not None else b""


def _has_password(view: View) -> bool:
    return any(key_of(one) in ("ssl_key_password", "ssl_server_key_password") for one in view.configuration.settings)


def _bad_pair(view: View, pair: Pair, detail: str) -> Finding:
    files = list(dict.fromkeys(printed(path) for path in (path_of(view, pair), view.names_file(pair.key)) if path))
    return Finding(
        "dovecot_bad_certificate",
        Severity.ERROR,
        f"{owner_of(pair)}: {' and '.join(files)} cannot be served: {detail}",
        place_of(pair.own),
        f"{cut_off(pair.own.blocks)}; Dovecot starts and reloads without a complaint",
        _replaced(view, pair),
    )


def _replaced(view: View, pair: Pair) -> Fix:
    """What mends a pair that cannot be served: a block can go, the default certificate cannot."""
    if pair.own.file == view.dovecot.path:
        return Fix("mailsni apply")
    outer = next((block for block in pair.own.blocks if block.kind in FILTERS), None)
    if outer is not None:
        return view.without(outer)
    keys = f"{pair.certificate.key} and {pair.key.key}"
    return view.by_hand(f"name a valid certificate, and its key, with {keys}")


def open_keys(view: View) -> Iterator[Finding]:
    """Private keys that are no secret on this host."""
    keys = {view.named(key) for key in ("ssl_key", "ssl_alt_key")}
    told: set[str] = set()
    for setting in view.configuration.settings:
        path = view.names_file(setting) if key_of(setting) in keys else None
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in told or Path(real).parent == view.settings.pin_directory:  # those are another look's
            continue
        told.add(real)
        if (who := _who_may_read(Path(real))) is not None:
            yield Finding(
                "dovecot_key_open",
                Severity.ERROR,
                f"the private key {printed(real)} can be {who} by every user of this host",
                place_of(setting),
                "whoever has it can pass for this server; to be read by root is enough for Dovecot",
                Fix(f"chmod o-rwx {word(real)}"),
            )


def _who_may_read(path: Path) -> str | None:
    """What everybody may do with a file: "read" or "replaced"; None when nothing."""
    try:
        mode = path.stat().st_mode
        reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not reachable:
        return None
    if mode & stat.S_IROTH:
        return "read"
    return "replaced" if mode & stat.S_IWOTH else None


def archived(view: View) -> Iterator[Finding]:
    """Paths of one version of a certificate."""
    places: dict[tuple[Path, Block | None], list[tuple[Setting, re.Match[str]]]] = defaultdict(list)
    for setting in view.configuration.settings:
        path = view.names_file(setting)
        found = _ARCHIVED.fullmatch(str(path)) if path is not None else None
        if found is not None and not _why_dead(Path(str(path))):
            places[setting.file, setting.blocks[-1] if setting.blocks else None].append((setting, found))
    for (file, _), settings in places.items():
        first = settings[0][0]
        script = "; ".join(
            f"{setting.line}s|/archive/{sed_literally(found['lineage'])}/{found['kind']}[0-9]*|"
            f"/live/{found['lineage']}/{found['kind']}|"
            for setting, found in settings
        )
        yield Finding(
            "dovecot_archive_path",
            Severity.WARNING,
            f"{owner(first.blocks)}: names a file of certbot's archive: {printable_name(first.value)}",
            place_of(first),
            "that is one version: it is not renewed, and certbot deletes it five renewals later; then Dovecot does not "
            "start",
            view.edit(file, script),
        )
