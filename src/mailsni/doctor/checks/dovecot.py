"""Known mistakes in Dovecot's configuration.

They are found in the files themselves: ``doveconf`` tells no positions, takes seconds with thousands of blocks, and
prints nothing once a file has a mistake. It is asked whether Dovecot would start, and for the default certificate
where the files show none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from mailsni.core.text import printable, printable_name, summarize, summarize_names
from mailsni.doctor.checks.dovecot_files import archive_paths, certificates, key_modes, missing_files
from mailsni.doctor.dovecot_facts import APPLY, DovecotFacts, disconnected, owner, place_of
from mailsni.doctor.finding import Facts, Finding, Fix, Severity, finding
from mailsni.doctor.helpers import Checks, grouped, run_each, sed_literal, stored_pair
from mailsni.errors import HostError, PermissionMissingError
from mailsni.targets.dovecot import doveconf, live_include, parser
from mailsni.targets.dovecot.configuration import (
    CONTENT_SETTINGS,
    DEFAULT_MEMORY_LIMIT,
    RENAMED_FROM_23,
    RENAMED_IN_24,
    VERSION_SETTINGS,
    DovecotConfiguration,
    full_key,
    scope_of,
)
from mailsni.targets.dovecot.parser import Block, Setting
from mailsni.targets.dovecot.precedence import Conflict, can_match, conflicts

NEARLY_FULL = 0.7
"""Part of the memory limit from which on the blocks are a finding."""
SPARE = 2
"""How many times the memory of today's blocks the proposed limit holds: for more names, and because portions double."""
_LIMIT_STEP = 64 << 20
_LEFTOVERS = {
    "sni.conf": "mailcow's, cPanel's or a tutorial's",
    "12-dovecot-sni.conf": "keyhelp-mail-sni's",
    "zzz-tls-sni.conf": "Froxlor's",
    "98-celikpanel-tls.conf": "CelikPanel's",
}
"""Files that other programs and tutorials write blocks into."""
_PLAIN_NAME = re.compile(r"[a-z0-9.*?_-]+", re.ASCII)
_ADD_MARK = "{}s/=[[:blank:]]*/= </"
_REMOVE_MARK = "{}s/=[[:blank:]]*<[[:blank:]]*/= /"


def findings(facts: Facts) -> Iterator[Finding]:
    """Look for every known mistake in Dovecot's configuration; nothing without a Dovecot."""
    server = facts.host.dovecot
    if server is None or server.executor.container:
        return
    source = parser.read(server.settings.config_file)
    dovecot = DovecotFacts(server, DovecotConfiguration(source, server.version), facts.host)
    complaint = _complaint(dovecot)
    if complaint is None:
        yield from run_each(_CHECKS if source.files else _CHECKS_WITHOUT_FILES, dovecot)
    elif doveconf.position_in(complaint) in dovecot.configuration.fatal_places():
        yield from run_each(_FATAL_CHECKS, dovecot)
    else:
        yield _rejected(dovecot, complaint)


def _unreadable(facts: DovecotFacts) -> Iterator[Finding]:
    for include in facts.configuration.source.unreadable:
        what = f"a part of Dovecot's configuration was not checked: {include.why}"
        fix = facts.by_hand("look at that file, or remove the line")
        yield finding("dovecot_include_unreadable", what, f"{include.file}:{include.line}", fix)


# ── The default certificate ───────────────────────────────────────────────────────────────────────────────────────────


def _tls_off(facts: DovecotFacts) -> Iterator[Finding]:
    for setting in facts.configuration.tls_off:
        why = "there is no STARTTLS, and ports with TLS from the first byte close the connection"
        if any(block.kind == "inet_listener" for block in setting.blocks):
            why = "clients speak TLS from the first byte there, and the server answers in clear text"
        for_whom = f" for {owner(setting.blocks)}" if setting.blocks else ""
        fix = facts.sed(setting.file, f"{setting.line}s/=.*/= yes/")
        what = f"TLS is off{for_whom}: ssl = no"
        yield finding("dovecot_tls_off", what, place_of(setting), fix, why=why if setting.blocks else None)


