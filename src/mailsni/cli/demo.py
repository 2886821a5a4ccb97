"""``mailsni demo``."""

from __future__ import annotations

import typer

from mailsni.errors import Exit


def demo(context: typer.Context) -> int:
    """Demonstrate everything in a sandbox with private servers.

    Starts Postfix and Dovecot if they are installed. Creates a temporary CA and a certbot directory with several
    domains, and shows plan, apply, the table of names, a renewal, the second apply, and what the servers present.
    Changes nothing on the host.
    """
    from mailsni.sandbox import demo as demonstration

    del context
    return Exit.DONE if demonstration.run() else Exit.FAILED
