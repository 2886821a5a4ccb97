"""Setup's part for Dovecot: the line of dovecot.conf that includes the blocks, where nothing includes them yet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import HostError, PermissionMissingError, RefusedError
from mailsni.host import files
from mailsni.probes.expectation import Expectation
from mailsni.setup.model import Part, SetupOptions, is_published
from mailsni.setup.record import Record
from mailsni.setup.steps import ChangeFile, ChangeServer, Step
from mailsni.targets.dovecot import conf_edit, doveconf, live_include, parser
from mailsni.targets.dovecot import target as dovecot
from mailsni.targets.dovecot.target import Dovecot

_DEFAULTS = {
    "2.3": (
        "ssl_cert = </etc/letsencrypt/live/NAME/fullchain.pem",
        "ssl_key = </etc/letsencrypt/live/NAME/privkey.pem",
    ),
    "2.4": (
        "ssl_server_cert_file = /etc/letsencrypt/live/NAME/fullchain.pem",
        "ssl_server_key_file = /etc/letsencrypt/live/NAME/privkey.pem",
    ),
}
"""The lines of a default certificate, by version."""


@dataclass(frozen=True, slots=True)
class DovecotProblem:
    """Asks doveconf(1) whether Dovecot would start."""

    config_file: Path

    def __call__(self) -> str | None:
        """Its complaint; None when Dovecot would start."""
        return doveconf.startup_error(self.config_file)


def default_certificate(settings: Settings) -> tuple[Path | None, tuple[str, ...]]:
    """The file with the certificate for clients without SNI, and warnings about what is missing for it."""
    version = _find(settings).version
    path = doveconf.default_certificate(settings.dovecot.config_file, version)
    if path is not None:
        return path, ()
    certificate, key = _DEFAULTS[version]
    warning = (
        "dovecot: has no default certificate: clients that send no name, or an unknown one, are cut off: "
        f"write into conf.d/10-ssl.conf: `{certificate}` and `{key}`"
    )
    return None, (warning,)


def plan(settings: Settings, expected: tuple[Expectation, ...], options: SetupOptions) -> Part:
    """Include the blocks, where no ``!include`` does yet.

    Raises:
        HostError: Dovecot's configuration is broken already.
    """
    del options
    own = settings.dovecot
    problem = DovecotProblem(own.config_file)
    if (complaint := problem()) is not None:
        if os.geteuid() != 0 and "Permission denied" in complaint:
            raise PermissionMissingError(f"{own.config_file}: {complaint}", hint="run it as root")
        raise HostError(
            f"{own.config_file}: Dovecot's configuration is broken already: {complaint}",
            hint="mend that first: with it Dovecot does not start again once it is stopped",
        )
    target = _find(settings)
    if target.is_configured:
        return Part()
    before = files.read_private(own.config_file.resolve())
    if before is None:
        raise HostError(f"{own.config_file}: cannot be read: no such file")
    change = ChangeFile(
        f"add the line `{conf_edit.line(own.include_file)}` to {own.config_file}, "
        "which does not include that place, and reload Dovecot",
        own.config_file,
        before,
        conf_edit.with_include(before, own.include_file),
        mode=None,
    )
    return Part((ChangeServer(change, settings, target, expected, problem),))


def plan_removal(settings: Settings, known: Record, expected: tuple[Expectation, ...]) -> tuple[Step, ...]:
    """Take our line out of dovecot.conf, then remove the include.

    Raises:
        RefusedError: a line of the administrator's needs the include.
    """
    own = settings.dovecot
    steps: list[Step] = []
    before = files.read_private(own.config_file.resolve())
    if before is not None:
        original = known.before(own.config_file, before)
        after = original if original is not None else conf_edit.without_include(before, own.include_file)
        if before != after:
            title = f"take mailsni's line out of {own.config_file}, and reload Dovecot"
            change = ChangeFile(title, own.config_file, before, after, mode=None)
            steps.append(_changed(settings, change, expected))
    return (*steps, *plan_include_removal(settings, expected))


def plan_include_removal(settings: Settings, expected: tuple[Expectation, ...]) -> tuple[Step, ...]:
    """Remove the include, if this program wrote it.

    Raises:
        RefusedError: a line of the administrator's needs it.
    """
    own = settings.dovecot
    live = files.read_private(own.include_file)
    if live is None or not is_published(settings, own.include_file, live):
        return ()
    configuration = parser.read(own.config_file, without=own.include_file)
    if (required := live_include.required_by(configuration, own.include_file)) is not None:
        raise RefusedError(
            f"{required.file}: line {required.line}: !include {required.pattern}: "
            f"without {own.include_file} Dovecot would not start, so it is not removed",
            hint="remove that line first, or write !include_try instead of !include",
            path=required.file,
            line=required.line,
        )
    change = ChangeFile(f"remove {own.include_file}, and reload Dovecot", own.include_file, live, None)
    return (_changed(settings, change, expected),)


def _changed(settings: Settings, change: ChangeFile, expected: tuple[Expectation, ...]) -> ChangeServer:
    return ChangeServer(change, settings, _find(settings), expected, DovecotProblem(settings.dovecot.config_file))


def _find(settings: Settings) -> Dovecot:
    target = dovecot.find(settings.dovecot)
    if target is None:
        raise HostError("dovecot: is not installed any more")
    return target
