"""Setup's part for Postfix: ``tls_server_sni_maps`` in main.cf, and what master.cf and other instances do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import PostfixSettings, Settings
from mailsni.deploy.state_directory import State
from mailsni.errors import HostError, RefusedError
from mailsni.probes.expectation import Expectation
from mailsni.setup.model import Part, SetupOptions
from mailsni.setup.record import Record
from mailsni.setup.steps import ChangeFile, ChangeServer, Step
from mailsni.targets.postfix import main_cf, postconf
from mailsni.targets.postfix.map_types import TableReference, parse_tables
from mailsni.targets.postfix.target import Postfix, find

_OVERRIDES = (postconf.SNI_MAPS, postconf.SECURITY_LEVEL, *postconf.DEFAULT_CERTIFICATES)


def default_certificate(settings: Settings) -> tuple[Path | None, tuple[str, ...]]:
    """The file with the certificate for clients without SNI, and warnings about what is missing for it."""
    directory = settings.postfix.config_directory
    configuration = postconf.read(directory)
    parameter, paths = configuration.certificate()
    lacking = []
    if not parameter:
        lacking.append(
            "smtpd_tls_chain_files=/etc/letsencrypt/live/NAME/privkey.pem,/etc/letsencrypt/live/NAME/fullchain.pem"
        )
    if not configuration.offers_tls():
        lacking.append(f"{postconf.SECURITY_LEVEL}=may")
    warnings: tuple[str, ...] = ()
    if lacking:
        what = "has no default certificate" if not parameter else "has TLS switched off in main.cf"
        why = f"postfix: {what}: without it no service offers TLS that does not have it in master.cf"
        warnings = (f"{why}: postconf -c {directory} -e {' '.join(lacking)}",)
    # smtpd_tls_chain_files has the key first, in a file of its own or not.
    return (paths[-1] if paths else None), warnings


def plan(settings: Settings, expected: tuple[Expectation, ...], options: SetupOptions) -> Part:
    """Name the map in main.cf, after a map of the administrator's or in its place."""
    target = _find(settings)
    own = settings.postfix
    notes = [*_notes_on_instances(own), *_notes_on_services(own)]
    tables = postconf.sni_tables(own.config_directory)
    theirs = [table.written for table in tables if not main_cf.is_ours(own, table)]
    if theirs and not options.take_over and not (target.is_configured and main_cf.is_ours(own, tables[0])):
        notes.append(
            f"postfix: {postconf.SNI_MAPS} names {', '.join(theirs)} already: it stays first, and a name that it has "
            "is answered from it; --take-over makes mailsni's map the only one"
        )
    if target.is_configured and not (options.take_over and theirs):
        return Part(notes=tuple(notes))
    table = f"{map_type(settings)}:{own.map}"
    value = ", ".join([table] if options.take_over else [*theirs, table])
    shown = repr(value) if " " in value else value
    change = ChangeFile(
        f"postconf -e {postconf.SNI_MAPS}={shown}, and reload Postfix",
        main_cf.path_of(own),
        main_cf.text(own),
        main_cf.with_map(own, table, take_over=options.take_over),
        mode=None,
    )
    return Part((ChangeServer(change, settings, target, expected),), tuple(notes))


def plan_removal(settings: Settings, known: Record, expected: tuple[Expectation, ...]) -> tuple[Step, ...]:
    """Take the map out of main.cf.

    Raises:
        RefusedError: a service of master.cf, or another instance, names the map: setup did not write that.
    """
    own = settings.postfix
    for override in postconf.overrides(own.config_directory, postconf.SNI_MAPS):
        if _names_our_map(own, parse_tables(override.value)):
            service, parameter = override.service, override.parameter
            raise RefusedError(
                f"{own.config_directory}/master.cf: {service} names mailsni's map: {parameter} = {override.value}",
                hint=f"take it out first: postconf -c {own.config_directory} -PX {service}/{parameter}",
            )
    for instance in _other_instances(own):
        if _names_our_map(own, postconf.sni_tables(instance.config_directory)):
            raise RefusedError(
                f"{instance.config_directory}/main.cf: names mailsni's map too",
                hint="take it out of that instance first",
            )
    path, before = main_cf.path_of(own), main_cf.text(own)
    target = _find(settings)
    if not target.is_configured and not main_cf.is_marked(before):
        return ()
    original = known.before(path, before)
    after = original if original is not None else main_cf.without_map(own)
    title = f"take mailsni's map out of {postconf.SNI_MAPS} in {path}, and reload Postfix"
    change = ChangeFile(title, path, before, after, mode=None)
    return (ChangeServer(change, settings, target, expected, StillNamed(own)),)


def map_type(settings: Settings) -> str:
    """The type that the map has, or is going to have."""
    target = _find(settings)
    memories = State(settings.state.directory).load().deployment.memories
    recorded = target.recorded_map_type(memories.get("postfix", {}))
    if recorded is not None and not target.is_configured:
        return recorded
    supported = postconf.supported_types() | {"texthash"}
    return next((one for one in target.map_types if one in supported), target.map_types[0])


@dataclass(frozen=True, slots=True)
class StillNamed:
    """Checks whether main.cf names the map after all."""

    own: PostfixSettings

    def __call__(self) -> str | None:
        """What is wrong; None when the map is not named."""
        left = [table for table in postconf.sni_tables(self.own.config_directory) if main_cf.is_ours(self.own, table)]
        return f"{postconf.SNI_MAPS} would still name {left[0].written}" if left else None


def _find(settings: Settings) -> Postfix:
    target = find(settings.postfix)
    if target is None:
        raise HostError("postfix: is not installed any more")
    return target


def _names_our_map(own: PostfixSettings, tables: Sequence[TableReference]) -> bool:
    return any(main_cf.is_ours(own, table) for table in tables)


def _other_instances(own: PostfixSettings) -> Iterator[postconf.Instance]:
    return (one for one in postconf.instances(own.config_directory) if one.config_directory != own.config_directory)


def _notes_on_instances(own: PostfixSettings) -> Iterator[str]:
    for instance in _other_instances(own):
        yield (
            f"postfix: the instance {instance.name or instance.config_directory} ({instance.config_directory}) is left "
            "as it is: another configuration file, with this [postfix] config_directory, a map, a state directory and "
            "a lock of its own, wires it: mailsni --config FILE setup"
        )


def _notes_on_services(own: PostfixSettings) -> Iterator[str]:
    for override in postconf.overrides(own.config_directory, *_OVERRIDES):
        where = f"postfix: {override.service} has {override.parameter} = {override.value} in master.cf"
        if override.parameter == postconf.SNI_MAPS:
            if _names_our_map(own, parse_tables(override.value)):
                yield f"{where}, which names mailsni's map"
            else:
                yield (
                    f"{where}: it goes past main.cf, so mailsni's certificates are not served there; "
                    "take the line out to have them served"
                )
        elif override.parameter != postconf.SECURITY_LEVEL:
            yield f"{where}: a default of its own; names are served from the map there too"
        elif override.value == "none":
            yield f"{where}: no TLS there, so no certificate either"
