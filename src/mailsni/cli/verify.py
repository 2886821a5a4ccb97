"""``mailsni verify``."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Annotated

import typer

from mailsni.cli.options import GlobalOptions, print_json, time_limit, valued
from mailsni.core.log import Level
from mailsni.errors import HostError, PermissionMissingError
from mailsni.output import console

_MOST_CONNECTIONS = 512
_MAX_TIME = "Total time. The exit code is 1 if it leaves out probes and all others are right. Default: no limit."
_ENDPOINT = (
    "Endpoint to probe (repeatable), e.g. smtp://mx.example.com:25. Schemes: smtp, smtps, imap, imaps, pop3, pop3s, "
    "sieve. Default: this host's listeners."
)


def _concurrency(text: str | int) -> int:
    value = int(text)
    if not 1 <= value <= _MOST_CONNECTIONS:
        raise ValueError(text)
    return value


def verify(
    context: typer.Context,
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Host names to probe. Default: every name that is served."),
    ] = None,
    endpoint: Annotated[list[str] | None, valued("--endpoint -e", "URL", _ENDPOINT)] = None,
    timeout: Annotated[
        float | None,
        valued("--timeout", "SECONDS", "Time limit of each probe. Default: [verify] timeout.", time_limit),
    ] = None,
    concurrency: Annotated[
        int, valued("--concurrency", "N", "Number of simultaneous probes, 1 to 512. Default: 32.", _concurrency)
    ] = 32,
    max_time: Annotated[float | None, valued("--max-time", "SECONDS", _MAX_TIME, time_limit)] = None,
) -> int:
    """Probe the running servers and compare every answer with the expected certificate.

    Probes every name at every port with TLS, on IPv4 and IPv6, as a client with RSA and as one with ECDSA where the
    name has both, as a client without SNI, and as one with an unknown name. Compares the leaf, the chain, the dates and
    the names. A CA that this system does not know is a warning; whatever else OpenSSL says of the chain is wrong.
    Changes nothing.

    With both names and endpoints it needs neither a store nor root, and accepts any valid certificate for the name.
    """
    from mailsni.deploy.startup import unstartable
    from mailsni.output import verify as verification
    from mailsni.verify.audit import audit
    from mailsni.verify.request import VerifyRequest

    options: GlobalOptions = context.obj
    until = math.inf if max_time is None else time.monotonic() + max_time
    request = VerifyRequest.parse(names or (), endpoint or ())
    snapshot = None
    try:
        snapshot = options.snapshot()
    except (PermissionMissingError, HostError) as error:
        if not (request.names and request.endpoints):
            raise
        console.log(Level.WARNING, f"the expected certificates are unknown: {error.message}")
    with console.progress(quiet=options.quiet) as progress:
        result = audit(snapshot, request, timeout=timeout, concurrency=concurrency, until=until, progress=progress)
    if snapshot is not None:
        result = replace(result, cannot_start=unstartable(snapshot))
    if options.as_json:
        print_json(verification.document(result))
    else:
        verification.show(result, verbose=options.verbose, quiet=options.quiet)
    verification.warn(result)
    return verification.exit_code(result)
