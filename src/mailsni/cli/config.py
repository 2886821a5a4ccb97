"""``mailsni config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mailsni.cli.options import GlobalOptions, flag, print_json
from mailsni.errors import Exit, UsageError
from mailsni.output import console


def config(
    context: typer.Context,
    *,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="With --check: the file. Default: the one in effect.")
    ] = None,
    check: Annotated[
        bool, flag("--check", "Test a configuration file and the templates beside it, and do no more.")
    ] = False,
) -> int:
    """Show the effective configuration, and where each value comes from.

    Prints TOML. The comment after each value names its line in the configuration file, or says that it is the default;
    where "auto" is set, the value is what was detected on this host, and the comment says why.

    With --check: exits with 0 if the file is in order, and with 78 if it is not.
    """
    from mailsni.config import effective, parser
    from mailsni.host import templates
    from mailsni.output import configuration as output
    from mailsni.targets.detection import detect

    options: GlobalOptions = context.obj
    if file is not None and not check:
        raise UsageError("config: FILE needs --check", hint="to show another configuration: --config FILE")
    path, named = options.configuration() if file is None else (Path(file), True)
    content = parser.read(path, required=named)
    settings = parser.parse_file(content, path)
    own_templates = effective.templates_in(settings.templates)
    if check:
        for name in own_templates:
            templates.require_parsable(name, settings.templates)
    result = output.EffectiveConfiguration(
        path,
        options.chosen_by if file is None else "FILE",
        path.exists(),
        settings.templates,
        own_templates,
        tuple(effective.effective_values(settings, content)),
        {} if check else detect(settings),
    )
    if options.as_json:
        print_json(output.document(result))
    elif not check:
        output.show(result)
    elif not options.quiet:
        console.print_line(f"{path}: {'in order' if result.exists else 'does not exist: the defaults are in effect'}")
    return Exit.DONE
