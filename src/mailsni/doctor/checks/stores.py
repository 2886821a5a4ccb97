"""The stores and the pinned files: keys that others can read, chains that end early, lineages that compete."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mailsni.config.document import source_table
from mailsni.core.model import Certificate, Reason
from mailsni.core.text import counted, summarize
from mailsni.doctor.finding import Facts, Finding, Fix, finding
from mailsni.doctor.helpers import (
    KEYS_EXPOSED,
    PEM_LIMIT,
    chmod,
    incomplete_chain,
    lonely_leaf,
    quoted,
    world_readable,
    writable_by_others,
)
from mailsni.doctor.pairs import is_completed
from mailsni.host import files
from mailsni.sources import detection
from mailsni.sources.base import AcmeClient
from mailsni.targets.postfix.authorities import authorities

_REPAIRS = {
    Reason.UNREADABLE: "put a file there that can be read",
    Reason.BAD_NAME: "let its client issue it anew, with host names only, and in a directory with such a name",
    Reason.SYMLINK_OUTSIDE_STORE: "put the file itself into the store in place of the link",
    Reason.NOT_A_REGULAR_FILE: "put a regular file there",
    Reason.TOO_LARGE: "put a file there that holds the key, or the chain, and nothing else",
}
"""What a person does about a certificate that no command repairs."""


def unconfigured(facts: Facts) -> Iterator[Finding]:
    """Report stores of this host with mail names that no configured store has."""
    host = facts.host
    settings = host.settings
    inventory = host.snapshot.inventory if host.snapshot is not None else None
    survey = detection.survey(settings.sources, settings.names, host.now, inventory=inventory, root=facts.root)
    for store in survey.stores:
        if not store.configured and store.new_names:
            path = store.settings.values["path"]
            what = f"{path}: a store of the type {store.settings.type} has {summarize(store.new_names)}"
            lines = source_table(store.settings.table()).strip()
            also = "" if settings.has_own_sources else "; a default store that is to stay needs a table too"
            fix = Fix(edit=f"add to {settings.file}: {lines}", note=f"mailsni sources --detect prints the lines{also}")
            yield finding("store_not_configured", what, path, fix)


def key_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read or replace the private keys of the stores."""
    for store in facts.host.stores:
        for_everybody = [path for path in store.keys if path.is_file() and path.stat().st_mode & stat.S_IROTH]
        exposed = [path for path, _ in world_readable(for_everybody)]
        shielded = [path for path in for_everybody if path not in set(exposed)]
        if exposed:
            what = f"every user of this host can read {_listed(exposed, 'private key')}"
            fix = chmod("o-rwx", exposed, f"certbot gives the next key this mode, others may not; {KEYS_EXPOSED}")
            yield finding("key_world_readable", what, exposed[0], fix)
        if shielded:
            what = f"the mode of {_listed(shielded, 'private key')} lets everybody read"
            yield finding("key_mode_too_open", what, shielded[0], chmod("o-rwx", shielded))
        # A tool that runs as a user of its own, such as Caddy, owns its store.
        owners = {path.stat().st_uid for path in store.keys if path.is_file()}
        yield from writable_by_others("store_writable", store.directories, owners)


def pin_modes(facts: Facts) -> Iterator[Finding]:
    """Check who can read the pinned files."""
    settings = facts.host.settings
    for directory in dict.fromkeys((settings.dovecot.pin_directory, settings.state.directory / "pinned")):
        pins = (directory / name for name in files.list_names(directory) if name.endswith(".pem"))
        exposed = [path for path, _ in world_readable(pins)]
        if exposed:
            what = f"every user of this host can read {_listed(exposed, 'pinned file')}"
            yield finding("pin_world_readable", what, exposed[0], chmod("600", exposed, KEYS_EXPOSED))


def published_places(facts: Facts) -> Iterator[Finding]:
    """Check who can change what is published, or put something else in its place."""
    settings = facts.host.settings
    places = [settings.state.directory]
    if facts.host.postfix is not None and str(settings.postfix.map) not in facts.postfix_tables:
        places += [settings.postfix.map.parent]
    if facts.host.dovecot is not None:
        places += [settings.dovecot.include_file, settings.dovecot.pin_directory]
    yield from writable_by_others("published_writable", places)


