"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
import typer.core

from mailsni import __version__
from mailsni.cli import monitoring_plugin
from mailsni.config import parser
from mailsni.config import settings as settings_module
from mailsni.config.settings import Settings
from mailsni.core import selection
from mailsni.core.log import Level
from mailsni.core.names import RefusedNameError, host_name
from mailsni.deploy import transaction
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.transaction import ApplyResult, Options
from mailsni.errors import (
    ConfigurationError,
    Exit,
    HostError,
    MailsniError,
    PermissionMissingError,
    UsageError,
)
from mailsni.host import files, permissions
from mailsni.output import console, documents, text
from mailsni.runs import history as runs
from mailsni.runs import runner

if TYPE_CHECKING:
    from mailsni.output.setup import Report, Result

EPILOGUE = """Exit codes: 0 done or nothing to do · 1 failed, the previous deployment is still live · 2 usage ·
3 changes pending (plan --detailed-exitcode) · 4 applied, some certificates skipped · 5 wrong on the wire, rolled back ·
6 rollback failed · 75 another run holds the lock · 77 not permitted · 78 bad configuration."""

_PR_SET_DUMPABLE = 4
"""<linux/prctl.h>"""

app = typer.Typer(
    name="mailsni",
    cls=monitoring_plugin.Program,
    help="Serve every mail name its own certificate: SNI for Postfix and Dovecot from /etc/letsencrypt/live.",
    epilog=EPILOGUE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True, slots=True)
class Common:
    """The options that may stand before a command as well as after it."""

    config_file: Path | None = None
    as_json: bool = False
    verbose: bool = False
    quiet: bool = False

    def with_more(self, *, config_file: Path | None, as_json: bool, verbose: bool, quiet: bool) -> Common:
        """These, and those that stood after the command."""
        return Common(
            config_file or self.config_file, as_json or self.as_json, verbose or self.verbose, quiet or self.quiet
        )

    def settings(self) -> Settings:
        """The configuration: the named file, else the one of the environment, else the default one if it exists."""
        path, named = self.configuration()
        if os.environ.get(settings_module.FROM_STDIN):
            return parser.parse_file(sys.stdin.buffer.read(), path)
        return parser.load(path, required=named)

    def settings_of_a_run(self, trigger: runner.Trigger) -> Settings:
        """The same for an ``apply``, which leaves a trace even when they are wrong."""
        try:
            return self.settings()
        except ConfigurationError as problem:
            runner.record_config_failure(parser.remnant(self.configuration()[0]), problem, trigger, console.log)
            raise

    def configuration(self) -> tuple[Path, bool]:
        """Which file the configuration is, and whether somebody named it."""
        named = self.config_file or (Path(value) if (value := os.environ.get("MAILSNI_CONFIG")) else None)
        return named or settings_module.DEFAULT_PATH, named is not None

    def observed(self) -> Snapshot:
        """What there is and what should be."""
        with console.progress(quiet=self.quiet) as progress:
            return take_snapshot(self.settings(), datetime.now(UTC), progress=progress)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="Configuration file (environment: MAILSNI_CONFIG). "
        f"Default: {settings_module.DEFAULT_PATH}, and no file means the defaults.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and warnings.")]


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it with the option's value
    if wanted:
        console.print_line(f"mailsni {__version__}")
        raise typer.Exit


@app.callback()
def _main_options(
    context: typer.Context,
    *,
    config_file: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    context.obj = Common(config_file, as_json, verbose, quiet)


def _command(work: Callable[..., int], *, kind: type[typer.core.TyperCommand] | None = None) -> Callable[..., int]:
    """Register a command: its own options, those that every command has, and the end that all of them share.

    Args:
        work: takes the common options, and by keyword its own; gives the exit code. An error that it raises is said
            in one line, and its hint in another.
        kind: of command, for one that ends in another way.
    """
    own = inspect.signature(work, eval_str=True)
    common = inspect.signature(_common_options, eval_str=True)

    def run(context: typer.Context, **given: Any) -> NoReturn:  # noqa: ANN401  # whatever the commands declare
        before: Common = context.obj
        options = before.with_more(**{key: given.pop(key) for key in common.parameters})
        try:
            code = _blamed_on_the_host(work, options, **given)
        except MailsniError as problem:
            if kind is not None:
                raise
            if options.as_json:
                _print_json(documents.error(problem))
            console.log_error(problem)
            code = problem.exit_code
        raise typer.Exit(int(code))

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *list(own.parameters.values())[1:], *common.parameters.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name=work.__name__, help=inspect.getdoc(work), cls=kind)(run)
    return work


