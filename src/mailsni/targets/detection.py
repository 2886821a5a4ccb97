"""What ``"auto"`` stands for on this host, setting by setting, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mailsni.config.settings import Settings
from mailsni.errors import MailsniError
from mailsni.host.commands import LOCAL, SEARCH_PATH, Executor
from mailsni.probes.endpoint import Server
from mailsni.targets import registry
from mailsni.targets.dovecot import doveconf


@dataclass(frozen=True, slots=True)
class Detection:
    """What a setting that is ``"auto"`` stands for."""

    value: Any
    """``"auto"`` where it cannot be found out, or nothing needs it."""
    reason: str


def detect(settings: Settings, executor: Executor = LOCAL) -> Mapping[tuple[str, str], Detection]:
    """What each setting that is ``"auto"`` stands for, by its table and key. No server is probed."""
    detections = {}
    for (table, key), rule in _RULES.items():
        if getattr(getattr(settings, table), key) == "auto":
            try:
                detections[table, key] = rule(settings, executor)
            except MailsniError as error:
                detections[table, key] = Detection("auto", error.message)
    return detections


def _tools(server: Server, *names: str) -> Callable[[Settings, Executor], Detection]:
    """The rule that a server is deployed to when these programs of it are installed."""

    def rule(settings: Settings, executor: Executor) -> Detection:
        container = getattr(settings, server).container
        where = f" of container {container}" if container else ""
        inside = registry.executor_for(settings, container, executor)
        paths = {name: inside.find_tool(name) for name in names}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            return Detection(value=False, reason=f"there is no {missing[0]} in {':'.join(SEARCH_PATH)}{where}")
        return Detection(value=True, reason=", ".join(f"{name} is {path}{where}" for name, path in paths.items()))

    return rule


def _map_type(settings: Settings, executor: Executor) -> Detection:
    server = registry.find_postfix(settings, executor)
    if server is None:
        return _not_deployed_to("Postfix")
    preferred, *_ = first = server.types.maps[0]
    if not server.installed:
        return Detection(preferred, "there is no Postfix to ask")
    if server.is_configured:
        named = ", ".join(types[0] for types in server.types.maps)
        return Detection(preferred, f"Postfix's configuration names the map as {named}")
    return Detection(preferred, f"{settings.postfix.main_cf} does not name the map; tried in turn: {', '.join(first)}")


def _version(settings: Settings, executor: Executor) -> Detection:
    server = registry.find_dovecot(settings, executor)
    if server is None:
        return _not_deployed_to("Dovecot")
    return Detection(server.version, f"dovecot --version says {doveconf.full_version(server.executor)}")


def _action(_settings: Settings, _executor: Executor) -> Detection:
    return Detection("reload", "a reload is enough for both servers")


def _endpoints(settings: Settings, executor: Executor) -> Detection:
    targets = registry.find_all(settings, executor)
    if not targets:
        return Detection("auto", registry.NO_SERVER)
    endpoints = tuple(endpoint for target in targets for endpoint in target.endpoints())
    return Detection(endpoints, "the services with TLS in the servers' configurations")


def _not_deployed_to(server: str) -> Detection:
    return Detection("auto", f"{server} is not deployed to")


_RULES: Mapping[tuple[str, str], Callable[[Settings, Executor], Detection]] = {
    ("postfix", "enabled"): _tools("postfix", "postconf"),
    ("postfix", "map_type"): _map_type,
    ("postfix", "action"): _action,
    ("dovecot", "enabled"): _tools("dovecot", "dovecot", "doveconf"),
    ("dovecot", "version"): _version,
    ("dovecot", "action"): _action,
    ("verify", "endpoints"): _endpoints,
}
