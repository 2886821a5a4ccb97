"""The field's mistakes with Dovecot and SNI, each with where it stands and the command or line that mends it.

Most of it is read from the configuration files themselves (:mod:`.dovecot_lines`): ``doveconf`` tells no positions,
takes seconds with thousands of blocks, and says nothing at all once a file has a mistake. It is asked whether Dovecot
would start, and for the default certificate where the files show none.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mailsni.core.text import printable_name, summarize, summarize_names
from mailsni.doctor.checks.dovecot_files import archived, bad_pairs, dead_paths, open_keys
from mailsni.doctor.dovecot_view import (
    FILE_SETTINGS,
    FILTERS,
    FORMER,
    FROM_FILE,
    View,
    cut_off,
    key_of,
    place_of,
    printed,
    scope_of,
    sed_literally,
    word,
)
from mailsni.doctor.finding import Facts, Finding, Fix, Severity
from mailsni.errors import HostError
from mailsni.host.commands import require_tool, run
from mailsni.targets.dovecot.doveconf import default_certificate, startup_error
from mailsni.targets.dovecot.parser import Block, Setting, read
from mailsni.targets.dovecot.precedence import Conflict, LocalName, Precedence, Scope, can_match

BLOCK_BYTES = 190_000
"""Bytes of its limit that Dovecot 2.3's config process needs for each block, beside the files that the block names.

A block takes 147 KB, but memory is taken in portions that double, so that a limit is never used up. Measured on 2.3.19
with benchmarks/dovecot_memory.py, greatest number of blocks that serve: 173 with 32 MB, 352 with 64, 628 with 100, 710
with 128, 1319 with 200, 1430 with 256 (1420 where each has 20 names), 1675 with 300: one for each 159 to 194 KB.
"""
NEAR = 0.7
"""Part of what the limit can hold from which on it is said."""
SPARE = 2
"""How many times the memory of today's blocks the proposed limit holds: for more names, and because portions double."""
SAME_LIMIT = 20
"""Findings of one kind that are told one by one."""

