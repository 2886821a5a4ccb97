"""Setup's part for Dovecot: the line of dovecot.conf that includes the blocks, where nothing includes them yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mailsni.config.settings import Settings
from mailsni.errors import HostError, RefusedError, ServerConfigurationError
from mailsni.host import files
from mailsni.probes.expectation import Expectation
from mailsni.setup.model import Item, Note, SetupOptions, is_published
from mailsni.setup.record import Record
from mailsni.setup.steps import Step, change_file, change_server
from mailsni.targets.dovecot import doveconf, live_include, parser
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


def default_certificate(settings: Settings) -> tuple[Path | None, str | None]:
    """The file with the certificate for clients without SNI, and a warning about what is missing for it."""
    version = _find(settings).version
    path = doveconf.default_certificate(settings.dovecot.config_file, version)
    if path is not None:
        return path, None
    certificate, key = _DEFAULTS[version]
    return None, (
        "dovecot: has no default certificate: clients that send no name, or an unknown one, are cut off: "
        f"write into conf.d/10-ssl.conf: `{certificate}` and `{key}`"
    )


def plan(settings: Settings, expected: tuple[Expectation, ...], options: SetupOptions) -> Iterator[Item]:
    """Include the blocks, where no ``!include`` does yet.

    Raises:
        HostError: Dovecot's configuration is broken already.
    """
    del options
    own = settings.dovecot
    if own.certificates == "live":
        yield Note(
            'dovecot: certificates = "live" lets Dovecot read the store\'s own files: while certbot replaces them, '
            'Dovecot cannot start; with "pinned" it can at every instant'
        )
    if (complaint := _find(settings).startup_problem()) is not None:
        raise ServerConfigurationError(
            f"{own.config_file}: Dovecot's configuration is broken already: {complaint}",
            hint="fix that first: with it Dovecot cannot start again once it is stopped",
        )
    if _find(settings).is_configured:
        return
    before = files.read_private(own.config_file.resolve())
    if before is None:
        raise HostError(f"{own.config_file}: cannot be read: no such file")
    title = (
        f"add the line `{live_include.include_line(own.include_file)}` to {own.config_file}, "
        "which does not include that place, and reload Dovecot"
    )
    edit = change_file(title, own.config_file, before, live_include.with_include(before, own.include_file), mode=None)
    yield _in_server(edit, own.config_file, settings, expected)


def plan_removal(settings: Settings, known: Record, expected: tuple[Expectation, ...]) -> Iterator[Step]:
    """Remove our line from dovecot.conf, then the include.

    Raises:
        RefusedError: a line of the administrator's needs the include.
    """
    own = settings.dovecot
    before = files.read_private(own.config_file.resolve())
    if before is not None:
        original = known.before(own.config_file, before)
        after = original if original is not None else live_include.without_include(before, own.include_file)
        if before != after:
            title = f"remove mailsni's line from {own.config_file}, and reload Dovecot"
            edit = change_file(title, own.config_file, before, after, mode=None)
            yield _in_server(edit, own.config_file, settings, expected, late_reader=_find(settings).late_reader)
    yield from plan_include_removal(settings, expected)


def plan_include_removal(settings: Settings, expected: tuple[Expectation, ...]) -> Iterator[Step]:
    """Remove the include, if this program wrote it.

    Raises:
        RefusedError: a line of the administrator's needs it.
    """
    own = settings.dovecot
    live = files.read_private(own.include_file)
    if live is None or not is_published(settings, own.include_file, live):
        return
    configuration = parser.read(own.config_file, without=own.include_file)
    if (required := live_include.required_by(configuration, own.include_file)) is not None:
        raise RefusedError(
            f"{required.file}: line {required.line}: !include {required.pattern}: "
            f"without {own.include_file} Dovecot would not start, so it is not removed",
            hint="remove that line first, or write !include_try instead of !include",
            path=required.file,
            line=required.line,
        )
    removal = change_file(f"remove {own.include_file}, and reload Dovecot", own.include_file, live, None)
    yield _in_server(removal, own.include_file, settings, expected, late_reader=_find(settings).late_reader)


def _in_server(
    file: Step,
    path: Path,
    settings: Settings,
    expected: tuple[Expectation, ...],
    late_reader: Callable[[float], str | None] | None = None,
) -> Step:
    check = partial(doveconf.startup_error, settings.dovecot.config_file)
    return change_server(file, path, settings, _find(settings), expected, check, late_reader)


def _find(settings: Settings) -> Dovecot:
    target = dovecot.find(settings.dovecot)
    if target is None:
        raise HostError("dovecot: is not installed any more")
    return target