def commands(facts: Facts) -> Iterator[Finding]:
    """Check who can change the commands that the configuration names."""
    settings = facts.host.settings
    for command in (settings.postfix.action, settings.dovecot.action, settings.alerts.on_failure):
        if isinstance(command, tuple) and command:
            yield from writable_by_others("command_writable", [Path(command[0])])


def live_certificates(facts: Facts) -> Iterator[Finding]:
    """Check whether Dovecot's blocks name the stores' own files."""
    if facts.host.dovecot is not None and facts.host.dovecot.settings.certificates == "live":
        fix = Fix("mailsni apply", edit='set [dovecot] certificates = "pinned"')
        what = "Dovecot's blocks name the store's own files, not pinned copies"
        yield finding("dovecot_live_certificates", what, facts.host.settings.file, fix)


def acme_sh_home(facts: Facts) -> Iterator[Finding]:
    """Check whether certificates are read from acme.sh's own directory."""
    homes = [str(store.values["path"]) for store in facts.host.settings.sources if store.type == "acme.sh"]
    selected = facts.host.snapshot.selection.certificates if facts.host.snapshot is not None and homes else ()
    paths = [each.key_path for each in selected if any(each.key_path.startswith(f"{home}/") for home in homes)]
    if keys := sorted(map(Path, paths)):
        edit = "run acme.sh --install-cert -d NAME --key-file PATH --fullchain-file PATH; mailsni then reads these"
        what = f"{_listed(keys, 'private key')}: read from acme.sh's own directory"
        yield finding("acme_sh_home", what, keys[0], Fix(edit=edit))


def _listed(paths: Sequence[Path], noun: str) -> str:
    return f"{counted(len(paths), noun)}: {summarize([str(path) for path in paths])}"


def _acme_client(facts: Facts, origin: str) -> AcmeClient | None:
    stores = (settings.open() for settings in facts.host.settings.sources)
    return next((store.acme_client for store in stores if store.owns(origin)), None)


def broken_lineages(facts: Facts) -> Iterator[Finding]:
    """Report every certificate that is skipped and needs repair."""
    for problem in facts.host.snapshot.selection.problems if facts.host.snapshot is not None else ():
        if problem.reason is not Reason.KEPT_LAST_GOOD:  # its lineage is there with its own reason
            names = summarize(problem.names) or "no name"
            why = (
                f"{names} is not served from it: clients get its last valid certificate, and after that the default one"
            )
            what = f"{problem.source}: {problem.detail}"
            fix = _repair(problem.reason, problem.source, _acme_client(facts, problem.source))
            yield finding(f"lineage_{problem.reason}", what, problem.source, fix, why=why)


def _repair(reason: Reason, origin: str, client: AcmeClient | None) -> Fix:
    repair = client.repair(origin, reason) if client is not None else None
    if repair is not None:
        return Fix(repair[0], note=repair[1])
    if reason is Reason.SET_ASIDE:
        return Fix("mailsni apply --force", note="it tries the certificate again, and sets it aside again if need be")
    return Fix(edit=_REPAIRS.get(reason, "let its client issue it anew, then run `mailsni apply`"))


def incomplete_chains(facts: Facts) -> Iterator[Finding]:
    """Check the chains of the selected certificates."""
    # Where Postfix alone serves them it may complete them. Dovecot does so only where it asks clients for certificates.
    configuration = facts.postfix_configuration if facts.host.dovecot is None else None
    issuers = authorities(configuration) if configuration is not None else b""
    for certificate in facts.host.snapshot.selection.certificates if facts.host.snapshot is not None else ():
        path = Path(certificate.chain_path)
        chain = files.read_untrusted(path, PEM_LIMIT) or b"" if certificate.chain_path else b""
        leaf = lonely_leaf(chain)
        if leaf is not None and not is_completed(chain, issuers):
            yield incomplete_chain(facts.host, path, path, leaf)
        elif certificate.issuer_missing and not certificate.chain_path:
            names = summarize(certificate.names)
            what = f"{certificate.source} has the leaf ({names}) without its issuer ({certificate.issuer})"
            fix = Fix(edit="put the issuer's certificate into the store, beside the leaf or behind it")
            yield finding("chain_incomplete", what, certificate.source, fix)