_LEFTOVERS = {
    "sni.conf": "mailcow's, cPanel's or a tutorial's",
    "12-dovecot-sni.conf": "keyhelp-mail-sni's",
    "zzz-tls-sni.conf": "Froxlor's",
    "98-celikpanel-tls.conf": "CelikPanel's",
}
"""Files that other programs and tutorials write blocks into."""
_SIZE = re.compile(r"([0-9]{1,18})[ \t]*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_PLAIN = re.compile(r"[a-z0-9.*?_-]+", re.ASCII)
_POSITION = re.compile(r"configuration file (?P<file>/.*?) line (?P<line>\d+)")


def findings(facts: Facts) -> Iterator[Finding]:
    """Look for every known mistake in Dovecot's configuration.

    Args:
        facts: with ``dovecot`` None nothing is looked for.

    Yields:
        What was found, of a kind at most :data:`SAME_LIMIT` one by one; nothing for a Dovecot that is in order.
    """
    if facts.dovecot is None:
        return
    view = View(facts.dovecot, facts.now, read(facts.dovecot.settings.config_file))
    looks = _LOOKS if view.configuration.files else (_unread, _refused)
    yield from _bounded(finding for look in looks for finding in look(view))


def _bounded(found: Iterable[Finding]) -> Iterator[Finding]:
    """No more than so many of one kind: a host with thousands of blocks can have one mistake in each of them."""
    seen: dict[str, int] = defaultdict(int)
    first_left_out: dict[str, Finding] = {}
    for finding in found:
        seen[finding.code] += 1
        if seen[finding.code] <= SAME_LIMIT:
            yield finding
        else:
            first_left_out.setdefault(finding.code, finding)
    for code, finding in first_left_out.items():
        more = seen[code] - SAME_LIMIT
        what = f"{more} more of this kind, the first of them: {finding.what}"
        yield Finding(code, finding.severity, what, finding.where, finding.why, finding.fix)


# ---------------------------------------------------------------------------------------------------------------------
# What is not seen


def _unread(view: View) -> Iterator[Finding]:
    for one in view.configuration.unreadable:
        yield Finding(
            "dovecot_not_examined",
            Severity.WARNING,
            f"a part of Dovecot's configuration was not looked at: {printed(one.why)}",
            f"{printed(one.file)}:{one.line}",
            "mistakes in it are not found, and where Dovecot cannot read it either, it does not start",
            view.by_hand("look at that file, or remove the line"),
        )


# ---------------------------------------------------------------------------------------------------------------------
# The default certificate


def _tls_off(view: View) -> Iterator[Finding]:
    setting = view.last("ssl")
    if setting is not None and setting.value == "no":
        yield Finding(
            "dovecot_tls_off",
            Severity.ERROR,
            "TLS is off: ssl = no",
            place_of(setting),
            "no client gets any certificate: there is no STARTTLS, and nobody listens on the ports with TLS",
            view.edit(setting.file, f"{setting.line}s/=.*/= yes/"),
        )


def _no_default(view: View) -> Iterator[Finding]:
    keys = [view.named(key) for key in ("ssl_cert", "ssl_key")]
    missing = [key for key in keys if (setting := view.last(key)) is None or not setting.value]
    off = (setting := view.last("ssl")) is not None and setting.value == "no"
    if off or not missing or (keys[0] in missing and _is_elsewhere(view)):
        return
    mark = "<" if view.old else ""
    example = "/etc/letsencrypt/live/NAME"
    lines = (f"{keys[0]} = {mark}{example}/fullchain.pem", f"{keys[1]} = {mark}{example}/privkey.pem")
    yield Finding(
        "dovecot_default_certificate_missing",
        Severity.ERROR,
        f"there is no default certificate: {' and '.join(missing)} not set outside of blocks",
        printed(view.settings.config_file),
        "every handshake fails, also those of clients that ask for a name with a block of its own",
        view.by_hand(f"write these lines before all blocks, with the server's own NAME: {lines[0]} and {lines[1]}"),
    )


def _is_elsewhere(view: View) -> bool:
    """Whether Dovecot knows of a default certificate that the files as read here do not show."""
    if not view.askable:
        return False
    try:
        return default_certificate(view.settings.config_file, view.dovecot.version) is not None
    except HostError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# Syntax


def _other_syntax(view: View) -> Iterator[Finding]:
    """Settings of the other release, told once for each block."""
    renamed = FORMER if not view.old else {new: former for former, new in FORMER.items()}
    places: dict[tuple[Path, Block | None], list[Setting]] = defaultdict(list)
    for setting in view.configuration.settings:
        known = key_of(setting) in renamed or (view.old and setting.key in _VERSIONS)
        if known or (not view.old and setting.key in renamed):
            # Our own include, after an upgrade of Dovecot, is mended at once.
            block = setting.blocks[-1] if setting.blocks and setting.file != view.dovecot.path else None
            places[setting.file, block].append(setting)
    release, other = ("2.3", "2.4") if view.old else ("2.4", "2.3")
    for settings in places.values():
        view.told.update((setting.file, setting.line) for setting in settings)
        first = settings[0]
        told = summarize([f"{setting.key} (line {setting.line})" for setting in settings])
        nested = view.old and any(block.kind == "ssl_server" for block in first.blocks)
        yield Finding(
            "dovecot_syntax_of_other_release",
            Severity.ERROR,
            f"settings of Dovecot {other}, this is {release}: {told}",
            place_of(first),
            "Dovecot does not know them: it does not start again once it is stopped, and no reload takes anything up",
            _rewritten(view, settings, renamed)
            if not nested
            else view.by_hand("write ssl_cert = </path and ssl_key = </path in place of the block ssl_server"),
        )


_VERSIONS = ("dovecot_config_version", "dovecot_storage_version")


def _rewritten(view: View, settings: Sequence[Setting], renamed: Mapping[str, str]) -> Fix:
    if settings[0].file == view.dovecot.path:
        return Fix("mailsni apply")
    parts = []
    for setting in settings:
        key = key_of(setting)
        if key in _VERSIONS:
            parts.append(f"{setting.line}s/^/#/")
            continue
        parts.append(f"{setting.line}s/{re.escape(setting.key)}/{renamed[key]}/")
        if view.old and renamed[key] in FROM_FILE and not setting.from_file:
            parts.append(_MARKED.format(setting.line))
        elif not view.old and key in FROM_FILE:
            parts.append(_UNMARKED.format(setting.line))
    return view.edit(settings[0].file, "; ".join(parts))


_MARKED = "{}s/=[[:blank:]]*/= </"
_UNMARKED = "{}s/=[[:blank:]]*<[[:blank:]]*/= /"


def _several_names(view: View) -> Iterator[Finding]:
    if view.old:
        return
    told_ours = False
    for one in view.local_names:
        if len(one.names) > 1 and not (one.ours and told_ours):
            told_ours = told_ours or one.ours
            view.told.add((one.block.file, one.block.line))
            yield Finding(
                "dovecot_several_names",
                Severity.ERROR,
                f"several names in one local_name block: {summarize_names(one.names)}",
                place_of(one.block),
                "2.4 takes one name for each block: it does not start again once it is stopped, and no reload takes "
                "anything up",
                Fix("mailsni apply")
                if one.ours
                else view.by_hand(
                    f"write the block once for each name: `local_name {printable_name(one.names[0])} {{` and so on"
                ),
            )


def _marks(view: View) -> Iterator[Finding]:
    """``<`` forgotten, or one too many."""
    for setting in view.configuration.settings:
        key = key_of(setting)
        if view.old and key in FROM_FILE and not setting.from_file and _is_path(setting.value):
            yield Finding(
                "dovecot_file_mark_forgotten",
                Severity.ERROR,
                f"{key} lacks the < before the path {printable_name(setting.value)}",
                place_of(setting),
                "the path itself is taken for the PEM text: "
                f"{cut_off(setting.blocks)}, and Dovecot starts without a complaint",
                view.edit(setting.file, _MARKED.format(setting.line)),
            )
        if not view.old and key in FILE_SETTINGS and setting.from_file:
            view.told.add((setting.file, setting.line))
            yield Finding(
                "dovecot_file_mark_superfluous",
                Severity.ERROR,
                f"{key} has a < before the path {printable_name(setting.value)}",
                place_of(setting),
                "the content of the file is taken for a path: Dovecot does not start again once it is stopped, no "
                "reload takes anything up, and the content, a key too, is written to its log",
                view.edit(setting.file, _UNMARKED.format(setting.line)),
            )


def _is_path(value: str) -> bool:
    return bool(value) and "-----BEGIN" not in value and not value.startswith("$")


def _misplaced(view: View) -> Iterator[Finding]:
    for one in view.local_names:
        outside = next((name for kind, name in one.outer if kind == "protocol"), None)
        if outside is not None:
            view.told.add((one.block.file, one.block.line))
            yield Finding(
                "dovecot_local_name_in_protocol",
                Severity.ERROR,
                f"local_name {summarize_names(one.names)} stands in protocol {printable_name(outside)}",
                place_of(one.block),
                "Dovecot allows only the reverse: it does not start again once it is stopped, and no reload takes "
                "anything up",
                replace(
                    view.without(one.block),
                    note="instead of removing it, write the block outside of protocol, or as "
                    f"local_name {printable_name(one.block.name)} {{ protocol {printable_name(outside)} {{ … }} }}",
                ),
            )


def _useless_names(view: View) -> Iterator[Finding]:
    for one in view.local_names:
        for name in one.names:
            if can_match(name):
                continue
            inner = name.lstrip(".*").rstrip("*")
            instead = f"*.{inner}" if inner else "*.example.com"
            yield Finding(
                "dovecot_name_matches_nothing",
                Severity.WARNING,
                f"local_name {printable_name(name)} is for no name at all",
                place_of(one.block),
                "a * stands for one whole label or its end, before a dot: clients get the default certificate",
                view.edit(one.block.file, f"{one.block.line}s/{sed_literally(name)}/{sed_literally(instead)}/I")
                if _PLAIN.fullmatch(name)
                else view.by_hand(f"write local_name {printable_name(instead)}, one block for each depth"),
            )


def _exact_case(view: View) -> Iterator[Finding]:
    """2.4.0 compares names as they are written (fixed in 2.4.1, NEWS)."""
    telling = [one for one in view.local_names if one.block.name != one.block.name.lower() or "*" in one.block.name]
    if view.old or not telling or not view.dovecot.installed:
        return
    yield from case_findings(run([require_tool("dovecot"), "--version"]).stdout, telling, view.reload)


def case_findings(version: bytes, blocks: Sequence[LocalName], reload: str) -> Iterator[Finding]:
    """What 2.4.0 makes of names in upper case and of wildcards.

    Args:
        version: what ``dovecot --version`` prints.
        blocks: with such names.
        reload: the command.
    """
    if re.match(rb"2\.4\.0\b", version) is None:
        return
    for one in blocks:
        wildcard = "*" in one.block.name
        yield Finding(
            "dovecot_name_compared_exactly",
            Severity.ERROR,
            f"Dovecot 2.4.0 takes local_name {printable_name(one.block.name)} letter by letter",
            place_of(one.block),
            "clients ask in lower case and never for a *: they get the default certificate",
            Fix(edit="update Dovecot to 2.4.1 or later") if wildcard else Fix(reload, edit="write it in lower case"),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Blocks that stand in each other's way


def _conflicts(view: View) -> Iterator[Finding]:
    by_outer: dict[Scope, list[LocalName]] = defaultdict(list)
    seen: set[tuple[Path, int]] = set()
    for one in view.local_names:
        if (place := (one.block.file, one.block.line)) not in seen:  # a file that is included twice
            seen.add(place)
            by_outer[one.outer].append(one)
    for blocks in by_outer.values():
        told: dict[tuple[Block, Block], list[Conflict]] = defaultdict(list)
        for conflict in Precedence(blocks, view.dovecot.version).conflicts():
            if not (conflict.loser.ours and conflict.winner.ours):
                told[conflict.loser.block, conflict.winner.block].append(conflict)
        for found in told.values():
            yield _conflict(view, found)


def _conflict(view: View, found: Sequence[Conflict]) -> Finding:
    first = found[0]
    loser, winner = first.loser, first.winner
    names = summarize_names([conflict.name for conflict in found])
    rule = _rule(view, first)
    if not loser.ours and not winner.ours:
        return Finding(
            "dovecot_duplicate_block",
            Severity.WARNING,
            f"two blocks for {names}: the one at {place_of(winner.block)} is taken, this one is not",
            place_of(loser.block),
            f"{rule}; whoever changes or renews this one wonders why nothing changes",
            _without_names(view, loser, found),
        )
    foreign = winner if loser.ours else loser
    return Finding(
        "dovecot_foreign_block",
        Severity.ERROR if loser.ours else Severity.WARNING,
        f"a block for {names} beside that of mailsni: "
        + ("this one is taken" if loser.ours else "that of mailsni is taken"),
        place_of(foreign.block),
        f"{rule}; "
        + (
            "clients do not get the certificate that mailsni deploys"
            if loser.ours
            else "this one does nothing today, and is taken as soon as mailsni's goes or the order changes"
        ),
        _without_names(view, foreign, found),
    )


def _rule(view: View, conflict: Conflict) -> str:
    if conflict.same:
        return "blocks of the same name are one to Dovecot, and the later value holds"
    order = "first" if view.old else "last"
    return f"Dovecot {view.dovecot.version} takes the {order} block that matches, however exactly"


def _without_names(view: View, block: LocalName, found: Sequence[Conflict]) -> Fix:
    names = {conflict.name for conflict in found}
    others = [name for name in block.names if name not in names]
    wildcard = any("*" in name for name in block.names) and not names & set(block.names)
    if wildcard:
        move = "after" if view.old else "before"
        return view.by_hand(f"move the block at {place_of(block.block)} {move} those for single names")
    if others and not found[0].same:
        place = f"line {block.block.line} of {printed(block.block.file)}"
        return view.by_hand(f"remove {summarize_names(sorted(names))} from {place}")
    return view.without(block.block)


# ---------------------------------------------------------------------------------------------------------------------
# Our include


def _not_included(view: View) -> Iterator[Finding]:
    path = view.dovecot.path
    if path in view.configuration.files or any(one.path == path for one in view.configuration.unreadable):
        return
    if view.configuration.unreadable or view.dovecot.is_configured:
        return
    main = view.settings.config_file
    there = os.access(path, os.F_OK)
    yield Finding(
        "dovecot_include_not_read",
        Severity.ERROR if there else Severity.WARNING,
        f"{printed(main)} does not include {printed(path)}",
        printed(main),
        "Dovecot knows none of the names: every client gets the default certificate"
        if there
        else "what `mailsni apply` will write there, Dovecot does not read",
        Fix(f"printf '\\n%s\\n' '!include_try {path}' >> {word(main)} && {view.reload}"),
    )


def _global_after_blocks(view: View) -> Iterator[Finding]:
    """2.3 warns of it (``config_parser_check_warnings``); 2.4.1 does not (measured)."""
    if not view.old:
        return
    first: dict[str, Setting] = {}
    for setting in view.configuration.settings:
        if not setting.key.startswith("ssl"):
            continue
        if setting.blocks:
            if all(block.kind in FILTERS for block in setting.blocks):
                first.setdefault(setting.key, setting)
        elif (earlier := first.get(setting.key)) is not None:
            yield Finding(
                "dovecot_global_setting_after_blocks",
                Severity.WARNING,
                f"{setting.key} outside of blocks comes after a block that sets it ({place_of(earlier)})",
                place_of(setting),
                "Dovecot warns of it at every start and reload: the blocks before it keep their own value",
                view.by_hand(f"move line {setting.line} of {printed(setting.file)} before {place_of(earlier)}"),
            )


def _leftovers(view: View) -> Iterator[Finding]:
    files = {one.block.file for one in view.local_names if not one.ours}
    for file in sorted(files):
        hestia = file.parent.name == "domains" and file.parent.parent.name == "conf.d"
        whose = "HestiaCP's" if hestia else _LEFTOVERS.get(file.name)
        if whose is not None:
            yield Finding(
                "dovecot_leftover",
                Severity.NOTE,
                f"{printed(file)} has local_name blocks, and is probably {whose}",
                printed(file),
                "two programs that write blocks get in each other's way; for names of mailsni's own that is a finding "
                "of its own",
                Fix(
                    f"doveconf -n -x > /dev/null && {view.reload}",
                    edit="move the file away, unless that program is in use",
                ),
            )


# ---------------------------------------------------------------------------------------------------------------------
# The memory of 2.3


def _many_blocks(view: View) -> Iterator[Finding]:
    """Room for the blocks. A new limit takes a restart: at a reload the config process keeps its own (measured)."""
    filters = {scope for path in view.configuration.blocks if (scope := scope_of(path)) and scope[-1][0] in FILTERS}
    if not view.old or not filters:
        return
    own = view.last("vsz_limit", (("service", "config"),))
    setting = own or view.last("default_vsz_limit")
    limit = size(setting.value) if setting is not None else _NORMAL
    needed = len(filters) * BLOCK_BYTES + _namedsize(view)
    if not limit or needed < NEAR * limit:  # 0 is no limit
        return
    proposed = max(_NORMAL, -(-needed * SPARE // _STEP) * _STEP) >> 20
    over = needed >= limit
    main = view.settings.config_file
    yield Finding(
        "dovecot_too_many_blocks",
        Severity.ERROR if over else Severity.WARNING,
        f"{len(filters)} blocks; with its limit of {limit >> 20}M Dovecot's config process can hold about "
        f"{int(limit / (needed / len(filters)))}",
        printed(main) if setting is None else place_of(setting),
        'beyond that the process dies ("Out of memory") and no client can log in, nor even shake hands: '
        + ("so it is now, or will be with the next few names" if over else "there is not much room for more names"),
        view.edit(own.file, f"{own.line}s/=.*/= {proposed}M/", then=view.restart)
        if own is not None
        else Fix(
            f"printf '\\nservice config {{\\n  vsz_limit = {proposed}M\\n}}\\n' >> {word(main)} && {view.restart}"
        ),
    )


_NORMAL = 256 << 20
"""What ``default_vsz_limit`` is where nobody says otherwise."""
_STEP = 64 << 20
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int | None:
    """A size as Dovecot writes it: ``256M``, ``256 MB``; None for what it refuses itself."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _UNITS[found[2].lower()] if found is not None else None


def _namedsize(view: View) -> int:
    """Bytes of the files that blocks name: each is kept as often as it is named."""
    sizes: dict[Path, int] = {}
    total = 0
    for setting in view.configuration.settings:
        filtered = any(block.kind in FILTERS for block in setting.blocks)
        path = view.names_file(setting) if filtered else None
        if path is not None:
            if path not in sizes:
                try:
                    sizes[path] = path.stat().st_size
                except OSError:
                    sizes[path] = 0
            total += sizes[path]
    return total


# ---------------------------------------------------------------------------------------------------------------------
# What Dovecot says itself


def _refused(view: View) -> Iterator[Finding]:
    main = view.settings.config_file
    if not view.askable:
        return
    try:
        complaint = startup_error(main)
    except HostError as error:
        complaint = error.message
    if complaint is None or (os.geteuid() != 0 and "Permission denied" in complaint):
        return
    talk = complaint.splitlines() or [""]  # warnings come first
    said = printed(next((line for line in talk if "Fatal: " in line or "Error: " in line), talk[0]))
    position = _POSITION.search(said)
    if position is not None and (Path(position["file"]), int(position["line"])) in view.told:
        return
    yield Finding(
        "dovecot_configuration_refused",
        Severity.ERROR,
        f"Dovecot refuses its configuration: {said}",
        f"{position['file']}:{position['line']}" if position is not None else printed(main),
        "it does not start again once it is stopped, and no reload takes anything up, although `doveadm reload` says "
        "nothing",
        Fix(
            f"doveconf -c {word(main)} -n -x > /dev/null && {view.reload}",
            edit="correct what Dovecot complains about",
        ),
    )


_LOOKS: tuple[Callable[[View], Iterator[Finding]], ...] = (
    *(_unread, _tls_off, _no_default, _other_syntax, _several_names, _marks, _misplaced, dead_paths, bad_pairs),
    *(open_keys, _not_included, _conflicts, _useless_names, _exact_case, _many_blocks, _global_after_blocks),
    *(archived, _leftovers, _refused),
)
"""In the order of the output; the last one leaves out what the others have told."""