def _blamed_on_the_host(work: Callable[..., int], options: Common, **given: Any) -> int:  # noqa: ANN401
    """Do the work; a system call that fails where nobody expects it is the host's fault, and said in one line too."""
    try:
        return work(options, **given)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError.of(error) from error


def _common_options(
    *,
    config_file: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """The options that every command has, declared once."""


def _print_json(document: dict[str, Any]) -> None:
    console.print_line(json.dumps(document, indent=2, ensure_ascii=True))


@_command
def apply(
    common: Common,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, like `plan`.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Publish and reload even if nothing changed.")] = False,
    no_reload: Annotated[bool, typer.Option("--no-reload", help="Publish, and leave the servers alone.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not ask the servers afterwards.")] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Take all names away when no certificate is left.")
    ] = False,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another run to end.")] = 0.0,
    settle_for: Annotated[
        float | None,
        typer.Option(
            "--settle",
            metavar="SECONDS",
            min=0,
            hidden=True,
            help="Return at once, and do it so much later, "
            "once for all that ask for it meanwhile. For hooks that are called for each certificate.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="PROGRAM",
            hidden=True,
            help="With --settle: as soon as the calling PROGRAM has ended. Called by another one, do it now.",
        ),
    ] = None,
) -> Exit:
    """Make both servers serve what lies in the stores: scan, plan, publish what changed, reload, ask them.

    Nothing is written and nothing is reloaded when nothing changed. A certificate that is broken is skipped and said;
    all other names go on, and a name that was served keeps its last good certificate.
    """
    if dry_run:
        seen = common.observed()
        transaction.require_not_empty(seen, allow=allow_empty)
        return _show_plan(common, seen, with_diff=False)
    trigger = runner.Trigger.from_environment()
    settings = common.settings_of_a_run(trigger)
    if settle_for is not None:
        from mailsni.runs import debounce

        outcome = debounce.wait(settings.state.lock, settle_for, after)
        if outcome is debounce.Debounced.ALREADY_PENDING:
            return Exit.DONE
        if outcome is debounce.Debounced.RUN_IN_BACKGROUND:
            console.log_to_syslog()
        settings = common.settings_of_a_run(trigger)
    options = Options(force=force, reload=not no_reload, verify=not no_verify, allow_empty=allow_empty)
    with console.progress(quiet=common.quiet) as progress:
        done = runner.run_apply(settings, options, trigger, console.log, wait=wait, progress=progress)
    return _show_applied(common, done)


def _show_applied(common: Common, done: ApplyResult) -> Exit:
    problems = done.snapshot.selection.problems
    code = runner.exit_code(done)
    try:
        if common.as_json:
            _print_json(documents.apply(done, code))
        elif not common.quiet:
            text.applied(done, verbose=common.verbose)
        elif os.environ.get("MAILSNI_STARTED_BY") == "watch" and (done.reloads is not None or common.verbose):
            console.log(Level.INFO, text.applied_in_a_line(done))
        sys.stdout.flush()
    except OSError as error:  # the exit code tells what was done, whether or not there is room to say it
        console.silence_output()
        if not isinstance(error, BrokenPipeError):
            console.log(Level.WARNING, f"standard output: {error.strerror}")
    for note in done.warnings:
        console.log(Level.WARNING, f"{note}")
    text.problems(problems)
    return code


@_command
def plan(
    common: Common,
    *,
    diff: Annotated[bool, typer.Option("--diff", help="Show how the servers' files would change.")] = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 3 when `apply` would change something.")
    ] = False,
) -> Exit:
    """Say what `apply` would do, name by name, and why. Nothing is written.

    + added, ~ changed, - removed, ! keeps its last good certificate because its lineage is broken.
    """
    seen = common.observed()
    code = _show_plan(common, seen, with_diff=diff)
    return Exit.PENDING if detailed_exitcode and seen.plan.pending else code


def _show_plan(common: Common, seen: Snapshot, *, with_diff: bool) -> Exit:
    differences = text.diffs(seen) if with_diff else []
    if common.as_json:
        _print_json(documents.plan(seen, differences))
        return Exit.DONE
    if not common.quiet:
        text.plan(seen)
        text.diff(differences)
    text.problems(seen.selection.problems)
    return Exit.DONE


@_command
def status(
    common: Common,
    *,
    skipped: Annotated[bool, typer.Option("--skipped", help="Also list what is not served, and why.")] = False,
) -> Exit:
    """List every name with its certificate, its expiry and its state.

    States: deployed; pending (the next `apply` changes it); kept (its lineage is broken, the last good certificate is
    served); leaving (the next `apply` removes it).
    """
    seen = common.observed()
    history = runs.load(seen.settings.state.directory)
    if common.as_json:
        _print_json(documents.status(seen, history))
    else:
        text.status(seen, history, skipped=skipped)
    return Exit.DONE


