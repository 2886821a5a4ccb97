"""Plans what setup does on this host: reads everything, changes nothing, gives the steps in order.

The order: the files of both servers are published and proven (``apply``), and only then do the servers' configurations
name them, because a map that is named and missing cuts off every client that sends SNI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.names import NamePatterns, is_wildcard
from mailsni.core.text import counted, summarize
from mailsni.core.x509 import leaf_names
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.errors import HostError, RefusedError
from mailsni.host import file_identity, files, permissions
from mailsni.host.commands import find_tool
from mailsni.probes.expectation import Expectation, expectations
from mailsni.runs import starters
from mailsni.setup import autostart, dovecot, example, postfix, record, stores
from mailsni.setup.autostart import Kind, startup_files
from mailsni.setup.model import Caution, Item, Note, SetupOptions, SetupPlan
from mailsni.setup.plan_removal import plan_startup_removal, plan_unpublishing
from mailsni.setup.steps import Step, change_file, first_apply, make_directories
from mailsni.sources.kinds import acme_clients
from mailsni.targets import registry
from mailsni.targets.registry import NO_SERVER, find_all

_LARGEST_PEM = 1 << 20
_CHANGES_LISTED = 20


@dataclass(frozen=True, slots=True)
class _Server:
    """How one kind of server is wired."""

    title: str
    default_certificate: Callable[[Settings], tuple[Path | None, str | None]]
    """Its file, and a warning when something is missing for it."""
    plan: Callable[[Settings, tuple[Expectation, ...], SetupOptions], Iterator[Item]]


_SERVERS: Mapping[str, _Server] = {
    "postfix": _Server("Postfix", postfix.default_certificate, postfix.plan),
    "dovecot": _Server("Dovecot", dovecot.default_certificate, dovecot.plan),
}


def plan_setup(
    settings: Settings, options: SetupOptions, now: datetime, offered: stores.Offer = stores.NO_OFFER
) -> SetupPlan:
    """What has to be done until certificates are served without further commands.

    Args:
        settings: of the configuration.
        options: what the command line asks for.
        now: the moment at which certificates must be valid, with a time zone.
        offered: the stores of this host that no configuration names, and which of them to take.

    Raises:
        HostError: a server's configuration cannot be read or is broken, a store is missing.
        RefusedError: something lies at the place of a file of ours that setup did not write.
        PermissionMissingError: this user may not read what it takes.
    """
    settings, written, store_items = stores.plan(settings, offered)
    snapshot = take_snapshot(settings, now, targets=find_all(settings))
    installed = _installed(snapshot)
    if not installed:
        raise HostError(
            NO_SERVER,
            hint="install one of them, or look at [postfix] enabled and [dovecot] enabled in the configuration",
        )
    program = autostart.program()
    items: list[Item] = [*_missing_servers(settings, installed)]
    if (unsafe := starters.why_unsafe(program)) is not None:
        items.append(Caution(unsafe))
    known = record.load(settings.state.directory).content or record.Record()
    items += example.plan(settings.file, known)
    if (hidden := starters.why_hidden(program)) is not None:
        items.append(Note(f"{hidden}: a monitoring system cannot call `mailsni check` as one (docs/setup.md)"))
    items += store_items
    snapshot, names = _serve_default_names(snapshot, options, written)
    settings = snapshot.settings
    expected = expectations({winner.name: winner.certificates for winner in snapshot.selection.winners})
    items += names
    items += _first_apply(snapshot)
    for name in _on_this_host(snapshot):
        items += _SERVERS[name].plan(settings, expected, options)
    items += _in_containers(snapshot)
    items += _hooks(settings, options, program)
    items += _startup(settings, options, program)
    return SetupPlan.of(settings, items)


def _installed(snapshot: Snapshot) -> list[str]:
    """The names of the installed servers, in the order of the targets."""
    return [target.name for target in snapshot.targets if target.installed]


def _on_this_host(snapshot: Snapshot) -> list[str]:
    """The names of the installed servers that run in no container."""
    containers = registry.containers(snapshot.settings)
    return [name for name in _installed(snapshot) if name not in containers]


def _in_containers(snapshot: Snapshot) -> Iterator[Item]:
    """What is left to the administrator: an image may write its configuration anew whenever it starts."""
    for target in snapshot.targets:
        container = registry.containers(snapshot.settings).get(target.name)
        reason = target.not_configured_reason(snapshot.record.deployment.memories.get(target.name, {}))
        if container is not None and reason is not None:
            yield Caution(f"{reason} (setup does not change the configuration in container {container})")


def _missing_servers(settings: Settings, installed: Sequence[str]) -> Iterator[Note]:
    switches = {"postfix": settings.postfix.enabled, "dovecot": settings.dovecot.enabled}
    for name, server in _SERVERS.items():
        if name not in installed:
            other = next(one.title for one in _SERVERS.values() if one is not server)
            why = "is switched off in the configuration" if switches[name] is False else "is not installed here"
            yield Note(f"{server.title} {why}: only {other} is configured")


# ── the names of the default certificates ────────────────────────────────────────────────────────────────────────────


def _serve_default_names(
    snapshot: Snapshot, options: SetupOptions, written: bytes | None
) -> tuple[Snapshot, list[Item]]:
    """Clients without SNI get the default certificate of a server; serves its names by name too.

    Args:
        snapshot: of the host.
        options: what the command line asks for.
        written: what setup has written into the configuration file by then, if there was none.

    Returns:
        The snapshot to go on with: its settings have the names in it, if setup writes them into a configuration file.
    """
    settings = snapshot.settings
    served = {winner.name for winner in snapshot.selection.winners}
    stored = {name for certificate in snapshot.inventory.certificates for name in certificate.names}
    unserved: dict[str, None] = {}
    items: list[Item] = []
    for server in _on_this_host(snapshot):
        path, missing = _SERVERS[server].default_certificate(settings)
        if missing is not None:
            items.append(Caution(missing))
        if path is None:
            continue
        try:
            found = _names_in(path)
        except OSError as error:
            items.append(Caution(f"{server}: the default certificate {path} cannot be read: {error.strerror}"))
            continue
        unserved |= dict.fromkeys(name for name in found if not is_wildcard(name) and name not in served)
    strangers = [name for name in unserved if name not in stored]
    if strangers:
        text = (
            f"the default certificate is also for {summarize(strangers)}, which no store has: "
            "clients that ask for it get the default certificate all the same"
        )
        items.append(Note(text))
    names = tuple(name for name in unserved if name in stored)
    if not names:
        return snapshot, items
    path = options.config_file or DEFAULT_PATH
    include = (*settings.names.include, *names)
    line = f"include = {json.dumps(include)}"
    patterns = NamePatterns(include, settings.names.exclude)
    if path.exists() or not all(patterns.match(name) for name in names):
        text = (
            f"the default certificate is also for {summarize(names)}, which names.include leaves out: "
            f"to serve it by name, write into {path}, below [names]: {line}"
        )
        return snapshot, [*items, Note(text)]
    content = (written + b"\n" if written else b"") + (
        "# Written by `mailsni setup`, which found these names in the servers' default certificate;\n"
        "# `mailsni setup --remove` takes the file away again unless it was edited.\n"
        f"[names]\n{line}\n"
    ).encode()
    title = f"serve {summarize(names)} by name too: write {path}"
    items.append(change_file(title, path, written, content))
    return take_snapshot(replace(settings, names=patterns), snapshot.now, targets=snapshot.targets), items


def _names_in(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        content = file.read(_LARGEST_PEM)
    return tuple(name for name in leaf_names(content) if "." in name)


# ── the steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _first_apply(snapshot: Snapshot) -> Iterator[Item]:
    """Publish everything before a server is told of it."""
    settings = snapshot.settings
    transaction.require_not_empty(snapshot, allow=False)
    installed = _installed(snapshot)
    if "dovecot" in installed:
        yield from make_directories(settings.dovecot.include_file.parent)
    if not snapshot.plan.pending:
        return
    changes = [f"+ {change.name}" for change in snapshot.plan.effective]
    if len(changes) > _CHANGES_LISTED:
        changes[_CHANGES_LISTED:] = [f"and {len(changes) - _CHANGES_LISTED} more"]
    artifacts = [f"write {change.path}: {change.why}" for change in snapshot.plan.artifacts]
    names = len(snapshot.selection.winners)
    wired_here = "postfix" in _on_this_host(snapshot)
    fresh = (
        not snapshot.record.deployment.names
        and not snapshot.record.interrupted
        and not any(file_identity.of_file(target.path) for target in snapshot.targets)
    )
    yield first_apply(
        f"mailsni apply: publish {counted(names, 'name')} before a server's configuration names the files",
        "\n".join((*changes, *artifacts)),
        settings,
        partial(postfix.map_type_problem, settings, postfix.map_type(settings)) if wired_here else None,
        partial(plan_unpublishing, settings) if fresh else None,
    )
    if not names:
        yield Caution("no certificate has a mail name yet: `mailsni status --skipped` says why; later ones are served")


def _hooks(settings: Settings, options: SetupOptions, program: Path) -> Iterator[Item]:
    """Install the hooks of the ACME clients that fill the stores."""
    for client in acme_clients(settings.sources):
        if client.directory.is_dir():
            text = autostart.hook(client.name, program, options.config_file)
            title = f"install {client.name}'s post hook {client.hook}"
            yield from make_directories(client.hook.parent)
            yield from _managed_file(client.hook, text, 0o755, title, autostart.shipped_hook(client.name).encode())
        else:
            yield Caution(
                f"{client.directory}: no such directory, so {client.name}'s hook is not installed: run setup again "
                f"after {client.name}'s first run, or set [[sources]] path to its directory"
            )


def _managed_file(path: Path, text: bytes, mode: int, title: str, shipped: bytes | None = None) -> Iterator[Step]:
    """The step that a file of ours needs; none when it is as it should be. A shipped file may be replaced too.

    Raises:
        RefusedError: something lies there that setup did not write.
    """
    present = files.read_private(path)
    ours = present is not None and (autostart.is_ours(present) or present == shipped)
    if os.path.lexists(path) and not ours:
        raise RefusedError(
            f"{path}: was not written by `mailsni setup`, so it is not overwritten",
            hint="look at it, and move it away if mailsni may write its own there",
        )
    if present != text or permissions.mode_problem(path, mode) is not None:
        yield change_file(title, path, present, text, mode)


def _startup(settings: Settings, options: SetupOptions, program: Path) -> Iterator[Item]:
    """Have systemd, OpenRC or cron start mailsni."""
    manager = autostart.manager()
    if manager is None:
        variable = f"MAILSNI_CONFIG={options.config_file} " if options.config_file is not None else ""
        yield Caution(
            "this host has neither systemd, nor OpenRC, nor /etc/cron.d, so only certbot's hook starts mailsni: "
            f"run this every 15 minutes as root: {variable}{program} apply --quiet --wait 300"
        )
        return
    if manager == "cron" and not any(map(find_tool, ("cron", "crond", "fcron", "anacron"))):
        yield Caution(f"{starters.CRON}: no cron daemon is installed: install one")
    watches = manager == "systemd" and files.read_private(starters.UNITS / starters.WATCHER)
    kind: Kind = options.kind or ("watch" if watches else "timer")
    wanted = startup_files(manager, kind, program, options.config_file, settings)
    steps = [step for file in wanted for step in _managed_file(file.path, file.text, file.mode, f"write {file.path}")]
    hooks = (client.hook for client in acme_clients(settings.sources))
    yield from plan_startup_removal(settings, keep={*hooks, *(file.path for file in wanted)})
    yield from steps
    if steps and (start := autostart.start(manager, kind)) is not None:
        yield start
