"""What setup would do on this host: looks at everything, changes nothing, gives the steps in order.

The order of setup: the files of both servers are published and proven (``apply``), and only then do the servers'
configurations name them, because a map that is named and missing cuts off every client that sends SNI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mailsni.config import settings as settings_module
from mailsni.config.settings import Settings
from mailsni.core import file_identity
from mailsni.core.names import NamePatterns, is_wildcard, listed
from mailsni.core.x509 import Rejected, prove
from mailsni.deploy import transaction
from mailsni.deploy.confirm import Expectation, expectations
from mailsni.deploy.snapshot import observe
from mailsni.errors import HostError, PermissionMissingError
from mailsni.host import files, permissions
from mailsni.host.commands import find_tool
from mailsni.setup import autostart
from mailsni.setup.autostart import Kind
from mailsni.setup.model import WhyBroken, Wiring, known_at, ours_at
from mailsni.setup.plan_removal import files_removal, plan_unpublishing
from mailsni.setup.steps import ChangeFile, ChangeServer, Commands, FirstApply, MakeDirectories, Step
from mailsni.targets.base import Target
from mailsni.targets.dovecot import conf_edit
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot
from mailsni.targets.postfix import main_cf, postconf
from mailsni.targets.postfix.target import Postfix
from mailsni.targets.rendering import DovecotVersion

_DEFAULT_CERTIFICATE = ("smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file")
_OVERRIDES = (main_cf.PARAMETER, "smtpd_tls_security_level", *_DEFAULT_CERTIFICATE)
_LARGEST = 1 << 20
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for."""

    config_file: Path | None = None
    """The configuration file, if one was named; hooks and units name it too."""
    take_over: bool = False
    kind: Kind | None = None
    """None: what is there already, else the timer."""


def plan_setup(settings: Settings, wishes: Wishes, now: datetime) -> Wiring:
    """What has to be done until certificates are served by themselves.

    Args:
        settings: the configuration.
        wishes: of the command line.
        now: the moment at which certificates must be valid, with a time zone.

    Raises:
        HostError: a server's configuration cannot be read or is broken, a store is missing.
        RefusedError: something lies at the place of a file of ours that setup did not write.
        PermissionMissingError: this user may not read what it takes.
    """
    planner = _Setup(settings, wishes, now)
    return planner.plan()