@functools.partial(_command, kind=monitoring_plugin.PluginCommand)
def check(
    common: Common,
    *,
    warning: Annotated[
        float | None,
        typer.Option(
            "--warning",
            metavar="DAYS",
            min=0,
            help="Warn so long before a deployed certificate expires. "
            "Default: 14, or a quarter of its lifetime if that is less.",
        ),
    ] = None,
    critical: Annotated[
        float | None,
        typer.Option(
            "--critical", metavar="DAYS", min=0, help="The same for CRITICAL. Default: 7, or an eighth of its lifetime."
        ),
    ] = None,
    wire: Annotated[bool, typer.Option("--wire", help="Ask the running servers, too, like `mailsni verify`.")] = False,
) -> int:
    """Monitoring plugin: say in one line whether what is deployed is right, and how long it lasts.

    Exit codes 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and no others. Nothing is written, and without --wire no server
    is asked. -v adds a line for each finding. Any user may run it: it says which parts that user cannot see.
    """
    from mailsni.check import runner as checking
    from mailsni.output import nagios

    now, thresholds = datetime.now(UTC), checking.Thresholds(warning, critical)
    try:
        if not all(days is None or math.isfinite(days) for days in (warning, critical)):
            raise UsageError("usage: --warning and --critical take a number of days")
        if warning is not None and critical is not None and warning < critical:
            raise UsageError("usage: --warning: fewer days than --critical")
        with (
            monitoring_plugin.unknown_after(None if wire else monitoring_plugin.TIME_LIMIT),
            console.progress(quiet=common.quiet) as progress,
        ):
            found = checking.check(common.settings(), thresholds, now, wire=wire, progress=progress)
    except (MailsniError, OSError) as problem:
        found = checking.unknown(now, problem.message if isinstance(problem, MailsniError) else str(problem))
    if common.as_json:
        _print_json(documents.check(found))
    else:
        console.print_line(nagios.output(found, verbose=common.verbose))
    return found.level


@_command
def explain(
    common: Common,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A host name, or a wildcard like '*.example.com'.")],
) -> Exit:
    """Say which certificate NAME gets, from where, and why the others lost."""
    try:
        asked = host_name(name)
    except RefusedNameError as error:
        raise UsageError(str(error)) from None
    seen = common.observed()
    candidates = selection.explain(asked, seen.inventory, seen.settings.names, seen.now)
    if common.as_json:
        _print_json(documents.explanation(asked, candidates))
    else:
        text.explanation(asked, candidates)
    return Exit.DONE


@_command
def render(
    common: Common,
    *,
    server: Annotated[str, typer.Argument(metavar="postfix|dovecot", help="Whose file.")],
) -> Exit:
    """Print the text that a server's file should hold. Nothing is written."""
    if server not in ("postfix", "dovecot"):
        raise UsageError(f"{server}: unknown server", hint="`mailsni render postfix` or `mailsni render dovecot`")
    seen = common.observed()
    target = next((one for one in seen.targets if one.name == server), None)
    if target is None:
        raise UsageError(
            f"{server}: is not installed here, or switched off",
            hint=f"[{server}] enabled = true in the configuration renders it all the same",
        )
    rendered = seen.texts[target.name]
    if common.as_json:
        _print_json(documents.rendering(server, rendered))
    else:
        sys.stdout.write(rendered.decode("ascii"))
    return Exit.DONE


@_command
def verify(
    common: Common,
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Host names; every name that is served if none.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            "-e",
            metavar="URL",
            help="Whom to ask, also more than one, also another host: smtp://mx.example.com:25, smtps://, imap://, "
            "imaps://, pop3://, pop3s://, sieve://. Default: the servers of this host, as they are configured.",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="For each question.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, max=512, help="Connections at a time.")
    ] = 32,
) -> Exit:
    """Ask the running servers, name by name and port by port, and say what is not as it should be.

    Every name on every port with TLS, on IPv4 and IPv6, RSA and ECDSA clients apart where a name has both, a client
    without SNI, and one with an unknown name. Looked at are the leaf (is it the one that is meant?), the chain as it is
    sent, the dates, the names, and whether this system trusts it, which is only a warning. Exit code 5 when something
    is wrong; nothing is changed.

    With names and endpoints no store and no root is needed: then any valid certificate for the name will do.
    """
    from mailsni.output import verify as verification
    from mailsni.verify.audit import audit
    from mailsni.verify.request import VerifyRequest

    asked = VerifyRequest.parse(names or (), endpoint or ())
    seen = None
    try:
        seen = common.observed()
    except (PermissionMissingError, HostError) as problem:
        if not (asked.names and asked.endpoints):
            raise
        console.log(Level.WARNING, f"what is meant to be served is not known: {problem.message}")
    with console.progress(quiet=common.quiet) as progress:
        found = audit(seen, asked, timeout=timeout, concurrency=concurrency, progress=progress)
    if common.as_json:
        _print_json(verification.document(found))
    else:
        verification.show(found, verbose=common.verbose, quiet=common.quiet)
    verification.warn(found)
    return verification.exit_code(found)