def _default_certificate(facts: DovecotFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    keys = [configuration.key(key) for key in ("ssl_cert", "ssl_key")]
    missing = [key for key in keys if (setting := configuration.last(key)) is None or not setting.value]
    is_off = any(not setting.blocks for setting in configuration.tls_off)
    if is_off or not missing or (keys[0] in missing and _has_default_elsewhere(facts)):
        return
    what = f"there is no default certificate: {' and '.join(missing)} not set outside of blocks"
    edit = f"set {keys[0]} and {keys[1]} before all blocks, with the certificate of the server's own name"
    if (stored := stored_pair(facts.host)) is not None:
        mark = "<" if configuration.is_23 else ""
        values = zip(keys, reversed(stored), strict=True)
        edit = f"write before all blocks: {' and '.join(f'{key} = {mark}{path}' for key, path in values)}"
    fix = facts.by_hand(edit)
    yield finding("dovecot_default_certificate_missing", what, facts.main, fix)


def _has_default_elsewhere(facts: DovecotFacts) -> bool:
    """Whether Dovecot knows of a default certificate in files that were not read."""
    try:
        return (
            facts.can_ask
            and doveconf.default_certificate(facts.main, facts.configuration.version, facts.dovecot.executor)
            is not None
        )
    except HostError:
        return False


# ── Syntax ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _other_release(facts: DovecotFacts) -> Iterator[Finding]:
    release, other = ("2.3", "2.4") if facts.configuration.is_23 else ("2.4", "2.3")
    for settings in grouped(facts.configuration.settings_of_other_release, facts.group):
        keys = summarize([f"{setting.key} (line {setting.line})" for setting in settings])
        what = f"settings of Dovecot {other}, this is {release}: {keys}"
        yield finding("dovecot_wrong_release_syntax", what, place_of(settings[0]), _rewritten(facts, settings))


def _rewritten(facts: DovecotFacts, settings: Sequence[Setting]) -> Fix:
    """The settings in the syntax of this release."""
    is_23 = facts.configuration.is_23
    if facts.is_ours(settings[0]):
        return APPLY
    if is_23 and any(block.kind == "ssl_server" for block in settings[0].blocks):
        return facts.by_hand("write ssl_cert = </path and ssl_key = </path in place of the block ssl_server")
    renamed = RENAMED_FROM_23 if is_23 else RENAMED_IN_24
    script = []
    for setting in settings:
        key = full_key(setting)
        if key in VERSION_SETTINGS:
            script.append(f"{setting.line}s/^/#/")
            continue
        script.append(f"{setting.line}s/{re.escape(setting.key)}/{renamed[key]}/")
        if is_23 and renamed[key] in CONTENT_SETTINGS and not setting.from_file:
            script.append(_ADD_MARK.format(setting.line))
        elif not is_23 and key in CONTENT_SETTINGS:
            script.append(_REMOVE_MARK.format(setting.line))
    return facts.sed(settings[0].file, "; ".join(script))


def _several_names(facts: DovecotFacts) -> Iterator[Finding]:
    several = facts.configuration.several_names
    ours = [block for block in several if facts.is_ours(block)]
    for block in (*ours[:1], *(block for block in several if not facts.is_ours(block))):
        by_hand = facts.by_hand(f"write the block once for each name: `local_name {printable_name(block.names[0])} {{`")
        what = f"several names in one local_name block: {summarize_names(block.names)}"
        yield finding("dovecot_several_names", what, place_of(block), APPLY if facts.is_ours(block) else by_hand)


def _missing_marks(facts: DovecotFacts) -> Iterator[Finding]:
    for setting in facts.configuration.source.settings if facts.configuration.is_23 else ():
        value = setting.value
        is_path = bool(value) and "-----BEGIN" not in value and not value.startswith("$")
        if full_key(setting) in CONTENT_SETTINGS and not setting.from_file and is_path:
            what = f"{setting.key} lacks the < before the path {printable_name(value)}"
            effect = f"{disconnected(setting.blocks)}, and it starts without a complaint"
            why = f"Dovecot takes the path itself for PEM text: {effect}"
            fix = facts.sed(setting.file, _ADD_MARK.format(setting.line))
            yield finding("dovecot_file_mark_missing", what, place_of(setting), fix, why=why)


def _superfluous_marks(facts: DovecotFacts) -> Iterator[Finding]:
    for setting in facts.configuration.superfluous_marks:
        what = f"{full_key(setting)} has a < before the path {printable_name(setting.value)}"
        fix = facts.sed(setting.file, _REMOVE_MARK.format(setting.line))
        yield finding("dovecot_file_mark_unexpected", what, place_of(setting), fix)


def _names_in_protocols(facts: DovecotFacts) -> Iterator[Finding]:
    for block, protocol in facts.configuration.names_in_protocols:
        inside_out = f"local_name {printable_name(block.name)} {{ protocol {printable_name(protocol)} {{ … }} }}"
        note = f"instead of removing it, write the block outside of protocol, or as {inside_out}"
        what = f"local_name {summarize_names(block.names)} stands in protocol {printable_name(protocol)}"
        fix = replace(facts.without(block), note=note)
        yield finding("dovecot_local_name_in_protocol", what, place_of(block), fix)


def _useless_names(facts: DovecotFacts) -> Iterator[Finding]:
    for block, name in ((each, name) for each in facts.configuration.local_names for name in each.names):
        if can_match(name):
            continue
        inner = name.lstrip(".*").rstrip("*")
        instead = f"*.{inner}" if inner else "*.example.com"
        if _PLAIN_NAME.fullmatch(name):
            fix = facts.sed(block.file, f"{block.line}s/{sed_literal(name)}/{sed_literal(instead)}/I")
        else:
            fix = facts.by_hand(f"write local_name {printable_name(instead)}, one block for each depth")
        what = f"local_name {printable_name(name)} matches no name at all"
        yield finding("dovecot_name_never_matches", what, place_of(block), fix)


def _case_of_names(facts: DovecotFacts) -> Iterator[Finding]:
    odd = [each for each in facts.configuration.local_names if each.name != each.name.lower() or "*" in each.name]
    if not facts.configuration.is_23 and odd and facts.dovecot.installed:
        yield from case_findings(doveconf.full_version(facts.dovecot.executor), odd, facts.reload)


def case_findings(version: str, blocks: Iterable[Block], reload: str) -> Iterator[Finding]:
    """Names in upper case and wildcards, which 2.4.0 compares as they are written (fixed in 2.4.1, NEWS).

    Args:
        version: what ``dovecot --version`` prints.
        blocks: those with such names.
        reload: the command.
    """
    for block in blocks if re.match(r"2\.4\.0\b", version) else ():
        what = f"Dovecot 2.4.0 compares local_name {printable_name(block.name)} letter by letter"
        lower = Fix(reload, edit="write it in lower case")
        fix = Fix(edit="update Dovecot to 2.4.1 or later") if "*" in block.name else lower
        yield finding("dovecot_name_case_sensitive", what, place_of(block), fix)


# ── Blocks that conflict ──────────────────────────────────────────────────────────────────────────────────────────────


def _conflicts(facts: DovecotFacts) -> Iterator[Finding]:
    by_place = {(each.file, each.line): each for each in reversed(facts.configuration.local_names)}
    # A file that is included twice counts once.
    for blocks in grouped(reversed(by_place.values()), lambda block: scope_of(block.blocks)):
        told = conflicts(blocks, facts.configuration.version)
        foreign = (
            conflict for conflict in told if not (facts.is_ours(conflict.loser) and facts.is_ours(conflict.winner))
        )
        for of_two_blocks in grouped(foreign, lambda conflict: (conflict.loser, conflict.winner)):
            yield _conflict(facts, of_two_blocks)


def _conflict(facts: DovecotFacts, conflicts: Sequence[Conflict]) -> Finding:
    loser, winner = conflicts[0].loser, conflicts[0].winner
    names = summarize_names([conflict.name for conflict in conflicts])
    rule = _rule(facts.configuration, conflicts[0])
    if not facts.is_ours(loser) and not facts.is_ours(winner):
        code, foreign, severity = "dovecot_duplicate_block", loser, Severity.WARNING
        what = f"two blocks for {names}: Dovecot uses the one at {place_of(winner)}, not this one"
        effect = "a change or a renewal of this one has no effect"
    elif facts.is_ours(loser):
        code, foreign, severity = "dovecot_foreign_block", winner, Severity.ERROR
        what = f"a block for {names} beside that of mailsni: Dovecot uses this one"
        effect = "clients do not get the certificate that mailsni deploys"
    else:
        code, foreign, severity = "dovecot_foreign_block", loser, Severity.WARNING
        what = f"a block for {names} beside that of mailsni: Dovecot uses that of mailsni"
        effect = "this one has no effect today, and wins as soon as mailsni's goes or the order changes"
    fix = _without_names(facts, foreign, conflicts)
    return finding(code, what, place_of(foreign), fix, severity=severity, why=f"{rule}; {effect}")


def _rule(configuration: DovecotConfiguration, conflict: Conflict) -> str:
    if conflict.same:
        return "blocks of the same name are one to Dovecot, and the later value holds"
    order = "first" if configuration.is_23 else "last"
    return f"Dovecot {configuration.version} uses the {order} block that matches, however exactly"


def _without_names(facts: DovecotFacts, block: Block, conflicts: Sequence[Conflict]) -> Fix:
    lost = {conflict.name for conflict in conflicts}
    if any("*" in own for own in block.names) and not lost & set(block.names):
        move = "after" if facts.configuration.is_23 else "before"
        return facts.by_hand(f"move the block at {place_of(block)} {move} those for single names")
    if set(block.names) - lost and not conflicts[0].same:
        return facts.by_hand(f"remove {summarize_names(sorted(lost))} from line {block.line} of {block.file}")
    return facts.without(block)


# ── The include, and the blocks of others ─────────────────────────────────────────────────────────────────────────────


def _include(facts: DovecotFacts) -> Iterator[Finding]:
    path, source = facts.dovecot.path, facts.configuration.source
    if live_include.is_included(source, path):
        if facts.is_include_missing and facts.is_published:
            what = f"{path}, which mailsni published, is not there"
            yield finding("dovecot_include_missing", what, path, APPLY)
        return
    # In a file that was not read there may be the line that includes it.
    if path in source.files or source.unreadable:
        return
    severity, why = None, None
    if facts.is_include_missing and not facts.is_published:
        severity, why = Severity.WARNING, "Dovecot will not read what `mailsni apply` writes there"
    what, fix = f"{facts.main} does not include {path}", facts.append(f"!include_try {path}")
    yield finding("dovecot_include_not_configured", what, facts.main, fix, severity=severity, why=why)


def _globals_after_blocks(facts: DovecotFacts) -> Iterator[Finding]:
    for setting, in_block in facts.configuration.globals_after_blocks():
        what = f"{setting.key} outside of blocks comes after a block that sets it ({place_of(in_block)})"
        fix = facts.by_hand(f"move line {setting.line} of {setting.file} before {place_of(in_block)}")
        yield finding("dovecot_global_setting_after_blocks", what, place_of(setting), fix)


def _leftovers(facts: DovecotFacts) -> Iterator[Finding]:
    for file in sorted({block.file for block in facts.configuration.local_names if not facts.is_ours(block)}):
        hestia = file.parent.name == "domains" and file.parent.parent.name == "conf.d"
        author = "HestiaCP's" if hestia else _LEFTOVERS.get(file.name)
        if author is not None:
            what = f"{file} has local_name blocks, and is probably {author}"
            fix = Fix(facts.asked_then_reloaded, edit="move the file away, unless that program is in use")
            yield finding("dovecot_leftover_blocks", what, file, fix)


def _memory(facts: DovecotFacts) -> Iterator[Finding]:
    """Room for the blocks of 2.3. A new limit takes a restart: at a reload the process keeps its own (measured)."""
    configuration = facts.configuration
    limit, setting = configuration.memory_limit()
    needed = configuration.memory_needed()
    if not configuration.is_23 or not configuration.filter_blocks or not limit or needed < NEARLY_FULL * limit:
        return
    proposed = max(DEFAULT_MEMORY_LIMIT, -(-needed * SPARE // _LIMIT_STEP) * _LIMIT_STEP) >> 20
    if setting is not None and setting.key == "vsz_limit":
        fix = facts.sed(setting.file, f"{setting.line}s/=.*/= {proposed}M/", then=facts.restart)
    else:
        fix = facts.append("service config {", f"  vsz_limit = {proposed}M", "}", then=facts.restart)
    blocks, most = configuration.filter_blocks, int(limit / (needed / configuration.filter_blocks))
    what = f"{blocks} blocks; with its limit of {limit >> 20}M Dovecot's config process can hold about {most}"
    where = place_of(setting) if setting is not None else facts.main
    severity, state = None, "there is little room left"
    if needed >= limit:
        severity, state = Severity.ERROR, "so it is now, or will be with the next few names"
    why = f'beyond that the process dies ("Out of memory"), and no client can log in or shake hands: {state}'
    yield finding("dovecot_too_many_blocks", what, where, fix, severity=severity, why=why)


# ── Dovecot's own answer ──────────────────────────────────────────────────────────────────────────────────────────────


def _complaint(facts: DovecotFacts) -> str | None:
    """Why Dovecot would not start, in its own words; None when it would, or this user cannot tell."""
    if not facts.can_ask:
        return None
    try:
        complaint = facts.dovecot.startup_problem()
    except PermissionMissingError:
        return None
    except HostError as error:
        complaint = error.message
    return printable(complaint) if complaint is not None else None


def _rejected(facts: DovecotFacts, complaint: str) -> Finding:
    fix = Fix(facts.asked_then_reloaded, edit="correct what Dovecot complains about")
    if facts.is_include_missing and live_include.required_by(facts.configuration.source, facts.dovecot.path):
        fix = APPLY
    position = doveconf.position_in(complaint)
    where = f"{position[0]}:{position[1]}" if position is not None else facts.main
    return finding("dovecot_configuration_rejected", f"Dovecot rejects its configuration: {complaint}", where, fix)


_CHECKS_WITHOUT_FILES: Checks[DovecotFacts] = (("what of Dovecot's configuration can be read", _unreadable),)
_FATAL_CHECKS: Checks[DovecotFacts] = (
    ("settings of the other release of Dovecot", _other_release),
    ("local_name blocks of several names", _several_names),
    ("paths with <", _superfluous_marks),
    ("local_name in protocol", _names_in_protocols),
    ("the files that Dovecot's configuration names", missing_files),
)
"""What keeps Dovecot from starting: where it refuses its configuration, nothing else that was read there is told."""
_CHECKS: Checks[DovecotFacts] = (
    *_CHECKS_WITHOUT_FILES,
    *_FATAL_CHECKS,
    ("whether Dovecot offers TLS", _tls_off),
    ("Dovecot's default certificate", _default_certificate),
    ("paths without <", _missing_marks),
    ("the certificates that Dovecot's configuration names", certificates),
    ("the modes of the keys that Dovecot's configuration names", key_modes),
    ("paths into certbot's archive", archive_paths),
    ("whether Dovecot includes mailsni's file", _include),
    ("blocks that conflict", _conflicts),
    ("names that match nothing", _useless_names),
    ("upper case in names", _case_of_names),
    ("the memory for Dovecot's blocks", _memory),
    ("settings after blocks", _globals_after_blocks),
    ("blocks that other programs left", _leftovers),
)