class _Setup:
    def __init__(self, settings: Settings, wishes: Wishes, now: datetime) -> None:
        self._settings = settings
        self._wishes = wishes
        self._now = now
        self._notes: list[str] = []
        self._warnings: list[str] = []
        self._seen = observe(settings, now)

    def plan(self) -> Wiring:
        if not any(target.installed for target in self._seen.targets):
            raise HostError(
                "neither Postfix nor Dovecot is installed here, or both are switched off",
                hint="install one of them, or look at [postfix] enabled and [dovecot] enabled in the configuration",
            )
        self._say_what_is_missing()
        called = autostart.program()
        if (why := autostart.why_unsafe(called)) is not None:
            self._warnings.append(why)
        configuration = self._default_names()
        settings = self._seen.settings
        steps: list[Step] = [*configuration, *self._publishing()]
        for target in self._seen.targets:
            if isinstance(target, Postfix) and target.installed:
                steps += self._postfix(target)
            if isinstance(target, Dovecot) and target.installed:
                steps += self._dovecot(target)
        steps += self._hooks(called)
        steps += self._startup(called)
        return Wiring(settings, tuple(steps), tuple(self._notes), tuple(self._warnings))

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────

    def _say_what_is_missing(self) -> None:
        there = {target.name for target in self._seen.targets if target.installed}
        switches = {"Postfix": self._settings.postfix.enabled, "Dovecot": self._settings.dovecot.enabled}
        for title, switch in switches.items():
            if title.lower() not in there:
                other = "Dovecot" if title == "Postfix" else "Postfix"
                why = "is switched off in the configuration" if switch is False else "is not installed here"
                self._notes.append(f"{title} {why}: only {other} is wired")

    def _target(self, name: str) -> Target | None:
        return next((one for one in self._seen.targets if one.name == name and one.installed), None)

    def _default_names(self) -> list[Step]:
        """Both servers need a certificate for clients without SNI; its names are to be served by name too."""
        defaults: dict[str, Path] = {}
        if self._target("postfix") is not None and (path := self._postfix_default()) is not None:
            defaults["postfix"] = path
        if self._target("dovecot") is not None and (path := self._dovecot_default()) is not None:
            defaults["dovecot"] = path
        unserved: dict[str, None] = {}
        for server, path in defaults.items():
            names = self._names_in(server, path)
            unserved |= dict.fromkeys(name for name in names if not is_wildcard(name) and not self._is_served(name))
        if not unserved:
            return []
        known = {name for one in self._seen.inventory.certificates for name in one.names}
        ours = [name for name in unserved if name in known]
        others = [name for name in unserved if name not in known]
        if others:
            self._notes.append(
                f"the default certificate is also for {listed(others, _NAMES_SHOWN)}, which no store has: "
                "clients that ask for it get the default certificate all the same"
            )
        return self._served_too(ours) if ours else []

    def _is_served(self, name: str) -> bool:
        return any(winner.name == name for winner in self._seen.selection.winners)

    def _served_too(self, names: Sequence[str]) -> list[Step]:
        """The patterns that make these names of the default certificate served, where nobody has written any yet."""
        include = [*self._settings.names.include, *names]
        line = f"include = {json.dumps(include)}"
        path = self._wishes.config_file or settings_module.DEFAULT_PATH
        excluded = [name for name in names if not NamePatterns(include, self._settings.names.exclude).match(name)]
        if path.exists() or excluded:
            self._notes.append(
                f"the default certificate is also for {listed(names, _NAMES_SHOWN)}, which names.include leaves out: "
                f"to serve it by name, write into {path}, below [names]: {line}"
            )
            return []
        text = (
            "# Written by `mailsni setup`, which found these names in the servers' default certificate;\n"
            "# `mailsni setup --remove` takes the file away again unless it was edited.\n"
            f"[names]\n{line}\n"
        ).encode()
        patterns = NamePatterns(include, self._settings.names.exclude)
        self._settings = replace(self._settings, names=patterns)
        self._seen = observe(self._settings, self._now)
        title = f"serve {listed(names, _NAMES_SHOWN)} by name too: write {path}"
        steps: list[Step | None] = [
            MakeDirectories.up_to(path.parent),
            ChangeFile(title, path, None, text),
        ]
        return [step for step in steps if step is not None]

    def _names_in(self, server: str, path: Path) -> tuple[str, ...]:
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST)
        except OSError as error:
            self._warnings.append(f"{server}: the default certificate {path} cannot be read: {error.strerror}")
            return ()
        outcome = prove(str(path), content, None)
        names = outcome.names if isinstance(outcome, Rejected) else outcome.certificate.names
        return tuple(name for name in names if "." in name)

    def _postfix_default(self) -> Path | None:
        directory = self._settings.postfix.config_directory
        values = postconf.parameters(
            directory, *_DEFAULT_CERTIFICATE, "smtpd_tls_security_level", "smtpd_use_tls", "smtpd_enforce_tls"
        )
        chain = next((values[name] for name in _DEFAULT_CERTIFICATE if values.get(name, "") not in ("", "none")), "")
        lacking = []
        if not chain:
            lacking.append(
                "smtpd_tls_chain_files=/etc/letsencrypt/live/NAME/privkey.pem,/etc/letsencrypt/live/NAME/fullchain.pem"
            )
        off = values.get("smtpd_tls_security_level", "") in ("", "none")
        if off and "yes" not in (values.get("smtpd_use_tls"), values.get("smtpd_enforce_tls")):
            lacking.append("smtpd_tls_security_level=may")
        if lacking:
            what = "has no default certificate" if not chain else "has TLS switched off in main.cf"
            self._warnings.append(
                f"postfix: {what}: without it no service offers TLS that does not have it in master.cf: "
                f"postconf -c {directory} -e {' '.join(lacking)}"
            )
        files_named = [one for one in chain.replace(",", " ").split() if one.startswith("/")]
        # smtpd_tls_chain_files has the key first, in a file of its own or not.
        return Path(files_named[-1]) if files_named else None

    def _dovecot_default(self) -> Path | None:
        version: DovecotVersion = next((one.version for one in self._seen.targets if isinstance(one, Dovecot)), "2.4")
        path = dovecot.default_certificate(self._settings.dovecot.config_file, version)
        if path is None:
            old = version == "2.3"
            cert = (
                "ssl_cert = </etc/letsencrypt/live/NAME/fullchain.pem"
                if old
                else ("ssl_server_cert_file = /etc/letsencrypt/live/NAME/fullchain.pem")
            )
            key = (
                "ssl_key = </etc/letsencrypt/live/NAME/privkey.pem"
                if old
                else ("ssl_server_key_file = /etc/letsencrypt/live/NAME/privkey.pem")
            )
            self._warnings.append(
                "dovecot: has no default certificate: clients that send no name, or an unknown one, are cut off: "
                f"write into conf.d/10-ssl.conf: `{cert}` and `{key}`"
            )
        return path

    # ── what is to be done ───────────────────────────────────────────────────────────────────────────────────────

    def _publishing(self) -> list[Step]:
        seen = self._seen
        transaction.refuse_emptiness(seen, allow=False)
        include = self._settings.dovecot.include_file
        directory = MakeDirectories.up_to(include.parent) if self._target("dovecot") is not None else None
        first: list[Step] = [directory] if directory is not None else []
        if not seen.plan.pending:
            return first
        lines = [f"+ {change.name}" for change in seen.plan.effective]
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        lines = [*lines[:20], *more, *(f"write {change.path}: {change.why}" for change in seen.plan.artifacts)]
        unwired = (target.why_unwired(self._map_type) for target in seen.targets)
        fresh = (
            not seen.record.deployment.names
            and not seen.record.interrupted
            and not any(file_identity.Identity.of(target.path) for target in seen.targets)
        )
        names = len(seen.selection.winners)
        if not names:
            self._warnings.append(
                "no certificate has a mail name yet: `mailsni status --skipped` says why; they are served as they come"
            )
        apply = FirstApply(
            self._settings,
            f"mailsni apply: publish {names} {'name' if names == 1 else 'names'} before any server is told of them",
            "\n".join(lines),
            self._map_type if self._target("postfix") is not None else "",
            fresh,
            plan_unpublishing,
            frozenset(why for why in unwired if why is not None),
        )
        return [*first, apply]

    @property
    def _map_type(self) -> str:
        """The type that the map has, or will have."""
        target = self._target("postfix")
        if not isinstance(target, Postfix):
            return ""
        recorded = self._seen.record.deployment.map_type
        if recorded in target.map_types and not target.wired:
            return recorded
        supported = postconf.supported_types() | {"texthash"}
        return next((one for one in target.map_types if one in supported), target.map_types[0])

    def _expected(self) -> tuple[Expectation, ...]:
        return expectations({winner.name: winner.certificates for winner in self._seen.selection.winners})

    def _postfix(self, target: Postfix) -> list[Step]:
        settings = self._settings.postfix
        self._look_at_instances()
        self._look_at_services()
        tables = main_cf.tables(settings, expanded=True)
        theirs = [one for one in tables if not main_cf.is_ours(settings, one)]
        if target.wired and not (self._wishes.take_over and theirs):
            if theirs and not main_cf.is_ours(settings, tables[0]):
                self._say_whose(theirs)
            return []
        if theirs and not self._wishes.take_over:
            self._say_whose(theirs)
        table = f"{self._map_type}:{settings.map}"
        path = main_cf.path_of(settings)
        value = ", ".join([table] if self._wishes.take_over else [*theirs, table])
        change = ChangeFile(
            f"postconf -e {main_cf.PARAMETER}={value!r}, and reload Postfix"
            if " " in value
            else f"postconf -e {main_cf.PARAMETER}={value}, and reload Postfix",
            path,
            main_cf.text(settings),
            main_cf.with_map(settings, table, take_over=self._wishes.take_over),
            mode=None,
        )
        return [ChangeServer(change, self._settings, target, self._expected())]

    def _say_whose(self, theirs: Sequence[str]) -> None:
        self._notes.append(
            f"postfix: {main_cf.PARAMETER} names {', '.join(theirs)} already: it stays first, and a name that it has "
            "is answered from it; --take-over makes mailsni's map the only one"
        )

    def _look_at_instances(self) -> None:
        own = self._settings.postfix.config_directory
        others = [one for one in postconf.instances(own) if one.config_directory != own]
        for one in others:
            self._notes.append(
                f"postfix: the instance {one.name or one.config_directory} ({one.config_directory}) is left as it is: "
                "another configuration file, with this [postfix] config_directory, a map, a state directory and a "
                "lock of its own, wires it: mailsni --config FILE setup"
            )

    def _look_at_services(self) -> None:
        settings = self._settings.postfix
        for one in postconf.overrides(settings.config_directory, _OVERRIDES):
            where = f"postfix: {one.service} has {one.parameter} = {one.value} in master.cf"
            if one.parameter == main_cf.PARAMETER:
                if any(main_cf.is_ours(settings, table) for table in one.value.replace(",", " ").split()):
                    self._notes.append(f"{where}, which names mailsni's map")
                else:
                    self._notes.append(
                        f"{where}: it goes past main.cf, so mailsni's certificates are not served there; "
                        "take the line out to have them served"
                    )
            elif one.parameter == "smtpd_tls_security_level":
                if one.value == "none":
                    self._notes.append(f"{where}: no TLS there, so no certificate either")
            else:
                self._notes.append(f"{where}: a default of its own; names are served from the map there too")

    def _dovecot(self, target: Dovecot) -> list[Step]:
        settings = self._settings.dovecot
        if (complaint := dovecot.complaint_of(settings.config_file)) is not None:
            if os.geteuid() != 0 and "Permission denied" in complaint:
                raise PermissionMissingError(f"{settings.config_file}: {complaint}", hint="run it as root")
            raise HostError(
                f"{settings.config_file}: Dovecot's configuration is broken already: {complaint}",
                hint="mend that first: with it Dovecot does not start again once it is stopped",
            )
        if target.why_unwired("") is None:
            return []
        before = files.read_own(settings.config_file.resolve())
        if before is None:
            raise HostError(f"{settings.config_file}: cannot be read: no such file")
        change = ChangeFile(
            f"add the line `{conf_edit.line(settings.include_file)}` to {settings.config_file}, "
            "which does not include that place, and reload Dovecot",
            settings.config_file,
            before,
            conf_edit.with_include(before, settings.include_file),
            mode=None,
        )
        why_broken = WhyBroken(settings.config_file)
        return [ChangeServer(change, self._settings, target, self._expected(), why_broken)]

    def _hooks(self, called: Path) -> list[Step]:
        steps: list[Step] = []
        text = autostart.hook(called, self._wishes.config_file)
        for directory in autostart.hook_directories(self._settings):
            if not directory.parent.parent.is_dir():
                self._warnings.append(
                    f"{directory.parent.parent}: no such directory, so certbot's hook is not installed there: "
                    "run setup again when certbot has been there, or name its directory in [[sources]] path"
                )
                continue
            made = MakeDirectories.up_to(directory)
            steps += [made] if made is not None else []
            path = directory / autostart.HOOK_NAME
            steps += self._file(path, text, 0o755, f"install certbot's post hook {path}")
        return steps

    def _file(self, path: Path, text: bytes, mode: int, title: str) -> list[Step]:
        """The step that a file of ours needs; none when it is as it should be.

        Raises:
            RefusedError: it was written by somebody else.
        """
        present = ours_at(path)
        if present == text and permissions.why_loose(path, mode) is None:
            return []
        return [ChangeFile(title, path, present, text, mode)]

    def _startup(self, called: Path) -> list[Step]:
        by = autostart.manager()
        config_file = self._wishes.config_file
        if by is None:
            own = f"MAILSNI_CONFIG={config_file} " if config_file is not None else ""
            self._warnings.append(
                "neither systemd, nor OpenRC, nor /etc/cron.d is here, so nothing starts mailsni but certbot's hook: "
                f"have this run every 15 minutes, as root: {own}{called} apply --quiet --wait 300"
            )
            return []
        if by == "cron" and not any(map(find_tool, ("cron", "crond", "fcron", "anacron"))):
            self._warnings.append(f"{autostart.CRON}: no cron is installed that would read it: install one")
        watches = autostart.UNITS / "mailsni-watch.service"
        kind: Kind = self._wishes.kind or ("watch" if by == "systemd" and files.read_own(watches) else "timer")
        wanted = autostart.wanted(by, kind, called, config_file, self._settings)
        steps: list[Step] = []
        for one in wanted:
            steps += self._file(one.path, one.text, one.mode, f"write {one.path}")
        enable, disable = autostart.enabling(by, kind)
        hooks = {directory / autostart.HOOK_NAME for directory in autostart.hook_directories(self._settings)}
        stale = {
            path: content
            for path in autostart.places(self._settings)
            if path not in {one.path for one in wanted} | hooks and (content := known_at(path)) is not None
        }
        if steps and enable:
            steps.append(Commands(f"start it: {' '.join(enable[-1])}", enable, disable))
        return [*files_removal(stale, hooks), *steps]