def competing_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that lose a name to another one which was issued later."""
    snapshot, now = facts.host.snapshot, facts.host.now
    if snapshot is None:
        return
    winners = {winner.name: winner.certificates for winner in snapshot.selection.winners}
    selected = {certificate.source for certificates in winners.values() for certificate in certificates}
    for certificate in snapshot.inventory.certificates:
        if certificate.kept or certificate.staging or certificate.self_signed or not certificate.valid_at(now):
            continue
        origin, renewal = certificate.source, None
        client = _acme_client(facts, origin)
        if client is not None and client.renewal_file(origin).is_file():
            renewal = client.renewal_file(origin)
        for source, names in sorted(_lost_names(certificate, winners).items()):
            command, edit = None, None if client is not None else f"delete the one that is not needed: {origin}"
            if client is not None and origin in selected:
                kept = (name for name in certificate.names if name not in names)
                edit = f"get it without these names: {quoted(*client.issue(origin, kept))}"
            elif client is not None:
                command = quoted(*client.delete(origin))
            what = f"{summarize(names)}: two lineages have it, {source} is served, {origin} is not"
            fix = Fix(command, edit=edit, note=f"check first what else uses it: mailsni explain {names[0]}")
            yield finding("lineages_compete", what, renewal or origin, fix)


def _lost_names(certificate: Certificate, winners: Mapping[str, tuple[Certificate, ...]]) -> dict[str, list[str]]:
    """The names that other certificates win, by their origin.

    An exact name beats a wildcard, and one of another algorithm is served as well: neither is a competition. Nor is a
    copy, such as mailcow's default pair.
    """
    lost: dict[str, list[str]] = defaultdict(list)
    for name in certificate.names:
        for winner in winners.get(name, ()):
            same_kind = winner.algorithm == certificate.algorithm and name in winner.names
            if same_kind and winner.source != certificate.source and winner.fingerprint != certificate.fingerprint:
                lost[winner.source].append(name)
    return lost


def unrenewed_lineages(facts: Facts) -> Iterator[Finding]:
    """Report lineages that their ACME client has no renewal configuration for."""
    if facts.host.snapshot is None:
        return
    selected = {certificate.source for certificate in facts.host.snapshot.selection.certificates}
    for certificate in facts.host.snapshot.inventory.certificates:
        client = None if certificate.kept else _acme_client(facts, certificate.source)
        if client is None:
            continue
        renewal = client.renewal_file(certificate.source)
        # A directory without any renewal configurations is not the client's.
        if not renewal.parent.is_dir() or os.path.lexists(renewal):
            continue
        expired = certificate.not_after <= facts.host.now
        if expired or certificate.source in selected:
            yield _unrenewed(certificate, client, expired=expired)


def _unrenewed(certificate: Certificate, client: AcmeClient, *, expired: bool) -> Finding:
    again = quoted(*client.issue(certificate.source, certificate.names))
    renewal = client.renewal_file(certificate.source)
    what = f"{certificate.source}: {client.name} does not renew it: {renewal} does not exist"
    day = f"{certificate.not_after:%Y-%m-%d}"
    if expired:
        remove = quoted("rm", "-r", *client.paths(certificate.source))
        fix = Fix(remove, note=f"only when nothing needs it; otherwise move it away and get a new one: {again}")
        return finding("lineage_expired_not_renewed", f"{what}, and it expired on {day}", certificate.source, fix)
    fix = Fix(edit=f"restore {renewal}, or move {certificate.source} away and get a new one: {again}")
    why = f"it expires on {day}, and {summarize(certificate.names)} with it"
    return finding("lineage_not_renewed", what, certificate.source, fix, why=why)
