"""Renders the shipped templates and the administrator's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2

from mailsni.errors import ConfigurationError


def render(name: str, templates: Path | None, **values: object) -> bytes:
    """A template with its values filled in; the administrator's own wins over the one that is shipped.

    Whatever is filled in must have gone through :mod:`mailsni.core.names`: nothing is escaped here.

    Raises:
        ConfigurationError: the administrator's template is wrong.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*([templates] if templates else []), shipped_directory("templates")]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # not HTML; see the module's docstring
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(name).render(values).encode("ascii")
    except jinja2.TemplateSyntaxError as error:
        raise ConfigurationError(
            f"{error.filename}: line {error.lineno}: {error.message}",
            path=Path(error.filename) if error.filename else None,
            line=error.lineno,
        ) from None
    except Exception as error:  # noqa: BLE001  # a template of the administrator's can raise anything: {{ 1/0 }}
        path = (templates or Path("templates")) / name
        raise ConfigurationError(f"{path}: cannot be rendered: {error}", path=path) from None


def shipped_directory(name: str) -> Path:
    """A directory that comes with the program: ``templates`` or ``hooks``, in the installed package or the checkout."""
    installed = Path(str(resources.files("mailsni"))) / name
    return installed if installed.is_dir() else Path(__file__).parents[3] / name