@_command
def metrics(
    common: Common,
    *,
    textfile: Annotated[
        Path | None,
        typer.Option(
            "--textfile", metavar="PATH", help="Write a file (of mode 0644) for node_exporter's textfile collector."
        ),
    ] = None,
    no_wire: Annotated[bool, typer.Option("--no-wire", help="Do not ask the servers.")] = False,
) -> Exit:
    """Print Prometheus metrics: expiry in the stores and deployed, what is served, what is skipped, how runs ended.

    The servers are asked as by `verify`. Alert rules and a Grafana dashboard are in `monitoring/` of the source. When
    something cannot be read, mailsni_up is 0, what is known is printed all the same, and the exit code says why.

    The file is replaced whole, or not at all; what lies there and is no regular file is refused.
    """
    from mailsni import metrics as monitoring
    from mailsni.output import prometheus

    if textfile is not None:
        permissions.require_replaceable(textfile)
    try:
        settings = common.settings()
    except ConfigurationError as problem:  # the file of an hour ago would say that all is well
        look = monitoring.MetricsInput(runs.EMPTY_HISTORY, problem=problem, wire=not no_wire)
    else:
        with console.progress(quiet=common.quiet) as progress:
            look = monitoring.collect(settings, datetime.now(UTC), wire=not no_wire, progress=progress)
    if textfile is not None:
        files.replace(textfile, prometheus.exposition(look), files.PUBLIC)
    if common.as_json:
        _print_json(prometheus.document(look))
    elif textfile is None:
        sys.stdout.write(prometheus.exposition(look).decode())
    for note in look.audit.notes if look.audit is not None else ():
        console.log(Level.WARNING, f"{note}")
    if look.problem is not None:
        console.log_error(look.problem)
        return look.problem.exit_code
    return Exit.DONE


@_command
def setup(
    common: Common,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking, as scripts need it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take everything back, until no trace is left but your configuration.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Replace a tls_server_sni_maps of yours; else mailsni's map goes after it."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Install the service that watches the stores instead of the timer.")
    ] = False,
    timer: Annotated[bool, typer.Option("--timer", help="Install the timer again after --watch.")] = False,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another run to end.")] = 0.0,
) -> Exit:
    """Wire mailsni in: Postfix, Dovecot, certbot, and what starts it by itself. Shows every change, then asks.

    First everything is looked at; nothing is changed when something is wrong. Then, in this order:

    1. `mailsni apply` builds and publishes the first map: a map that is named and missing cuts off every client.

    2. Postfix is told of it (tls_server_sni_maps in main.cf), after a map of yours that is there already.

    3. Dovecot is told of its include, where it does not include that directory by itself.

    4. certbot runs `mailsni apply` after every renewal (renewal-hooks/post/mailsni beside its `live`).

    5. systemd, OpenRC or cron runs it from time to time, whatever the hook does.

    Both servers are asked on the wire before and after: a change that cuts a client off goes back. When a step fails,
    those before it are taken back too. A second setup changes nothing. A file that somebody else wrote is never
    replaced.
    """
    from mailsni.output.setup import Report
    from mailsni.setup import execute
    from mailsni.setup.model import SetupOptions
    from mailsni.setup.plan import plan_setup
    from mailsni.setup.plan_removal import plan_removal

    if watch and timer:
        raise UsageError("--watch and --timer: one of them")
    if remove and (take_over or watch or timer):
        raise UsageError("--remove: takes everything back, and goes with none of --take-over, --watch and --timer")
    path, named = common.configuration()
    kind: Literal["timer", "watch"] | None = "watch" if watch else "timer" if timer else None
    options = SetupOptions(path.absolute() if named else None, take_over, kind)
    settings = common.settings()
    if not dry_run:
        permissions.require_writable(transaction.writable_directories(settings))
    plan = plan_removal(settings) if remove else plan_setup(settings, options, datetime.now(UTC))
    shown = Report(plan, remove=remove)
    asked = bool(plan.steps) and not dry_run
    if not common.as_json:
        shown.plan(quiet=common.quiet and (yes or not asked))
    if not asked:
        return _setup_ended(common, shown, "planned" if plan.steps else "in_place")
    execute.require_permission(plan)
    shown.say_warnings()
    if not yes:
        if common.as_json or not sys.stdin.isatty():
            raise UsageError(
                "setup: nobody can be asked, because standard input is no terminal; nothing was changed",
                hint="--yes does it without asking, --dry-run only shows it",
            )
        if not typer.confirm("\nDo all this?", default=False, err=True):
            console.log(Level.INFO, "nothing was changed")
            return Exit.FAILED
    on_step = None if common.as_json or common.quiet else shown.step
    shown.done(execute.run(plan, remove=remove, wait=wait, on_step=on_step))
    return _setup_ended(common, shown, "done")


