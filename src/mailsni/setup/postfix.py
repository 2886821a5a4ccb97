"""Setup's part for Postfix: ``tls_server_sni_maps`` in main.cf, and what master.cf and other instances do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from mailsni.config.settings import PostfixSettings, Settings
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, RefusedError, ServerConfigurationError
from mailsni.probes.expectation import Expectation
from mailsni.setup.model import Item, Note, SetupOptions
from mailsni.setup.record import Record
from mailsni.setup.steps import Step, change_file, change_server
from mailsni.targets.postfix import main_cf, postconf
from mailsni.targets.postfix.map_types import TableReference, parse_tables
from mailsni.targets.postfix.postconf import Installation
from mailsni.targets.postfix.target import Postfix, find, map_types_in

_OVERRIDES = (postconf.SNI_MAPS, postconf.SECURITY_LEVEL, *postconf.DEFAULT_CERTIFICATES)


def default_certificate(settings: Settings) -> tuple[Path | None, str | None]:
    """The file with the certificate for clients without SNI, and a warning about what is missing for it."""
    directory = settings.postfix.config_directory
    configuration = Installation(directory).read()
    parameter, paths = configuration.certificate()
    lacking = []
    if not parameter:
        lacking.append(
            "smtpd_tls_chain_files=/etc/letsencrypt/live/NAME/privkey.pem,/etc/letsencrypt/live/NAME/fullchain.pem"
        )
    if not configuration.offers_tls():
        lacking.append(f"{postconf.SECURITY_LEVEL}=may")
    warning = None
    if lacking:
        what = "has no default certificate" if not parameter else "has TLS switched off in main.cf"
        why = f"postfix: {what}: without it no service offers TLS that does not have it in master.cf"
        warning = f"{why}: postconf -c {directory} -e {' '.join(lacking)}"
    # smtpd_tls_chain_files has the key first, in a file of its own or not.
    return (paths[-1] if paths else None), warning


def plan(settings: Settings, expected: tuple[Expectation, ...], options: SetupOptions) -> Iterator[Item]:
    """Name the map in main.cf, after a map of the administrator's or in its place."""
    target = _find(settings)
    own = settings.postfix
    if (complaint := target.startup_problem()) is not None:
        raise ServerConfigurationError(
            f"{own.config_directory}: Postfix's configuration is broken already: {complaint}",
            hint="fix that first: with it Postfix cannot start again once it is stopped, and a reload may stop it",
        )
    yield from map(Note, (*_notes_on_instances(own), *_notes_on_services(own)))
    tables = target.installation.sni_tables()
    theirs = [table.written for table in tables if table.source != own.map]
    if theirs and not options.take_over and not (target.is_configured and tables[0].source == own.map):
        yield Note(
            f"postfix: {postconf.SNI_MAPS} already names {', '.join(theirs)}: it stays first and its names win; "
            "--take-over makes mailsni's map the only one"
        )
    if target.is_configured and not (options.take_over and theirs):
        return
    table = f"{map_type(settings)}:{own.map}"
    value = ", ".join([table] if options.take_over else [*theirs, table])
    shown = repr(value) if " " in value else value
    title = f"postconf -e {postconf.SNI_MAPS}={shown}, and reload Postfix"
    path, after = own.main_cf, main_cf.with_map(own, table, take_over=options.take_over)
    edit = change_file(title, path, main_cf.text(own), after, mode=None)
    yield change_server(edit, path, settings, target, expected)


def plan_removal(settings: Settings, known: Record, expected: tuple[Expectation, ...]) -> Iterator[Step]:
    """Remove the map from main.cf.

    Raises:
        RefusedError: a service of master.cf, or another instance, names the map: setup did not write that.
    """
    own, target = settings.postfix, _find(settings)
    for use in target.uses.uses:
        if use.service:
            directory = use.file.parent
            raise RefusedError(
                f"{use.file}: {use.service} names mailsni's map: {use.parameter} = {use.value}",
                hint=f"remove it first: postconf -c {directory} -PX {use.service}/{use.parameter}",
            )
        if use.file != own.main_cf:
            raise RefusedError(f"{use.file}: names mailsni's map too", hint="remove it from that instance first")
    path, before = own.main_cf, main_cf.text(own)
    if not target.is_configured and not main_cf.is_marked(before):
        return
    original = known.before(path, before)
    after = original if original is not None else main_cf.without_map(own)
    title = f"remove mailsni's map from {postconf.SNI_MAPS} in {path}, and reload Postfix"
    edit = change_file(title, path, before, after, mode=None)
    yield change_server(edit, path, settings, target, expected, partial(_still_named, own))


def map_type(settings: Settings) -> str:
    """The type that main.cf names, or is going to name."""
    target = _find(settings)
    recorded = target.recorded_map_type(_memory(settings))
    if recorded is not None and not target.is_configured:
        return recorded
    supported = target.installation.supported_types() | {"texthash"}
    types = target.types.maps[0]
    return next((one for one in types if one in supported), types[0])


def map_type_problem(settings: Settings, expected: str) -> HostError | None:
    """Checks the type of the map that was deployed: main.cf is going to name the expected one."""
    built = map_types_in(_memory(settings))
    if not built or expected in built:
        return None
    return HostError(
        f"postfix: the map was built as {built[0]}, because {expected} does not work here",
        hint=f'set [postfix] map_type = "{built[0]}" in the configuration',
    )


def _memory(settings: Settings) -> Mapping[str, str]:
    return State(settings.state.directory).load().deployment.memories.get("postfix", {})


def _still_named(own: PostfixSettings) -> str | None:
    left = [table for table in Installation(own.config_directory).sni_tables() if table.source == own.map]
    return f"{postconf.SNI_MAPS} would still name {left[0].written}" if left else None


def _find(settings: Settings) -> Postfix:
    target = find(settings.postfix)
    if target is None:
        raise HostError("postfix: is not installed any more")
    return target


def _names_our_map(own: PostfixSettings, tables: Sequence[TableReference]) -> bool:
    return any(table.source == own.map for table in tables)


def _other_instances(own: PostfixSettings) -> Iterator[postconf.Instance]:
    directory = own.config_directory
    return (one for one in Installation(directory).instances() if one.config_directory != directory)


def _notes_on_instances(own: PostfixSettings) -> Iterator[str]:
    for instance in _other_instances(own):
        yield (
            f"postfix: the instance {instance.name or instance.config_directory} ({instance.config_directory}) is not "
            "changed: to configure it, run mailsni --config FILE setup with a configuration file that has this "
            "[postfix] config_directory, and a map, a state directory and a lock of its own"
        )


def _notes_on_services(own: PostfixSettings) -> Iterator[str]:
    for override in Installation(own.config_directory).overrides(*_OVERRIDES):
        where = f"postfix: {override.service} has {override.parameter} = {override.value} in master.cf"
        if override.parameter == postconf.SNI_MAPS:
            if _names_our_map(own, parse_tables(override.value)):
                yield f"{where}, which names mailsni's map"
            else:
                yield (
                    f"{where}: it overrides main.cf, so mailsni's certificates are not served there; "
                    "remove it to have them served"
                )
        elif override.parameter != postconf.SECURITY_LEVEL:
            yield f"{where}: the service has a default certificate of its own; it uses the map too"
        elif override.value == "none":
            yield f"{where}: the service has no TLS, so it serves no certificate"
