"""Renders the shipped templates and the administrator's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import TracebackType

import jinja2
from jinja2.loaders import split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mailsni.errors import ConfigurationError
from mailsni.host import trust


class _Loader(jinja2.BaseLoader):
    """Finds a template among the administrator's own, which nobody else may be able to change, then the shipped ones.

    Args:
        own: the directory of the administrator's own; None when there is none.
    """

    def __init__(self, own: Path | None) -> None:
        self._own = own

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, None]:
        """The text of a template, and its path.

        Raises:
            ConfigurationError: the administrator's own cannot be read, or others can change it.
            jinja2.TemplateNotFound: there is none of this name.
        """
        del environment
        parts = split_template_path(template)
        own = Path(self._own, *parts) if self._own is not None else None
        if own is not None and own.is_file():
            try:
                return trust.read(own).decode(), str(own), None
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{own}: cannot be read: {error}", path=own) from None
        shipped = Path(shipped_directory("templates"), *parts)
        if not shipped.is_file():
            raise jinja2.TemplateNotFound(template)
        return shipped.read_text("utf-8"), str(shipped), None


def render(name: str, templates: Path | None, **values: object) -> bytes:
    """A template with its values filled in; the administrator's own wins over the one that is shipped.

    Where there are own ones, all run in Jinja2's sandbox: they see their values, and can neither change them nor reach
    anything else. (The shipped ones alone need none, and are rendered five times as fast without it: measured.)
    Whatever is filled in must have gone through :mod:`mailsni.core.names`: nothing is escaped here.

    Raises:
        ConfigurationError: the administrator's template is wrong, or others can change it.
    """
    template = _load(name, templates)
    path = Path(template.filename or name)
    try:
        text = template.render(values)
    except ConfigurationError:
        raise
    except jinja2.TemplateSyntaxError as error:  # of a template that this one includes
        raise _syntax_error(error, path) from None
    except Exception as error:  # noqa: BLE001  # a template of the administrator's can raise anything: {{ 1/0 }}
        path, line = _place(error.__traceback__) or (path, None)
        raise _error(path, line, f"cannot be rendered: {_reason(error)}") from None
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        number = text.count("\n", 0, error.start) + 1
        what = f"line {number} of what it renders has a character that is not ASCII: U+{ord(text[error.start]):04X}"
        raise _error(path, None, what) from None


def require_parsable(name: str, templates: Path | None) -> None:
    """Make sure that a template has no mistake that shows before it is rendered.

    Raises:
        ConfigurationError: it has, or others can change it.
    """
    _load(name, templates)


def _load(name: str, templates: Path | None) -> jinja2.Template:
    kind = jinja2.Environment if templates is None else ImmutableSandboxedEnvironment
    environment = kind(
        loader=_Loader(templates),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # not HTML; see render
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(name)
    except jinja2.TemplateSyntaxError as error:
        raise _syntax_error(error, Path(name)) from None


def _syntax_error(error: jinja2.TemplateSyntaxError, path: Path) -> ConfigurationError:
    return _error(Path(error.filename or path), error.lineno, error.message or "wrong syntax")


def _place(traceback: TracebackType | None) -> tuple[Path, int] | None:
    """The template and its line in which an exception was raised: Jinja2 gives them in place of the code it made."""
    place = None
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if path.suffix == ".j2":
            place = path, traceback.tb_lineno
        traceback = traceback.tb_next
    return place


def _reason(error: Exception) -> str:
    return f"there is no template {error.name}" if isinstance(error, jinja2.TemplateNotFound) else str(error)


def _error(path: Path, line: int | None, what: str) -> ConfigurationError:
    where = f"{path}: line {line}" if line is not None else str(path)
    return ConfigurationError(f"{where}: {what}", path=path, line=line)


def shipped_directory(name: str) -> Path:
    """A directory that comes with the program: ``templates`` or ``hooks``, in the installed package or the checkout."""
    installed = Path(str(resources.files("mailsni"))) / name
    return installed if installed.is_dir() else Path(__file__).parents[3] / name
