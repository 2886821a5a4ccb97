"""Stores of every kind, filled as their own tools fill them, for the contract that each source must pass."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.document_stores import CommandBuilder, JsonBuilder, KeyValueBuilder, TraefikBuilder
from tests.support.layout_stores import LAYOUT_BUILDERS
from tests.support.pem_stores import FilesBuilder, PemTreeBuilder
from tests.support.store_builder import StoreBuilder
from tests.support.tool_stores import TOOL_BUILDERS

BUILDERS: Mapping[str, Callable[[Path], StoreBuilder]] = {
    **LAYOUT_BUILDERS,
    "files": FilesBuilder,
    "command": CommandBuilder,
    **TOOL_BUILDERS,
    "json": JsonBuilder,
    "pem-tree": PemTreeBuilder,
    "traefik": TraefikBuilder,
    "traefik-kv": KeyValueBuilder,
    "traefik-kv+etcd": lambda root: KeyValueBuilder(root, "etcd", base64.b64encode),
}
"""By kind; a kind with several ways of laying a store out has one for each, after a plus sign."""


def digest_of_tree(root: Path) -> str:
    """Everything in a directory: names, links, contents, modes and times of change."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        digest.update(repr((path, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)).encode())
    return digest.hexdigest()
