"""Tables that panels and tutorials are known to make in Postfix's directory, and that no parameter names."""

from __future__ import annotations

from collections.abc import Iterator

from mailsni.core.text import summarize
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding
from mailsni.doctor.helpers import quoted, world_readable

_KNOWN = {
    "vmail_ssl.map": "CyberPanel and aaPanel write it",
    "sni_map": "Virtualmin writes it",
    "sni": "YunoHost and a HowtoForge tutorial write it",
    "sni.map": "mailcow writes it",
    "sni_maps": "Hermes SEG writes it",
    "sni_cert_map": "scripts for docker-mailserver write it",
}
"""Sources of tables (measured, or read in the code of those programs)."""
_SUFFIXES = (".db", ".lmdb", ".cdb")


def leftovers(facts: Facts) -> Iterator[Finding]:
    """Check for such tables; the checks of Postfix's maps are about those that are in use."""
    own = facts.host.settings.postfix
    for name, author in _KNOWN.items():
        source = own.config_directory / name
        if str(source) in facts.postfix_tables or source == own.map:
            continue
        files = [path for path in (source, *(source.with_name(name + end) for end in _SUFFIXES)) if path.is_file()]
        exposed = world_readable(path for path in files if path != source)
        if files:
            yield finding(
                "leftover_map",
                f"{summarize([str(path) for path in files])}: {author}, and tls_server_sni_maps does not name it"
                + (f"; every user of this host can read it ({exposed[0][1]})" if exposed else ""),
                files[0],
                Fix(quoted("rm", *files), edit="switch SNI off where it comes from"),
                severity=Severity.ERROR if exposed else None,
            )
