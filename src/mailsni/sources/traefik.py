"""Traefik's certificates: ``acme.json``, and what version 1 kept in a key-value store.

Three forms of JSON, told apart by content. All values of certificates and keys are PEM in base64.

* v2 and v3 (``pkg/provider/acme``): ``{RESOLVER: {"Account": …, "Certificates": [{"domain": {"main", "sans"},
  "certificate", "key"}]}}``. Both members may be null. One name may stand in several resolvers, with a stale
  certificate in one of them.
* v1.7 (``provider/acme``): one such object with neither resolver, and capital letters: ``Domain``, ``Certificate``.
* v1 before 1.6, and in clusters (``acme/account.go``): ``{"Registration": …, "DomainsCertificate": {"Certs":
  [{"Domains": …, "Certificate": {"Certificate", "PrivateKey", "CertURL"}}]}}``.

The file is truncated and written in place at every change, so it is empty or cut off for moments. No proper beginning
of a JSON object is JSON. The private key of the account is nobody's certificate, and is not looked at.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mailsni.core.model import Reason
from mailsni.sources.document import DamagedDocumentError, DocumentStore, Entry, FileDocument, load_json
from mailsni.sources.outcome import names_staging_authority

FILE = "acme.json"


def traefik_store(path: Path, pause: Callable[[float], None] = time.sleep) -> DocumentStore:
    """The store in a file, or in the ``acme.json`` of a directory."""
    return DocumentStore(FileDocument(path, FILE), entries, pause)


def entries(data: bytes) -> list[Entry]:
    """The certificates of a document of any of the three forms.

    They are called by the name of their resolver, if there is one, and by the first name that Traefik was asked for.

    Raises:
        DamagedDocumentError: it is of no such form.
    """
    document = load_json(data)
    if not isinstance(document, dict):
        raise DamagedDocumentError("no JSON object")
    members = _members(document)
    if "domainscertificate" in members:
        certificates = _members(members["domainscertificate"]).get("certs")
        return list(_entries("", members.get("registration"), certificates))
    if "certificates" in members and not isinstance(members["certificates"], dict):
        return list(_resolver("", members))
    resolvers = {name: _members(resolver) for name, resolver in document.items()}
    if any(resolver and not resolver.keys() & {"account", "certificates"} for resolver in resolvers.values()):
        raise DamagedDocumentError("no certificates of Traefik's")
    return [entry for name, resolver in resolvers.items() for entry in _resolver(f"{name}/", resolver)]


def _resolver(prefix: str, members: Mapping[str, Any]) -> Iterator[Entry]:
    registration = _members(members.get("account")).get("registration")
    return _entries(prefix, registration, members.get("certificates"))


def _entries(prefix: str, registration: object, certificates: object) -> Iterator[Entry]:
    if not isinstance(certificates, list | None):
        raise DamagedDocumentError("no list of certificates")
    of_staging = _names_staging(registration)
    for position, certificate in enumerate(certificates or (), 1):
        if isinstance(certificate, dict):
            yield _entry(prefix, str(position), of_staging, _members(certificate))
        else:
            yield Entry(f"{prefix}{position}", refusal=(Reason.BAD_PEM, "the entry is no JSON object"))


def _entry(prefix: str, position: str, of_staging: bool, members: Mapping[str, Any]) -> Entry:  # noqa: FBT001
    domain = members.get("domain", members.get("domains"))
    main = _members(domain).get("main") if isinstance(domain, dict) else None
    name = prefix + (main if isinstance(main, str) and main else position)
    inner = members.get("certificate")
    if isinstance(inner, dict):
        members = _members(inner)
        of_staging = of_staging or _names_staging([members.get("certurl"), members.get("certstableurl")])
    key = members.get("key", members.get("privatekey"))
    parts = ((members.get("certificate"), Reason.CHAIN_MISSING), (key, Reason.KEY_MISSING))
    pem = [b"", b""]
    for at, (part, missing) in enumerate(parts):
        if not part:
            return Entry(name, pem[0], refusal=(missing, "the entry has no certificate, or no key"))
        try:
            pem[at] = base64.b64decode(part, validate=True)
        except (ValueError, TypeError):
            refusal = (Reason.BAD_PEM, "the certificate or the key of the entry is not base64")
            return Entry(name, pem[0], refusal=refusal)
    return Entry(name, pem[0], pem[1], of_staging)


def _members(value: object) -> Mapping[str, Any]:
    """The members of an object by their names in lower case: Traefik reads them so. Null has none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DamagedDocumentError("no certificates of Traefik's")
    return {name.lower(): member for name, member in value.items()}


def _names_staging(value: object) -> bool:
    return names_staging_authority(json.dumps(value).encode())
