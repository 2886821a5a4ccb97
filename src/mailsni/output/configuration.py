"""``mailsni config``: the effective configuration as TOML, and as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailsni.config.document import commented, toml
from mailsni.config.effective import EffectiveValue
from mailsni.core.mounts import Mounts
from mailsni.output import console
from mailsni.targets.detection import Detection


@dataclass(frozen=True, slots=True)
class EffectiveConfiguration:
    """Everything that is in effect, and where it comes from."""

    path: Path
    """Of the configuration file."""
    chosen_by: str
    """``--config``, the variable of the environment, or ``default``."""
    exists: bool
    templates: Path | None
    own_templates: Sequence[str]
    values: Sequence[EffectiveValue]
    detections: Mapping[tuple[str, str], Detection]

    def detection(self, value: EffectiveValue) -> Detection | None:
        """What a value that is ``"auto"`` stands for."""
        return self.detections.get((value.place.table, value.place.key or ""))


def show(configuration: EffectiveConfiguration) -> None:
    """Print the configuration, each value with its origin in a comment."""
    missing = "" if configuration.exists else ", does not exist"
    console.print_line(f"# Configuration file: {configuration.path} ({configuration.chosen_by}{missing})")
    if configuration.templates is not None:
        names = ", ".join(configuration.own_templates) or "none"
        console.print_line(f"# Templates of your own in {configuration.templates}: {names}")
    table: tuple[str, int | None] | None = None
    for value in configuration.values:
        place = value.place
        if (place.table, place.index) != table:
            table = (place.table, place.index)
            console.print_line()
            console.print_line(f"[{place.table}]" if place.index is None else f"[[{place.table}]]")
        detection = configuration.detection(value)
        setting = value.value if detection is None else detection.value
        line = commented(f"{place.key} = {toml(setting)}", _origin(configuration.path, value, detection))
        console.print_line(line.rstrip("\n"))


def _origin(path: Path, value: EffectiveValue, detection: Detection | None) -> str:
    origin = "default" if value.line is None else f"{path}:{value.line}"
    if detection is None:
        return origin
    if detection.value == "auto":
        return f"{origin}; not detected: {detection.reason}"
    return f'{origin}: "auto"; detected: {detection.reason}'


def document(configuration: EffectiveConfiguration) -> dict[str, Any]:
    """The same as a JSON document."""
    return {
        "schema": "mailsni.config/1",
        "path": str(configuration.path),
        "chosen_by": configuration.chosen_by,
        "exists": configuration.exists,
        "templates": None if configuration.templates is None else str(configuration.templates),
        "own_templates": list(configuration.own_templates),
        "settings": [_item(value, configuration.detection(value)) for value in configuration.values],
    }


def _item(value: EffectiveValue, detection: Detection | None) -> dict[str, Any]:
    detected = detection is not None and detection.value != "auto"
    return {
        "table": value.place.table,
        "index": value.place.index,
        "key": value.place.key,
        "value": plain(detection.value if detection is not None else value.value),
        "origin": "default" if value.line is None else "file",
        "line": value.line,
        "detected": detected,
        "reason": None if detection is None else detection.reason,
    }


def plain(value: object) -> object:
    """A setting as JSON has it."""
    match value:
        case tuple():
            return [plain(part) for part in value]
        case Mounts():
            return {str(outside): str(inside) for outside, inside in value.pairs}
        case bool() | int() | float():
            return value
        case _:
            return str(value)
