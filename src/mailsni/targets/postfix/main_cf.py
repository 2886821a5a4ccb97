"""``tls_server_sni_maps`` in main.cf: the text with our map, and without it again.

postconf(1) makes the edit, on a private copy: what is shown before is then byte for byte what is written, and it was
read back before the live file was touched. A comment above the line says whose it is, and what stood there when the
line was taken over, so that it can go even when the record of it is lost.

With several maps the first one that has a key decides, and a name is looked up in all of them before its parents
(``.example.com``) are (tls_misc.c, measured). So our map goes last: a name in the administrator's map stays as it is.
"""

from __future__ import annotations

import re

from mailsni.config.settings import PostfixSettings
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.targets.postfix.postconf import SNI_MAPS, Installation

_SAYS = "# mailsni: `mailsni setup --remove` takes "
_OURS_ALONE = f"{_SAYS}the next line out again\n"
_OURS_TOO = f"{_SAYS}its map out of the next line again\n"
_TAKEN_OVER = f"{_SAYS}the next line back to: "
_MARK = re.compile(rf"^{re.escape(_SAYS)}.*\n".encode(), re.MULTILINE)
_PREVIOUS = re.compile(rf"^{re.escape(_TAKEN_OVER)}(.+)\n".encode(), re.MULTILINE)


def text(settings: PostfixSettings) -> bytes:
    """The text of main.cf.

    Raises:
        HostError: it cannot be read.
    """
    content = files.read_private(settings.main_cf.resolve())
    if content is None:
        raise HostError(f"{settings.main_cf}: cannot be read: no such file", path=settings.main_cf)
    return content


def with_map(settings: PostfixSettings, table: str, *, take_over: bool) -> bytes:
    """main.cf with our map (``TYPE:PATH``) after those that are there, or in their place (``take_over``).

    Raises:
        HostError: postconf(1) cannot do it.
    """
    before = _other_tables(settings)
    wanted = [table] if take_over or not before else [*before, table]
    edited = _edited(settings, _MARK.sub(b"", text(settings)), ", ".join(wanted))
    mark = f"{_TAKEN_OVER}{', '.join(before)}\n" if take_over else _OURS_TOO
    if not before:
        mark = _OURS_ALONE
    return re.sub(rf"^(?={SNI_MAPS}\s*=)".encode(), mark.encode(), edited, count=1, flags=re.MULTILINE)


def without_map(settings: PostfixSettings) -> bytes:
    """main.cf without our map, whether setup put it there or the administrator did.

    Raises:
        HostError: it is named in a way that cannot be taken out.
    """
    content = text(settings)
    value = ", ".join(_other_tables(settings))
    previous = _PREVIOUS.search(content)
    if not value and previous is not None:
        value = previous[1].decode("utf-8", "surrogateescape")
    return _edited(settings, _MARK.sub(b"", content), value)


def _other_tables(settings: PostfixSettings) -> list[str]:
    """The tables that main.cf names beside ours, as they are written there."""
    tables = Installation(settings.config_directory).sni_tables(expanded=False)
    return [table.written for table in tables if table.source != settings.map]


def is_marked(content: bytes) -> bool:
    """Whether setup edited this main.cf."""
    return _MARK.search(content) is not None


def _edited(settings: PostfixSettings, content: bytes, value: str) -> bytes:
    """A main.cf with another value of the parameter (none when it is empty), edited and read back by postconf(1)."""
    whole = content if content.endswith(b"\n") or not content else content + b"\n"
    with files.scratch(main_cf=whole) as copy:
        private = Installation(copy)
        # The services that a `-X` looks for stand there.
        services = files.read_private((settings.config_directory / "master.cf").resolve())
        files.create(copy / "master.cf", services or b"")
        done = private.run("postconf", *(("-e", f"{SNI_MAPS}={value}") if value else ("-X", SNI_MAPS)))
        edited = files.read_private(copy / "main.cf")
        if done.returncode != 0 or edited is None:
            message = f"{settings.main_cf}: postconf cannot edit it: {done.stderr or 'no answer'}"
            raise HostError(message, path=settings.main_cf)
        written = private.parameters(SNI_MAPS, expanded=False).get(SNI_MAPS, "")
    if written != value:
        raise HostError(
            f"{settings.main_cf}: {SNI_MAPS} would be {written!r} instead of {value!r} after an edit by postconf",
            hint=f"correct how {SNI_MAPS} is written there by hand",
            path=settings.main_cf,
        )
    return edited