def _setup_ended(common: Common, shown: Report, result: Result) -> Exit:
    code = Exit.SKIPPED if shown.warnings else Exit.DONE
    if common.as_json:
        _print_json(shown.document(result, code))
    else:
        shown.end(result, quiet=common.quiet)
    shown.say_warnings()
    return code


@_command
def doctor(common: Common) -> Exit:
    """Look for every known mistake on this host, and say how to mend it. Nothing is written, no server is asked.

    The configurations of both servers, the tables and blocks of others, the stores, hooks, cron, and what panels and
    tutorials left behind. Each finding: what, where (file and line), why it hurts, and the command or line that mends
    it. With -q only errors. The exit code is 0 when nothing but notes was found, else 4. Run as root: what another user
    cannot see is said.
    """
    from mailsni.doctor.runner import examine

    with console.progress(quiet=common.quiet) as progress:
        found = examine(common.settings(), datetime.now(UTC), progress=progress)
    if common.as_json:
        _print_json(documents.doctor(found))
    else:
        text.doctor(found, errors_only=common.quiet)
    return Exit.DONE if all(one.severity == "note" for one in found) else Exit.SKIPPED


@_command
def demo(common: Common) -> Exit:
    """Show the whole job in a sandbox, with private servers where they are installed. Nothing of the host is touched.

    A throw-away authority and a certbot directory with several domains; plan, apply, the table of names, a renewal, the
    second apply, and what is served on the wire.
    """
    del common
    from mailsni.sandbox import demo as demonstration

    return Exit.DONE if demonstration.run() else Exit.FAILED


@_command
def watch(common: Common) -> Exit:
    """Stay running, and apply when certificates change.

    For a service manager, or a terminal. There is one apply at the start; one
    when files of the stores have changed and then been quiet for a moment; after
    a failure another try in 1, 2, 5 and 15 minutes; and one every 12 hours, for
    certificates become valid and expire by themselves. File events are not
    trusted alone: every minute the stores are looked at, too (no key is read for
    that). Each apply is `mailsni apply` in a process of its own. It says what it
    published in one line, and nothing when nothing changed.

    SIGHUP reads the configuration again; one that is wrong is refused, and the
    old one kept. SIGTERM and Ctrl-C let an apply that runs come to its end, for
    80 seconds at most (a second one makes it take back what it has begun); the
    exit code is 0. systemd's Type=notify and WatchdogSec= are served.

    The table `watch` of the configuration has the times in seconds: quiet (0.3),
    max_wait (30: then changes that go on and on are applied), scan (60).
    """
    from mailsni.watch import loop as watching
    from mailsni.watch.log import Journal
    from mailsni.watch.sd_notify import Notifier

    path, named = common.configuration()
    least = Level.DEBUG if common.verbose else Level.WARNING if common.quiet else Level.INFO
    loop = watching.Watch(
        watching.ConfigurationFile(path.absolute(), required=named),
        watching.command(path.absolute() if named else None, verbose=common.verbose),
        journal=Journal(least, prefixed=Journal.listens()),
        notifier=Notifier.of(os.environ, os.getpid()),
    )
    with watching.signals(loop):
        loop.run()
    return Exit.DONE


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """End by an exception, so that what was begun is taken back (128 + n is the shell's way to tell a signal)."""
    raise SystemExit(128 + number)


def _forbid_core_images() -> None:
    """A core image would hold every private key. The limit alone does not keep it from a pipe (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Run the program."""
    console.secure_standard_streams()
    os.umask(0o077)
    _forbid_core_images()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what is written at the very end would fail where nobody catches it
    except BrokenPipeError:
        console.silence_output()
        sys.exit(int(Exit.FAILED))
    except OSError as error:
        console.silence_output()
        console.log(Level.ERROR, f"standard output: {error.strerror}")
        sys.exit(int(Exit.FAILED))
