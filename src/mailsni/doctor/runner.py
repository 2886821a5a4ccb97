"""Runs ``mailsni doctor``: collects the facts, runs every check on them, and sorts the findings.

A fact that cannot be found out and a check that cannot run are findings themselves; the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from mailsni.config.settings import DEFAULT_PATH, Settings
from mailsni.core.model import Progress
from mailsni.deploy import host_facts
from mailsni.deploy.host_facts import Failure, HostFacts, Part
from mailsni.doctor import helpers
from mailsni.doctor.checks import dovecot, hooks, postfix, postfix_maps, schedule, stores
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding, kinds
from mailsni.errors import ConfigurationError, PermissionMissingError, ServerConfigurationError
from mailsni.targets import registry
from mailsni.targets.postfix.postconf import Configuration
from mailsni.targets.registry import NO_SERVER

SAME_CODE_LIMIT = 20
"""Findings of one code that are reported one by one."""
_UNREADABLE: Mapping[Part, tuple[str, str]] = {
    "postfix": ("postfix_unreadable", "Postfix"),
    "dovecot": ("dovecot_unreadable", "Dovecot"),
    "snapshot": ("snapshot_failed", "what is in the stores and what is deployed"),
    "store": ("store_missing", "the store {place}"),
}
"""For each part of the host that cannot be read the code, and what it is."""
_OWN_CALL = re.compile(r"(?:(?<=^)|(?<=&& ))mailsni(?= )")
"""Where a command of a fix calls this program."""
CHECKS: helpers.Checks[Facts] = (
    ("Postfix", postfix.findings),
    ("stores that are not configured", stores.unconfigured),
    ("the modes of the private keys", stores.key_modes),
    ("the modes of the pinned files", stores.pin_modes),
    ("who can change what is published", stores.published_places),
    ("who can change the configured commands", stores.commands),
    ("whether Dovecot reads pinned files", stores.live_certificates),
    ("what acme.sh has installed", stores.acme_sh_home),
    ("broken lineages", stores.broken_lineages),
    ("the chains in the stores", stores.incomplete_chains),
    ("lineages that compete for a name", stores.competing_lineages),
    ("whether certbot renews all lineages", stores.unrenewed_lineages),
    ("certbot's hooks", hooks.hooks),
    ("the hooks in certbot's configuration", hooks.hooks_in_configuration),
    ("cron", hooks.cron),
    ("what starts mailsni", schedule.schedule),
    ("whether it starts", schedule.starting),
    ("the programs of hooks in certbot's configuration", schedule.configured),
    ("the configuration that hooks name", schedule.configuration),
    ("the clock", schedule.clock),
    ("what panels and tutorials left", postfix_maps.leftovers),
    ("Dovecot", dovecot.findings),
)


def examine(
    settings: Settings,
    now: datetime,
    *,
    root: Path = Path("/"),
    progress: Progress | None = None,
    checks: helpers.Checks[Facts] = CHECKS,
) -> tuple[Finding, ...]:
    """Look for every known mistake. Nothing is written, no server is probed.

    Args:
        settings: of this host.
        now: the moment at which certificates must be valid, with a time zone.
        root: of the system: cron's tables and units are looked for below it.
        progress: called for every lineage that is read.
        checks: the checks to run.

    Returns:
        The findings, the worst first; no two of them alike.
    """
    host = host_facts.gather(settings, now, partial=True, progress=progress)
    problems = [_unreadable(failure, settings) for failure in host.failures]
    if not problems and not host.has_server:
        fix = Fix(edit="install one of them, or enable it in mailsni's configuration")
        problems.append(finding("no_server", NO_SERVER, "[postfix] enabled, [dovecot] enabled", fix))
    problems += _in_containers(host)
    configuration = _postfix_configuration(host, problems)
    found = [*problems, *helpers.run_each(checks, Facts(host, configuration, root))]
    return in_order(_for_configuration(each, settings.file) for each in found)


def _for_configuration(unnamed: Finding, config_file: Path) -> Finding:
    """The same; its command calls this program with the configuration that was examined."""
    command = unnamed.fix.command
    if command is None or config_file == DEFAULT_PATH:
        return unnamed
    named = helpers.quoted("mailsni", "--config", config_file.absolute())
    return replace(unnamed, fix=replace(unnamed.fix, command=_OWN_CALL.sub(lambda _: named, command)))


def _postfix_configuration(host: HostFacts, problems: list[Finding]) -> Configuration | None:
    """Postfix's configuration; None where a container has it.

    None too, and a problem more, where Postfix refuses it or it cannot be read.
    """
    server = host.postfix
    if server is None or not server.installed:
        return None
    refusal = helpers.attempt(problems, "whether Postfix would start", partial(postfix.refusal, server))
    if refusal is not None:
        problems.append(refusal)
    if refusal is not None or server.installation.executor.container:
        return None
    failures: list[Failure] = []
    read = server.installation.read
    configuration = host_facts.attempt(failures, "postfix", host.settings.postfix.main_cf, read)
    problems += [_unreadable(failure, host.settings) for failure in failures]
    return configuration


def _in_containers(host: HostFacts) -> Iterator[Finding]:
    """What can be said of servers in containers: their files are not all on this host."""
    servers = [server for server in (host.postfix, host.dovecot) if server is not None]
    for server in servers:
        container = registry.containers(host.settings).get(server.name)
        if container is None:
            continue
        what = f"{server.name} runs in container {container}: its configuration is not examined further"
        fix = Fix(edit="run `mailsni doctor` inside the container, or look there: docs/containers.md")
        yield finding("server_in_container", what, f"[{server.name}] container", fix)
        reason = server.not_configured_reason({})
        if reason is not None:
            yield finding("container_not_wired", reason, f"[{server.name}] container", Fix(edit=reason))


def _unreadable(failure: Failure, settings: Settings) -> Finding:
    """The finding for a part of the host that could not be read."""
    code, about = _UNREADABLE[failure.part]
    failed = helpers.check_failed(about.format(place=failure.place), failure.error, failure.place)
    if isinstance(failure.error, PermissionMissingError | PermissionError):
        return failed
    if failure.part == "postfix" and isinstance(failure.error, ServerConfigurationError):
        fix = postfix.ask_again(settings.postfix, failed.fix.edit or "")
        failed = replace(failed, what="Postfix refuses its configuration", fix=fix)
    severity = Severity.WARNING if isinstance(failure.error, ConfigurationError) else kinds()[code].severity
    return replace(failed, code=code, severity=severity)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings fit to be shown: printable, each once, not too many of a code, the worst first.

    A host with thousands of blocks can have the same mistake in each of them.
    """
    unique = dict.fromkeys(helpers.sanitized(each) for each in findings)
    groups = helpers.grouped(unique, lambda each: each.code)
    kept = {each for same in groups for each in same[:SAME_CODE_LIMIT]}
    bounded = [each for each in unique if each in kept]
    for more in (same[SAME_CODE_LIMIT:] for same in groups if len(same) > SAME_CODE_LIMIT):
        bounded.append(replace(more[0], what=f"{len(more)} more of this kind, the first of them: {more[0].what}"))
    return tuple(sorted(bounded, key=lambda each: list(Severity).index(each.severity)))
