"""Bad: names. A certificate of which no name can be used has no mail name either, which is only information."""

from __future__ import annotations

from tests.e2e.lineages.kinds import BAD, Kind, LineageBuilder, bad
from tests.support.authority import subject_alternative_names

LONGEST_NAME = f"mail.{'.'.join(['x' * 60] * 4)}.test"
"""Of 253 octets."""
HOSTILE_NAMES: dict[str, bytes] = {
    "newline": b"mail.x.test\n}\nssl = no\n#",
    "closing_brace": b"mail.x}.test",
    "double_quote": b'mail.x".test',
    "single_quote": b"mail.x'.test",
    "hash": b"mail.x#.test",
    "template": b"mail.{{7*7}}.test",
    "template_block": b"mail.{% raw %}.test",
    "dollar": b"mail.$x.test",
    "backslash": b"mail.x\\.test",
    "slash": b"mail.x/../../y.test",
    "space": b"mail.x y.test",
    "tab": b"mail.x\ty.test",
    "escape_sequence": b"mail.\x1b[31mx.test",
    "nul": b"mail.x\0.test",
    "non_ascii_letter": "mail.\u00fc.test".encode(),
    "label_of_64_octets": b"mail." + b"x" * 64 + b".test",
    "254_octets": b"mails." + LONGEST_NAME.removeprefix("mail.").encode(),
    "trailing_dot": b"mail.x.test.",
    "leading_dot": b".mail.x.test",
    "empty_label": b"mail..test",
    "underscore": b"mail.x_y.test",
    "single_label": b"mail",
    "address": b"192.0.2.1",
    "empty": b"",
    "star_alone": b"*",
    "two_stars": b"*.*.test",
    "star_inside": b"mail.*.test",
    "star_in_a_label": b"mail.x*.test",
}
UNDECODABLE: dict[str, bytes] = {
    "latin_1": subject_alternative_names(b"mail.\xfc.test"),
    "der_cut_off": b"\x30\x20\x82\x1email.x",
    "not_der_at_all": b"mail.x.test",
    "empty_der": b"",
}


def _register_names() -> None:
    for label, name in HOSTILE_NAMES.items():

        def plant(builder: LineageBuilder, name: bytes = name) -> None:
            builder.add(raw_san=subject_alternative_names(name))

        BAD[f"name_with_{label}"] = Kind(plant, {"bad_name": False, "no_matching_name": True})
    for label, san in UNDECODABLE.items():

        def plant_raw(builder: LineageBuilder, san: bytes = san) -> None:
            builder.add(raw_san=san)

        bad("bad_name", label=f"names_{label}")(plant_raw)


_register_names()

HOSTILE_DIRECTORIES: dict[str, bytes] = {
    "newline": b"x\n}\nssl = no\n#",
    "space": b"x y",
    "quote": b'x"y',
    "template": b"{{7*7}}",
    "invalid_utf_8": b"x\xff\xfe",
    "not_ascii": "x\u00fc".encode(),
    "escape_sequence": b"x\x1b[31m",
    "dollar": b"$x",
}


def _register_directories() -> None:
    for label, directory in HOSTILE_DIRECTORIES.items():

        def plant(builder: LineageBuilder, directory: bytes = directory) -> None:
            builder.add()
            builder.rename(directory)

        bad("bad_name", label=f"directory_with_{label}", replaces=False)(plant)


_register_directories()
